"""Processes as /proc tells them."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nsbook.linux import status

Inside = Callable[..., dict[str, Any]]


def test_the_row_is_this_process() -> None:
    row = status.status()
    assert (row.pid, row.ppid, row.tgid) == (os.getpid(), os.getppid(), os.getpid())
    assert row.uids[:3] == os.getresuid()
    assert row.gids[:3] == os.getresgid()
    assert set(row.groups) == set(os.getgroups())
    assert row.nspid[0] == os.getpid()
    assert row.threads >= threading.active_count()
    assert row.state == "R"
    assert row.name == Path("/proc/self/comm").read_text().removesuffix("\n")


def test_every_number_is_that_of_the_file() -> None:
    text = Path(f"/proc/{os.getppid()}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    row = status.status(os.getppid())
    for name in ("inh", "prm", "eff", "bnd", "amb"):
        assert f"{getattr(row, f'cap_{name}'):016x}" == fields[f"Cap{name.capitalize()}"]
    modes = [str(row.no_new_privs), str(row.seccomp), str(row.seccomp_filters)]
    assert modes == [
        fields["NoNewPrivs"],
        fields["Seccomp"],
        fields["Seccomp_filters"],
    ]


@pytest.mark.parametrize("name", ["a) S 1 (b", "x\ny", "back\\slash", "\\n", "tab\t: y", "(", "Pid:\t7"])
def test_names_meant_to_mislead(inside: Inside, name: str) -> None:
    out = inside(
        f"""
        process.prctl(C.PR_SET_NAME, {name.encode()!r})
        row = status.status()
        out["name"], out["pid"] = row.name, row.pid == os.getpid()
        out["start"] = status.start_time("self")
        out["ticks"] = float(open("/proc/uptime").read().split()[0]) * os.sysconf("SC_CLK_TCK")
        """
    )
    assert out["name"] == name[:15]
    assert out["pid"] is True
    assert 0 <= out["ticks"] - out["start"] < 6000


def test_children_and_the_dead() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert child.pid in status.children(os.getpid())
        assert child.pid in status.children("self")
        assert status.status(child.pid).ppid == os.getpid()
        first = status.start_time(child.pid)
        assert first == status.start_time(child.pid)
    finally:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert status.status(child.pid).state == "Z"
        child.wait()
    assert child.pid not in status.children(os.getpid())
    for read in (status.status, status.start_time, status.children):
        with pytest.raises((FileNotFoundError, ProcessLookupError)):
            read(child.pid)


def test_an_old_kernels_file_has_less() -> None:
    row = status.parse("Name:\tx\nState:\tS (sleeping)\nPid:\t5\nUid:\t0\t0\t0\t0\n")
    assert (row.pid, row.state, row.seccomp, row.cap_amb, row.nspid) == (5, "S", -1, -1, ())
