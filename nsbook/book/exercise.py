"""An exercise whose answer is the state of the kernel: what you have made is looked at, not what you have written."""

from __future__ import annotations

from html import escape

from nsbook.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Exercise(Frozen):
    """``test`` is called by :meth:`check` with whatever you pass; it returns True, or a text that says what is missing."""

    task: str
    test: Callable[..., bool | str]
    hint: str = ""
    solution: str = ""

    def check(self, *args: Any, **kwargs: Any) -> Verdict:
        """Look at the kernel's state. An error in the test is an answer too: it is shown, not raised."""
        try:
            found = self.test(*args, **kwargs)
        except Exception as error:
            return Verdict(False, f"{type(error).__name__}: {error}")
        if isinstance(found, str):
            return Verdict(False, found)
        return Verdict(bool(found), "" if found else "not yet")

    def __str__(self) -> str:
        return f"Exercise: {self.task}\n(.check(...) looks at the kernel; .hint and .solution help)"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        html = f'<div class="nsb-exercise"><p><strong>Exercise.</strong> {escape(self.task)}</p>'
        if self.hint:
            html += f"<details><summary>Hint</summary><p>{escape(self.hint)}</p></details>"
        if self.solution:
            html += f"<details><summary>Solution</summary><pre>{escape(self.solution)}</pre></details>"
        return {"text/plain": str(self), "text/html": html + "</div>"}


class Verdict(Frozen):
    """Truthy when the exercise is solved."""

    solved: bool
    why: str = ""

    def __bool__(self) -> bool:
        return self.solved

    def __repr__(self) -> str:
        return "Solved." if self.solved else f"Not solved: {self.why}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        mark = "✔ Solved." if self.solved else f"✘ Not solved: {escape(self.why)}"
        return {"text/plain": repr(self), "text/html": f'<p class="nsb-verdict">{mark}</p>'}
