"""Where one pytest process works: a cgroup and directories of its own.

``NSBOOK_ROOT`` moves all that nsbook keeps on disk, ``TMPDIR`` all that is temporary, below one directory that goes when
the process ends. As root the process also moves to a cgroup of its own in every hierarchy that it may write: containers
that it makes lie below, so that a neighbour's can't be mistaken for a leak, and a process that was left is found even
when its parents are gone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from needs import own_cgroups

home: Path | None = None
cgroups: list[Path] = []


def enter(worker: str) -> None:
    """Set up."""
    global home
    home = Path(tempfile.mkdtemp(prefix="nst-"))  # short: sockets' paths have 107 bytes
    home.chmod(0o755)
    for name, mode in (("root", 0o755), ("tmp", 0o1777)):
        (home / name).mkdir()
        (home / name).chmod(mode)
    os.environ["NSBOOK_ROOT"] = str(home / "root")
    os.environ["TMPDIR"] = str(home / "tmp")
    tempfile.tempdir = str(home / "tmp")
    if os.geteuid() == 0:
        for parent in dict.fromkeys(own_cgroups().values()):
            sweep(parent)
            move(parent, f"nst-{os.getpid()}-{worker}")


def sweep(parent: Path) -> None:
    """What a worker that was killed has left, if no process is in it. (Its pid tells nothing: it may be of a sandbox.)"""
    for left in parent.glob("nst-*"):
        with contextlib.suppress(OSError):
            if not any(Path(here, "cgroup.procs").read_text() for here, _, _ in os.walk(left)):
                remove(left)


def leave() -> None:
    """Undo it."""
    global home
    if "nsbook.spawn" in sys.modules:
        sys.modules["nsbook.spawn"].shutdown()
    while cgroups:
        mine = cgroups.pop()
        write(mine.parent / "cgroup.procs", str(os.getpid()))
        end_all(mine)
        remove(mine)
    if home is not None:
        shutil.rmtree(home, ignore_errors=True)
        home = None


def move(parent: Path, name: str) -> None:
    """Into a new cgroup below ``parent``; not where the hierarchy is read-only or refuses it.

    Version 2 hands controllers down only where ``parent`` may have both processes and controlled children (a root): where
    they would be lost on the way, this process stays where it is.
    """
    mine = parent / name
    try:
        mine.mkdir()
    except OSError:
        return
    offered = words(parent / "cgroup.controllers")
    if offered:
        write(parent / "cgroup.subtree_control", " ".join(f"+{word}" for word in offered))
        if words(mine / "cgroup.controllers") != offered:
            mine.rmdir()
            return
    for rule in ("cpuset.cpus", "cpuset.mems"):  # empty in a new v1 cpuset, which then takes no process
        if (mine / rule).exists() and not (parent / "cgroup.controllers").exists():
            write(mine / rule, (parent / rule).read_text())
    if write(mine / "cgroup.procs", str(os.getpid())):
        cgroups.append(mine)
    else:
        remove(mine)


def words(path: Path) -> set[str]:
    return set(path.read_text().split()) if path.exists() else set()


def write(path: Path, text: str) -> bool:
    try:
        path.write_text(text)
    except OSError:
        return False
    return True


def end_all(cgroup: Path) -> None:
    """Whatever tests have left running here: only descendants of this worker can be in it."""
    for here, _, _ in os.walk(cgroup):
        for pid in Path(here, "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def remove(cgroup: Path) -> None:
    """With all below it; an ended process may hold it for a moment more."""
    for here, _, _ in os.walk(cgroup, topdown=False):
        end = time.monotonic() + 2
        while time.monotonic() < end:
            try:
                os.rmdir(here)
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.02)
            else:
                break


def let_others_in(place: Path) -> None:
    """Let every user pass through the directories above, as far as they are ours: pytest makes its own for their owner only."""
    for directory in (place, *place.parents):
        if directory == directory.parent or directory.stat().st_uid != os.geteuid() or directory.stat().st_mode & 0o1000:
            return
        directory.chmod(directory.stat().st_mode | 0o055)
