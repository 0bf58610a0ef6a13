"""What a killed ``nsbook run`` leaves is seen by ``nsbook ledger`` and taken back by ``nsbook clean``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nsbook
from needs import requires

pytestmark = requires("root", "overlay")

EMPTY = "the ledger is empty: nothing of nsbook is on this host"


@pytest.fixture
def running(begin: Any) -> Iterator[subprocess.Popen[str]]:
    """``nsbook run`` of a container that would never end, but by a SIGTERM."""
    with begin("run", "--hostname", "doomed", "base", "sh", "-c", "trap exit TERM; echo ready; while :; do sleep 0.05; done") as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.terminate()


def places(entry: dict[str, Any]) -> list[str]:
    """The directories that an entry in JSON says are to be removed."""
    found = [inverse.get("path") or inverse.get("paths") for inverse in entry["inverses"]]
    flat = [path for value in found for path in ([value] if isinstance(value, str) else value or [])]
    return [path for path in flat if os.path.exists(path)]


def test_an_empty_ledger(cli: Any) -> None:
    assert EMPTY in cli("ledger").stdout
    assert json.loads(cli("ledger", "--json").stdout) == []
    done = cli("clean")
    assert (done.returncode, done.stdout) == (0, "nothing to clean: nothing was left behind\n")


def test_one_in_use_is_left_alone(cli: Any, running: subprocess.Popen[str]) -> None:
    table = cli("ledger").stdout
    assert "in use" in table
    assert "left behind" not in table
    (entry,) = json.loads(cli("ledger", "--json").stdout)
    assert (entry["live"], entry["owner"]) == (True, running.pid)
    assert cli("clean").stdout == "nothing to clean: nothing was left behind\n"
    assert running.poll() is None
    assert places(entry)


def test_a_killed_one_is_taken_back(cli: Any, until: Any, running: subprocess.Popen[str], empty: Callable[[], None]) -> None:
    child = int(Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text())
    running.kill()
    running.wait()
    assert os.path.exists(f"/proc/{child}"), "a container does not need who made it"
    table = cli("ledger").stdout
    assert "left behind" in table
    assert "`nsbook clean` takes back what was left behind" in table
    (entry,) = json.loads(cli("ledger", "--json").stdout)
    assert entry["live"] is False
    there = places(entry)
    assert any("/cgroup/" in path for path in there)
    assert any(path.startswith(os.environ["NSBOOK_ROOT"]) for path in there)
    done = cli("clean")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"undone: {entry['title']} (run {entry['run']}), {len(entry['inverses'])} things\n"
    assert [path for path in there if os.path.exists(path)] == []
    until(lambda: not os.path.exists(f"/proc/{child}"), "whoever reaps it here")
    empty()
    assert EMPTY in cli("ledger").stdout
    assert cli("clean").stdout.startswith("nothing to clean")


def test_what_a_shell_does_with_the_last_column(cli: Any, until: Any, running: subprocess.Popen[str], empty: Callable[[], None]) -> None:
    """The lines that the table gives for a shell take it back as well; clean then only forgets it."""
    child = int(Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text())
    running.kill()
    running.wait()
    os.kill(child, signal.SIGKILL)  # rmdir doesn't end anybody
    until(lambda: not os.path.exists(f"/proc/{child}"), "the container's end")
    (entry,) = nsbook.ledger()
    there = places(json.loads(cli("ledger", "--json").stdout)[0])
    for op in entry.inverses:
        subprocess.run(["sh", "-c", op.shell().text], check=True)
    assert [path for path in there if os.path.exists(path)] == []
    assert cli("clean").returncode == 0
    empty()


def test_force_ends_one_in_use(cli: Any, running: subprocess.Popen[str], empty: Callable[[], None]) -> None:
    done = cli("clean", "--force")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("undone: Container ")
    assert running.wait(20) != 0
    empty()


def test_a_reader_that_has_enough(cli: Any, running: subprocess.Popen[str]) -> None:
    """As in ``nsbook ledger | true``: no traceback."""
    read, write = os.pipe()
    os.close(read)
    try:
        process = subprocess.run(
            [*running.args[:3], "ledger"],  # type: ignore[index]
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(write)
    assert (process.returncode, process.stderr) == (141, "")
