"""Commands in a guest: what goes in, what comes out, how they end."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from needs import requires
from nsbook.errors import InvalidOption
from nsbook.guest import Guest, frames

pytestmark = [requires("uml"), pytest.mark.xdist_group("guest")]


def test_it_is_another_machine_and_we_are_root(guest: Guest) -> None:
    result = guest.run(["sh", "-c", "id -u; hostname; cat /proc/version"])
    uid, name, version = result.stdout.decode().splitlines()
    assert (uid, name) == ("0", "nsbook-guest")
    assert version == guest.inspect().kernel != Path("/proc/version").read_text().strip()


def test_status_and_streams_are_kept_apart(guest: Guest) -> None:
    result = guest.run(["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert (result.exit_code, result.stdout, result.stderr, result.timed_out) == (7, b"out\n", b"err\n", False)
    assert 0 < result.seconds < 5


@pytest.mark.parametrize(("command", "status"), [(["/nosuch"], 127), (["nosuch"], 127), (["/etc/passwd"], 126), (["/etc"], 126)])
def test_what_can_t_be_started_ends_as_in_a_shell(guest: Guest, command: list[str], status: int) -> None:
    result = guest.run(command)
    assert result.exit_code == status
    assert command[0].encode() in result.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_s_death_is_128_and_its_number(guest: Guest, number: int) -> None:
    assert guest.run(["sh", "-c", f"kill -{number} $$"]).exit_code == 128 + number


def test_no_command_is_an_error(guest: Guest) -> None:
    with pytest.raises(InvalidOption):
        guest.run([])


def test_a_directory_that_is_not_there_is_named(guest: Guest) -> None:
    result = guest.run(["true"], cwd="/no/such/place")
    assert result.exit_code == 125
    assert b"/no/such/place" in result.stderr


def test_directory_and_environment_are_ours(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARK", "ours äöü")
    assert guest.run(["pwd"]).stdout.decode().strip() == os.getcwd()
    assert guest.run(["sh", "-c", 'echo "$MARK"']).stdout.decode() == "ours äöü\n"
    assert guest.run(["/usr/bin/env"], env={"ONLY": "this"}).stdout == b"ONLY=this\n"
    assert guest.run(["pwd"], cwd="/etc").stdout == b"/etc\n"


def test_the_python_environment_is_the_same(guest: Guest) -> None:
    script = "import sys, nsbook; print(sys.prefix, sys.version, nsbook.__file__)"
    import nsbook

    assert guest.run([sys.executable, "-c", script]).stdout.decode().strip() == f"{sys.prefix} {sys.version} {nsbook.__file__}"


@pytest.mark.parametrize("size", [0, 1, 1000, 70_000, 5 << 20])
def test_input_arrives_as_it_was(guest: Guest, size: int) -> None:
    data = os.urandom(size)
    result = guest.run(["sha256sum"], stdin=data)
    assert result.stdout.decode().split()[0] == hashlib.sha256(data).hexdigest()


def test_input_by_the_line_arrives_as_it_was(guest: Guest) -> None:
    """All byte values, and more than any buffer on the way."""
    data = bytes(range(256)) * 4 + os.urandom(600_000)
    with guest.open_stream(["cat"]) as process:
        result = process.communicate(data)
    assert result.exit_code == 0
    assert result.stdout == data


def test_much_output_arrives_as_it_was(guest: Guest) -> None:
    script = (
        "import hashlib, os, sys\ndata = os.urandom(20 << 20)\nsys.stdout.buffer.write(data)\n"
        "sys.stderr.write(hashlib.sha256(data).hexdigest())"
    )
    result = guest.run([sys.executable, "-c", script])
    assert len(result.stdout) == 20 << 20
    assert hashlib.sha256(result.stdout).hexdigest() == result.stderr.decode()


def test_input_that_nobody_reads_holds_up_nothing(guest: Guest) -> None:
    with guest.open_stream(["head", "-c", "5"]) as process:
        result = process.communicate(b"12345" + b"x" * 400_000)
    assert (result.exit_code, result.stdout) == (0, b"12345")


def test_several_run_at_once(guest: Guest) -> None:
    def one(number: int) -> tuple[int, bytes]:
        result = guest.run(["sh", "-c", f"sleep 0.3; seq {number} 4000; exit {number}"], stdin=b"x" * number)
        return result.exit_code, result.stdout

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(one, range(8)))
    for number, (status, out) in enumerate(results):
        assert status == number
        assert out == b"".join(b"%d\n" % n for n in range(number, 4001))


def test_one_that_does_not_read_does_not_stop_the_others(guest: Guest) -> None:
    with guest.open_stream(["sleep", "100"]) as deaf, guest.open_stream(["cat", "/dev/zero"]) as loud:
        feeder = threading.Thread(target=deaf.write, args=(bytes(frames.WINDOW * 2),))
        feeder.start()
        assert guest.run(["echo", "here"], timeout=20).stdout == b"here\n"
        assert guest.run(["head", "-c", "2000000", "/dev/zero"], timeout=20).stdout == bytes(2_000_000)
        assert loud.read(10) == bytes(10)
        deaf.kill()
        feeder.join(10)
        assert not feeder.is_alive()


def test_output_is_handed_on_while_it_comes(guest: Guest) -> None:
    came: list[tuple[float, bytes]] = []
    result = guest.run(
        ["sh", "-c", "echo one; sleep 0.4; echo two; echo three >&2"],
        on_stdout=lambda data: came.append((time.monotonic(), data)),
        on_stderr=lambda data: came.append((0, data)),
    )
    assert result.stdout == result.stderr == b""
    assert [data for _, data in came] == [b"one\n", b"two\n", b"three\n"]
    assert came[1][0] - came[0][0] > 0.2


def test_an_error_in_a_callback_ends_the_command(guest: Guest) -> None:
    def refuse(data: bytes) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        guest.run(["sh", "-c", "echo x; exec sleep 1000"], on_stdout=refuse)
    assert b"sleep 1000" not in guest.run(["ps", "ax"]).stdout


def test_a_stream_goes_both_ways(guest: Guest) -> None:
    with guest.open_stream(["cat"]) as process:
        for n in range(20):
            process.write(b"%d\n" % n)
            assert process.read(timeout=20) == b"%d\n" % n
        with pytest.raises(TimeoutError):
            process.read(timeout=0.05)
        assert process.poll() is None
        process.close_stdin()
        assert process.read(timeout=20) == b""
        assert process.wait(20) == 0


def test_a_small_read_leaves_the_rest(guest: Guest) -> None:
    with guest.open_stream(["printf", "abcdef"]) as process:
        assert process.wait(20) == 0
        assert [process.read(2), process.read(), process.read(), process.read_stderr()] == [b"ab", b"cdef", b"", b""]


def test_signals_reach_it(guest: Guest) -> None:
    with guest.open_stream(["sh", "-c", "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done"]) as process:
        assert process.read(timeout=20) == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.read(timeout=20) == b"caught\n"
        assert process.wait(20) == 5


def test_ctrl_c_interrupts_the_command_and_then_us(guest: Guest) -> None:
    said: list[bytes] = []

    def press(data: bytes) -> None:
        said.append(data)
        if data == b"ready\n":
            threading.Timer(0.1, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT]).start()

    script = "trap 'echo interrupted; exit 3' INT; echo ready; while :; do sleep 0.05; done"
    with pytest.raises(KeyboardInterrupt):
        guest.run(["sh", "-c", script], on_stdout=press)
    assert b"".join(said) == b"ready\ninterrupted\n"
    assert guest.run(["echo", "still there"]).stdout == b"still there\n"


def test_time_s_up_ends_all_that_it_started(guest: Guest) -> None:
    began = time.monotonic()
    result = guest.run(["sh", "-c", "echo begun; setsid sleep 4321 & sleep 4321"], timeout=1)
    assert time.monotonic() - began < 20
    assert (result.timed_out, result.exit_code, result.stdout) == (True, 137, b"begun\n")
    assert b"sleep 4321" not in guest.run(["ps", "ax"]).stdout


def test_what_it_leaves_running_lives_on(guest: Guest) -> None:
    """As on any machine; its later output goes nowhere."""
    began = time.monotonic()
    result = guest.run(["sh", "-c", "sleep 1234 & echo $!"])
    assert time.monotonic() - began < 20
    pid = result.stdout.decode().strip()
    assert guest.run(["kill", pid]).exit_code == 0
    deadline = time.monotonic() + 10
    while guest.run(["kill", "-0", pid]).exit_code == 0:  # no zombie stays: the first process reaps
        assert time.monotonic() < deadline
    guest.run(["true"])
    assert len(guest.run(["ls", "-d", "/sys/fs/cgroup/guest/*/"]).stdout.splitlines()) <= 1


def test_a_terminal(guest: Guest) -> None:
    result = guest.run(["sh", "-c", "tty; stty size; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && ps -o tty= -p $$"], tty=True)
    assert result.exit_code == 0
    name, size, controlling = result.stdout.decode().replace("\r", "").split("\n")[:3]
    assert (name, size) == (f"/dev/{controlling.strip()}", "24 80")


def test_a_terminal_s_keys_and_size(guest: Guest) -> None:
    script = "trap 'stty size' WINCH; trap 'echo key; exit 9' INT; echo ready; while :; do sleep 0.05; done"
    with guest.open_stream(["sh", "-c", script], tty=True, size=(10, 20)) as process:
        assert process.read(timeout=20) == b"ready\r\n"
        process.resize(30, 90)
        assert process.read(timeout=20) == b"30 90\r\n"
        process.write(b"\x03")
        said = b""
        while data := process.read(timeout=20):
            said += data
        assert b"key\r\n" in said
        assert process.wait(20) == 9


def test_end_of_input_at_a_terminal(guest: Guest) -> None:
    assert guest.run(["cat"], stdin=b"line\n", tty=True).stdout.replace(b"\r", b"").endswith(b"line\n")


def test_a_closed_stream_kills_its_command(guest: Guest) -> None:
    with guest.open_stream(["sleep", "9876"]) as process:
        assert process.pid > 1
    assert process.poll() == 137
    assert b"sleep 9876" not in guest.run(["ps", "ax"]).stdout


def test_the_transcript_has_what_was_run(guest: Guest) -> None:
    guest.run(["sh", "-c", "exit 4"])
    last = guest.transcript[len(guest.transcript) - 1]
    assert (last.name, last.args, last.result) == ("run", "sh -c 'exit 4'", "exit 4")
    assert last.usec > 0
    assert guest.transcript[0].name == "boot"
