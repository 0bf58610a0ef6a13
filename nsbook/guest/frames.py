"""What goes over the serial channel: frames, the same at both ends.

A frame is a header of nine bytes (kind, stream, length; network order) and its payload. A stream is one command; its
number is chosen by the host. Stream 0 is the guest itself.

Both ways of a stream have a window: whoever sends may have :data:`WINDOW` bytes under way, and the receiver says with
``ACK`` how many it has dealt with. So a command that does not read, or a reader that sleeps, holds up nobody else.

The line itself has one, too (:data:`LINE`): User Mode Linux stops listening to a serial line for good once its terminal
buffer has been full, so the host never has more under way than fits. ``PACE`` says how many bytes have been read from it.

What the host sends may be structured (:mod:`marshal`: both ends run the same Python). What comes from the guest is numbers
and plain text only: the guest's root may write what he likes to that line, and must not be able to do harm with it.

Also run in the guest, so it imports next to nothing.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = struct.Struct("!BII")
LARGEST = 1 << 20
"""No payload is larger; a header that says so comes from a line out of step."""
CHUNK = 32 << 10
"""How much of a stream goes into one frame, so that the others get their turn."""
WINDOW = 256 << 10
"""How much of a stream may be under way."""
LINE = 3072
"""How much of everything may be on its way into the guest: N_TTY holds 4096 bytes and calls itself full 128 before."""

# from the host
START, STDIN, STDIN_END, SIGNAL, RESIZE, ASK = 1, 2, 3, 4, 5, 6
# both ways
ACK = 8
# from the guest
READY, STARTED, REFUSED, OUT, ERR, END, ANSWER, FAILED, PACE = 16, 17, 18, 19, 20, 21, 22, 23, 24


class OutOfStep(Exception):
    """What came is no frame."""


def pack(kind: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return HEADER.pack(kind, stream, len(payload)) + payload


class Parser:
    """Takes bytes as they come and gives whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """The frames that are complete with ``data``, as (kind, stream, payload)."""
        buffer = self._buffer
        buffer += data
        place = 0
        while len(buffer) - place >= HEADER.size:
            kind, stream, length = HEADER.unpack_from(buffer, place)
            if length > LARGEST:
                raise OutOfStep(f"a frame of kind {kind} that claims {length} bytes")
            end = place + HEADER.size + length
            if len(buffer) < end:
                break
            yield kind, stream, bytes(buffer[place + HEADER.size : end])
            place = end
        del buffer[:place]
