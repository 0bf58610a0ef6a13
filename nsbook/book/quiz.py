"""A question with choices. The answer is hidden until it is asked for, with or without a kernel."""

from __future__ import annotations

from html import escape

from nsbook.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Quiz(Frozen):
    """``answers`` are the numbers of the right choices, counted from 1; ``because`` says why they are right.

    Displayed as HTML, the answer is in a ``<details>`` that opens with a click or a key; as text it can be had by
    ``reveal()``; ``answer(2)`` checks one's own.
    """

    question: str
    choices: tuple[str, ...]
    answers: tuple[int, ...]
    because: str = ""

    def answer(self, *numbers: int) -> str:
        """Is that right?"""
        if set(numbers) == set(self.answers):
            return f"Right. {self.because}".strip()
        return "Not quite: " + ("there is more than one." if len(self.answers) > 1 and len(numbers) == 1 else "look again.")

    def reveal(self) -> str:
        """The right answer and why."""
        return "; ".join(self.choices[n - 1] for n in self.answers) + (f". {self.because}" if self.because else "")

    def __str__(self) -> str:
        lines = [self.question, *(f"  {n}. {choice}" for n, choice in enumerate(self.choices, 1))]
        return "\n".join([*lines, "(answer with .answer(n); .reveal() tells)"])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        items = "".join(f"<li>{escape(choice)}</li>" for choice in self.choices)
        html = (
            f'<div class="nsb-quiz"><p><strong>{escape(self.question)}</strong></p><ol>{items}</ol>'
            f"<details><summary>Answer</summary><p>{escape(self.reveal())}</p></details></div>"
        )
        return {"text/plain": str(self), "text/html": html}
