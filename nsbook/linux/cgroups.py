"""Where the control groups are: /proc/PID/cgroup, /proc/cgroups and the mounts, per cgroups(7). Reading only."""

from __future__ import annotations

import os

from nsbook.frozen import Frozen
from nsbook.linux.files import read_file
from nsbook.linux.mountinfo import MountEntry, mountinfo


class CgroupLine(Frozen):
    """One line of /proc/PID/cgroup. Version 2 is hierarchy 0 without controllers. ``path`` is relative to the reader's
    cgroup namespace; it starts with ``/..`` for a cgroup outside of that.
    """

    hierarchy: int
    controllers: tuple[str, ...]
    path: str


class Hierarchy(Frozen):
    """A mounted hierarchy: ``version`` 1 or 2, its controllers (v2: those of its root directory), where it is mounted,
    which directory of it is shown there (``root``), and the own cgroup: ``path`` as in /proc/self/cgroup, ``directory``
    in the file system, "" when it can't be seen through this mount.
    """

    version: int
    controllers: tuple[str, ...]
    mountpoint: str
    root: str
    path: str
    directory: str
    read_only: bool = False


def cgroup(pid: int | str = "self") -> tuple[CgroupLine, ...]:
    """The cgroups that the process is in, one a hierarchy."""
    return parse(read_file(f"/proc/{pid}/cgroup"))


def parse(text: str) -> tuple[CgroupLine, ...]:
    """The rows of a cgroup file's text; a removed cgroup's path ends in `` (deleted)``."""
    rows = []
    for line in text.split("\n"):
        if line:
            number, controllers, path = line.split(":", 2)
            rows.append(CgroupLine(int(number), tuple(controllers.split(",")) if controllers else (), path))
    return tuple(rows)


def controllers() -> dict[str, tuple[int, int, bool]]:
    """/proc/cgroups: name -> (hierarchy id, number of cgroups, enabled). Empty in a kernel without v1."""
    try:
        lines = read_file("/proc/cgroups").split("\n")
    except FileNotFoundError:
        return {}
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    return {name: (int(number), int(count), on == "1") for name, number, count, on in rows}


def hierarchies(pid: int | str = "self") -> tuple[Hierarchy, ...]:
    """The hierarchies that the process can see, one row each, in the order of their mounts."""
    lines = cgroup(pid)
    rows: dict[tuple[str, ...], Hierarchy] = {}
    mounts = mountinfo(pid)
    points = {mount.id: mount.mountpoint for mount in mounts}
    covered = {mount.parent for mount in mounts if points.get(mount.parent) == mount.mountpoint}
    for mount in mounts:
        if mount.id in covered or (pid == "self" and not _visible(mount)):
            continue
        if mount.fstype == "cgroup":
            line = next((one for one in lines if one.controllers and set(one.controllers) <= set(mount.super_options)), None)
            names = line.controllers if line else ()
        elif mount.fstype == "cgroup2":
            line = next((one for one in lines if not one.controllers), None)
            names = _v2_controllers(mount.mountpoint)
        else:
            continue
        if line is None:
            continue
        row = Hierarchy(
            version=2 if mount.fstype == "cgroup2" else 1,
            controllers=names,
            mountpoint=mount.mountpoint,
            root=mount.root,
            path=line.path,
            directory=_directory(mount.mountpoint, mount.root, line.path),
            read_only="ro" in mount.options or "ro" in mount.super_options,
        )
        known = rows.get(line.controllers)
        if known is None or (not known.directory and row.directory):  # mounted twice: take where the own cgroup shows
            rows[line.controllers] = row
    return tuple(rows.values())


def _visible(mount: MountEntry) -> bool:
    """Whether a lookup of the mount point ends in this file system: something may be mounted over a directory above it."""
    try:
        device = os.stat(mount.mountpoint).st_dev
    except OSError:
        return False
    return f"{os.major(device)}:{os.minor(device)}" == mount.device


def _v2_controllers(mountpoint: str) -> tuple[str, ...]:
    try:
        return tuple(read_file(f"{mountpoint}/cgroup.controllers").split())
    except OSError:
        return ()


def _directory(mountpoint: str, root: str, path: str) -> str:
    """Where the cgroup ``path`` lies when directory ``root`` of the hierarchy is what the mount shows."""
    if root == "/":
        inside = path
    elif path == root or path.startswith(root + "/"):
        inside = path[len(root) :]
    else:
        return ""
    if "/../" in inside + "/":
        return ""
    return mountpoint.rstrip("/") + inside.rstrip("/") or "/"


def layout() -> str:
    """``v1``, ``v2``, ``hybrid`` (controllers on v1 hierarchies, a cgroup2 mount beside them), or ``none``."""
    try:
        types = {mount.fstype for mount in mountinfo()}
    except OSError:
        return "none"
    if "cgroup" in types:
        return "hybrid" if "cgroup2" in types else "v1"
    return "v2" if "cgroup2" in types else "none"


def own_directory(controller: str) -> str:
    """The own cgroup's directory for a v1 controller, or for v2 if that has it; "" if there is none."""
    for row in hierarchies():
        if controller in row.controllers and row.directory and os.path.isdir(row.directory):
            return row.directory
    return ""
