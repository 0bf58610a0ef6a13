"""What has been changed of a stack of layers, read from the writable one: what ``docker diff`` shows of a container.

The kernel's overlay keeps the changes in the upper directory as they lie on disk: a file that was written is there whole, a
deletion is a whiteout (a character device 0/0), and a directory that replaces another is marked opaque.
"""

from __future__ import annotations

import os
import stat

from nsbook.frozen import Frozen
from nsbook.inspectable import Inspectable, Sheet
from nsbook.linux import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Changed(Frozen):
    """One path. ``kind`` is A (added), C (changed) or D (deleted)."""

    kind: str
    path: str


class Changes(Inspectable, Frozen):
    """All of them, by path; ``unreadable`` are directories of mapped users that the caller may not look into."""

    rows: tuple[Changed, ...]
    unreadable: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Changed]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def sheet(self) -> Sheet:
        """As ``docker diff`` prints it."""
        words = {"A": "added", "C": "changed", "D": "deleted"}
        notes = tuple([f"not looked into: {p} (it belongs to a mapped user)" for p in self.unreadable])
        if not self.rows:
            notes = ("nothing has changed", *notes)
        return Sheet("Changes in the writable layer", ("", "", "path"), tuple((r.kind, words[r.kind], r.path) for r in self.rows), notes)


def changes(upper: str, lowerdirs: tuple[str, ...]) -> Changes:
    """Walk the upper directory and compare with what lies below."""
    rows: list[Changed] = []
    unreadable: list[str] = []
    _walk(upper, "", lowerdirs, rows, unreadable)
    return Changes(tuple(sorted(rows, key=lambda r: r.path)), tuple(unreadable))


def _walk(upper: str, path: str, lowers: tuple[str, ...], rows: list[Changed], unreadable: list[str]) -> None:
    try:
        entries = list(os.scandir(f"{upper}{path}"))
    except PermissionError:
        unreadable.append(path or "/")
        return
    for entry in entries:
        inner = f"{path}/{entry.name}"
        found = entry.stat(follow_symlinks=False)
        below = _below(inner, lowers)
        if files.is_whiteout(found):
            rows.append(Changed("D", inner))
        elif entry.is_dir(follow_symlinks=False):
            opaque = files.is_opaque(entry.path) or files.is_opaque(entry.path, user=True)
            rows.append(Changed("C" if below and stat.S_ISDIR(below.st_mode) else "A", inner))
            if opaque and below and stat.S_ISDIR(below.st_mode):
                kept = set(os.listdir(entry.path))
                rows += [Changed("D", f"{inner}/{name}") for name in sorted(_names(inner, lowers) - kept)]
            _walk(upper, inner, () if opaque else lowers, rows, unreadable)
        else:
            rows.append(Changed("C" if below else "A", inner))


def _below(path: str, lowers: tuple[str, ...]) -> os.stat_result | None:
    """What the layers below show at that path; parents are compared too, so that nothing is seen through a link."""
    for lower in lowers:
        try:
            found = os.stat(f"{lower}{path}", follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            continue
        return None if files.is_whiteout(found) else found
    return None


def _names(path: str, lowers: tuple[str, ...]) -> set[str]:
    names: set[str] = set()
    for lower in lowers:
        try:
            names |= set(os.listdir(f"{lower}{path}"))
        except (FileNotFoundError, NotADirectoryError):
            continue
    return names
