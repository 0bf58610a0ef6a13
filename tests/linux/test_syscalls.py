from __future__ import annotations

import ctypes
import errno
import os
import re
from pathlib import Path

import pytest

from nsbook.linux import syscalls

HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")


@pytest.mark.parametrize("arch", syscalls.ARCHES)
def test_each_number_has_one_name(arch: str) -> None:
    table = syscalls.numbers(arch)
    assert len(set(table.values())) == len(table)
    assert {syscalls.name(nr, arch) for nr in table.values()} == set(table)
    assert list(table.values()) == sorted(table.values())


def test_numbers_are_those_of_the_man_pages() -> None:
    x86, arm = syscalls.numbers("x86_64"), syscalls.numbers("aarch64")
    assert [x86[n] for n in ("read", "execve", "mount", "unshare", "seccomp", "uretprobe")] == [0, 59, 165, 272, 317, 335]
    assert [arm[n] for n in ("io_setup", "read", "execve", "mount", "newfstatat", "kexec_file_load")] == [0, 63, 221, 40, 79, 294]
    assert "open" not in arm
    assert "fork" not in arm


def test_new_calls_have_one_number_everywhere() -> None:
    x86, arm = syscalls.numbers("x86_64"), syscalls.numbers("aarch64")
    new = {name for name, nr in x86.items() if nr >= 424}
    assert {n: x86[n] for n in new} == {n: nr for n, nr in arm.items() if nr >= 424}
    assert sorted(x86[n] for n in new) == list(range(424, 472))


def test_the_table_holds_all_of_the_installed_header() -> None:
    if not HEADER.exists():
        pytest.skip("needs linux-libc-dev on x86_64: apt install linux-libc-dev")
    header = {n: int(nr) for n, nr in re.findall(r"#define __NR_(\w+) (\d+)", HEADER.read_text())}
    table = syscalls.numbers("x86_64")
    assert {n: table.get(n) for n in header} == header


def test_numbers_agree_with_the_wrappers_of_this_floor() -> None:
    wrappers = pytest.importorskip("nsbook.linux.numbers")
    for name, (x86, generic) in wrappers._BOTH.items():
        assert syscalls.numbers("x86_64")[name] == x86
        assert syscalls.numbers("aarch64")[name] == generic


def test_the_kernel_has_getppid_where_the_table_says() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.syscall(syscalls.numbers()["getppid"]) == os.getppid()
    assert libc.syscall(5000) == -1
    assert ctypes.get_errno() == errno.ENOSYS


def test_unknown_machines_and_numbers() -> None:
    with pytest.raises(ValueError, match="no table of system calls for 'vax'"):
        syscalls.numbers("vax")
    assert syscalls.name(400, "x86_64") == "#400"
    assert syscalls.native() in syscalls.ARCHES
