"""Namespace: one namespace of one of the eight kinds. namespaces(7).

``Namespace.create("uts")`` makes one, ``Namespace.of(pid, kind)`` and ``Namespace.open(path, kind)`` look at one that exists.
Its identity is the kernel's: device and inode number of its file. One that was made is held by a paused child and by an open
descriptor, and goes with them.
"""

from __future__ import annotations

import os

from nsbook.errors import InvalidOption, StateError
from nsbook.inspectable import Inspectable, Sheet, Snapshot, Volatile, now
from nsbook.linux import idmaps, nsfs
from nsbook.linux.constants import NAMESPACES
from nsbook.spawn.plan import Plan, new_run_id
from nsbook.trace import Transcript

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from nsbook.spawn.client import Session
    from nsbook.spawn.ops import Op
    from nsbook.spawn.result import Result


class NamespaceSnapshot(Snapshot):
    """A namespace at one moment. ``processes`` are those that the caller may see in it."""

    kind: str
    inode: int
    device: int
    owner_inode: int | None
    processes: tuple[int, ...]


class Namespace(Inspectable):
    """A namespace: what a process sees of one part of the system."""

    def __init__(self, kind: str, fd: int) -> None:
        self.kind = kind
        self._fd = fd
        found = os.fstat(fd)
        self.device, self.inode = found.st_dev, found.st_ino
        self._plan: Plan | None = None
        self._session: Session | None = None

    # ---- making and finding

    @classmethod
    def plan(cls, kind: str) -> Plan:
        """The plan of :meth:`create`. Raises InvalidOption for a kind that does not exist.

        An ordinary user makes a user namespace along with it, which then owns the new one (user_namespaces(7)).
        """
        from nsbook.spawn import ops

        _known(kind)
        uid, gid = os.geteuid(), os.getegid()
        with_user = kind == "user" or uid != 0
        early = tuple(k for k in ("user", "pid") if k == kind or (k == "user" and with_user))
        out: list[Op] = [ops.Clone(early)]
        if with_user:
            out += [
                ops.Barrier("the user namespace is there"),
                ops.WriteIdMap("uid", ((0, uid, 1),)),
                ops.WriteIdMap("gid", ((0, gid, 1),)),
                ops.Barrier("its id maps are written"),
            ]
        if kind not in early:
            out.append(ops.Unshare((kind,)))
            if kind == "time":
                out.append(ops.EnterTimeNamespace())
        out.append(ops.Barrier("kept", True))
        return Plan(new_run_id(), tuple(out), (), f"Namespace {kind}")

    @classmethod
    def create(cls, kind: str) -> Namespace:
        """Make one. Raises SetupError, with the diagnosis, where this host refuses."""
        from nsbook.spawn.client import Session

        plan = cls.plan(kind)
        session = Session(plan, interactive=True)
        try:
            session.hear()
            self = cls(kind, os.open(f"/proc/{session.pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC))
        except BaseException:
            session.close()
            raise
        self._plan, self._session = plan, session
        return self

    @classmethod
    def of(cls, pid: int | str = "self", kind: str = "mnt") -> Namespace:
        """The namespace that a process is in. Raises FileNotFoundError, PermissionError."""
        _known(kind)
        return cls(kind, os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC))

    @classmethod
    def open(cls, path: str) -> Namespace:
        """The namespace whose file is at ``path``. Raises OSError."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return cls(nsfs.kind_of(fd), fd)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def all_of(cls, pid: int | str = "self") -> tuple[Namespace, ...]:
        """All of a process's, one a kind."""
        return tuple([cls.of(pid, kind) for kind in NAMESPACES if os.path.exists(f"/proc/{pid}/ns/{kind}")])

    # ---- asking

    def owner(self) -> Namespace | None:
        """The user namespace that owns it; None where that is an ancestor of ours, which the kernel hides."""
        try:
            return Namespace("user", nsfs.ns_owner(self._open()))
        except PermissionError:
            return None

    def parent(self) -> Namespace | None:
        """The parent of a pid or user namespace; None for other kinds and where the kernel hides it."""
        try:
            return Namespace(self.kind, nsfs.ns_parent(self._open()))
        except OSError:
            return None

    def processes(self) -> tuple[int, ...]:
        """The pids in it, among those that the caller may look at."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    seen = os.stat(f"/proc/{entry}/ns/{self.kind}")
                except OSError:
                    continue
                if (seen.st_dev, seen.st_ino) == (self.device, self.inode):
                    found.append(int(entry))
        return tuple(sorted(found))

    def uid_map(self) -> tuple[idmaps.IdRange, ...]:
        """A user namespace's uid map, read from a process in it. Raises StateError when there is none to read it from."""
        pids = self.processes() if self.kind == "user" else ()
        if not pids:
            raise StateError("only a user namespace with a process in it has an id map to read", expected="user", actual=self.kind)
        return idmaps.uid_map(pids[0])

    def inspect(self) -> NamespaceSnapshot:
        """Identity, owner and processes."""
        owner = self.owner()
        number = None
        if owner is not None:
            number = owner.inode
            owner.close()
        return NamespaceSnapshot(now(), self.kind, self.inode, self.device, number, self.processes())

    def sheet(self) -> Sheet:
        """A line each."""
        seen = self.inspect()
        rows = (
            ("kind", self.kind),
            ("identity", Volatile(f"{self.kind}:[{self.inode}]")),
            ("owner", Volatile("hidden" if seen.owner_inode is None else f"user:[{seen.owner_inode}]")),
            ("processes", Volatile(len(seen.processes))),
        )
        return Sheet("Namespace", ("", ""), rows, (), "namespace")

    def explain(self) -> Plan:
        """The plan by which it was made; empty for one that was found."""
        return self._plan or Plan("", (), (), f"Namespace {self.kind}: found, not made")

    @property
    def transcript(self) -> Transcript:
        """What was done to make it."""
        return self._session.transcript if self._session is not None else Transcript()

    def run(self, argv: list[str] | tuple[str, ...], *, timeout: float | None = None) -> Result:
        """Run a command in it: a child enters, and becomes the command."""
        import time

        from nsbook.spawn import capture, ops
        from nsbook.spawn.result import Result, exit_code

        begin = time.perf_counter()
        out: list[Op] = [ops.Clone(()), ops.Setns("$target", (self.kind,))]
        if self.kind == "pid":
            out.append(ops.Fork())
        out += [ops.ConnectStreams(), ops.Exec(tuple(argv), tuple([f"{k}={v}" for k, v in os.environ.items()]))]
        plan = Plan(new_run_id(), tuple(out), (), f"in {self.kind}:[{self.inode}]")
        session, stdout, stderr = capture.run(plan, data=None, observe=(), tagged=False, timeout=timeout, slots={"target": self._open()})
        code = exit_code(session.status or 0)
        return Result(tuple(argv), code, stdout, stderr, time.perf_counter() - begin, False, session.transcript)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Namespace) and (other.device, other.inode) == (self.device, self.inode)

    def __hash__(self) -> int:
        return hash((self.device, self.inode))

    def __repr__(self) -> str:
        return f"<Namespace {self.kind}:[{self.inode}]>"

    def _open(self) -> int:
        if self._fd < 0:
            raise StateError(f"the namespace {self.kind}:[{self.inode}] is closed", expected="open", actual="closed")
        return self._fd

    def close(self) -> None:
        """Let go of it; one that was made goes when nobody else holds it. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._session is not None:
            self._session.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _known(kind: str) -> None:
    if kind not in NAMESPACES:
        raise InvalidOption(f"no kind of namespace {kind!r}; there are: {', '.join(NAMESPACES)}")
