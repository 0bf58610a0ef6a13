"""Trials of control groups: one is made, a process is born or moved into it, limits are set and read back."""

from __future__ import annotations

from nsbook.doctor.report import Finding
from nsbook.doctor.trial import Refusal, attempt, finding, once, refusal_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from nsbook.primitives.cgroup_design import Design, Limits

MEMORY, QUOTA, TASKS = 32 << 20, 50_000, 50
DELEGATE = "have a control group delegated (chown it, or systemd's Delegate=yes), or be root"


def _name() -> str:
    from nsbook.spawn.plan import new_run_id

    return f"nsbook-doctor-{new_run_id()}"


def group() -> Finding:
    """A group beside or below our own, all limits, and a process in it; what is refused then, one by one."""
    from nsbook.linux import cgroups
    from nsbook.primitives.cgroup_design import Limits

    layout = cgroups.layout()
    refused, made = _all_limits()
    if refused is None:
        return finding("cgroup", f"a group, three limits, a process in it ({_layout(layout, made)})", None)
    bare, made = _try(Limits())
    how = f"a group and a process in it ({_layout(layout, made)})"
    if bare is not None:
        return finding("cgroup", how, bare)
    missing = [(name, found) for name in ("memory", "cpu", "pids") if (found := _limited(name)) is not None]
    names, first = ", ".join(name for name, _ in missing), missing[0][1] if missing else refused
    return finding("cgroup", how, first.replace(why=f"no limit of {names or 'all at once'}: {first.why}"), partly=True)


def _all_limits() -> tuple[Refusal | None, Design | None]:
    from nsbook.primitives.cgroup_design import Limits

    return once("limits", lambda: _try(Limits(MEMORY, MEMORY, QUOTA, pids=TASKS), _read_back))


def _layout(layout: str, made: Design | None) -> str:
    version = f"version {made.version}" if made is not None and made.version else ""
    return f"{version}, {layout}" if version and layout == "hybrid" else version or layout


def limit(name: str) -> Callable[[], Finding]:
    """One limit."""

    def probe() -> Finding:
        shown = {"memory": "32 MiB", "cpu": "half of a CPU", "pids": f"{TASKS} tasks"}[name]
        return finding(f"{name} limit", f"a group with a limit of {shown}, read back", _limited(name))

    return probe


def _limited(name: str) -> Refusal | None:
    """Why that limit can't be set. Where all can, one group has shown it; else it is tried alone."""
    from nsbook.primitives.cgroup_design import Limits

    if _all_limits()[0] is None:
        return None
    return _try({"memory": Limits(MEMORY, MEMORY), "cpu": Limits(quota=QUOTA), "pids": Limits(pids=TASKS)}[name], _read_back)[0]


def _read_back(made: Design, limits: Limits) -> Refusal | None:
    """What the kernel says of the limits that were written."""
    from nsbook.linux.files import read_file

    one = made.version == 1
    cpu = ("cpu.cfs_quota_us", str(QUOTA)) if one else ("cpu.max", f"{QUOTA} 100000")
    memory = "memory.limit_in_bytes" if one else "memory.max"
    files = {"memory": (memory, str(MEMORY)), "cpu": cpu, "pids": ("pids.max", str(TASKS))}
    for name in limits.names():
        file, wanted = files[name]
        found = read_file(f"{made.path_of(name)}/{file}").strip()
        if found != wanted:
            return Refusal("kernel", f"{file} says {found!r} after {wanted!r} was written")
    return None


def _try(limits: Limits, look: Callable[[Design, Limits], Refusal | None] | None = None) -> tuple[Refusal | None, Design | None]:
    """A group with these limits and a process in it. Where our own rules would not even begin, the kernel is asked all the
    same, so that the answer is its, and names who refused."""
    from nsbook.errors import Unsupported
    from nsbook.primitives.cgroup_design import design
    from nsbook.spawn import ops

    name = _name()
    try:
        made = design(name, limits)
    except Unsupported as error:
        return plainly() or refusal_of(error).replace(layer="cgroup"), None
    if not made.version:
        return plainly() or Refusal("cgroup", "; ".join(made.warnings), DELEGATE), None
    steps = [*made.make, ops.Clone((), made.cgroup_directory), *made.join]
    return _nameless(attempt("cgroup", steps, None if look is None else lambda: look(made, limits)), name), made


def _nameless(refused: Refusal | None, name: str) -> Refusal | None:
    """The same reason in the same words, whatever the group was called."""
    return None if refused is None else refused.replace(why=refused.why.replace(f"/{name}", ""))


def plainly() -> Refusal | None:
    """mkdir in our own groups, whatever their modes and mount options say. None: that works."""
    from nsbook.linux import cgroups
    from nsbook.primitives.cgroup_design import V1_WANTED
    from nsbook.spawn import ops

    found = cgroups.hierarchies()
    v1 = [h for h in found if h.version == 1 and set(h.controllers) & set(V1_WANTED)]
    wanted = v1 or [h for h in found if h.version == 2]
    if not wanted:
        return Refusal("cgroup", "no cgroup file system is mounted here", "as root: mount -t cgroup2 cgroup2 /sys/fs/cgroup")
    seen = [h.directory.rstrip("/") for h in wanted if h.directory]
    if not seen:
        why = f"our own group {wanted[0].path!r} can't be seen through the mount at {wanted[0].mountpoint!r}"
        return Refusal("cgroup", why, "mount the cgroup file system in a cgroup namespace of its own")
    name = _name()
    return _nameless(attempt("cgroup", [ops.MakeCgroup(tuple(f"{directory}/{name}" for directory in seen))]), name)


PROBES: dict[str, Callable[[], Finding]] = {
    "cgroup": group,
    "memory limit": limit("memory"),
    "cpu limit": limit("cpu"),
    "pids limit": limit("pids"),
}
