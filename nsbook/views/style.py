"""The style sheets, read once and made short enough to be sent with every output."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent


@cache
def css(*names: str) -> str:
    """The style sheets of these names in one line, without comments; ``css("palette", "sheet")``.

    It has no ``<``, so that it may stand in a ``<style>`` element, and a comparison of outputs can cut it out.
    """
    text = "".join((HERE / f"{name}.css").read_text(encoding="utf-8") for name in names)
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    text = re.sub(r"\s+", " ", text)
    return re.sub(r" ?([{};,]) ?", r"\1", text).replace(": ", ":").replace(";}", "}").strip()


def script(name: str) -> str:
    """The ES module of that name."""
    return (HERE / f"{name}.js").read_text(encoding="utf-8")
