"""MountTable: all the mounts that one process sees, as they were when they were read. mountinfo in proc(5)."""

from __future__ import annotations

import os

from nsbook.errors import NotFound
from nsbook.frozen import Frozen
from nsbook.inspectable import Inspectable, Sheet, Snapshot, Volatile, now
from nsbook.linux import mountinfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from nsbook.inspectable import Difference
    from nsbook.linux.mountinfo import MountEntry


class MountRow(Frozen):
    """A mount without the numbers that differ from one mount namespace to the next, so that tables can be compared."""

    mountpoint: str
    fstype: str
    source: str
    root: str
    options: tuple[str, ...]
    propagation: tuple[str, ...]
    super_options: tuple[str, ...]


class MountTableSnapshot(Snapshot):
    """The mounts by place: where two lie on one place, the one on top comes later."""

    mounts: tuple[MountRow, ...]


class MountTable(Inspectable, Frozen):
    """All the mounts that one process sees, in the kernel's order. A value: read it again to see what has changed."""

    rows: tuple[MountEntry, ...]
    taken: float

    @classmethod
    def of(cls, pid: int | str = "self") -> MountTable:
        """Read /proc/PID/mountinfo. Raises NotFound when the process has ended, PermissionError."""
        try:
            return cls(mountinfo.mountinfo(pid), now())
        except PermissionError:
            raise
        except OSError as error:  # ENOENT, ESRCH; EINVAL for a zombie, which has no mount namespace any more
            raise NotFound(f"there are no mounts of process {pid}: it has ended, or was never there") from error

    def __iter__(self) -> Iterator[MountEntry]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def find(self, path: str | os.PathLike[str]) -> MountEntry:
        """The topmost mount on exactly that place. Raises NotFound."""
        here = [row for row in self.rows if row.mountpoint == os.fspath(path)]
        if not here:
            raise NotFound(f"nothing is mounted on {os.fspath(path)}")
        return self._top(here)

    def covering(self, path: str | os.PathLike[str]) -> MountEntry:
        """The mount that a path lies in. Links are followed, in the reader's own view. Raises NotFound."""
        row = mountinfo.covering(self.rows, os.path.realpath(path))
        if row is None:
            raise NotFound(f"no mount covers {os.fspath(path)}")
        return self._top([r for r in self.rows if r.mountpoint == row.mountpoint])

    @staticmethod
    def _top(here: list[MountEntry]) -> MountEntry:
        """Of mounts on one place, the one on which no other of them lies."""
        below = {row.parent for row in here}
        return next((row for row in reversed(here) if row.id not in below), here[-1])

    def tree(self) -> Sheet:
        """Each mount below the one that it is mounted on, with what it covers: as findmnt(8) shows them."""
        children: dict[int, list[MountEntry]] = {}
        known = {row.id for row in self.rows}
        for row in self.rows:
            children.setdefault(row.parent if row.parent in known and row.parent != row.id else 0, []).append(row)
        out: list[tuple[str, ...]] = []

        def show(row: MountEntry, depth: int) -> None:
            out.append((Volatile("  " * depth + row.mountpoint), *_cells(row)))
            for child in children.get(row.id, ()):
                show(child, depth + 1)

        for top in children.get(0, ()):
            show(top, 0)
        return Sheet("Mounts as a tree", COLUMNS, tuple(out), (), "mounts")

    def inspect(self) -> MountTableSnapshot:
        """The rows as they were when they were read."""
        return MountTableSnapshot(
            self.taken,
            tuple([MountRow(m.mountpoint, m.fstype, m.source, m.root, m.options, propagation_of(m), m.super_options) for m in self.rows]),
        )

    def diff(self, after: MountTable) -> Difference:
        """What another table has more, less, and otherwise: a later one, or another process's."""
        return self.inspect().diff(after.inspect())

    def sheet(self) -> Sheet:
        """One row a mount, in the kernel's order."""
        rows = tuple([(Volatile(m.mountpoint), *_cells(m)) for m in self.rows])
        return Sheet("Mounts", COLUMNS, rows, (), "mounts")

    def __repr__(self) -> str:
        return f"<MountTable: {len(self.rows)} mounts>"


COLUMNS = ("on", "type", "source", "options", "propagation")


def _cells(row: MountEntry) -> tuple[str, ...]:
    return Volatile(row.fstype), Volatile(row.source), Volatile(",".join(row.options)), Volatile(words(propagation_of(row)) or "private")


def propagation_of(row: MountEntry) -> tuple[str, ...]:
    """``shared``, ``slave``, ``unbindable``: without the peer groups' numbers; nothing for a private mount."""
    names = {"shared": "shared", "master": "slave", "unbindable": "unbindable"}
    return tuple([names[word] for word in [o.partition(":")[0] for o in row.optional] if word in names])


def words(given: tuple[str, ...]) -> str:
    """A list for people."""
    return ", ".join(given)
