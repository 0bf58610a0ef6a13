"""The guest's file tree: this machine's files below, a throw-away layer above, and the directories that are always new.

The kernel has mounted the host's ``/`` read-only as its root. Over it goes an overlay whose upper layer lies on the scratch
disk (ext4, so that overlays may be made on it in turn) or in memory. ``/tmp``, ``/var/tmp`` and ``/run`` are empty, on the
same scratch; what is to be seen below them is put back in by name. mount(2), pivot_root(2), overlayfs.rst.
"""

from __future__ import annotations

import os
import time

from nsbook.linux.constants import MNT_DETACH, MS_BIND, MS_MOVE, MS_NOATIME, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_REC
from nsbook.linux.mount import mount, pivot_root, umount2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypedDict

    class Plan(TypedDict):
        """What the host decided: see :mod:`nsbook.guest.session`."""

        engine: str
        root: str
        modules: str
        disk: str
        cgroup: str
        hostname: str
        shares: list[str]
        writable: list[str]
        reach: list[str]
        wire: str
        python: str
        path: list[str]


NEW = ("/tmp", "/var/tmp", "/run")
"""Directories that are the guest's own. A path below them is the host's only where it has been shared."""
ON_SCRATCH = {"/tmp": "/tmp", "/var/tmp": "/var-tmp"}
STAGE = "/dev/nsbook"


class Tree:
    """The mounted tree. ``covered`` keeps a way to the host's directories below the new ones."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.covered: dict[str, int] = {}
        self.scratch = "ext4" if plan["disk"] else "tmpfs"

    def build(self) -> None:
        """From the kernel's bare root to a whole system's tree, and into it."""
        scratch, root = f"{STAGE}/scratch", f"{STAGE}/root"
        os.makedirs(scratch)
        os.makedirs(root)
        if self.plan["disk"]:
            mount(self.plan["disk"], scratch, "ext4", MS_NOATIME, "nobarrier")
        else:
            mount("scratch", scratch, "tmpfs", 0, "mode=755,size=75%")
        for name, mode in (("/upper", 0o755), ("/work", 0o755), ("/tmp", 0o1777), ("/var-tmp", 0o1777)):
            os.mkdir(scratch + name)
            os.chmod(scratch + name, mode)
        mount("overlay", root, "overlay", 0, f"lowerdir=/,upperdir={scratch}/upper,workdir={scratch}/work,volatile")
        for path in ("proc", "sys", "dev"):
            os.makedirs(f"{root}/{path}", exist_ok=True)
        mount("/proc", root + "/proc", None, MS_MOVE)
        below = {path: os.open(scratch + name, os.O_PATH | os.O_CLOEXEC) for path, name in ON_SCRATCH.items()}
        os.chdir(root)
        pivot_root(".", ".")
        # Paths lead through the new root now; the old one, with the scratch disk, lies on top of it and can still be reached.
        for path in NEW:
            os.makedirs(path, exist_ok=True)
            self.covered[path] = os.open(path, os.O_PATH | os.O_CLOEXEC)
            if path in below:
                mount(f"/proc/self/fd/{below[path]}", path, None, MS_BIND)
                os.close(below[path])
            else:
                mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
        mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        mount("dev", "/dev", "devtmpfs", MS_NOSUID, "mode=755")
        umount2(".", MNT_DETACH)
        os.chdir("/")
        for path in (scratch, root, STAGE):
            os.rmdir(path)

    def furnish(self) -> None:
        """Devices, module directory, shares."""
        for name, kind, flags, data in (
            ("pts", "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"),
            ("shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"),
            ("mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, None),
        ):
            os.makedirs(f"/dev/{name}", exist_ok=True)
            mount(kind, f"/dev/{name}", kind, flags, data)
        for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
            if not os.path.lexists(f"/dev/{name}"):
                os.symlink(target, f"/dev/{name}")
        os.makedirs("/dev/net", exist_ok=True)
        for name, major, minor in (("net/tun", 10, 200), ("fuse", 10, 229), ("loop-control", 10, 237)):
            if not os.path.exists(f"/dev/{name}"):  # opening it loads the module
                os.mknod(f"/dev/{name}", 0o20666, os.makedev(major, minor))
        for name in ("net/tun", "fuse", "ptmx", "tty"):
            os.chmod(f"/dev/{name}", 0o666)
        for path in ("/run/lock", "/run/user"):
            os.mkdir(path)
        os.chmod("/run/lock", 0o1777)
        where = f"/lib/modules/{os.uname().release}"
        os.makedirs(where, exist_ok=True)
        self._bind(self.plan["modules"], where)
        for path in self.plan["shares"]:
            self.share(path)
        for path in self.plan["writable"]:
            self.share_for_writing(path)

    def share(self, path: str) -> None:
        """Show a directory of the host's at its own place; what is written there is thrown away."""
        self._bind(path, path)

    def _bind(self, source: str, target: str) -> None:
        for new, fd in self.covered.items():
            if source == new or source.startswith(f"{new}/"):
                source = f"/proc/self/fd/{fd}{source.removeprefix(new)}"
                break
        else:
            if source == target:
                return  # it has been there all the time
        os.stat(source)
        os.makedirs(target, exist_ok=True)
        mount(source, target, None, MS_BIND | MS_REC)

    def share_for_writing(self, path: str) -> None:
        """Show a directory of the host's so that what is written there arrives there."""
        if self.plan["engine"] != "uml":
            raise OSError(95, "only User Mode Linux can write to the host's files", path)
        os.makedirs(path, exist_ok=True)
        mount("none", path, "hostfs", MS_NOSUID | MS_NODEV, path)

    def describe(self) -> bytes:
        """What the machine says of itself now, a line each."""
        facts = {}
        with open("/proc/meminfo") as file:
            for line in file:
                name, _, rest = line.partition(":")
                if name in ("MemTotal", "MemAvailable"):
                    facts[name] = str(int(rest.split()[0]) * 1024)
        for name in ("version", "uptime"):
            with open(f"/proc/{name}") as file:
                facts[name] = file.read().strip()
        facts["processes"] = str(sum(1 for name in os.listdir("/proc") if name.isdigit()))
        facts["scratch"] = self.scratch
        facts["time"] = str(time.time())
        return "".join(f"{name}\t{value}\n" for name, value in facts.items()).encode()


def ensure_mounted(where: str, kind: str) -> None:
    """Mount a file system of the kernel's own unless it is there already."""
    with open("/proc/mounts") as file:
        if any(line.split()[1:3] == [where, kind] for line in file):
            return
    mount(kind, where, kind)
