"""The guest's cgroup hierarchies, and a cgroup for each command. cgroups(7); Documentation/admin-guide/cgroup-v2.rst.

``v2``: the one hierarchy with every controller that the kernel has, enabled for all below. ``v1``: each controller in a
hierarchy of its own. ``hybrid``: v1, and an empty v2 beside it on ``unified``, as older systemd sets it up.

A command starts in ``guest/NUMBER``, as a login shell does in its session's scope; an ordinary user owns that cgroup and may
divide it (delegation, as systemd's ``Delegate=yes``).
"""

from __future__ import annotations

import os

from nsbook.linux.constants import MS_NODEV, MS_NOEXEC, MS_NOSUID
from nsbook.linux.mount import mount

TOP = "/sys/fs/cgroup"
PARENT = "guest"
DELEGATED = ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "tasks")
SAFE = MS_NOSUID | MS_NODEV | MS_NOEXEC


def write(path: str, text: str) -> None:
    """One write to a control file."""
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def read(path: str) -> str:
    """A control file's text."""
    with open(path) as file:
        return file.read()


class Cgroups:
    """What is mounted below ``/sys/fs/cgroup``."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.tops: list[str] = []
        self.left: list[str] = []

    def set_up(self) -> None:
        """Mount the hierarchies and make what the commands' cgroups lie in."""
        if self.mode == "v2":
            self._mount_v2(TOP)
        else:
            mount("tmpfs", TOP, "tmpfs", SAFE, "mode=755")
            self._mount_v1()
            if self.mode == "hybrid":
                os.mkdir(f"{TOP}/unified")
                self._mount_v2(f"{TOP}/unified")
        for top in self.tops:
            os.mkdir(f"{top}/{PARENT}")
            _inherit_cpuset(f"{top}/{PARENT}")
            _enable_all(f"{top}/{PARENT}")

    def _mount_v2(self, where: str) -> None:
        mount("cgroup2", where, "cgroup2", SAFE, "nsdelegate,memory_recursiveprot")
        _enable_all(where)
        self.tops.append(where)

    def _mount_v1(self) -> None:
        for line in read("/proc/cgroups").splitlines()[1:]:
            name, _, _, enabled = line.split()
            if enabled != "1":
                continue
            where = f"{TOP}/{name}"
            os.mkdir(where)
            mount("cgroup", where, "cgroup", SAFE, name)
            self.tops.append(where)
        os.mkdir(f"{TOP}/systemd")
        mount("cgroup", f"{TOP}/systemd", "cgroup", SAFE, "none,name=systemd")
        self.tops.append(f"{TOP}/systemd")

    def make(self, number: int, uid: int, gid: int) -> list[str]:
        """A command's cgroup in each hierarchy, the user's own."""
        made = []
        for top in self.tops:
            where = f"{top}/{PARENT}/{number}"
            os.mkdir(where)
            _inherit_cpuset(where)
            made.append(where)
            if uid:
                os.chown(where, uid, gid)
                for name in DELEGATED:
                    try:
                        os.chown(f"{where}/{name}", uid, gid)
                    except FileNotFoundError:
                        pass
        return made

    def enter(self, cgroups: list[str]) -> None:
        """Put this process there, so that what it starts is born there."""
        for where in cgroups:
            write(f"{where}/cgroup.procs", "0")

    def come_back(self) -> None:
        """Put this process where it was."""
        for top in self.tops:
            write(f"{top}/cgroup.procs", "0")

    def kill(self, cgroups: list[str]) -> None:
        """SIGKILL to all that is there or below."""
        for where in cgroups:
            try:
                write(f"{where}/cgroup.kill", "1")
                return
            except FileNotFoundError:
                pass  # version 1 has no such file
        for where, _, _ in os.walk(cgroups[0]) if cgroups else ():
            for pid in read(f"{where}/cgroup.procs").split():
                try:
                    os.kill(int(pid), 9)
                except ProcessLookupError:
                    pass

    def remove(self, cgroups: list[str]) -> None:
        """Remove what is empty; what a command has left running keeps its cgroup until it ends."""
        waiting, self.left = [*self.left, *cgroups], []
        for top in waiting:
            try:
                for where, _, _ in os.walk(top, topdown=False):
                    os.rmdir(where)
            except FileNotFoundError:
                pass
            except OSError:
                self.left.append(top)


def _enable_all(where: str) -> None:
    try:
        controllers = read(f"{where}/cgroup.controllers").split()
    except FileNotFoundError:
        return
    if controllers:
        write(f"{where}/cgroup.subtree_control", " ".join(f"+{c}" for c in controllers))


def _inherit_cpuset(where: str) -> None:
    """A new v1 cpuset is empty and takes no process until it is given its parent's."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if os.path.exists(f"{where}/{name}") and not os.path.exists(f"{where}/cgroup.controllers"):
            write(f"{where}/{name}", read(f"{os.path.dirname(where)}/{name}"))
