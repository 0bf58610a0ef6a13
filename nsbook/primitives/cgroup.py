"""Cgroup: a control group, version 1 or 2, as one object. cgroups(7).

``Cgroup.create(memory="64M")`` makes one, ``Cgroup.of(pid)`` and ``Cgroup.open(path)`` look at one that exists; only what
was made is removed. What it is on this host (a directory in each of several hierarchies, or one directory) ``inspect()``
says.
"""

from __future__ import annotations

import os
import time

from nsbook.errors import Conflict, InvalidOption, StateError
from nsbook.inspectable import Inspectable, Sheet, Snapshot, Volatile, now
from nsbook.linux import cgroups
from nsbook.linux.files import read_file, write_file
from nsbook.primitives.cgroup_design import Design, Limits, design, limit_ops
from nsbook.primitives.made import hold
from nsbook.primitives.sizes import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from nsbook.spawn.client import Session
    from nsbook.spawn.plan import Plan
    from nsbook.trace import Transcript

UNLIMITED = 1 << 62


class CgroupSnapshot(Snapshot):
    """A control group at one moment. Sizes in bytes, times in microseconds; None where there is no limit, or where the
    controller is not there."""

    version: int
    paths: tuple[str, ...]
    memory_max: int | None = None
    memory_current: int | None = None
    """Without the file cache that can be dropped at once (inactive_file), as people mean it."""
    memory_peak: int | None = None
    oom_kills: int | None = None
    cpu_quota: int | None = None
    cpu_period: int | None = None
    cpu_usage: int | None = None
    cpu_throttled: int | None = None
    pids_max: int | None = None
    pids_current: int | None = None
    frozen: bool = False
    processes: tuple[int, ...] = ()


class Cgroup(Inspectable):
    """A control group: what its processes may use, and what they use."""

    def __init__(self, version: int, by_controller: dict[str, str], paths: tuple[str, ...]) -> None:
        self.version = version
        self.paths = paths
        self._by = by_controller
        self._plan: Plan | None = None
        self._session: Session | None = None
        self._closed = False

    # ---- making and finding

    @classmethod
    def plan(
        cls, name: str = "", *, memory: int | str | None = None, cpus: float | None = None, pids: int | None = None
    ) -> tuple[Plan, Design]:
        """The plan of :meth:`create`. Raises InvalidOption, Unsupported, Conflict (the name is taken)."""
        from nsbook.spawn.ops import Barrier
        from nsbook.spawn.plan import Plan, new_run_id

        run = new_run_id()
        name = name or f"nsbook-{run}"
        if "/" in name or name in (".", ".."):
            raise InvalidOption(f"control group name {name!r}: one directory name")
        size = _size(memory)
        made = design(name, Limits(size, size, None if cpus is None else int(cpus * 100_000), 100_000, pids))
        taken = [path for path in made.paths if os.path.exists(path)]
        if taken:
            # Undoing a failed making ends what is in the group and removes it: it must not begin with somebody else's.
            raise Conflict(f"there is a control group {taken[0]} already: choose another name, or Cgroup.open it")
        if not made.version:
            from nsbook.errors import Unsupported

            raise Unsupported("a control group", "; ".join(made.warnings), "run as root, or in a delegated group")
        return Plan(run, (*made.make, Barrier("kept", True)), made.warnings, f"Cgroup {name}"), made

    @classmethod
    def create(cls, name: str = "", *, memory: int | str | None = None, cpus: float | None = None, pids: int | None = None) -> Cgroup:
        """Make a group below (version 1) or beside (version 2) the caller's own.

        ``memory`` in bytes or as ``"64M"``; ``cpus`` 0.5 is half of one; ``pids`` the most tasks.
        """
        plan, made = cls.plan(name, memory=memory, cpus=cpus, pids=pids)
        self = cls(made.version, dict(made.by_controller), made.paths)
        self._plan = plan
        self._session = hold(plan)
        return self

    @classmethod
    def of(cls, pid: int | str = "self") -> Cgroup:
        """The group that a process is in."""
        by: dict[str, str] = {}
        paths: list[str] = []
        version = 2
        for hierarchy in cgroups.hierarchies(pid):
            if not hierarchy.directory:
                continue
            if hierarchy.version == 1:
                version = 1
            elif by:
                continue  # hybrid: the version 2 mount has no controllers
            paths.append(hierarchy.directory)
            names = (*hierarchy.controllers, "freezer") if hierarchy.version == 2 else hierarchy.controllers
            by.update({c: hierarchy.directory for c in names if c not in by})
        return cls(version, by, tuple(paths))

    @classmethod
    def open(cls, path: str) -> Cgroup:
        """The group at a directory below /sys/fs/cgroup; for version 1, of that one hierarchy. Raises FileNotFoundError."""
        if not os.path.exists(f"{path}/cgroup.procs"):
            raise FileNotFoundError(2, "not a control group", path)
        if os.path.exists(f"{path}/cgroup.controllers"):
            names = (*read_file(f"{path}/cgroup.controllers").split(), "freezer")
            return cls(2, dict.fromkeys(names, path), (path,))
        names = tuple({f.split(".", 1)[0] for f in os.listdir(path) if "." in f} - {"cgroup"})
        return cls(1, dict.fromkeys(names, path), (path,))

    # ---- asking

    @property
    def name(self) -> str:
        """The last part of its path."""
        return os.path.basename(self.paths[0].rstrip("/")) if self.paths else ""

    @property
    def transcript(self) -> Transcript:
        """What was done to make it."""
        from nsbook.trace import Transcript

        return self._session.transcript if self._session is not None else Transcript()

    def explain(self) -> Plan:
        """The plan by which it was made; for an adopted one, an empty plan."""
        from nsbook.spawn.plan import Plan

        return self._plan if self._plan is not None else Plan("", (), (), f"Cgroup {self.name}: adopted, not made")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cgroup) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[tuple[int, int], ...]:
        out = []
        for path in self.paths:
            try:
                found = os.stat(path)
                out.append((found.st_dev, found.st_ino))
            except FileNotFoundError:
                out.append((0, 0))
        return tuple(out)

    def _read(self, controller: str, name: str) -> str | None:
        path = self._by.get(controller)
        if path is None:
            return None
        try:
            return read_file(f"{path}/{name}")
        except OSError:
            return None

    def _number(self, controller: str, name: str) -> int | None:
        text = self._read(controller, name)
        if text is None or text.strip() == "max":
            return None
        value = int(text.split()[0])
        return None if value >= UNLIMITED or value < 0 else value

    def _pairs(self, controller: str, name: str) -> dict[str, int]:
        text = self._read(controller, name) or ""
        return {words[0]: int(words[1]) for line in text.splitlines() if len(words := line.split()) == 2 and words[1].isdigit()}

    def processes(self) -> tuple[int, ...]:
        """The pids in it, as they are numbered in the caller's pid namespace."""
        found: set[int] = set()
        for path in self.paths:
            try:
                found |= {int(p) for p in read_file(f"{path}/cgroup.procs").split()}
            except OSError:
                continue
            if self.version == 2:
                break
        return tuple(sorted(found))

    def inspect(self) -> CgroupSnapshot:
        """Limits and use, now."""
        if self._closed or not any(os.path.isdir(p) for p in self.paths):
            raise StateError(f"the control group {self.name} is gone", expected="there", actual="removed")
        values: dict[str, int | None] = {}
        if self.version == 2:
            quota = (self._read("cpu", "cpu.max") or "max 100000").split()
            stat, memory = self._pairs("cpu", "cpu.stat"), self._pairs("memory", "memory.stat")
            values = {
                "memory_max": self._number("memory", "memory.max"),
                "memory_current": _less(self._number("memory", "memory.current"), memory.get("inactive_file", 0)),
                "memory_peak": self._number("memory", "memory.peak"),
                "oom_kills": self._pairs("memory", "memory.events").get("oom_kill"),
                "cpu_quota": None if quota[0] == "max" else int(quota[0]),
                "cpu_period": int(quota[1]) if len(quota) > 1 else None,
                "cpu_usage": stat.get("usage_usec"),
                "cpu_throttled": stat.get("throttled_usec"),
            }
            frozen = (self._read("freezer", "cgroup.freeze") or "0").strip() == "1"
        else:
            stat, memory = self._pairs("cpu", "cpu.stat"), self._pairs("memory", "memory.stat")
            usage = self._number("cpuacct", "cpuacct.usage")
            throttled = stat.get("throttled_time")
            values = {
                "memory_max": self._number("memory", "memory.limit_in_bytes"),
                "memory_current": _less(self._number("memory", "memory.usage_in_bytes"), memory.get("total_inactive_file", 0)),
                "memory_peak": self._number("memory", "memory.max_usage_in_bytes"),
                "oom_kills": self._pairs("memory", "memory.oom_control").get("oom_kill"),
                "cpu_quota": self._number("cpu", "cpu.cfs_quota_us"),
                "cpu_period": self._number("cpu", "cpu.cfs_period_us"),
                "cpu_usage": None if usage is None else usage // 1000,
                "cpu_throttled": None if throttled is None else throttled // 1000,
            }
            frozen = (self._read("freezer", "freezer.state") or "").strip() in ("FROZEN", "FREEZING")
        return CgroupSnapshot(
            now(),
            self.version,
            self.paths,
            **values,
            pids_max=self._number("pids", "pids.max"),
            pids_current=self._number("pids", "pids.current"),
            frozen=frozen,
            processes=self.processes(),
        )

    def sheet(self) -> Sheet:
        """Each limit beside what is used of it."""
        seen = self.inspect()

        def bytes_(value: int | None) -> str:
            return "no limit" if value is None else f"{value:,} B"

        cpu = "no limit" if seen.cpu_quota is None or not seen.cpu_period else f"{seen.cpu_quota / seen.cpu_period:g} CPUs"
        rows = (
            ("memory", bytes_(seen.memory_max), Volatile("—" if seen.memory_current is None else f"{seen.memory_current:,} B")),
            ("cpu", cpu, Volatile("—" if seen.cpu_usage is None else f"{seen.cpu_usage / 1e6:.3f} s")),
            (
                "tasks",
                "no limit" if seen.pids_max is None else str(seen.pids_max),
                Volatile("—" if seen.pids_current is None else seen.pids_current),
            ),
            ("processes", "", Volatile(len(seen.processes))),
            ("OOM kills", "", "—" if seen.oom_kills is None else str(seen.oom_kills)),
            ("state", "", "frozen" if seen.frozen else "running"),
        )
        where = f"version {self.version}, {len(self.paths)} director{'y' if len(self.paths) == 1 else 'ies'}"
        return Sheet(f"Cgroup ({where})", ("", "limit", "in use"), rows, (), "cgroup")

    def __repr__(self) -> str:
        return f"<Cgroup v{self.version} {self.paths[0] if self.paths else '(nowhere)'}>"

    # ---- changing

    def join(self, pid: int) -> None:
        """Move a process, with all its threads, in here."""
        for path in self.paths:
            write_file(f"{path}/cgroup.procs", str(pid))

    def limit(self, *, memory: int | str | None = None, cpus: float | None = None, pids: int | None = None) -> None:
        """Change limits; what is not named stays. Raises InvalidOption, OSError."""
        from nsbook.spawn.ops import Place, WriteFile

        wanted = Limits(_size(memory), None, None if cpus is None else int(cpus * 100_000), 100_000, pids)
        made = limit_ops(self.version, self._by, wanted)
        current = self._number("memory", "memory.limit_in_bytes")
        if wanted.memory is not None and current is not None and current < wanted.memory:
            # Version 1 refuses a limit of memory above that of memory and swap together: upwards, the latter goes first.
            made.sort(key=lambda op: "memsw" not in op.path if isinstance(op, WriteFile) else True)
        for op in made:
            op.execute(Place())

    def freeze(self, seconds: float = 5.0) -> None:
        """Stop every process in it where it is, and wait until they stand."""
        self._freezer(True, seconds)

    def thaw(self, seconds: float = 5.0) -> None:
        """Let them go on."""
        self._freezer(False, seconds)

    def _freezer(self, on: bool, seconds: float) -> None:
        path = self._by.get("freezer")
        if path is None:
            from nsbook.errors import Unsupported

            raise Unsupported("pausing", "this control group has no freezer", "run where the freezer controller can be used")
        end = time.monotonic() + seconds
        if self.version == 2:
            write_file(f"{path}/cgroup.freeze", "1" if on else "0")
            while self._pairs("freezer", "cgroup.events").get("frozen") != int(on):
                _pause(end)
            return
        want = "FROZEN" if on else "THAWED"
        write_file(f"{path}/freezer.state", want)
        while (self._read("freezer", "freezer.state") or "").strip() != want:
            _pause(end)

    def kill(self) -> None:
        """SIGKILL to every process in it."""
        from nsbook.spawn.ops.cgroups import kill_cgroup

        for path in self.paths:
            kill_cgroup(path)

    def remove(self) -> None:
        """End what runs in it and remove it; nothing happens to one that was adopted, or twice."""
        self.close()

    def close(self) -> None:
        """As :meth:`remove`."""
        if not self._closed and self._session is not None:
            self._closed = True
            self._session.close()

    def __enter__(self) -> Cgroup:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _pause(end: float) -> None:
    if time.monotonic() > end:
        raise TimeoutError("the processes did not stop in time (one may be waiting in the kernel for a device)")
    time.sleep(0.001)


def _less(value: int | None, cache: int) -> int | None:
    return None if value is None else max(0, value - cache)


def _size(value: int | str | None) -> int | None:
    return None if value is None else parse_size(value)
