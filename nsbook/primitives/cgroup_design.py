"""Where a new control group goes on this host, and which files say what: version 1, version 2 and hybrid.

The answer is a :class:`Design`: the directories, the ops that make and fill them, and how a process gets in. Containers and
:class:`~nsbook.primitives.Cgroup` use the same one.

Version 2 has a rule that version 1 has not: a group with processes of its own can't share out its controllers
(cgroups(7), "no internal processes"). So the new group goes beside the caller's own where the parent allows it; else the
caller's group, if it is the caller's to rule, first moves its processes to a leaf.
"""

from __future__ import annotations

import os

from nsbook.errors import InvalidSpec, Unsupported
from nsbook.frozen import Frozen
from nsbook.linux import cgroups
from nsbook.linux.files import read_file
from nsbook.spawn.ops import JoinCgroup, LeaveForLeaf, MakeCgroup, MakeCgroupParents, Op, WriteFile

V1_WANTED = ("memory", "cpu", "cpuacct", "pids", "freezer", "devices")
V2_WANTED = ("memory", "cpu", "pids")

DEVICE_RULES: tuple[tuple[str, str], ...] = (
    ("deny", "a"),
    ("allow", "c *:* m"),
    ("allow", "b *:* m"),
    ("allow", "c 1:3 rwm"),
    ("allow", "c 1:5 rwm"),
    ("allow", "c 1:7 rwm"),
    ("allow", "c 1:8 rwm"),
    ("allow", "c 1:9 rwm"),
    ("allow", "c 5:0 rwm"),
    ("allow", "c 5:1 rwm"),
    ("allow", "c 5:2 rwm"),
    ("allow", "c 136:* rwm"),
    ("allow", "c 10:200 rwm"),
)
"""What a container may do with devices: make any node, use only these (Docker's list)."""


_known: dict[tuple[object, ...], tuple[cgroups.Hierarchy, ...]] = {}


def hierarchies() -> tuple[cgroups.Hierarchy, ...]:
    """What :func:`nsbook.linux.cgroups.hierarchies` says, read again only when this process has moved to another cgroup or
    mount namespace, or /sys/fs/cgroup has changed: parsing all mounts is most of the work of planning a container."""
    try:
        top, namespace = os.stat("/sys/fs/cgroup"), os.stat("/proc/self/ns/mnt")
        key = (read_file("/proc/self/cgroup"), namespace.st_ino, top.st_dev, top.st_ino, top.st_mtime_ns)
    except OSError:
        return cgroups.hierarchies()
    if key not in _known:
        _known.clear()
        _known[key] = cgroups.hierarchies()
    return _known[key]


class Limits(Frozen):
    """``memory`` and ``memory_swap`` in bytes (swap: the sum of both, as the OCI specification has it), CPU time as
    ``quota`` microseconds of each ``period``, ``pids`` tasks. None: no limit."""

    memory: int | None = None
    memory_swap: int | None = None
    quota: int | None = None
    period: int = 100_000
    pids: int | None = None
    shares: int | None = None
    reservation: int | None = None
    cpus: str = ""
    mems: str = ""
    devices: tuple[tuple[str, str], ...] = ()
    """Rules in order: ("deny", "a"), ("allow", "c 1:3 rwm"). Version 1 alone."""

    def names(self) -> list[str]:
        """Which controllers these need."""
        wanted = {
            "memory": self.memory or self.reservation,
            "cpu": self.quota or self.shares,
            "pids": self.pids,
            "cpuset": self.cpus or self.mems or None,
        }
        return [name for name, value in wanted.items() if value is not None]


class Design(Frozen):
    """``version`` 1 or 2, 0 for none; ``paths`` of the new directories; ``by_controller`` finds one of them."""

    version: int
    paths: tuple[str, ...] = ()
    by_controller: tuple[tuple[str, str], ...] = ()
    make: tuple[Op, ...] = ()
    join: tuple[Op, ...] = ()
    cgroup_directory: str = ""
    """Version 2: the directory to be born in."""
    warnings: tuple[str, ...] = ()

    def path_of(self, controller: str) -> str:
        """The directory where that controller is set; "" if nowhere."""
        return dict(self.by_controller).get(controller, "")


def design(name: str, limits: Limits, *, limit_fix: str = "") -> Design:
    """A place for a group called ``name``. Raises Unsupported if a limit was asked for and no controller can be had."""
    found = hierarchies()
    v1 = [h for h in found if h.version == 1 and h.controllers]
    v2 = next((h for h in found if h.version == 2), None)
    made = (
        _version_1(name, limits, v1) if any(h.controllers and h.controllers[0] in V1_WANTED for h in v1) else _version_2(name, limits, v2)
    )
    missing = [c for c in limits.names() if not made.path_of(c)]
    if missing:
        reason = "; ".join(made.warnings) or f"this host has no {' and no '.join(missing)} controller that we may use"
        raise Unsupported(f"a limit of {' and '.join(missing)}", reason, limit_fix or _fix(v2))
    return made


def _fix(v2: cgroups.Hierarchy | None) -> str:
    if v2 is None:
        return "run as root, or have root give you a control group of your own (chown)"
    return "run as root, or in a delegated group: systemd-run --user --scope -p Delegate=yes"


def _version_1(name: str, limits: Limits, found: list[cgroups.Hierarchy]) -> Design:
    paths: list[str] = []
    by: list[tuple[str, str]] = []
    refused: list[str] = []
    for hierarchy in found:
        wanted = [c for c in hierarchy.controllers if c in V1_WANTED]
        if not wanted:
            continue
        if not hierarchy.directory or hierarchy.read_only or not os.access(hierarchy.directory, os.W_OK):
            refused += wanted
            continue
        path = f"{hierarchy.directory.rstrip('/')}/{name}"
        paths.append(path)
        by += [(c, path) for c in wanted]
    warnings = (f"no control group for {', '.join(refused)}: its directory is not ours to write to",) if refused else ()
    if not paths:
        return Design(0, warnings=warnings)
    where = dict(by)
    ops: list[Op] = [MakeCgroup(tuple(paths)), *limit_ops(1, where, limits)]
    return Design(1, tuple(paths), tuple(by), tuple(ops), (JoinCgroup(tuple(paths), 1),), "", warnings)


def _version_2(name: str, limits: Limits, hierarchy: cgroups.Hierarchy | None) -> Design:
    if hierarchy is None or not hierarchy.directory:
        return Design(0, warnings=("no control group: none is mounted here",))
    if hierarchy.read_only:
        return Design(0, warnings=("no control group: /sys/fs/cgroup is read-only here",))
    own, top = hierarchy.directory.rstrip("/"), hierarchy.mountpoint.rstrip("/")
    if own.endswith("/nsbook-leaf"):
        own = os.path.dirname(own)  # we were moved here once: our group is the one above
        return _inside(name, limits, own, (LeaveForLeaf(own),))
    is_root = own == top and hierarchy.root == "/" and not os.path.exists(f"{own}/cgroup.type")
    if is_root or not _words(f"{own}/cgroup.procs"):
        if _ours(own):
            return _inside(name, limits, own, ())
    elif own != top:
        parent = os.path.dirname(own)
        if _ours(parent) and set(limits.names()) <= set(_words(f"{parent}/cgroup.controllers")):
            return _inside(name, limits, parent, ())
        if _ours(own):
            return _inside(name, limits, own, (LeaveForLeaf(own),))
    elif _ours(own):
        return _inside(name, limits, own, (LeaveForLeaf(own),))
    return Design(0, warnings=(f"no control group: {own} is not ours to write to (not delegated)",))


def _ours(directory: str) -> bool:
    """May we make groups here, and move processes between them (which needs the common ancestor's file)?"""
    return all(os.access(p, os.W_OK) for p in (directory, f"{directory}/cgroup.procs", f"{directory}/cgroup.subtree_control"))


def _words(path: str) -> list[str]:
    try:
        return read_file(path).split()
    except OSError:
        return []


def _inside(name: str, limits: Limits, parent: str, before: tuple[Op, ...]) -> Design:
    have = _words(f"{parent}/cgroup.controllers")
    enable = tuple(c for c in V2_WANTED if c in have)
    path = f"{parent}/{name}"
    ops: list[Op] = [
        *before,
        MakeCgroup((path,), enable, "nsbook-leaf" if before else ""),
    ]
    by = tuple((c, path) for c in (*enable, "freezer"))
    ops += limit_ops(2, dict(by), limits)
    return Design(2, (path,), by, tuple(ops), (), path)


def limit_ops(version: int, where: dict[str, str], limits: Limits) -> list[Op]:
    """The writes that set these limits; ``where`` has the directory of each controller."""
    ops: list[Op] = []
    if limits.memory is not None and "memory" in where:
        path, swap = where["memory"], limits.memory_swap if limits.memory_swap is not None else limits.memory
        why = f"limit memory to {limits.memory} bytes"
        if version == 1:
            ops.append(WriteFile(f"{path}/memory.limit_in_bytes", str(limits.memory), why))
            ops.append(WriteFile(f"{path}/memory.memsw.limit_in_bytes", str(swap), "let swap not help out", optional=True))
        else:
            ops.append(WriteFile(f"{path}/memory.max", str(limits.memory), why))
            ops.append(WriteFile(f"{path}/memory.swap.max", str(max(0, swap - limits.memory)), "let swap not help out", optional=True))
    if limits.shares is not None and "cpu" in where:
        if version == 1:
            ops.append(WriteFile(f"{where['cpu']}/cpu.shares", str(limits.shares), f"give {limits.shares} shares of the CPUs"))
        else:
            weight = 1 + ((limits.shares - 2) * 9999) // 262142  # as the OCI runtimes convert shares to weight
            ops.append(WriteFile(f"{where['cpu']}/cpu.weight", str(weight), f"give a CPU weight of {weight}"))
    if limits.quota is not None and "cpu" in where:
        why = f"at most {limits.quota} us of CPU time in each {limits.period}"
        if version == 1:
            ops.append(WriteFile(f"{where['cpu']}/cpu.cfs_period_us", str(limits.period), f"count CPU time by {limits.period} us"))
            ops.append(WriteFile(f"{where['cpu']}/cpu.cfs_quota_us", str(limits.quota), why))
        else:
            ops.append(WriteFile(f"{where['cpu']}/cpu.max", f"{limits.quota} {limits.period}", why))
    if limits.reservation is not None and "memory" in where:
        name = "memory.soft_limit_in_bytes" if version == 1 else "memory.low"
        ops.append(WriteFile(f"{where['memory']}/{name}", str(limits.reservation), f"protect {limits.reservation} bytes"))
    for name, value in (("cpus", limits.cpus), ("mems", limits.mems)):
        if value and "cpuset" in where:
            ops.append(WriteFile(f"{where['cpuset']}/cpuset.{name}", value, f"run on {name} {value}"))
    if limits.pids is not None and "pids" in where:
        ops.append(WriteFile(f"{where['pids']}/pids.max", str(limits.pids), f"at most {limits.pids} tasks"))
    if version == 1 and "devices" in where and os.geteuid() == 0:
        for verb, rule in limits.devices:
            why = ("no device may be used" if rule == "a" else f"not {rule}") if verb == "deny" else f"but {rule}"
            ops.append(WriteFile(f"{where['devices']}/devices.{verb}", rule, why))
    return ops


def design_at(path: str, limits: Limits) -> Design:
    """A group at ``path`` (absolute: from each hierarchy's root; relative: from the caller's own), as the OCI
    specification's ``cgroupsPath`` has it. Raises Unsupported, InvalidSpec."""
    if ".." in path.split("/"):
        raise InvalidSpec(f"cgroupsPath {path!r}: no '..'")
    found = hierarchies()
    v1 = [h for h in found if h.version == 1 and any(c in (*V1_WANTED, "cpuset") for c in h.controllers)]
    if not v1:
        v2 = next((h for h in found if h.version == 2), None)
        return _at_2(path, limits, v2) if v2 is not None else Design(0, warnings=("no control group: none is mounted here",))
    wanted = (*V1_WANTED, "cpuset") if limits.cpus or limits.mems else V1_WANTED
    paths: list[str] = []
    parents: list[str] = []
    by: list[tuple[str, str]] = []
    for hierarchy in v1:
        controllers = [c for c in hierarchy.controllers if c in wanted]
        base = hierarchy.mountpoint if path.startswith("/") else hierarchy.directory
        if controllers and base and not hierarchy.read_only:
            full = f"{base.rstrip('/')}/{path.strip('/')}"
            paths.append(full)
            parents += _missing(base, os.path.dirname(full))
            by += [(c, full) for c in controllers]
    ops: list[Op] = [MakeCgroupParents(tuple(parents))] if parents else []
    ops += [MakeCgroup(tuple(paths)), *limit_ops(1, dict(by), limits)]
    return Design(1, tuple(paths), tuple(by), tuple(ops), (JoinCgroup(tuple(paths), 1),))


def _at_2(path: str, limits: Limits, hierarchy: cgroups.Hierarchy) -> Design:
    base = (hierarchy.mountpoint if path.startswith("/") else hierarchy.directory).rstrip("/")
    full = f"{base}/{path.strip('/')}"
    have = _words(f"{base}/cgroup.controllers")
    enable = tuple(c for c in (*V2_WANTED, "cpuset") if c in have)
    parents = _missing(base, os.path.dirname(full))
    ops: list[Op] = [MakeCgroupParents(tuple(parents), enable)] if parents else []
    by = tuple((c, full) for c in (*enable, "freezer"))
    ops += [MakeCgroup((full,), enable if not parents else ()), *limit_ops(2, dict(by), limits)]
    warnings = ("devices are not restricted: that takes a BPF program on version 2",) if limits.devices else ()
    return Design(2, (full,), by, tuple(ops), (), full, warnings)


def _missing(base: str, directory: str) -> list[str]:
    """The directories between that are not there yet, outermost first."""
    out: list[str] = []
    while len(directory) > len(base.rstrip("/")) and not os.path.isdir(directory):
        out.append(directory)
        directory = os.path.dirname(directory)
    return out[::-1]
