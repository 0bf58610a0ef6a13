"""Whatever happens to whom: no engine and no file outlives the one who asked for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from needs import requires
from nsbook.guest import Guest

pytestmark = [requires("uml"), pytest.mark.xdist_group("guest")]

OWNER = """
import os, sys, time
from nsbook.guest import Guest
guest = Guest.boot(memory="128M")
process = guest.open_stream(["sleep", "1000"])
keeper = open(f"/proc/{guest.pid}/stat").read().rpartition(")")[2].split()[1]
print(guest.pid, keeper, guest._session.path, flush=True)
{then}
"""


class Owner:
    """Another process that has booted a guest, and what belongs to it."""

    def __init__(self, then: str = "time.sleep(1000)") -> None:
        self.process = subprocess.Popen([sys.executable, "-c", OWNER.replace("{then}", then)], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline().split()
        self.engine, self.keeper, self.path = int(line[0]), int(line[1]), Path(line[2])
        self.members = group(self.engine) | {self.keeper}

    def everything_is_gone(self, patience: float = 15) -> bool:
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if not self.path.exists() and not any(alive(pid) for pid in self.members):
                return True
            time.sleep(0.02)
        return False


def group(leader: int) -> set[int]:
    """All processes of a process group."""
    found = set()
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[2]) == leader:
                found.add(int(name))
        except OSError:
            pass
    return found


def alive(pid: int) -> bool:
    """Whether it runs (a zombie, which its parent here has yet to reap, does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def owner() -> Iterator[Owner]:
    it = Owner()
    yield it
    it.process.kill()
    it.process.wait()
    assert it.process.stdout is not None
    it.process.stdout.close()
    assert it.everything_is_gone()


def test_the_engine_has_a_group_of_its_own(owner: Owner) -> None:
    assert len(owner.members) > 2
    assert alive(owner.engine)
    assert alive(owner.keeper)
    assert owner.path.is_dir()
    assert owner.path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_owner_s_end_is_the_guest_s(owner: Owner, number: int) -> None:
    owner.process.send_signal(number)
    owner.process.wait(20)
    assert owner.everything_is_gone()


def test_the_owner_s_end_counts_although_its_child_holds_the_socket() -> None:
    """A forked child has copies of its descriptors, so that no end of file comes."""
    owner = Owner("child = os.fork()\nif child: print(child, flush=True)\ntime.sleep(1000)")
    assert owner.process.stdout is not None
    child = int(owner.process.stdout.readline())
    owner.process.kill()
    owner.process.wait()
    owner.process.stdout.close()
    try:
        assert owner.everything_is_gone()
        assert alive(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_the_keeper_s_end_and_then_the_owner_s() -> None:
    """Without a keeper, the guest still notices that its line is dead."""
    owner = Owner()
    os.kill(owner.keeper, signal.SIGKILL)
    owner.process.kill()
    owner.process.wait()
    assert owner.process.stdout is not None
    owner.process.stdout.close()
    end = time.monotonic() + 15
    while any(alive(pid) for pid in owner.members) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(alive(pid) for pid in owner.members)
    subprocess.run(["rm", "-r", owner.path], check=True)  # nobody was left to do it


def test_the_keeper_s_end_alone_is_made_good_by_close() -> None:
    with Guest.boot(memory="128M") as guest:
        engine, path = guest.pid, Path(guest._session.path)
        members = group(engine)
        keeper = int(Path(f"/proc/{engine}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(keeper, signal.SIGKILL)
        assert guest.run(["echo", "up"]).stdout == b"up\n"
    end = time.monotonic() + 10
    while any(alive(pid) for pid in members) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(alive(pid) for pid in members)
    assert not path.exists()


def test_a_guest_that_was_forgotten_ends() -> None:
    guest = Guest.boot(memory="128M")
    members, path = group(guest.pid), Path(guest._session.path)
    assert members
    del guest
    import gc

    gc.collect()
    assert not path.exists()
    assert not any(alive(pid) for pid in members)


def test_an_owner_that_just_ends_leaves_nothing() -> None:
    owner = Owner("sys.exit(0)")
    assert owner.process.wait(20) == 0
    assert owner.process.stdout is not None
    owner.process.stdout.close()
    assert owner.everything_is_gone()


def test_no_zombie_is_left_where_nobody_reaps() -> None:
    """In a pod the first process may reap nothing: the keeper collects what the engine leaves. Here a process that adopts
    all orphans, and never waits for them, shows what would have been left."""
    script = f"""
import ctypes, os, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1)
owner = subprocess.Popen([sys.executable, "-c", {OWNER.replace("{then}", "time.sleep(1000)")!r}], stdout=subprocess.PIPE, text=True)
path = owner.stdout.readline().split()[2]
owner.kill()
owner.wait()
end = time.monotonic() + 15
def children():
    return [int(p) for p in open(f"/proc/self/task/{{os.getpid()}}/children").read().split()]
while (os.path.exists(path) or len(children()) > 1) and time.monotonic() < end:
    time.sleep(0.02)
states = [open(f"/proc/{{p}}/stat").read().split()[1:3] for p in children()]
print(len(states), states)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    # the keeper itself is an orphan, and the only one
    assert done.stdout.split()[0] in ("0", "1"), done.stdout + done.stderr
    assert "linux.uml" not in done.stdout
