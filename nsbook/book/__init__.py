"""What the chapters need: a verdict on this machine, quizzes, exercises that the kernel's state answers, and recordings.

Nothing here imports IPython or ipywidgets: every object displays itself as text and static HTML, which reads the same on a
page without a kernel, and asks the views for a live form only when told to (``.widget()``).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nsbook.book.exercise import Exercise as Exercise
    from nsbook.book.quiz import Quiz as Quiz
    from nsbook.book.recordings import live as live
    from nsbook.book.verdicts import needs as needs

_names = {"Exercise": "exercise", "Quiz": "quiz", "live": "recordings", "needs": "verdicts"}


def __getattr__(name: str) -> Any:
    if name not in _names:
        raise AttributeError(f"nsbook.book has no {name!r}")
    from importlib import import_module

    return getattr(import_module(f"nsbook.book.{_names[name]}"), name)
