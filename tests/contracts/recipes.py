"""One real object of each class, for the contract: made things inside a ``with`` or by ``close``, values and observers as they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import nsbook


class Recipe(NamedTuple):
    """``make`` gets a directory of its own and a stack for what must be undone after the object. ``needs``: see needs.py."""

    make: Callable[[Path, ExitStack], Any]
    needs: tuple[str, ...] = ()


def namespace(there: Path, stack: ExitStack) -> Any:
    return nsbook.Namespace.create("uts")


def cgroup(there: Path, stack: ExitStack) -> Any:
    return nsbook.Cgroup.create(memory="16m")


def mount(there: Path, stack: ExitStack) -> Any:
    return nsbook.Mount.create("tmpfs", str(there))


def overlay(there: Path, stack: ExitStack) -> Any:
    (there / "lower").mkdir()
    (there / "lower" / "file").write_text("below")
    return nsbook.Overlay.create([f"{there}/lower"])


def container(there: Path, stack: ExitStack) -> Any:
    return nsbook.Container.create(nsbook.Image.base(), ["true"])


def assembly(there: Path, stack: ExitStack) -> Any:
    return nsbook.Assembly(nsbook.Image.base(), ["true"]).step(2)


MADE: dict[str, Recipe] = {
    "Namespace": Recipe(namespace, ("root",)),
    "Cgroup": Recipe(cgroup, ("root",)),
    "Mount": Recipe(mount, ("root",)),
    "Overlay": Recipe(overlay, ("root", "overlay")),
    "Container": Recipe(container, ("root", "overlay")),
    "Assembly": Recipe(assembly, ("root", "overlay")),
}
"""What is made on the host and must be undone."""

VALUES: dict[str, Recipe] = {
    "Capabilities": Recipe(lambda there, stack: nsbook.Capabilities.of("self")),
    "SeccompFilter": Recipe(lambda there, stack: nsbook.SeccompFilter.default()),
    "Image": Recipe(lambda there, stack: nsbook.Image.base()),
}
"""Immutable content: nothing to close or to plan."""

OBSERVERS: dict[str, Recipe] = {
    "Process": Recipe(lambda there, stack: nsbook.Process.of(os.getpid())),
    "MountTable": Recipe(lambda there, stack: nsbook.MountTable.of(os.getpid())),
}
"""They look, and make nothing."""

ALL = MADE | VALUES | OBSERVERS
