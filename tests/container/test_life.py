"""A container that is kept: created, started, paused, entered, killed, removed; and what is refused in the wrong state."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import nsbook
from needs import requires
from nsbook.container.container import Container, signal_number
from nsbook.errors import InvalidOption, NsbookError, SetupError, StateError, Unsupported

pytestmark = requires("root", "overlay")

COUNTING = ["sh", "-c", "i=0; while true; do i=$((i+1)); echo $i; sleep 0.01; done"]


def until(check: Callable[[], object], timeout: float = 10.0) -> bool:
    end = time.monotonic() + timeout
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def test_from_its_making_to_its_end() -> None:
    with Container.create("base", ["sh", "-c", "echo out; echo err >&2; exit 3"]) as made:
        assert made.state == "created"
        assert made.pid > 0
        assert made.stdout == ""
        assert made.exit_code is None
        assert made.start() is made
        assert made.wait(10) == 3
        assert made.state == "exited"
        assert (made.stdout, made.stderr) == ("out\n", "err\n")
        assert (made.exit_code, made.pid) == (3, 0)
        assert made.wait() == 3  # as often as one likes
    assert made.state == "removed"
    made.remove()
    assert not nsbook.ledger()


def test_before_start_everything_is_there_but_the_command() -> None:
    with Container.create("base", ["sleep", "5"], hostname="half") as made:
        root = Path(f"/proc/{made.pid}/root")
        assert (root / "etc/passwd").exists()
        assert os.readlink(f"/proc/{made.pid}/root") == "/"
        assert "sleep" not in Path(f"/proc/{made.pid}/cmdline").read_text()
        made.start()
        assert until(lambda: Path(f"/proc/{made.pid}/cmdline").read_bytes() == b"sleep\x005\0")
        assert made.process.pid == made.pid


def test_the_state_is_looked_at() -> None:
    """Nobody has to wait for a container to know that it has ended."""
    with Container.create("base", ["sleep", "0.05"]) as made:
        made.start()
        assert made.state == "running"
        assert until(lambda: made.state == "exited")
        assert made.exit_code == 0


def test_wait_in_time() -> None:
    with Container.create("base", ["sleep", "20"]) as made:
        made.start()
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            made.wait(0.1)
        assert time.monotonic() - begin < 2
        assert made.state == "running"


@pytest.mark.parametrize("signal_", [15, "15", "TERM", "SIGTERM", signal.SIGTERM])
def test_kill(signal_: int | str) -> None:
    with Container.create("base", ["sh", "-c", "trap 'echo got it; exit 9' TERM; echo ready; while true; do sleep 0.01; done"]) as made:
        made.start()
        assert until(lambda: made.stdout)
        made.kill(signal_)
        assert made.wait(10) == 9
        assert made.stdout == "ready\ngot it\n"


def test_kill_for_good_and_unknown_signals() -> None:
    with Container.create("base", ["sleep", "20"]) as made:
        made.start()
        made.kill()
        assert made.wait(10) == 137
    with pytest.raises(InvalidOption, match="NOSUCH"):
        signal_number("NOSUCH")


def test_pause_and_unpause() -> None:
    with Container.create("base", COUNTING) as made:
        made.start()
        assert until(lambda: len(made.stdout) > 10)
        made.pause()
        assert made.state == "paused"
        seen = made.stdout
        time.sleep(0.15)
        assert made.stdout == seen
        with pytest.raises(StateError):
            made.exec(["true"])
        made.unpause()
        assert made.state == "running"
        assert until(lambda: len(made.stdout) > len(seen))


def test_a_paused_container_can_be_removed() -> None:
    """A frozen process does not die before it is thawed (version 1)."""
    made = Container.create("base", COUNTING).start()
    made.pause()
    begin = time.monotonic()
    made.remove()
    assert time.monotonic() - begin < 5
    assert not nsbook.ledger()


def test_a_paused_container_that_was_killed() -> None:
    with Container.create("base", COUNTING) as made:
        made.start()
        made.pause()
        made.kill()
        made.unpause()
        assert made.wait(10) == 137


def test_pause_needs_a_control_group() -> None:
    with Container.create("base", ["sleep", "5"], cgroup=False) as made:
        made.start()
        with pytest.raises((Unsupported, StateError)):
            made.pause()
        assert made.state == "running"


def test_wrong_states_are_refused() -> None:
    made = Container("base", ["sleep", "5"])
    assert made.state == "made"
    for call in (made.start, made.wait, made.kill, made.pause, made.unpause, made.changes, lambda: made.exec(["true"])):
        with pytest.raises(StateError) as caught:
            call()
        assert caught.value.actual == "made"
    with Container.create("base", ["sleep", "5"]) as created:
        for call in (created.wait, created.pause, created.unpause, lambda: created.exec(["true"])):
            with pytest.raises(StateError) as caught:
                call()
            assert (caught.value.actual, "running" in caught.value.expected or "paused" in caught.value.expected) == ("created", True)
        created.start()
        with pytest.raises(StateError):
            created.start()
    for call in (created.start, created.wait, created.kill, created.changes, lambda: created.exec(["true"])):
        with pytest.raises(StateError) as caught:
            call()
        assert caught.value.actual == "removed"


def test_killed_before_it_was_started() -> None:
    with Container.create("base", ["sleep", "5"]) as made:
        made.kill()
        assert until(lambda: made.state == "exited")
        assert made.exit_code == 137
        with pytest.raises(StateError):
            made.start()


def test_a_command_that_is_not_there() -> None:
    made = Container.create("base", ["no-such-program"])
    with pytest.raises(SetupError) as caught:
        made.start()
    assert caught.value.op.name == "Exec"
    assert made.state == "removed"
    assert not nsbook.ledger()


def test_exec_is_in_the_same_place_and_has_no_more() -> None:
    """Same namespaces, same control groups, same capabilities, filter and limits as the first process."""
    kinds = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]
    look = (
        "for n in "
        + " ".join(kinds)
        + "; do readlink /proc/self/ns/$n; done; grep -E '^(Cap|Seccomp|NoNewPrivs|Groups)' /proc/self/status;"
        " cat /proc/self/cgroup; ulimit -n; pwd; env | grep -v -e ^SHLVL -e ^OLDPWD | sort"
    )
    given = {"rlimits": {"nofile": 77}, "capabilities": ["CHOWN", "KILL"], "workdir": "/tmp", "env": {"A": "1"}, "memory": "64M"}
    for more in ({}, {"userns": True}, {"user": "1000:1000"}, {"no_new_privileges": False}, {"seccomp": "unconfined"}):
        with Container.create("base", ["sh", "-c", f"{look}; sleep 20"], **{**given, **more}) as made:
            made.start()
            assert until(lambda made=made: "\nA=1\n" in made.stdout and "PWD" in made.stdout)  # type: ignore[misc]
            inside = made.exec(["sh", "-c", look])
            assert inside.stdout == made.stdout
            assert inside.stderr == ""


def test_exec_status_input_user_and_directory() -> None:
    with Container.create("base", ["sleep", "20"]) as made:
        made.start()
        assert made.exec(["sh", "-c", "exit 6"]).exit_code == 6
        assert made.exec(["no-such-program"]).exit_code == 127
        assert made.exec(["/etc/passwd"]).exit_code == 126
        assert made.exec(["cat"], input="in").stdout == "in"
        assert made.exec(["sh", "-c", "id -un; pwd; echo $B $HOME"], user="reader", workdir="/var", env=["B=2"]).stdout.split() == [
            "reader",
            "/var",
            "2",
            "/home/reader",
        ]
        assert made.exec(["sh", "-c", "kill -9 $$"]).exit_code == 137
        data = bytes(5_000_000)
        assert made.exec(["cat"], input=data).stdout_bytes == data
        with pytest.raises(InvalidOption):
            made.exec(["true"], user="nobody-knows")
        with pytest.raises(InvalidOption):
            made.exec([])
        with pytest.raises(TimeoutError):
            made.exec(["sleep", "20"], timeout=0.2)
        assert made.exec(["ps", "-o", "args"]).stdout.count("sleep 20") == 1
        assert made.state == "running"


def test_exec_counts_against_the_limits() -> None:
    with Container.create("base", ["sleep", "20"], memory="16M", pids=6) as made:
        made.start()
        assert made.exec(["tail", "/dev/zero"]).exit_code == 137
        assert "fork" in made.exec(["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait"]).stderr


def test_changes() -> None:
    with Container.create("base", ["sh", "-c", "echo x > /new; echo y >> /etc/passwd; rm /etc/hosts; mkdir /d; echo ok"]) as made:
        made.start()
        made.wait(10)
        rows = {(r.kind, r.path) for r in made.changes()}
        assert rows == {("A", "/new"), ("C", "/etc"), ("C", "/etc/passwd"), ("D", "/etc/hosts"), ("A", "/d")}


def test_an_error_in_the_block_is_not_hidden_and_all_is_removed() -> None:
    with pytest.raises(ZeroDivisionError), Container.create("base", ["sleep", "20"]) as made:
        made.start()
        1 / 0  # noqa: B018
    assert made.state == "removed"
    assert not nsbook.ledger()


def test_the_ledger_knows_it_while_it_is_there() -> None:
    with Container.create("base", ["sleep", "20"], id="known") as made:
        (entry,) = list(nsbook.ledger())
        assert entry.run == "known"
        assert entry.live
        assert nsbook.ledger().clean() == []  # in use: nothing to clean
        made.start()
        assert made.exec(["true"]).exit_code == 0


def test_inspect_and_what_changes() -> None:
    with Container.create("base", ["sleep", "20"]) as made:
        before = made.inspect()
        made.start()
        after = made.inspect()
        assert [c.where for c in before.diff(after).changes] == ["state"]
        assert dict(after.namespaces)["pid"] == os.stat(f"/proc/{made.pid}/ns/pid").st_ino
        assert all(os.path.isdir(path) for path in after.cgroup)
    assert made.inspect().state == "removed"


def test_removed_by_force_from_the_ledger() -> None:
    """``clean --force`` takes it from its owner, who is told."""
    made = Container.create("base", ["sleep", "20"]).start()
    nsbook.ledger().clean(force=True)
    assert not nsbook.ledger()
    with pytest.raises(NsbookError):
        made.start()
    made.remove()
