"""``nsbook guest run``: streams, status, signals."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from needs import requires

pytestmark = [requires("uml"), pytest.mark.xdist_group("guest")]

RUN = [sys.executable, "-c", "import sys; from nsbook.guest import cli_run; sys.exit(cli_run(sys.argv[1:]))", "--memory", "256M"]
SHELL = [sys.executable, "-c", "import sys; from nsbook.guest import cli_shell; sys.exit(cli_shell(sys.argv[1:]))", "--memory", "256M"]


def run(*words: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*RUN, *words], input=data, capture_output=True, timeout=60, check=False)


def test_streams_and_status() -> None:
    done = run("sh", "-c", "cat; echo err >&2; exit 42", data=b"in\n")
    assert (done.returncode, done.stdout, done.stderr) == (42, b"in\n", b"err\n")


def test_a_command_s_own_options_are_its_own() -> None:
    assert run("-e", "A=1", "--", "sh", "-c", 'echo $A "$@"', "sh", "--memory", "-e").stdout == b"1 --memory -e\n"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["nosuch"], 127),
        (["/etc"], 126),
        (["--engine", "uml", "--memory", "1K", "true"], 125),
        (["--timeout", "1", "sleep", "99"], 124),
        ([], 125),
    ],
)
def test_exit_statuses(words: list[str], status: int) -> None:
    assert run(*words).returncode == status


def test_as_an_ordinary_user() -> None:
    assert run("--user", "ann", "sh", "-c", "id -un; pwd", data=b"").stdout.decode().split() == ["ann", os.getcwd()]


def test_what_comes_is_shown_at_once() -> None:
    with subprocess.Popen([*RUN, "sh", "-c", "echo one; read x; echo got $x"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"one\n"
        process.stdin.write(b"it\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"got it\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_the_command_s(number: int) -> None:
    script = "trap 'echo caught; exit 6' INT TERM; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen([*RUN, "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.stdout.read() == b"caught\n"
        assert process.wait() == 6


def test_a_reader_that_has_enough_ends_it() -> None:
    with subprocess.Popen([*RUN, "yes"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"y\ny\n"
        process.stdout.close()
        assert process.wait(30) == 128 + signal.SIGPIPE


def test_a_shell_on_a_terminal() -> None:
    """Prompt, command, Ctrl-D; and our terminal is as it was."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(SHELL, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "SHELL": "/bin/sh"}) as process:
        os.close(theirs)
        said = until(ours, b"# ")
        os.write(ours, b"hostname; tty; exit 5\n")
        said += until(ours, None)
        assert process.wait(20) == 5
    os.close(ours)
    assert b"nsbook-guest\r\n" in said
    assert b"/dev/pts/" in said
    assert b"booting uml" in said


def until(fd: int, sign: bytes | None) -> bytes:
    """What is said until a sign comes, or the end."""
    said = b""
    end = time.monotonic() + 40
    while sign is None or sign not in said:
        if not select.select([fd], [], [], max(0, end - time.monotonic()))[0]:
            raise TimeoutError(said)
        try:
            data = os.read(fd, 4096)
        except OSError:
            data = b""
        if not data:
            return said
        said += data
    return said


def test_a_shell_wants_a_terminal() -> None:
    done = subprocess.run(SHELL, input=b"", capture_output=True, timeout=30, check=False)
    assert done.returncode == 125
    assert b"no terminal" in done.stderr
