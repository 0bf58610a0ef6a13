"""Mount and MountTable: one mount of the host's, and all the mounts that a process sees. mount(2), mountinfo in proc(5)."""

from __future__ import annotations

import os

from nsbook.errors import NotFound, StateError
from nsbook.frozen import Frozen
from nsbook.inspectable import Inspectable, Sheet, Snapshot, Volatile, now
from nsbook.linux import mountinfo
from nsbook.spawn.plan import Plan, new_run_id
from nsbook.trace import Transcript

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from nsbook.spawn.client import Session


class MountSnapshot(Snapshot):
    """A mount at one moment, as mountinfo has it; ``there`` is False when nothing is mounted at the target."""

    target: str
    there: bool
    fstype: str = ""
    source: str = ""
    root: str = ""
    options: tuple[str, ...] = ()
    propagation: tuple[str, ...] = ()


class Mount(Inspectable):
    """A mount on the host: made by :meth:`create`, or found by :meth:`of`. Only what was made is unmounted."""

    def __init__(self, target: str) -> None:
        self.target = os.path.realpath(target)
        self._plan: Plan | None = None
        self._session: Session | None = None
        self._closed = False

    @classmethod
    def plan(cls, what: str, target: str, *, bind: bool = False, flags: tuple[str, ...] = (), data: str = "") -> Plan:
        """The plan of :meth:`create`."""
        from nsbook.spawn import ops

        place = os.path.realpath(target)
        op = ops.HostMount(place, "" if bind else what, os.path.realpath(what) if bind else "", tuple(flags), data)
        return Plan(new_run_id(), (op, ops.Barrier("kept", True)), (), f"Mount on {place}")

    @classmethod
    def create(cls, what: str, target: str, *, bind: bool = False, flags: tuple[str, ...] = (), data: str = "") -> Mount:
        """Mount a file system of type ``what`` (``"tmpfs"``) on ``target``, or with ``bind`` the directory ``what``.

        ``flags`` are mount(8)'s words (``"ro"``, ``"nosuid"``). Raises SetupError with the diagnosis.
        """
        from nsbook.spawn.client import Session

        self = cls(target)
        self._plan = cls.plan(what, target, bind=bind, flags=flags, data=data)
        self._session = Session(self._plan, interactive=True)
        self._session.hear()
        return self

    @classmethod
    def of(cls, path: str) -> Mount:
        """The mount that ``path`` lies in."""
        return cls(MountTable.of().covering(path).mountpoint)

    def inspect(self) -> MountSnapshot:
        """What mountinfo says of it now."""
        if self._closed:
            raise StateError(f"the mount on {self.target} is closed", expected="mounted", actual="closed")
        rows = [m for m in mountinfo.mountinfo() if m.mountpoint == self.target]
        if not rows:
            return MountSnapshot(now(), self.target, False)
        row = rows[-1]
        return MountSnapshot(now(), self.target, True, row.fstype, row.source, row.root, row.options, row.optional)

    def sheet(self) -> Sheet:
        """A line each."""
        seen = self.inspect()
        rows = (
            ("on", Volatile(seen.target)),
            ("file system", seen.fstype or "nothing is mounted there"),
            ("source", Volatile(seen.source)),
            ("options", Volatile(", ".join(seen.options))),
            ("propagation", Volatile(", ".join(seen.propagation) or "private")),
        )
        return Sheet("Mount", ("", ""), rows, (), "mount")

    def explain(self) -> Plan:
        """The plan by which it was made; empty for one that was found."""
        return self._plan or Plan("", (), (), f"Mount on {self.target}: found, not made")

    @property
    def transcript(self) -> Transcript:
        """What was done to make it."""
        return self._session.transcript if self._session is not None else Transcript()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mount) and other.target == self.target

    def __hash__(self) -> int:
        return hash(self.target)

    def __repr__(self) -> str:
        return f"<Mount on {self.target}>"

    def close(self) -> None:
        """Unmount what was made. May be called twice."""
        if not self._closed and self._session is not None:
            self._closed = True
            self._session.close()

    def __enter__(self) -> Mount:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class MountTableSnapshot(Snapshot):
    """The rows at one moment."""

    rows: tuple[mountinfo.MountEntry, ...]


class MountTable(Inspectable, Frozen):
    """All the mounts that one process sees, in the kernel's order, as they were when it was read."""

    rows: tuple[mountinfo.MountEntry, ...]
    taken: float

    @classmethod
    def of(cls, pid: int | str = "self") -> MountTable:
        """Read /proc/PID/mountinfo."""
        return cls(mountinfo.mountinfo(pid), now())

    def __iter__(self) -> Iterator[mountinfo.MountEntry]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def find(self, path: str) -> mountinfo.MountEntry:
        """The topmost mount on exactly that place. Raises NotFound."""
        for row in reversed(self.rows):
            if row.mountpoint == path:
                return row
        raise NotFound(f"nothing is mounted on {path}")

    def covering(self, path: str) -> mountinfo.MountEntry:
        """The mount that a path lies in. Raises NotFound."""
        row = mountinfo.covering(self.rows, os.path.realpath(path))
        if row is None:
            raise NotFound(f"no mount covers {path}")
        return row

    def inspect(self) -> MountTableSnapshot:
        """The rows as a snapshot, for ``diff``."""
        return MountTableSnapshot(self.taken, self.rows)

    def sheet(self) -> Sheet:
        """One row a mount."""
        rows = tuple((Volatile(m.mountpoint), Volatile(m.fstype), Volatile(m.source), Volatile(",".join(m.options))) for m in self.rows)
        return Sheet("Mounts", ("on", "type", "source", "options"), rows, (), "mounts")
