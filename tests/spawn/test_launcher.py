"""The launcher: many requests at once, deadlines, its end and its callers' ends, and that it never grows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import leaks
import nsbook
from needs import requires
from nsbook.container.container import Container
from nsbook.container.prepare import containers_root
from nsbook.errors import SetupError, StateError
from nsbook.linux import status
from nsbook.spawn import client
from nsbook.spawn.client import Session
from nsbook.spawn.ops import Clone, Exec, Op, WriteFile
from nsbook.spawn.plan import Plan, new_run_id

pytestmark = requires("root", "overlay")


def plan(*ops: Op) -> Plan:
    return Plan(new_run_id(), ops, (), "a test")


def memory(pid: int) -> int:
    """KiB that it has written itself (libraries are shared with whoever else is there, and so is their count)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1])
    raise AssertionError


def has_ended(pid: str) -> bool:
    """A zombie has, too: who reaps it is not our affair."""
    try:
        return status.status(pid).state in "ZX"
    except OSError:
        return True


def test_it_is_another_process_with_one_thread_and_a_session_of_its_own() -> None:
    Container.run("base", ["true"])
    pid = client.launcher().pid
    seen = status.status(pid)
    assert seen.threads == 1
    assert seen.ppid == os.getpid()
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    descriptors = {os.readlink(f"/proc/{pid}/fd/{name}").partition(":")[0] for name in os.listdir(f"/proc/{pid}/fd") if int(name) > 2}
    assert descriptors == {"socket"}
    assert client.launcher().pid == pid


def test_it_never_imports_what_is_heavy() -> None:
    """A fork of it is what each container's shepherd and each half-built child is."""
    maps = Path(f"/proc/{client.launcher().pid}/maps").read_text()
    assert "_ssl" not in maps
    assert memory(client.launcher().pid) < 16_000


def test_requests_overlap(gate: Any, container_plan: Any, run_plan: Any) -> None:
    """One that is stuck in its set-up holds up nobody."""
    made = container_plan(gate)
    stuck = run_plan(made, gate.before(made.plan, 3))
    try:
        gate.wait()
        begin = time.monotonic()
        assert Container.run("base", ["echo", "meanwhile"]).stdout == "meanwhile\n"
        assert time.monotonic() - begin < 5
        gate.open()
        stuck.end(20)
        assert stuck.status == 0
    finally:
        stuck.close()


def test_from_many_threads() -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        try:
            for _ in range(5):
                result = Container.run("base", ["sh", "-c", f"exit {number}"])
                if result.exit_code != number:
                    wrong.append(result)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


@pytest.mark.parametrize("which", ["host", "child"])
def test_a_set_up_that_hangs_is_given_up(which: str, gate: Any, container_plan: Any, run_plan: Any) -> None:
    made = container_plan(gate)
    clone = next(i for i, op in enumerate(made.plan.ops) if isinstance(op, Clone))
    session = run_plan(made, gate.before(made.plan, 2 if which == "host" else clone + 3), deadline=0.3)
    try:
        gate.wait()
        begin = time.monotonic()
        with pytest.raises(SetupError, match="too long"):
            session.end(20)
        assert time.monotonic() - begin < 3
    finally:
        session.close()
    assert not nsbook.ledger()


def test_a_deadline_is_for_the_set_up_alone(container_plan: Any, run_plan: Any) -> None:
    session = run_plan(container_plan(argv=("sleep", "0.5")), deadline=0.4)
    try:
        session.end(20)
        assert session.status == 0
    finally:
        session.close()


CALLER = """
import sys, time
from nsbook.container.container import Container
from nsbook.spawn import client
made = Container.create("base", ["sleep", "60"], memory="64M").start()
print(client.launcher().pid, made.pid, made.id, flush=True)
if sys.argv[1] == "exec":
    made.exec(["sleep", "60"])
time.sleep(60)
"""


@pytest.mark.parametrize("what", ["wait", "exec"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_when_the_caller_is_killed_everything_goes(what: str, number: int, eventually: Callable[..., bool]) -> None:
    before = leaks.look()
    with subprocess.Popen([sys.executable, "-c", CALLER, what], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        launcher, child, _ = caller.stdout.readline().split()
        time.sleep(0.2)
        assert os.path.exists(f"/proc/{child}")
        caller.send_signal(number)
    for pid in (launcher, child):
        assert eventually(lambda pid=pid: has_ended(pid)), pid
    assert eventually(lambda: not nsbook.ledger())
    assert not leaks.left_since(before)


def test_when_the_launcher_is_killed_its_containers_live_on() -> None:
    with Container.create("base", ["sleep", "60"]) as made:
        made.start()
        os.kill(client.launcher().pid, signal.SIGKILL)
        assert made.exec(["echo", "still here"]).stdout == "still here\n"
        made.kill("TERM")
        made.kill()
        assert made.wait(10) == 137
    assert not nsbook.ledger()


def test_when_a_shepherd_is_killed_its_owner_is_told(gate: Any, processes: Any) -> None:
    made = Container.create("base", ["sleep", "60"]).start()
    os.kill(processes(made.id).shepherd, signal.SIGKILL)
    with pytest.raises(StateError, match="nsbook clean"):
        made.wait(10)
    with pytest.raises(StateError):
        made.exec(["true"])
    made.remove()
    assert nsbook.ledger().clean()
    assert not os.listdir(containers_root())


def test_it_ends_with_its_socket(eventually: Callable[..., bool]) -> None:
    Container.run("base", ["true"])
    pid = client.launcher().pid
    client.shutdown()
    assert not os.path.exists(f"/proc/{pid}")
    client.shutdown()
    assert Container.run("base", ["echo", "anew"]).stdout == "anew\n"


def test_two_hundred_in_a_row_leave_nothing_and_it_does_not_grow(eventually: Callable[..., bool]) -> None:
    for _ in range(5):
        Container.run("base", ["true"], memory="64M")
    pid = client.launcher().pid
    descriptors, mine, before = len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir("/proc/self/fd")), memory(pid)
    for _ in range(200):
        assert Container.run("base", ["true"], memory="64M").exit_code == 0
    assert client.launcher().pid == pid
    assert len(os.listdir(f"/proc/{pid}/fd")) == descriptors
    assert len(os.listdir("/proc/self/fd")) == mine
    assert memory(pid) - before < 200  # KiB
    assert eventually(lambda: status.children(pid) == ())  # no shepherd is left, and no zombie of one
    assert not nsbook.ledger()


def test_a_plan_of_host_ops_alone(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    session = Session(plan(WriteFile(str(tmp_path / "f"), "done")))
    session.end(10)
    session.close()
    assert (tmp_path / "f").read_text() == "done"
    assert session.status is None
    assert [c.name for c in session.transcript.ops] == ["WriteFile"]


def test_a_plan_with_no_namespace_at_all(streams: dict[str, int]) -> None:
    session = Session(plan(Clone(), Exec(("sh", "-c", "exit 7"), (f"PATH={os.environ['PATH']}",))), streams=streams)
    try:
        session.end(10)
        assert session.status == 7
    finally:
        session.close()


def test_a_session_that_is_held(container_plan: Any, run_plan: Any) -> None:
    session = run_plan(container_plan(argv=("sh", "-c", "exit 5")), interactive=True, keep=True)
    try:
        session.hear(20)
        assert (session.state, session.pid > 0, session.pidfd >= 0) == ("created", True, True)
        session.tell({"start": 1})
        session.hear(20)
        assert session.state == "running"
        assert session.hear(20)["exited"] == 5
        assert nsbook.ledger()
    finally:
        session.close()
        session.close()
    assert session.state == "ended"
    assert not nsbook.ledger()


def test_what_it_is_sent_may_be_large(streams: dict[str, int]) -> None:
    """A socket takes a message in pieces."""
    variables = tuple(f"V{n}={'x' * 1000}" for n in range(800))
    path = (f"PATH={os.environ['PATH']}",)
    session = Session(plan(Clone(), Exec(("sh", "-c", 'test "${#V799}" = 1000'), path + variables)), streams=streams)
    try:
        session.end(10)
        assert session.status == 0
    finally:
        session.close()
