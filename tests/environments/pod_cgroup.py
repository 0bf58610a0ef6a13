"""The pod's cgroup: its limits, made below (version 1) or beside (version 2) the caller's own. cgroups(7)."""

from __future__ import annotations

import os
import sys
import time

from pod_calls import Failed

FAKE = {
    "cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma misc",
    "cgroup.subtree_control": "",
    "cgroup.type": "domain",
    "cgroup.procs": "1",
    "cgroup.events": "populated 1\nfrozen 0",
    "memory.high": "max",
    "memory.min": "0",
    "memory.low": "0",
    "memory.current": "104857600",
    "memory.peak": "104857600",
    "memory.swap.max": "0",
    "memory.swap.current": "0",
    "memory.stat": "anon 83886080\nfile 20971520\ninactive_file 10485760",
    "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0",
    "cpu.weight": "1",
    "cpu.stat": "usage_usec 1000000\nuser_usec 800000\nsystem_usec 200000",
    "pids.current": "3",
    "cpuset.cpus.effective": "0-1",
    "cpuset.mems.effective": "0",
    "io.stat": "",
}
"""What a version 2 pod shows, for machines that have version 1 only; the limits are added."""


class Limits:
    """In bytes, CPUs and tasks; 0 or None: no limit."""

    def __init__(self, memory: int, cpus: float | None, pids: int | None) -> None:
        self.memory = memory
        self.cpus = cpus
        self.pids = pids

    def write_fake(self, directory: str) -> None:
        """Plain files that look like version 2's."""
        files = FAKE | {
            "memory.max": str(self.memory or "max"),
            "cpu.max": f"{int(self.cpus * 100000)} 100000" if self.cpus else "max 100000",
            "pids.max": str(self.pids or "max"),
        }
        for name, value in files.items():
            with open(f"{directory}/{name}", "w") as file:
                file.write(value + "\n" if value else "")


def own_cgroups() -> dict[str, str]:
    """The caller's cgroup in each hierarchy, by controller ("" for version 2)."""
    mine: dict[str, str] = {}
    with open("/proc/self/cgroup") as file:
        for line in file:
            _, names, path = line.rstrip("\n").split(":", 2)
            mine.update((name, path) for name in names.split(","))
    return mine


def mounted() -> dict[str, str]:
    """Where each hierarchy is mounted; version 2 only where it is the whole of /sys/fs/cgroup."""
    found: dict[str, str] = {}
    with open("/proc/self/mountinfo") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            point, (kind, _, options) = left.split()[4], right.split()[:3]
            if kind == "cgroup2" and point == "/sys/fs/cgroup":
                found[""] = point
            elif kind == "cgroup":
                for option in options.split(","):
                    found.setdefault(option, point)
    return found


class PodCgroup:
    """Made at once; ``v1`` is what the pod is shown in each hierarchy, ``v2`` the one directory."""

    def __init__(self, limits: Limits) -> None:
        self.made: list[str] = []
        self.v1: dict[str, str] = {}
        self.v2 = ""
        self._name = f"binderlike.{os.getpid()}"
        mine, where = own_cgroups(), mounted()
        if "" in where:
            self._make_v2(where[""], where[""] + mine[""], limits)
        else:
            self._make_v1(mine, where, limits)
        if limits.memory and not self.made:
            print("binderlike: no memory limit: no cgroup can be made here", file=sys.stderr)

    def _make_v2(self, top: str, own: str, limits: Limits) -> None:
        for parent in (own.rstrip("/"), os.path.dirname(own.rstrip("/"))):
            if not parent.startswith(top):
                continue
            try:
                with open(f"{parent}/cgroup.subtree_control") as file:
                    if limits.memory and "memory" not in file.read().split():
                        continue
                self.v2 = f"{parent}/{self._name}"
                os.mkdir(self.v2)
            except OSError:
                self.v2 = ""
                continue
            self.made.append(self.v2)
            write(self.v2, "memory.max", limits.memory or None)
            write(self.v2, "memory.swap.max", 0 if limits.memory else None)
            write(self.v2, "pids.max", limits.pids)
            write(self.v2, "cpu.max", f"{int(limits.cpus * 100000)} 100000" if limits.cpus else None)
            return

    def _make_v1(self, mine: dict[str, str], where: dict[str, str], limits: Limits) -> None:
        for controller, value in (("memory", limits.memory), ("pids", limits.pids), ("cpu", limits.cpus)):
            if not value or controller not in where:
                continue
            directory = f"{where[controller]}{mine[controller].rstrip('/')}/{self._name}"
            os.mkdir(directory)
            self.made.append(directory)
            self.v1[controller] = directory
            if controller == "memory":
                write(directory, "memory.limit_in_bytes", value)
                write(directory, "memory.memsw.limit_in_bytes", value)
            elif controller == "pids":
                write(directory, "pids.max", value)
            else:
                write(directory, "cpu.cfs_period_us", 100000)
                write(directory, "cpu.cfs_quota_us", int(value * 100000))
        for controller, point in where.items():  # the rest is shown as it is
            if controller in mine and controller not in self.v1:
                self.v1[controller] = point + mine[controller].rstrip("/")

    def join(self) -> None:
        """Put this process there."""
        for directory in self.made:
            write(directory, "cgroup.procs", 0)

    def remove(self) -> None:
        """When all in it have ended; that may take a moment to arrive."""
        for directory in self.made:
            for _ in range(100):
                try:
                    os.rmdir(directory)
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.05)
                else:
                    break


def write(directory: str, name: str, value: object) -> None:
    """One control file. Swap can't be limited everywhere, and that is no failure."""
    if value is None:
        return
    try:
        with open(f"{directory}/{name}", "w") as file:
            file.write(str(value))
    except OSError as error:
        if "swap" not in name and "memsw" not in name:
            raise Failed(f"cgroup {name}: {error}") from error
