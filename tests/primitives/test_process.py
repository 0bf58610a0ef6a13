"""Processes, looked at: identity, what /proc says, namespaces shared and not, and the end."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from needs import requires
from nsbook import Capabilities, Namespace, Process
from nsbook.errors import NotFound
from nsbook.linux.status import start_time
from nsbook.primitives.process import ProcessSnapshot

from .conftest import UID, AsUser


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as child:
        end = time.monotonic() + 10
        while Path(f"/proc/{child.pid}/comm").read_text() != "sleep\n" and time.monotonic() < end:
            time.sleep(0.005)
        yield child
        child.kill()


def in_state(one: Process, letter: str) -> ProcessSnapshot:
    """Its snapshot once it is in that state."""
    end = time.monotonic() + 10
    while (seen := one.inspect()).state != letter:
        assert time.monotonic() < end, f"still {seen.state}"
        time.sleep(0.005)
    return seen


def test_this_process() -> None:
    me = Process.of("self")
    assert me == Process() == Process(os.getpid())
    assert hash(me) == hash(Process())
    seen = me.inspect()
    assert (seen.pid, seen.parent, seen.state) == (os.getpid(), os.getppid(), "R")
    assert seen.uids == (os.getuid(), os.geteuid(), os.getresuid()[2], os.geteuid())
    assert seen.argv == tuple(Path("/proc/self/cmdline").read_text().split("\0")[:-1])
    assert frozenset(seen.capabilities) == Capabilities.of().effective
    assert dict(seen.namespaces) == {kind: os.stat(f"/proc/self/ns/{kind}").st_ino for kind, _ in seen.namespaces}
    assert {"mnt", "uts", "ipc", "net", "pid", "user"} <= dict(seen.namespaces).keys()
    assert seen.threads == len(os.listdir("/proc/self/task"))
    assert abs((seen.descriptors or 0) - len(os.listdir("/proc/self/fd"))) <= 1
    assert len(seen.cgroups) == len(Path("/proc/self/cgroup").read_text().splitlines())
    assert json.loads(json.dumps(seen.to_dict())) == seen.to_dict()


def test_limits_are_getrlimit_s() -> None:
    limits = {name: (soft, hard) for name, soft, hard in Process().inspect().limits}
    for name, number in (
        ("Max open files", resource.RLIMIT_NOFILE),
        ("Max stack size", resource.RLIMIT_STACK),
        ("Max processes", resource.RLIMIT_NPROC),
    ):
        want = tuple("unlimited" if v == resource.RLIM_INFINITY else str(v) for v in resource.getrlimit(number))
        assert limits[name] == want
    assert len(limits) == len(Path("/proc/self/limits").read_text().splitlines()) - 1


def test_what_changes_shows_in_a_diff(sleeper: subprocess.Popen[bytes]) -> None:
    one = Process.of(sleeper.pid)
    before = in_state(one, "S")
    sleeper.send_signal(19)
    stopped = in_state(one, "T")
    assert [(c.where, c.before, c.after) for c in before.diff(stopped).changes] == [("state", "S", "T")]
    assert "stopped" in str(one)
    sleeper.send_signal(18)


def test_a_process_that_has_ended(sleeper: subprocess.Popen[bytes]) -> None:
    one = Process.of(sleeper.pid)
    assert one.there
    sleeper.kill()
    sleeper.wait()
    assert not one.there
    for ask in (one.inspect, one.namespaces, one.sheet, lambda: one.shares_with(Process())):
        with pytest.raises(NotFound, match="has ended"):
            ask()
    with pytest.raises(NotFound, match="no process"):
        Process.of(sleeper.pid)
    assert isinstance(NotFound(""), LookupError)


def test_a_zombie_is_still_there() -> None:
    child = subprocess.Popen(["true"])
    end = time.monotonic() + 10
    while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z" and time.monotonic() < end:
        time.sleep(0.005)
    one = Process.of(child.pid)
    assert one.inspect().state == "Z"
    assert one.inspect().argv == ()
    assert "zombie" in str(one)
    child.wait()
    assert not one.there


@requires("root")
def test_a_pid_that_is_used_again_is_another_process() -> None:
    """In a pid namespace of its own, where the next number can be chosen."""
    code = """
import os, sys, time
from nsbook import Process
from nsbook.errors import NotFound
def child():
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
    return pid
def end(pid):
    os.kill(pid, 9)
    os.waitpid(pid, 0)
first = child()
one = Process(first)
end(first)
time.sleep(0.05)  # start times are in hundredths of a second
open("/proc/sys/kernel/ns_last_pid", "w").write(str(first - 1))
second = child()
assert second == first, (first, second)
assert not one.there and Process(second) != one
try:
    one.inspect()
except NotFound as error:
    print(error)
end(second)
"""
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "its number was given to another" in done.stdout


@requires("root")
def test_which_namespaces_are_shared(sleeper: subprocess.Popen[bytes]) -> None:
    me = Process()
    assert set(me.shares_with(Process(sleeper.pid)).values()) == {True}
    with Namespace.create("uts") as uts:
        shared = me.shares_with(Process(uts.pid))
        assert [kind for kind, same in shared.items() if not same] == ["uts"]
        assert shared == Process(uts.pid).shares_with(me)
        where = {c.where.split("]")[0] + "]" for c in me.diff(Process(uts.pid)).changes if c.where.startswith("namespaces")}
        assert where == {"namespaces[uts]"}


def test_names_with_odd_characters(tmp_path: Path) -> None:
    odd = tmp_path / "a) b\n("
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([odd, "30"]) as child:
        end = time.monotonic() + 10
        while not Path(f"/proc/{child.pid}/cmdline").read_bytes() and time.monotonic() < end:
            time.sleep(0.005)
        one = Process.of(child.pid)
        assert one.inspect().argv == (str(odd), "30")
        assert one.start == start_time(child.pid)
        assert one.there
        child.kill()


def test_threads_are_counted() -> None:
    before = Process().inspect().threads
    wait = threading.Event()
    thread = threading.Thread(target=wait.wait)
    thread.start()
    try:
        assert Process().inspect().threads == before + 1
    finally:
        wait.set()
        thread.join()


@requires("root", "setpriv")
def test_what_is_not_a_user_s_to_look_at_is_left_out(as_user: AsUser) -> None:
    out = as_user(f"""
other, me = nsbook.Process({os.getpid()}), nsbook.Process()
seen = other.inspect()
out.update(descriptors=seen.descriptors, namespaces=len(seen.namespaces), name=seen.name, shared=other.shares_with(me),
           mine=len(me.namespaces()), uid=me.inspect().uids[0], text=str(other))
""")
    assert (out["descriptors"], out["namespaces"], out["shared"]) == (None, 0, {})
    assert out["name"] == Process().inspect().name
    assert out["mine"] >= 7
    assert out["uid"] == UID
    assert out["text"].count("not ours to look at") == 2


def test_drawing_is_the_same_twice() -> None:
    me = Process()
    masked = me.sheet().text(mask=True)
    assert masked == Process().sheet().text(mask=True)
    assert str(os.getpid()) not in masked
    assert repr(me) == f"<Process {os.getpid()}>"
