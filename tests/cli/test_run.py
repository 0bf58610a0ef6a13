"""``nsbook run``, from outside: what a shell sees of it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nsbook
from needs import requires

pytestmark = requires("root", "overlay")

SETTLED = 0.0
"""Seconds after which nsbook, too, has noticed that the command runs. A signal before that ends it as one still being built."""


@pytest.fixture(autouse=True)
def nothing_kept(empty: Callable[[], None]) -> Iterator[None]:
    yield
    empty()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["base", "sh", "-c", "exit 7"], 7, ""),
        (["base", "true"], 0, ""),
        (["base", "nosuch"], 127, "nosuch: No such file"),
        (["base", "/no/such"], 127, "/no/such: No such file"),
        (["base", "/etc/passwd"], 126, "/etc/passwd: Permission denied"),
        (["base", "/etc"], 126, "/etc: Permission denied"),
        (["--init", "base", "sh", "-c", "kill -TERM $$"], 143, ""),
        (["--init", "base", "sh", "-c", "kill -KILL $$"], 137, ""),
        (["bose", "true"], 125, "Did you mean 'base'?"),
        (["/no/such/directory", "true"], 125, "/no/such/directory"),
        (["--hostnam", "x", "base", "true"], 125, "did you mean --hostname?"),
        (["--memory"], 125, "expected one argument"),
        (["--memory", "lots", "base", "true"], 125, "lots"),
        (["--memory", "1k", "base", "true"], 125, "at least 512K"),
        (["--ulimit", "nofile=many", "base", "true"], 125, "NAME=SOFT[:HARD]"),
        (["--security-opt", "apparmor=x", "base", "true"], 125, "seccomp=unconfined"),
        (["-e", "=1", "base", "true"], 125, "NAME=VALUE"),
        (["-v", "relative:/x", "base", "true"], 125, "/path/on/the/host:/path/inside"),
        (["--cap-drop", "NOSUCH", "base", "true"], 125, "NOSUCH"),
        (["-u", "nobody-knows", "base", "true"], 125, "nobody-knows"),
        ([], 125, "IMAGE"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_statuses(cli: Any, words: list[str], status: int, said: str) -> None:
    done = cli("run", *words)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert bool(done.stderr) == bool(said)


@pytest.mark.parametrize(
    ("words", "said"), [(["rum"], "did you mean 'run'?"), (["zzz"], "there are: run, demo"), (["ledger", "--jsn"], "did you mean --json?")]
)
def test_verbs(cli: Any, words: list[str], said: str) -> None:
    done = cli(*words)
    assert (done.returncode, done.stdout) == (125, "")
    assert said in done.stderr


@pytest.mark.parametrize(
    ("options", "line", "out"),
    [
        (["--hostname", "anna"], "hostname", "anna"),
        (["-h", "anna"], "hostname", "anna"),
        (["-e", "A=1 2", "-e", "B="], 'echo "$A/$B/${C-unset}"', "1 2//unset"),
        (["-w", "/usr"], "pwd", "/usr"),
        (["-w", "/new/place"], "pwd", "/new/place"),
        (["-u", "reader"], "id -u; id -g", "1000\n1000"),
        (["-u", "12:34"], "id -u; id -g", "12\n34"),
        (
            ["--tmpfs", "/scratch:size=1m"],
            "grep ' /scratch ' /proc/mounts | cut -d ' ' -f 1,3; touch /scratch/x && echo made",
            "tmpfs tmpfs\nmade",
        ),
        (["--read-only"], "touch /x 2>/dev/null || echo no; touch /dev/shm/x && echo yes", "no\nyes"),
        ([], "touch /x && echo yes; grep Seccomp: /proc/self/status", "yes\nSeccomp:\t2"),
        (["--cap-drop", "ALL"], "grep -E 'Cap(Bnd|Eff|Prm)' /proc/self/status | cut -f 2", "\n".join(["0" * 16] * 3)),
        (["--cap-drop", "ALL", "--cap-add", "CHOWN"], "grep CapBnd /proc/self/status | cut -f 2", "0" * 15 + "1"),
        (["--security-opt", "seccomp=unconfined"], "grep Seccomp: /proc/self/status", "Seccomp:\t0"),
        (["--security-opt", "no-new-privileges=false"], "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t0"),
        (["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1"),
        (["--ulimit", "nofile=100:200"], "ulimit -Sn; ulimit -Hn", "100\n200"),
        (["--ulimit", "core=0"], "ulimit -Hc", "0"),
        ([], "echo $$", "1"),
        (["--init"], "[ $$ -gt 1 ] && echo below", "below"),
        (["--rm", "--userns"], "[ $(wc -l < /proc/self/uid_map) -gt 0 ] && id -u", "0"),
        (["--network", "none"], "ls /sys/class/net", "lo"),
    ],
    ids=lambda value: " ".join(value) or "plain" if isinstance(value, list) else "",
)
def test_options(cli: Any, options: list[str], line: str, out: str) -> None:
    done = cli("run", *options, "base", "sh", "-c", line)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, out, "")


def test_volumes(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    line = "cat /v/file; touch /v/new 2>/dev/null || echo no"
    assert cli("run", "-v", f"{tmp_path}:/v:ro", "base", "sh", "-c", line).stdout == "from the host\nno\n"
    assert not (tmp_path / "new").exists()
    assert cli("run", "-v", f"{tmp_path}:/v", "base", "sh", "-c", line).stdout == "from the host\n"
    assert (tmp_path / "new").exists()


def test_out_of_memory(cli: Any) -> None:
    done = cli("run", "--memory", "16M", "base", "sh", "-c", "x=$(head -c 60000000 /dev/zero | tr '\\0' a); echo $?")
    assert (done.returncode, done.stdout) == (137, "")
    assert "out of the memory that --memory allows" in done.stderr


def test_limits_on_tasks(cli: Any) -> None:
    line = "for i in 1 2 3 4 5 6 7 8; do sleep 2 & done; echo all"
    assert cli("run", "--pids-limit", "4", "base", "sh", "-c", line).stdout == ""
    assert cli("run", "--pids-limit", "40", "base", "sh", "-c", line).stdout == "all\n"


def test_explain_and_script_run_nothing(cli: Any, tmp_path: Path) -> None:
    for option, expected in (("--explain", "become touch /v/made"), ("--script", "pivot_root . .")):
        done = cli("run", option, "-v", f"{tmp_path}:/v", "base", "touch", "/v/made")
        assert done.returncode == 0
        assert expected in done.stdout
        assert not (tmp_path / "made").exists()
    assert subprocess.run(["sh", "-n"], input=done.stdout, text=True, check=False).returncode == 0


def test_streams(cli: Any) -> None:
    done = cli("run", "base", "sh", "-c", "cat; echo aside >&2", input="x" * 300_000 + "\n")
    assert (done.returncode, done.stderr) == (0, "aside\n")
    assert done.stdout == "x" * 300_000 + "\n"


def test_the_command_s_own_options_are_its_own(cli: Any) -> None:
    assert cli("run", "base", "echo", "--memory", "-e", "--", "--help").stdout == "--memory -e -- --help\n"


def test_a_reader_that_has_enough(begin: Any) -> None:
    with begin("run", "base", "yes") as process:
        assert process.stdout.read(4) == "y\ny\n"
        process.stdout.close()
        assert process.wait(30) in (1, 128 + signal.SIGPIPE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on(begin: Any, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    with begin("run", "base", "sh", "-c", f"trap 'echo caught; exit 6' {name}; echo ready; while :; do sleep 0.02; done") as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(SETTLED)
        process.send_signal(number)
        assert process.communicate(timeout=30) == ("caught\n", "")
        assert process.returncode == 6


@pytest.mark.parametrize(
    "words", [["sleep", "60"], ["sh", "-c", "trap '' INT; echo ready; while :; do sleep 0.02; done"]], ids=["no-handler", "ignored"]
)
def test_process_1_that_ignores_an_interrupt_is_killed(begin: Any, until: Any, words: list[str]) -> None:
    with begin("run", "base", *words) as process:
        if words[0] == "sh":
            assert process.stdout.readline() == "ready\n"
        else:
            until(lambda: runs_below(process.pid, b"sleep\0" + b"60\0"), "the command")
        time.sleep(SETTLED)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 137
        assert 0.8 < time.monotonic() - begun < 10


def runs_below(pid: int, command: bytes) -> bool:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return any(Path(f"/proc/{child}/cmdline").read_bytes() == command for child in children)


def test_an_interrupt_at_any_moment_of_the_set_up(begin: Any, until: Any, empty: Callable[[], None]) -> None:
    """The moments are counted from the ledger's entry, the first thing that is made."""
    dice, statuses = random.Random(20), []
    for _ in range(25):
        with begin("run", "base", "sh", "-c", "trap 'exit 42' INT; while :; do sleep 0.02; done") as process:
            until(lambda: len(nsbook.ledger()), "an entry in the ledger")
            time.sleep(dice.random() * 0.02)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
        assert process.returncode in (130, 42, 137), said  # being built; running; running, before its trap was there
        assert "Traceback" not in said
        empty()
        statuses.append(process.returncode)
    assert 130 in statuses


def test_nothing_of_its_own_is_inherited(cli: Any) -> None:
    """Neither descriptors nor environment nor the caller's working directory."""
    read, write = os.pipe()
    try:
        done = cli(
            "run", "base", "sh", "-c", "ls /proc/$$/fd; pwd; echo ${SECRET-none}", pass_fds=[write], env={**os.environ, "SECRET": "x"}
        )
    finally:
        os.close(read)
        os.close(write)
    assert done.stdout.split() == ["0", "1", "2", "/", "none"]
