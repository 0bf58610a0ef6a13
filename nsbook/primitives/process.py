"""Process: an observer of one process, by what /proc says of it. proc(5).

A process is known by its pid and its start time: a pid that was used again is another process.
"""

from __future__ import annotations

import os

from nsbook.errors import NotFound
from nsbook.inspectable import Inspectable, Sheet, Snapshot, Volatile, now
from nsbook.linux import cgroups, credentials
from nsbook.linux import status as proc_status
from nsbook.linux.constants import NAMESPACES
from nsbook.linux.files import read_bytes, read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nsbook.inspectable import Difference

STATES: dict[str, str] = {
    "R": "running",
    "S": "sleeping",
    "D": "waiting in the kernel",
    "T": "stopped",
    "t": "stopped by its tracer",
    "Z": "zombie: it has ended, and nobody has asked how",
    "X": "dead",
    "I": "idle",
}
"""The letters of proc_pid_status(5)."""
MODES = ("off", "strict", "filter")
"""What seccomp's number means."""


class ProcessSnapshot(Snapshot):
    """A process at one moment. ``uids`` and ``gids`` are real, effective, saved, file system; capabilities are those in
    effect; ``namespaces`` are (kind, inode); ``seccomp`` is 0 (off), 1 (strict) or 2 (filter); ``limits`` are (name, soft,
    hard) as /proc/PID/limits has them. ``descriptors`` is how many it has open, None where it is not ours to look at."""

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
    gids: tuple[int, ...] = ()
    threads: int = 1
    descriptors: int | None = None
    limits: tuple[tuple[str, str, str], ...] = ()


class Process(Inspectable):
    """One process."""

    def __init__(self, pid: int | str = "self") -> None:
        self.pid = os.getpid() if pid == "self" else int(pid)
        try:
            self.start = proc_status.start_time(self.pid)
        except OSError:
            raise NotFound(f"there is no process {self.pid}") from None

    @classmethod
    def of(cls, pid: int | str = "self") -> Process:
        """The process of that number. Raises NotFound."""
        return cls(pid)

    @property
    def there(self) -> bool:
        """Has it not ended? A zombie is there until its parent has asked for its status."""
        try:
            return proc_status.start_time(self.pid) == self.start
        except OSError:
            return False

    def _expect(self) -> None:
        if not self.there:
            raise NotFound(f"process {self.pid} has ended" + (", and its number was given to another" if self._reused else ""))

    @property
    def _reused(self) -> bool:
        return os.path.exists(f"/proc/{self.pid}")

    def inspect(self) -> ProcessSnapshot:
        """What /proc says now. Raises NotFound when it has ended."""
        try:
            seen = proc_status.status(self.pid)
            argv = read_bytes(f"/proc/{self.pid}/cmdline").split(b"\0")[:-1]
            lines = tuple([f"{','.join(c.controllers) or 'v2'}:{c.path}" for c in cgroups.cgroup(self.pid)])
            limits = _limits(read_file(f"/proc/{self.pid}/limits"))
            namespaces = self.namespaces()
        except OSError:
            raise NotFound(f"process {self.pid} has ended") from None
        self._expect()  # last: all that was read is of this process
        return ProcessSnapshot(
            now(),
            self.pid,
            seen.name,
            tuple([word.decode("utf-8", "replace") for word in argv]),
            seen.state,
            seen.ppid,
            tuple(seen.uids),
            credentials.capability_names(seen.cap_eff),
            tuple(namespaces.items()),
            lines,
            seen.no_new_privs == 1,
            seen.seccomp,
            tuple(seen.gids),
            seen.threads,
            self._descriptors(),
            limits,
        )

    def _descriptors(self) -> int | None:
        try:
            return len(os.listdir(f"/proc/{self.pid}/fd"))
        except OSError:
            return None

    def namespaces(self) -> dict[str, int]:
        """Kind -> inode, for the kinds that the kernel has and the caller may see. Raises NotFound when it has ended."""
        out = {}
        for kind in NAMESPACES:
            try:
                out[kind] = os.stat(f"/proc/{self.pid}/ns/{kind}").st_ino
            except OSError:
                continue
        self._expect()
        return out

    def shares_with(self, other: Process) -> dict[str, bool]:
        """Kind -> is it the same namespace; without the kinds that we may not see of one of them."""
        mine, theirs = self.namespaces(), other.namespaces()
        return {kind: mine[kind] == theirs[kind] for kind in mine if kind in theirs}

    def diff(self, other: Process) -> Difference:
        """In what two processes differ now. (How one has changed is ``before.diff(after)`` of its snapshots.)"""
        return self.inspect().diff(other.inspect())

    def sheet(self) -> Sheet:
        """A line each."""
        seen = self.inspect()
        rows = (
            ("process", Volatile(f"{seen.pid} ({seen.name}), child of {seen.parent}")),
            ("state", Volatile(STATES.get(seen.state, seen.state))),
            ("command", Volatile(" ".join(seen.argv))),
            ("user", Volatile(seen.uids[1])),
            ("capabilities", Volatile(f"{len(seen.capabilities)} in effect")),
            ("namespaces", Volatile(", ".join(f"{kind}:[{number}]" for kind, number in seen.namespaces) or "not ours to look at")),
            ("control groups", Volatile(", ".join(dict.fromkeys(line.partition(":")[2] for line in seen.cgroups)))),
            ("threads", Volatile(seen.threads)),
            ("open files", Volatile("not ours to look at" if seen.descriptors is None else seen.descriptors)),
            ("no_new_privs", str(seen.no_new_privs)),
            ("system-call filter", MODES[seen.seccomp] if 0 <= seen.seccomp < len(MODES) else "this kernel has none"),
        )
        return Sheet("Process", ("", ""), rows, (), "process")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Process) and (other.pid, other.start) == (self.pid, self.start)

    def __hash__(self) -> int:
        return hash((self.pid, self.start))

    def __repr__(self) -> str:
        return f"<Process {self.pid}>"


def _limits(text: str) -> tuple[tuple[str, str, str], ...]:
    """The rows of /proc/PID/limits: columns of 26, 21 and 21 characters, which may hold blanks."""
    lines = text.splitlines()[1:]
    return tuple([(line[:26].strip(), line[26:47].strip(), line[47:68].strip()) for line in lines])
