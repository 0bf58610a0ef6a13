"""How calls are recorded and refused."""

from __future__ import annotations

import errno
import os
import time

import pytest

from nsbook.linux import call, files, process
from nsbook.linux import constants as C
from nsbook.linux.mount import mount, umount2
from nsbook.trace import current, record


def test_a_call_that_works_leaves_a_row() -> None:
    with record() as transcript:
        assert process.prctl(C.PR_GET_DUMPABLE) in (0, 1)
    (row,) = transcript
    assert (row.kind, row.name, row.errno, row.pid, row.actor) == ("syscall", "prctl", 0, os.getpid(), "caller")
    assert row.args == "PR_GET_DUMPABLE, 0, 0, 0, 0"
    assert row.result in ("0", "1")
    assert 0 < row.usec < 1e6


def test_a_refused_one_leaves_a_row_and_a_note() -> None:
    with record() as transcript, pytest.raises(FileNotFoundError) as caught:
        mount("tmpfs", '/no/such\n"place', "tmpfs", C.MS_NOSUID | C.MS_NODEV, "size=1m")
    assert caught.value.filename == '/no/such\n"place'
    shown = r'"tmpfs", "/no/such\n\"place", "tmpfs", MS_NOSUID|MS_NODEV, "size=1m"'
    assert caught.value.__notes__ == [f"mount(2): mount({shown})"]
    (row,) = transcript
    assert (row.name, row.args, row.result, row.errno) == ("mount", shown, "-1", errno.ENOENT)


def test_the_note_is_there_without_a_recorder_too() -> None:
    assert current.get() is None
    with pytest.raises(OSError, match="/no/such") as caught:
        umount2(target="/no/such", flags=C.MNT_DETACH)
    assert caught.value.__notes__ == ['umount2(2): umount2("/no/such", MNT_DETACH)']
    assert call.refused(caught.value) == ("umount2", {"target": "/no/such", "flags": C.MNT_DETACH})


def test_an_error_of_somebody_else_is_not_ours() -> None:
    assert call.refused(OSError(1, "x")) == ("", {})


def test_a_nested_wrapper_notes_once() -> None:
    root = os.open("/", os.O_PATH)
    try:
        with pytest.raises(FileNotFoundError) as caught:
            files.open_in_root(root, "/no/such", os.O_RDONLY)
    finally:
        os.close(root)
    assert len(caught.value.__notes__) == 1


@pytest.mark.parametrize("bad", ["/a\0b", b"/a\0b"])
def test_a_nul_is_no_end_of_a_path(bad: str | bytes) -> None:
    with pytest.raises(ValueError, match="null byte"):
        umount2(bad)


def test_a_call_that_the_machine_lacks_is_ENOSYS() -> None:
    absent = call.entry("no_such_call", call.integer)
    assert absent(1) == -1
    assert call.failed().errno == errno.ENOSYS


def test_bytes_that_are_no_text_survive() -> None:
    with record() as transcript, pytest.raises(FileNotFoundError) as caught:
        umount2(b"/no/\xff")
    assert caught.value.filename == b"/no/\xff"
    assert transcript[0].args == r'"/no/\udcff", 0'


def test_the_decorated_function_keeps_its_face() -> None:
    assert mount.__name__ == "mount"
    assert "mount(2)" in (mount.__doc__ or "")
    assert mount.__module__ == "nsbook.linux.mount"


def test_the_wrapper_costs_little() -> None:
    """No promise about microseconds: the decorated call takes less than twice the bare function and a microsecond."""
    bare = process.prctl.__wrapped__  # type: ignore[attr-defined]

    def fastest(function: object) -> float:
        times = []
        for _ in range(7):
            start = time.perf_counter()
            for _ in range(5000):
                function(C.PR_GET_NO_NEW_PRIVS)  # type: ignore[operator]
            times.append((time.perf_counter() - start) / 5000)
        return min(times)

    assert fastest(process.prctl) < 2 * fastest(bare) + 1e-6
