"""The host's end of the serial line: one thread that reads and writes frames, for as many callers as there are.

Callers only put frames into a queue, so that a Ctrl-C in the middle of a call can't tear a frame; what comes is handed to
the stream it is for. When the line breaks, every stream is told why.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
from collections import deque

from nsbook.guest import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Receiver(Protocol):
        """Takes what comes for a stream, in the channel's thread: it must not wait."""

        def deliver(self, kind: int, payload: bytes) -> None: ...

        def lose(self, reason: str) -> None: ...


READ = 256 << 10


class Channel:
    """Streams over one socket. Stream 0's receiver is given at the start."""

    def __init__(self, line: socket.socket, control: Receiver) -> None:
        self._line = line
        line.setblocking(False)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._receivers: dict[int, Receiver] = {0: control}
        self._queue: deque[bytes] = deque()
        self._room = frames.LINE
        self._next = 1
        self._closing = False
        self.lost = ""
        self._thread = threading.Thread(target=self._work, name="nsbook guest", daemon=True)
        self._thread.start()

    def open(self, receiver: Receiver) -> int:
        """A number for a new stream."""
        with self._lock:
            number = self._next
            self._next += 1
            self._receivers[number] = receiver
            lost = self.lost
        if lost:
            receiver.lose(lost)
        return number

    def forget(self, stream: int) -> None:
        """The stream has ended."""
        with self._lock:
            self._receivers.pop(stream, None)

    def send(self, kind: int, stream: int, payload: bytes = b"") -> None:
        """Queue a frame."""
        self._queue.append(frames.pack(kind, stream, payload))
        self._stir()

    def close(self) -> None:
        """End the thread and close the line. Whoever still waits is told."""
        if self._closing:
            return
        self._closing = True
        self._stir()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._line.close()
        os.close(self._wake)

    def _stir(self) -> None:
        try:
            os.eventfd_write(self._wake, 1)
        except OSError:
            pass  # closed: nobody is there to be woken

    def _work(self) -> None:
        reason = "the guest was closed"
        try:
            self._carry()
        except (OSError, frames.OutOfStep) as error:
            reason = f"the line to the guest broke: {error}"
        except EOFError:
            reason = "the guest has stopped"
        with self._lock:
            self.lost = reason
            receivers = list(self._receivers.values())
        for receiver in receivers:
            receiver.lose(reason)

    def _carry(self) -> None:
        parser = frames.Parser()
        out = memoryview(b"")
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            selector.register(self._line, selectors.EVENT_READ)
            while not self._closing:
                waiting = self._room and (out or self._queue)
                events = selectors.EVENT_READ | (selectors.EVENT_WRITE if waiting else 0)
                if selector.get_key(self._line).events != events:
                    selector.modify(self._line, events)
                for key, mask in selector.select():
                    if key.fd == self._wake:
                        os.eventfd_read(self._wake)
                    elif mask & selectors.EVENT_READ:
                        self._read(parser)
                if not out and self._queue:
                    out = memoryview(self._queue.popleft())
                if out and self._room:
                    try:
                        sent = self._line.send(out[: self._room])
                    except BlockingIOError:
                        continue
                    self._room -= sent
                    out = out[sent:]

    def _read(self, parser: frames.Parser) -> None:
        try:
            data = self._line.recv(READ)
        except BlockingIOError:
            return
        if not data:
            raise EOFError
        for kind, stream, payload in parser.feed(data):
            if kind == frames.PACE:
                self._room += int.from_bytes(payload, "big")
                continue
            with self._lock:
                receiver = self._receivers.get(stream)
            if receiver is not None:
                receiver.deliver(kind, payload)
