"""The numbers against the table of the seccomp part, and against the kernel's headers where they are installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nsbook.linux import numbers, syscalls


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_complete_table_says_the_same(machine: str) -> None:
    table = numbers.table(machine)
    assert table == {name: syscalls.numbers(machine)[name] for name in table}


def test_the_headers_say_the_same() -> None:
    header = next(
        (p for p in (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm/unistd_64.h")) if p.exists()), None
    )
    if header is None:
        pytest.skip("needs linux-libc-dev: no unistd_64.h; apt install linux-libc-dev")
    there = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", header.read_text())}
    table = numbers.table("x86_64")
    assert table == {name: there[name] for name in table}


def test_an_unknown_machine_has_none() -> None:
    assert numbers.table("pdp11") == {}
