"""The pod's file tree: a throw-away overlay of this machine's /, with what a container runtime puts over it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable

from pod_calls import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    SYS_PIVOT_ROOT,
    Failed,
    bind,
    check,
    libc,
    mount,
)
from pod_cgroup import Limits, PodCgroup

USER, UID = "jovyan", 1000
HIDDEN = ("/tmp", "/var/tmp", "/run", "/dev", "/proc", "/sys")
MASKED = ["acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "scsi"]
READONLY = ["bus", "fs", "irq", "sys", "sysrq-trigger"]
SAFE = MS_NOSUID | MS_NODEV | MS_NOEXEC
DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
LINKS = (
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
)


def below(path: str, roots: Iterable[str]) -> bool:
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)


class Tree:
    """Built in ``there``, in a mount namespace of its own. ``needed``: directories that must be seen and reached; ``writable``:
    those of the host's to be written to; ``owned``: those to be given to the user in the overlay. ``image``: a root file
    system to be shown instead of this machine's, as it is: then nothing of this machine is seen."""

    def __init__(self, there: str, needed: list[str], writable: list[str], owned: list[str], shm: int, image: str = "") -> None:
        self.there = there
        self.base = f"{there}/base"
        self.root = f"{self.base}/root"
        self.needed = needed
        self.writable = writable
        self.owned = owned
        self.shm = shm
        self.image = image

    def build(self, cgroup: PodCgroup, limits: Limits, show_cgroups: str) -> None:
        """All of it, and enter it."""
        mount(None, "/", None, MS_REC | MS_PRIVATE)
        os.mkdir(self.base)
        mount("tmpfs", self.base, "tmpfs", 0, "mode=755")
        self._overlay(self.image or "/", self.base, self.root)
        shares = [] if self.image else self._shares()
        if not self.image:
            self._users()
        self._own_directories()
        for source, target in shares:
            os.makedirs(self.root + target, exist_ok=True)
            bind(source, self.root + target)
        if not self.image:
            self._open_the_way()
        for name in ("proc", "sys", "dev"):
            os.makedirs(f"{self.root}/{name}", exist_ok=True)
        self._proc()
        mount("sysfs", self.root + "/sys", "sysfs", SAFE | MS_RDONLY)
        self._dev()
        self._mask()
        self._cgroups(cgroup, limits, show_cgroups)
        os.chdir(self.root)
        check(libc.syscall(SYS_PIVOT_ROOT, b".", b"."), "pivot_root")
        check(libc.umount2(b".", 2), "umount of the old root")
        os.chdir("/")

    def _overlay(self, lower: str, where: str, target: str) -> None:
        for name in ("up", "work"):
            os.makedirs(f"{where}/{name}")
        os.makedirs(target, exist_ok=True)
        mount("overlay", target, "overlay", 0, f"lowerdir={lower},upperdir={where}/up,workdir={where}/work")

    def _shares(self) -> list[tuple[str, str]]:
        """What the overlay of / does not show: other file systems, and what lies below directories that are the pod's own."""
        device = os.stat("/").st_dev
        made: list[tuple[str, str]] = []
        for path in self.needed:
            covered = below(path, [target for _, target in made]) or below(path, self.writable) or path in (*HIDDEN, "/")
            if not covered and (below(path, HIDDEN) or os.stat(path).st_dev != device):
                where = f"{self.base}/shares/{len(made)}"
                self._overlay(path, where, f"{where}/root")
                made.append((f"{where}/root", path))
        for path in self.writable:
            where = f"{self.base}/shares/{len(made)}"
            os.makedirs(where)
            bind(path, where)
            made.append((where, path))
        return made

    def _users(self) -> None:
        for name, field, line in (
            ("passwd", 2, f"{USER}:x:{UID}:{UID}::/home/{USER}:/bin/bash"),
            ("group", 2, f"{USER}:x:{UID}:"),
        ):
            path = f"{self.root}/etc/{name}"
            old: list[str] = []
            if os.path.exists(path):
                with open(path) as file:
                    old = file.read().splitlines()
            kept = [o for o in old if o.split(":")[field : field + 1] != [str(UID)] and not o.startswith(f"{USER}:")]
            with open(path, "w") as file:
                file.write("\n".join([*kept, line]) + "\n")

    def _own_directories(self) -> None:
        home = f"{self.root}/home/{USER}"
        if not self.image:
            shutil.rmtree(home, ignore_errors=True)
        for name, target, mode, owner in (
            *((("home", home, 0o755, UID),) if not self.image else ()),
            ("tmp", self.root + "/tmp", 0o1777, 0),
            ("vartmp", self.root + "/var/tmp", 0o1777, 0),
        ):
            source = f"{self.there}/{name}"
            os.mkdir(source)
            os.chown(source, owner, owner)
            os.chmod(source, mode)
            os.makedirs(target, exist_ok=True)
            mount(source, target, None, MS_BIND)
        os.makedirs(self.root + "/run", exist_ok=True)
        mount("tmpfs", self.root + "/run", "tmpfs", MS_NOSUID, "mode=755")
        os.mkdir(self.root + "/run/lock")

    def _open_the_way(self) -> None:
        """In the overlay only."""
        for path in self.needed:
            while path != "/":
                path = os.path.dirname(path)
                mode = os.stat(self.root + path).st_mode
                if not mode & 1 and not below(path, self.writable):
                    os.chmod(self.root + path, mode & 0o7777 | 1)
        for top in self.owned:
            for here, _, names in os.walk(self.root + top):
                for path in [here, *(os.path.join(here, name) for name in names)]:
                    os.lchown(path, UID, UID)

    def _proc(self) -> None:
        mount("proc", self.root + "/proc", "proc", SAFE)
        for name in READONLY:
            path = f"{self.root}/proc/{name}"
            if os.path.exists(path):
                bind(path, path, MS_RDONLY | SAFE)

    def _dev(self) -> None:
        dev = self.root + "/dev"
        mount("tmpfs", dev, "tmpfs", MS_NOSUID, "mode=755,size=65536k")
        for name, major, minor in DEVICES:
            os.mknod(f"{dev}/{name}", 0o20666, os.makedev(major, minor))
            os.chmod(f"{dev}/{name}", 0o666)
        for name in ("pts", "shm", "mqueue"):
            os.mkdir(f"{dev}/{name}")
        mount("devpts", dev + "/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
        mount("shm", dev + "/shm", "tmpfs", SAFE, f"mode=1777,size={self.shm}")
        try:
            mount("mqueue", dev + "/mqueue", "mqueue", SAFE)
        except Failed:
            pass  # a kernel without POSIX message queues
        for name, target in LINKS:
            os.symlink(target, f"{dev}/{name}")

    def _mask(self) -> None:
        for path in [f"/proc/{name}" for name in MASKED] + ["/sys/firmware", "/sys/devices/virtual/powercap"]:
            if os.path.isdir(self.root + path):
                mount("tmpfs", self.root + path, "tmpfs", MS_RDONLY | SAFE, "size=0k")
            elif os.path.exists(self.root + path):
                mount(self.root + "/dev/null", self.root + path, None, MS_BIND)

    def _cgroups(self, cgroup: PodCgroup, limits: Limits, show: str) -> None:
        """Read-only: as the machine has them, or as a version 2 pod would have them."""
        target = self.root + "/sys/fs/cgroup"
        if show == "auto" and cgroup.v2:
            mount("cgroup2", target, "cgroup2", MS_RDONLY | SAFE)
        elif show == "none" or (show == "auto" and not cgroup.v1):
            mount("tmpfs", target, "tmpfs", MS_RDONLY | SAFE, "mode=755")
        else:
            mount("tmpfs", target, "tmpfs", SAFE, "mode=755")
            if show == "fake-v2":
                limits.write_fake(target)
            else:
                for controller, directory in sorted(cgroup.v1.items()):
                    point = f"{target}/{controller.removeprefix('name=')}"
                    os.mkdir(point)
                    bind(directory, point, MS_RDONLY | SAFE)
            mount(None, target, None, MS_REMOUNT | MS_RDONLY | SAFE, "mode=755")
