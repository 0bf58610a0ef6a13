"""Container.run: exit codes as a shell gives them, input and output whole, timeouts, and nothing left."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import nsbook
from needs import requires
from nsbook.container.container import Container
from nsbook.errors import Conflict, ImageNotFound, InvalidOption, SetupError
from nsbook.spawn.result import Result

pytestmark = requires("root", "overlay")
Run = Callable[..., Result]


@pytest.mark.parametrize("code", [0, 3, 125, 255])
def test_exit_codes_are_the_commands(sh: Run, code: int) -> None:
    assert sh(f"exit {code}").exit_code == code


def test_not_found_is_127() -> None:
    for name in ("no-such-program", "/no/such/program"):
        result = Container.run("base", [name])
        assert result.exit_code == 127
        assert result.stderr == f"nsbook: {name}: No such file or directory\n"


def test_not_executable_is_126(rootfs: Path) -> None:
    assert Container.run("base", ["/etc/passwd"]).exit_code == 126
    assert Container.run("base", ["/etc"]).exit_code == 126
    (rootfs / "bin/garbage").write_bytes(b"\0\0\0\0")
    (rootfs / "bin/garbage").chmod(0o755)
    result = Container.run(str(rootfs), ["garbage"])
    assert (result.exit_code, result.stderr) == (126, "nsbook: garbage: Exec format error\n")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_signal_is_128_and_its_number(sh: Run, number: int) -> None:
    assert sh(f"sh -c 'kill -{int(number)} $$'; exit $?").exit_code == 128 + number


def test_killed_from_outside_is_128_and_its_number() -> None:
    with Container.create("base", ["sleep", "20"]) as made:
        made.start()
        os.kill(made.pid, signal.SIGKILL)
        assert made.wait(10) == 137


def test_input_goes_in_and_ends() -> None:
    assert Container.run("base", ["cat"], input="grüße\n").stdout == "grüße\n"
    assert Container.run("base", ["cat"]).stdout == ""
    data = os.urandom(3_000_000)
    assert Container.run("base", ["cat"], input=data).stdout_bytes == data


def test_input_that_nobody_reads() -> None:
    assert Container.run("base", ["true"], input=bytes(1_000_000)).exit_code == 0


def test_twenty_megabytes_of_output_on_both() -> None:
    line = "head -c 20000000 /dev/zero; head -c 20000000 /dev/zero | tr '\\0' 'e' >&2"
    result = Container.run("base", ["sh", "-c", line])
    assert result.stdout_bytes == bytes(20_000_000)
    assert result.stderr_bytes == b"e" * 20_000_000


def test_output_that_is_no_text() -> None:
    result = Container.run("base", ["printf", "a\\377b"])
    assert result.stdout_bytes == b"a\xffb"
    assert result.stdout == "a\N{REPLACEMENT CHARACTER}b"


def test_timeout_kills_and_leaves_nothing() -> None:
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        Container.run("base", ["sleep", "30"], timeout=0.2)
    assert time.monotonic() - begin < 5
    assert not nsbook.ledger()


def test_a_grandchild_that_keeps_the_pipe_does_not_hold_us(sh: Run) -> None:
    """Process 1 ends, so the kernel kills the rest, and the pipe ends with it."""
    begin = time.monotonic()
    assert sh("sleep 30 & echo started").stdout == "started\n"
    assert time.monotonic() - begin < 10


def test_output_is_kept_when_the_command_fails(sh: Run) -> None:
    result = sh("echo before; exit 4")
    assert (result.stdout, result.exit_code) == ("before\n", 4)


def test_many_at_once() -> None:
    """From threads of one process, through one launcher."""
    results: dict[int, str] = {}

    def one(number: int) -> None:
        results[number] = Container.run("base", ["sh", "-c", f"hostname; sleep 0.1; echo {number}"], hostname=f"box-{number}").stdout

    threads = [threading.Thread(target=one, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {n: f"box-{n}\n{n}\n" for n in range(12)}


def test_one_id_is_one_container() -> None:
    """A second one with the same id must neither run nor take back what the first one has."""
    with Container.create("base", ["sleep", "20"], id="twin") as first:
        first.start()
        with pytest.raises(Conflict, match="twin"):
            Container.run("base", ["true"], id="twin")
        assert first.state == "running"
        assert first.exec(["echo", "alive"]).stdout == "alive\n"
        assert os.path.isdir(first._prepared.directory)
    assert Container.run("base", ["true"], id="twin").exit_code == 0


def test_a_root_file_system_is_not_changed(rootfs: Path) -> None:
    before = sorted(os.listdir(rootfs))
    assert Container.run(str(rootfs), ["sh", "-c", "touch /x; rm /etc/passwd; ls /x"]).stdout == "/x\n"
    assert sorted(os.listdir(rootfs)) == before
    assert (rootfs / "etc/passwd").exists()


def test_an_odd_name_of_a_root_file_system(rootfs: Path, tmp_path: Path) -> None:
    """Colons and commas separate overlay's options, and a backslash escapes them."""
    odd = tmp_path / "a:b,c\\d e"
    rootfs.rename(odd)
    assert Container.run(str(odd), ["echo", "fine"]).stdout == "fine\n"


def test_images_that_are_not_there() -> None:
    with pytest.raises(ImageNotFound):
        Container.run("no-such-image", ["true"])
    with pytest.raises((ImageNotFound, InvalidOption)):
        Container.run("/no/such/directory", ["true"])


def test_an_empty_root_file_system(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert Container.run(str(tmp_path / "empty"), ["/bin/sh"]).exit_code == 127


def test_what_fails_tells_the_op_and_who_refused(tmp_path: Path) -> None:
    """A mount that the kernel refuses: the op, the transcript up to it, the OSError from the child."""
    with pytest.raises(SetupError) as caught:
        Container.run("base", ["true"], tmpfs={"/x": "size=nonsense"})
    error = caught.value
    assert error.op.name == "Mount"
    assert error.op.target == "/x"
    assert isinstance(error.__cause__, OSError)
    assert error.__cause__.errno == 22
    assert error.transcript[-1].errno == 22
    assert error.transcript[-1].name == "Mount"
    assert not nsbook.ledger()


def test_a_caller_with_threads_that_forks_later() -> None:
    """A child of ours has no launcher of ours: it starts one of its own."""
    Container.run("base", ["true"])
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, Container.run("base", ["echo", "from the fork"]).stdout_bytes)
            nsbook.spawn.shutdown()
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as stream:
        assert stream.read() == b"from the fork\n"
    os.waitpid(pid, 0)
    assert Container.run("base", ["echo", "still"]).stdout == "still\n"


def test_the_transcript_has_every_op() -> None:
    result = Container.run("base", ["true"], memory="64M")
    plan = Container("base", ["true"], memory="64M").explain()
    assert [c.name for c in result.transcript.ops] != []
    assert sorted((c.op, c.name) for c in result.transcript.ops) == [(i, op.name) for i, op in enumerate(plan.ops)]
    assert all(c.errno == 0 and c.usec >= 0 for c in result.transcript.ops)
    assert len(result.transcript.syscalls) == 0
    with nsbook.record() as transcript:
        Container.run("base", ["true"])
    names = {c.name for c in transcript.syscalls}
    assert {"clone3", "unshare", "mount", "pivot_root", "sethostname", "seccomp", "capset", "setresuid"} <= names
