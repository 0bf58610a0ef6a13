"""What is there before a test and what is still there afterwards.

Looked at: mounts, links, cgroups below this worker's, processes (children; whatever is in the worker's cgroup; whatever
carries a run id or this worker's ``NSBOOK_ROOT`` in its environment), descriptors, ledger entries and temporary files.
What takes a moment to go (a link that the kernel deletes, a process that is ending) is given two seconds.

The launcher of the session is meant to stay between tests: ``nsbook.spawn`` says which process and descriptors are its.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
import time
from pathlib import Path
from typing import NamedTuple

import station

PATIENCE = 2.0


class Look(NamedTuple):
    """Each a set of texts that tell what it is."""

    mounts: frozenset[str]
    links: frozenset[str]
    cgroups: frozenset[str]
    processes: frozenset[str]
    descriptors: frozenset[str]
    ledger: frozenset[str]
    files: frozenset[str]


def look() -> Look:
    """Now."""
    launcher = kept()
    return Look(
        mounts=mounts(),
        links=frozenset(name for _, name in socket.if_nameindex()),
        cgroups=cgroups(),
        processes=processes(launcher.pids),
        descriptors=descriptors(launcher.descriptors),
        ledger=ledger(),
        files=files(),
    )


def left_since(before: Look) -> list[str]:
    """What has been added since, after giving it time to go."""
    end = time.monotonic() + PATIENCE
    collected = False
    while True:
        after = look()
        left = [
            f"{kind[:-1] if kind.endswith('s') and kind != 'processes' else kind}: {what}"
            for kind, old, new in zip(Look._fields, before, after, strict=True)
            for what in sorted(new - old)
        ]
        if not left or time.monotonic() > end:
            return left
        if not collected:
            gc.collect()
            collected = True
        else:
            time.sleep(0.02)


class Kept(NamedTuple):
    """What the launcher holds."""

    pids: frozenset[int] = frozenset()
    descriptors: frozenset[int] = frozenset()


def kept() -> Kept:
    spawn = sys.modules.get("nsbook.spawn")
    if spawn is None:
        return Kept()
    state = spawn.statistics()
    return Kept(frozenset({state["launcher"]}), frozenset(state["descriptors"]))


def mounts() -> frozenset[str]:
    with open("/proc/self/mountinfo") as file:
        return frozenset(line.partition(" ")[2].rstrip("\n") for line in file)


def cgroups() -> frozenset[str]:
    found = []
    for mine in station.cgroups:
        for here, names, _ in os.walk(mine):
            found += [f"{here}/{name}" for name in names]
    return frozenset(found)


_known: set[int] = set()
"""Processes that have been looked at and are none of ours."""


def processes(launcher: frozenset[int]) -> frozenset[str]:
    """Ours but for the launcher and this process itself."""
    ours = children(os.getpid(), launcher)
    if station.cgroups:
        for here, _, _ in os.walk(station.cgroups[0]):
            ours |= {int(pid) for pid in Path(here, "cgroup.procs").read_text().split()}
    else:
        ours |= carriers()
    there = [describe(pid) for pid in ours - launcher - {os.getpid(), 0} if Path(f"/proc/{pid}").exists()]
    # A browser's helper processes come and go as it pleases; the browser itself is counted.
    return frozenset(text for text in there if not ("chromium" in text and "--type=" in text))


def children(pid: int, launcher: frozenset[int]) -> set[int]:
    """Of all threads, and theirs."""
    found: set[int] = set()
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                for child in map(int, file.read().split()):
                    found |= {child} | children(child, launcher)
    except OSError:
        pass  # it has ended
    return found


def carriers() -> set[int]:
    """Orphans that were started from here: only those not known yet are read."""
    everyone = {int(name) for name in os.listdir("/proc") if name.isdigit()}
    _known.intersection_update(everyone)
    root = os.environ.get("NSBOOK_ROOT", "").encode()
    found = set()
    for pid in everyone - _known:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                variables = file.read().split(b"\0")
        except OSError:
            variables = []
        if b"NSBOOK_ROOT=" + root in variables or (any(v.startswith(b"NSBOOK_RUN=") for v in variables) and orphan(pid)):
            found.add(pid)
        else:
            _known.add(pid)
    return found


def orphan(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[1] == "1"
    except OSError:
        return False


def describe(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return f"{pid}"
    return f"{pid} ({command[:120]}) {'zombie' if state == 'Z' else ''}".rstrip()


def descriptors(launcher: frozenset[int]) -> frozenset[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        if int(name) in launcher:
            continue
        try:
            found.append(f"{name} -> {os.readlink(f'/proc/self/fd/{name}')}")
        except OSError:
            pass  # that of listdir itself
    return frozenset(found)


def ledger() -> frozenset[str]:
    if station.home is None:
        return frozenset()
    try:
        return frozenset(entry.path for entry in os.scandir(station.home / "root/run/ledger"))
    except FileNotFoundError:
        return frozenset()


def files() -> frozenset[str]:
    if station.home is None:
        return frozenset()
    return frozenset(e.path for e in os.scandir(station.home / "tmp") if not e.name.startswith("pytest-"))
