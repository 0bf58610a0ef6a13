"""Messages between the processes of nsbook: JSON with a length before it, descriptors beside it.

A stream socket pair of unix(7). Each message is four bytes of length and then JSON; descriptors travel with the first
byte (SCM_RIGHTS). The end of the stream means that the other side is gone, which is how every process of nsbook learns
that it is no longer wanted.
"""

from __future__ import annotations

import array
import json
import os
import select
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_FDS = 64


class Gone(Exception):
    """The other side closed the channel, or died."""


class Channel:
    """One end."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def fileno(self) -> int:
        """For poll."""
        return self.sock.fileno()

    def close(self) -> None:
        """The other side will see the end of the stream."""
        self.sock.close()

    def send(self, message: dict[str, Any], fds: list[int] | tuple[int, ...] = ()) -> None:
        """Send one message. Raises Gone."""
        self.send_bytes(json.dumps(message, separators=(",", ":")).encode("utf-8", "surrogateescape"), fds)

    def send_bytes(self, body: bytes, fds: list[int] | tuple[int, ...] = ()) -> None:
        """Send one message that is JSON already."""
        data = struct.pack("<I", len(body)) + body
        try:
            if fds:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
                sent = self.sock.sendmsg([data], rights)
            else:
                sent = self.sock.send(data)
            if sent < len(data):
                self.sock.sendall(memoryview(data)[sent:])
        except (BrokenPipeError, ConnectionResetError):
            raise Gone from None

    def receive(self, timeout: float | None = None) -> tuple[dict[str, Any], list[int]]:
        """The next message and its descriptors. Raises Gone, or TimeoutError after ``timeout`` seconds."""
        if timeout is not None and not wait_readable(self.sock.fileno(), timeout):
            raise TimeoutError
        fds: list[int] = []
        try:
            head, ancillary, _, _ = self.sock.recvmsg(4, socket.CMSG_SPACE(MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC)
            for level, kind, data in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    got = array.array("i")
                    got.frombytes(data[: len(data) - len(data) % got.itemsize])
                    fds += got.tolist()
            if not head:
                raise Gone
            head += self._exactly(4 - len(head))
            body = self._exactly(struct.unpack("<I", head)[0])
        except ConnectionResetError:
            raise Gone from None
        message: dict[str, Any] = json.loads(body.decode("utf-8", "surrogateescape"))
        return message, fds

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count:
            part = self.sock.recv(min(count, 1 << 20))
            if not part:
                raise Gone
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def pair() -> tuple[Channel, Channel]:
    """Two ends of one channel."""
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return Channel(a), Channel(b)


def wait_readable(fd: int, timeout: float | None) -> bool:
    """False when nothing came in ``timeout`` seconds."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if timeout is None else max(0, int(timeout * 1000) + 1)))


def close_all(fds: list[int]) -> None:
    """Close descriptors that came with a message."""
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            pass
