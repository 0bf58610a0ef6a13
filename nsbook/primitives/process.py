"""Process: an observer of one process, by what /proc says of it. proc(5)."""

from __future__ import annotations

import os

from nsbook.errors import NotFound
from nsbook.inspectable import Inspectable, Sheet, Snapshot, Volatile, now
from nsbook.linux import cgroups, credentials
from nsbook.linux import status as proc_status
from nsbook.linux.constants import NAMESPACES


class ProcessSnapshot(Snapshot):
    """A process at one moment. ``namespaces`` are (kind, inode); capabilities are those in effect."""

    pid: int
    name: str
    argv: tuple[str, ...]
    state: str
    parent: int
    uids: tuple[int, ...]
    capabilities: tuple[str, ...]
    namespaces: tuple[tuple[str, int], ...]
    cgroups: tuple[str, ...]
    no_new_privs: bool
    seccomp: int


class Process(Inspectable):
    """One process. Its identity is pid and start time, so a pid that was used again is another process."""

    def __init__(self, pid: int | str = "self") -> None:
        self.pid = os.getpid() if pid == "self" else int(pid)
        try:
            self.start = proc_status.start_time(self.pid)
        except OSError:
            raise NotFound(f"no process {self.pid}") from None

    @classmethod
    def of(cls, pid: int | str = "self") -> Process:
        """The process of that number. Raises NotFound."""
        return cls(pid)

    def inspect(self) -> ProcessSnapshot:
        """What /proc says now. Raises NotFound when it has ended."""
        try:
            if proc_status.start_time(self.pid) != self.start:
                raise NotFound(f"process {self.pid} has ended, and its number was given to another")
            seen = proc_status.status(self.pid)
            with open(f"/proc/{self.pid}/cmdline", "rb") as stream:
                argv = tuple([w.decode("utf-8", "replace") for w in stream.read().split(b"\0")[:-1]])
            lines = tuple([f"{','.join(c.controllers) or 'v2'}:{c.path}" for c in cgroups.cgroup(self.pid)])
        except OSError:
            raise NotFound(f"process {self.pid} has ended") from None
        return ProcessSnapshot(
            now(),
            self.pid,
            seen.name,
            argv,
            seen.state,
            seen.ppid,
            tuple(seen.uids),
            credentials.capability_names(seen.cap_eff),
            tuple(self.namespaces().items()),
            lines,
            bool(seen.no_new_privs),
            seen.seccomp,
        )

    def namespaces(self) -> dict[str, int]:
        """Kind -> inode, for the kinds that the kernel has and the caller may see."""
        out = {}
        for kind in NAMESPACES:
            try:
                out[kind] = os.stat(f"/proc/{self.pid}/ns/{kind}").st_ino
            except OSError:
                continue
        return out

    def shares_with(self, other: Process) -> dict[str, bool]:
        """Kind -> is it the same namespace."""
        mine, theirs = self.namespaces(), other.namespaces()
        return {kind: mine[kind] == theirs[kind] for kind in mine if kind in theirs}

    def sheet(self) -> Sheet:
        """A line each."""
        seen = self.inspect()
        rows = (
            ("process", Volatile(f"{seen.pid} ({seen.name}), child of {seen.parent}")),
            ("command", Volatile(" ".join(seen.argv))),
            ("user", Volatile(seen.uids[1])),
            ("capabilities", Volatile(f"{len(seen.capabilities)} in effect")),
            ("namespaces", Volatile(", ".join(f"{kind}:[{number}]" for kind, number in seen.namespaces))),
            ("no_new_privs", str(seen.no_new_privs)),
            ("system-call filter", "on" if seen.seccomp else "off"),
        )
        return Sheet("Process", ("", ""), rows, (), "process")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Process) and (other.pid, other.start) == (self.pid, self.start)

    def __hash__(self) -> int:
        return hash((self.pid, self.start))

    def __repr__(self) -> str:
        return f"<Process {self.pid}>"
