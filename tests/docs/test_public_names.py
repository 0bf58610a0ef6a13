"""Whatever a reader can reach by name says what it is."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

import nsbook

FACE = [name for name in nsbook.__dir__() if not name.startswith("_") and name not in ("annotations", "TYPE_CHECKING")]
PLAIN = ("fields",)
"""What every frozen value has: told once, in nsbook.frozen."""


def public(value: type) -> Iterator[tuple[str, Any]]:
    """The methods and properties that the class itself defines."""
    for name, member in vars(value).items():
        if name.startswith("_") or name in PLAIN:
            continue
        if isinstance(member, property | staticmethod | classmethod) or inspect.isfunction(member):
            yield name, member


@pytest.mark.parametrize("name", FACE)
def test_a_name_of_the_face_is_documented(name: str) -> None:
    value = getattr(nsbook, name)
    assert (inspect.getdoc(value) or "").strip(), f"nsbook.{name}"


@pytest.mark.parametrize("name", FACE)
def test_so_are_its_methods(name: str) -> None:
    value = getattr(nsbook, name)
    if not inspect.isclass(value):
        return
    bare = [f"{name}.{method}" for method, _ in public(value) if not (inspect.getdoc(getattr(value, method)) or "").strip()]
    assert not bare


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(AttributeError, match="Container"):
        nsbook.Conatiner  # noqa: B018
