"""Recordings: what a cell showed where it could run, for machines where it can't. Never shown without its label.

``live(name, run)`` runs the cell's code. Only when this machine refuses it (:class:`~nsbook.errors.Unsupported`,
:class:`~nsbook.errors.SetupError` with a diagnosis) is the recording of that name shown instead, with where and when it
was taken and why it is shown. Recordings are package data, made by the same ``live`` with ``NSBOOK_RECORD`` set to the
directory that they go to.
"""

from __future__ import annotations

import json
import os
import time
from html import escape

from nsbook.errors import SetupError, Unsupported
from nsbook.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Recording(Frozen):
    """What was shown, and the facts of where: kernel, day, tier."""

    name: str
    kernel: str
    day: str
    text: str
    html: str = ""
    because: str = ""

    def label(self) -> str:
        """The sentence that stands above it."""
        return f"RECORDING, not this machine: taken on {self.day} on Linux {self.kernel}. Here: {self.because}"

    def __str__(self) -> str:
        return f"[{self.label()}]\n{self.text}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        body = self.html or f"<pre>{escape(self.text)}</pre>"
        return {
            "text/plain": str(self),
            "text/html": f'<div class="nsb-recording"><p><strong>⏺ {escape(self.label())}</strong></p>{body}</div>',
        }


def live(name: str, run: Callable[[], Any]) -> Any:
    """What ``run`` returns; a labelled recording where this machine refuses. Raises what ``run`` raises if there is none."""
    try:
        value = run()
    except (Unsupported, SetupError) as error:
        because = str(error).split("\n  what helps")[0].replace("\n  refused by:", "; refused by:")
        try:
            return load(name).replace(because=because)
        except FileNotFoundError:
            raise error from None
    target = os.environ.get("NSBOOK_RECORD")
    if target:
        save(target, name, value)
    return value


def directory() -> str:
    """Where the recordings lie in the package."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "recordings")


def load(name: str) -> Recording:
    """Raises FileNotFoundError."""
    with open(os.path.join(directory(), f"{name}.json"), encoding="utf-8") as stream:
        return Recording(name=name, **json.load(stream))


def save(target: str, name: str, value: Any) -> None:
    """Write a recording of a value's display."""
    from nsbook.linux import host

    display = getattr(value, "_repr_mimebundle_", None)
    bundle = display() if display is not None else {"text/plain": str(value)}
    body = {
        "kernel": host.kernel_release(),
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
        "text": bundle["text/plain"],
        "html": bundle.get("text/html", ""),
    }
    with open(os.path.join(target, f"{name}.json"), "w", encoding="utf-8") as stream:
        json.dump(body, stream, indent=1, ensure_ascii=False)
        stream.write("\n")
