"""Progress of long work: typed events, and a way to stop it.

Whoever does long work (pull, apply, build, boot) takes a ``progress`` callable and calls it with an :class:`Event`;
whoever shows it (command line, notebook, API) decides how. A callable that raises :class:`Cancelled` stops the work,
which then cleans up and lets the exception through.
"""

from __future__ import annotations

from nsbook.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Cancelled(BaseException):
    """Raised by a progress callable to stop the work. Not an Exception: no handler of errors should swallow it."""


class Event(Frozen):
    """``task`` names what is being done, ``item`` on what; ``done`` of ``total`` in ``unit`` (total 0: not known)."""

    task: str
    item: str = ""
    done: int = 0
    total: int = 0
    unit: str = "B"


def silent(event: Event) -> None:
    """Shows nothing."""


if TYPE_CHECKING:
    Progress = Callable[[Event], None]
