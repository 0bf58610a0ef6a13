"""Our terminal lent to a command in the guest: raw, and its size handed on. termios(3), SIGWINCH."""

from __future__ import annotations

import signal
import termios
import tty
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from nsbook.guest.process import GuestProcess


def size() -> tuple[int, int]:
    """Rows and columns."""
    rows, columns = termios.tcgetwinsize(0)
    return rows, columns


@contextmanager
def raw(process: GuestProcess) -> Iterator[None]:
    """Every key goes to the guest, Ctrl-C too, and a new size is passed on; as it was afterwards."""

    def resized(number: int, frame: FrameType | None) -> None:
        process.resize(*size())

    before = termios.tcgetattr(0)
    handler = signal.signal(signal.SIGWINCH, resized)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, handler)


@contextmanager
def as_it_is() -> Iterator[None]:
    """No terminal is lent."""
    yield
