"""Namespace: one namespace of one of the eight kinds. namespaces(7).

``Namespace.create("uts")`` makes one, held by a paused child until ``close()``; ``Namespace.of(pid, kind)`` and
``Namespace.open(path)`` look at one that exists. Each keeps a descriptor of it open, so the kernel keeps the namespace, too.
Its identity is the kernel's: device and inode number of its file. ``run(argv)`` runs a command inside.
"""

from __future__ import annotations

import os
import time

from nsbook.errors import InvalidOption, NotFound, SetupError, StateError, Unsupported
from nsbook.inspectable import Sheet, Snapshot, Volatile, now
from nsbook.linux import idmaps, nsfs
from nsbook.linux.constants import NAMESPACES
from nsbook.primitives.made import Made, hold
from nsbook.primitives.namespace_plan import create_plan, enter_plan, may_administer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nsbook.primitives.namespace_plan import Ranges
    from nsbook.spawn.plan import Plan
    from nsbook.spawn.result import Result


class NamespaceSnapshot(Snapshot):
    """A namespace at one moment. ``processes`` are those that the caller may see in it; ``owner_inode`` is the user namespace
    that owns it, ``owner_uid`` who made that, ``parent_inode`` the namespace that a pid or user namespace was made in: None
    where the kernel hides it. The maps are (inside, outside, how many) rows of a user namespace with a process in it."""

    kind: str
    inode: int
    device: int
    owner_inode: int | None
    processes: tuple[int, ...]
    owner_uid: int | None = None
    parent_inode: int | None = None
    uid_map: tuple[tuple[int, int, int], ...] = ()
    gid_map: tuple[tuple[int, int, int], ...] = ()


class Namespace(Made):
    """A namespace: what a process sees of one part of the system."""

    def __init__(self, kind: str, fd: int) -> None:
        super().__init__()
        self.kind = kind
        self._fd = fd
        found = os.fstat(fd)
        self.device, self.inode = found.st_dev, found.st_ino

    # ---- making and finding

    @classmethod
    def plan(
        cls, kind: str, *, uid_map: Ranges | None = None, gid_map: Ranges | None = None, offsets: dict[str, int] | None = None
    ) -> Plan:
        """The plan of :meth:`create`. Runs nothing. Raises InvalidOption."""
        _known(kind)
        return create_plan(kind, uid_map=uid_map, gid_map=gid_map, offsets=offsets or {})

    @classmethod
    def create(
        cls, kind: str, *, uid_map: Ranges | None = None, gid_map: Ranges | None = None, offsets: dict[str, int] | None = None
    ) -> Namespace:
        """Make a new ``mnt``, ``uts``, ``ipc``, ``net``, ``pid``, ``user``, ``cgroup`` or ``time`` namespace.

        ``uid_map`` and ``gid_map`` are (inside, outside, how many) rows of a new user namespace; by default the caller is
        user 0 inside; ``()`` writes none, and everybody in it is nobody. ``offsets`` shifts the clocks of a time namespace,
        in seconds (``{"boottime": 86400}``; also ``monotonic``).

        One who lacks CAP_SYS_ADMIN may make a user namespace and, in it, any other: so there a user namespace comes along,
        which is then the new one's :meth:`owner`. Raises InvalidOption; SetupError, with the diagnosis, where it is refused.
        """
        plan = cls.plan(kind, uid_map=uid_map, gid_map=gid_map, offsets=offsets)
        session = hold(plan)
        try:
            self = cls(kind, os.open(f"/proc/{session.pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC))
        except BaseException:
            session.close()
            raise
        self._plan, self._session = plan, session
        return self

    @classmethod
    def of(cls, pid: int | str = "self", kind: str = "mnt") -> Namespace:
        """The namespace that a process is in. Raises NotFound when it has ended, Unsupported when it is not ours to look at
        or the kernel has no such namespaces."""
        _known(kind)
        try:
            return cls.open(f"/proc/{pid}/ns/{kind}")
        except NotFound:
            if not os.path.lexists(f"/proc/self/ns/{kind}"):
                raise Unsupported(f"a {kind} namespace", "this kernel was built without them", "use another kernel") from None
            raise NotFound(f"there is no process {pid}, or it has ended") from None

    @classmethod
    def open(cls, place: str | os.PathLike[str] | int) -> Namespace:
        """The namespace whose file is at a path (``/proc/PID/ns/uts``, or what that was bind-mounted to), or behind a
        descriptor, which stays the caller's. Raises NotFound, InvalidOption for what is none, Unsupported if it is not ours."""
        try:
            fd = os.dup(place) if isinstance(place, int) else os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            raise NotFound(f"there is no {place}") from None
        except PermissionError as error:
            raise Unsupported(
                f"looking at {place}",
                "the process is another user's, or has capabilities that we lack (ptrace(2), PTRACE_MODE_READ_FSCREDS)",
                "look at a process of your own, or be root",
            ) from error
        try:
            return cls(nsfs.kind_of(fd), fd)
        except OSError:
            os.close(fd)
            raise InvalidOption(f"{place} is no namespace: those are in /proc/PID/ns") from None

    @classmethod
    def all_of(cls, pid: int | str = "self") -> tuple[Namespace, ...]:
        """All of a process's, one a kind that the kernel has. Raises as :meth:`of` does."""
        found: list[Namespace] = []
        try:
            for kind in NAMESPACES:
                if os.path.lexists(f"/proc/self/ns/{kind}"):
                    found.append(cls.of(pid, kind))
        except BaseException:
            for one in found:
                one.close()
            raise
        return tuple(found)

    # ---- asking

    def fileno(self) -> int:
        """The open descriptor. Raises StateError when closed."""
        if self._fd < 0:
            raise StateError(f"the namespace {self.kind}:[{self.inode}] is closed", expected="open", actual="closed")
        return self._fd

    @property
    def pid(self) -> int:
        """The paused child that holds it; 0 for one that was found, or is closed."""
        return self._session.pid if self._session is not None and not self._ended else 0

    def owner(self) -> Namespace | None:
        """The user namespace that owns it; None where that is outside of ours, which the kernel hides (NS_GET_USERNS)."""
        return self._related("user", nsfs.ns_owner)

    def parent(self) -> Namespace | None:
        """The parent of a pid or user namespace (NS_GET_PARENT). None for other kinds, for the first one of all, and for a
        parent outside of ours: the kernel answers the last two alike, with EPERM."""
        return self._related(self.kind, nsfs.ns_parent) if self.kind in ("pid", "user") else None

    def _related(self, kind: str, ask: Callable[[int], int]) -> Namespace | None:
        try:
            return Namespace(kind, ask(self.fileno()))
        except PermissionError:
            return None

    @property
    def owner_uid(self) -> int | None:
        """Who made this user namespace, or, for another kind, the user namespace that owns it. None where that is hidden."""
        if self.kind == "user":
            return nsfs.ns_owner_uid(self.fileno())
        owner = self.owner()
        if owner is None:
            return None
        with owner:
            return nsfs.ns_owner_uid(owner.fileno())

    def processes(self) -> tuple[int, ...]:
        """The pids in it, among those that the caller may look at. Reads all of /proc."""
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
        return self._map(idmaps.uid_map)

    def gid_map(self) -> tuple[idmaps.IdRange, ...]:
        """A user namespace's gid map. Raises as :meth:`uid_map` does."""
        return self._map(idmaps.gid_map)

    def _map(self, read: Callable[[int], tuple[idmaps.IdRange, ...]]) -> tuple[idmaps.IdRange, ...]:
        for pid in self.processes() if self.kind == "user" else ():
            try:
                return read(pid)
            except OSError:
                continue
        raise StateError("only a user namespace with a process in it has an id map to read", expected="user", actual=self.kind)

    def inspect(self) -> NamespaceSnapshot:
        """Identity, owner, parent, id maps and processes. Raises StateError when closed."""
        owner, parent = self.owner(), self.parent()
        try:
            return NamespaceSnapshot(
                now(),
                self.kind,
                self.inode,
                self.device,
                None if owner is None else owner.inode,
                self.processes(),
                self.owner_uid,
                None if parent is None else parent.inode,
                self._ranges(self.uid_map),
                self._ranges(self.gid_map),
            )
        finally:
            for other in (owner, parent):
                if other is not None:
                    other.close()

    def _ranges(self, read: Callable[[], tuple[idmaps.IdRange, ...]]) -> tuple[tuple[int, int, int], ...]:
        if self.kind != "user":
            return ()
        try:
            return tuple([(r.inside, r.outside, r.count) for r in read()])
        except StateError:
            return ()

    def sheet(self) -> Sheet:
        """A line each."""
        seen = self.inspect()
        rows = [
            ("kind", self.kind),
            ("identity", Volatile(f"{self.kind}:[{self.inode}]")),
            ("owner", Volatile("hidden" if seen.owner_inode is None else f"user:[{seen.owner_inode}]")),
        ]
        if self.kind in ("pid", "user"):
            first = "none, or outside of what we may see"
            rows.append(("parent", Volatile(first if seen.parent_inode is None else f"{self.kind}:[{seen.parent_inode}]")))
        for name, ranges in (("uid_map", seen.uid_map), ("gid_map", seen.gid_map)):
            rows += [(name, f"{inside} inside is {outside} outside, {count} in all") for inside, outside, count in ranges]
        rows.append(("processes", Volatile(len(seen.processes))))
        if self.pid:
            rows.append(("held by", Volatile(f"a paused child, pid {self.pid}")))
        return Sheet("Namespace", ("", ""), tuple(rows), (), "namespace")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Namespace) and (other.device, other.inode) == (self.device, self.inode)

    def __hash__(self) -> int:
        return hash((self.device, self.inode))

    def __repr__(self) -> str:
        return f"<Namespace {self.kind}:[{self.inode}]{' closed' if self._fd < 0 else ''}>"

    # ---- going in

    def run(
        self,
        argv: Sequence[str],
        *,
        env: dict[str, str] | None = None,
        input: bytes | str | None = None,
        timeout: float | None = None,
    ) -> Result:
        """Run a command in a child that has entered this namespace, and no other; one who lacks CAP_SYS_ADMIN enters its
        owner first, since nothing else gives the right to. What it leaves running is ended with it.

        It gets our environment, and ``env``. A command that can't be found gives exit code 127, one that can't be executed
        126. Raises SetupError, with the diagnosis, TimeoutError (it was killed), StateError when closed.
        """
        from nsbook.spawn import capture
        from nsbook.spawn.result import Result, exit_code, not_started

        begin = time.perf_counter()
        if isinstance(argv, str):
            raise InvalidOption(f'the command is a list of words: ["sh", "-c", {argv!r}]')
        words = tuple([str(word) for word in argv])
        if not words:
            raise InvalidOption("nothing to run")
        slots = {"target": self.fileno()}
        owner = self._owner_to_enter()
        try:
            if owner is not None:
                slots["owner"] = owner.fileno()
            plan = enter_plan(self.kind, words, env or {}, owner=owner is not None)
            data = input.encode() if isinstance(input, str) else input
            session, out, err = capture.run(plan, data=data, observe=(), tagged=True, timeout=timeout, slots=slots)
        except SetupError as error:
            return not_started(error, words, time.perf_counter() - begin)
        finally:
            if owner is not None:
                owner.close()
        return Result(words, exit_code(session.status or 0), out, err, time.perf_counter() - begin, False, session.transcript)

    def _owner_to_enter(self) -> Namespace | None:
        """The user namespace that has to be entered first, for one who has no capability over this one from outside."""
        if self.kind == "user" or may_administer():
            return None
        owner = self.owner()
        mine = nsfs.namespace_of("self", "user")
        if owner is not None and (owner.device, owner.inode) == (mine.dev, mine.ino):
            owner.close()
            return None
        return owner

    # ---- letting go

    def close(self) -> None:
        """Let go of it; one that was made goes when nobody else holds it. May be called twice."""
        self._let_go()
        super().close()

    def _let_go(self) -> None:
        fd, self._fd = getattr(self, "_fd", -1), -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self._let_go()  # one that was found and forgotten must not keep a namespace alive


def _known(kind: str) -> None:
    if kind not in NAMESPACES:
        raise InvalidOption(f"no kind of namespace {kind!r}; there are: {', '.join(NAMESPACES)}")
