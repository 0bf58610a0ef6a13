"""Installing filters, in processes of the tests' own."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from nsbook.linux import constants as C
from nsbook.linux import seccomp

Inside = Callable[..., dict[str, Any]]
PROGRAM = """
from struct import pack
from nsbook.linux.syscalls import numbers
def program(name, code):
    "Answers one call with an errno and allows all others."
    rows = (0x20, 0, 0, 0), (0x15, 0, 1, numbers()[name]), (0x06, 0, 0, 0x50000 | code), (0x06, 0, 0, 0x7FFF0000)
    return b"".join(pack("=HBBI", *row) for row in rows)
"""


def test_a_filter_answers_in_the_kernels_stead(inside: Inside) -> None:
    out = inside(
        PROGRAM
        + """
credentials.set_no_new_privs()
with record() as t:
    out["returned"] = seccomp.seccomp_set_mode_filter(program("sethostname", 71), C.SECCOMP_FILTER_FLAG_LOG)
out["refused"] = error_of(lambda: process.sethostname("x"))
row = status.status()
out["mode"] = [row.seccomp, row.seccomp_filters]
out["rows"] = rows(t)
"""
    )
    assert out["returned"] == 0
    assert out["refused"]["errno"] == 71
    assert out["mode"] == [2, 1]
    assert out["rows"] == [["syscall", "seccomp", "{len=4, filter=...}, SECCOMP_FILTER_FLAG_LOG", "0", 0]]


def test_a_listener_is_a_descriptor(inside: Inside) -> None:
    out = inside(
        PROGRAM
        + """
credentials.set_no_new_privs()
fd = seccomp.seccomp_set_mode_filter(program("sethostname", 1), C.SECCOMP_FILTER_FLAG_NEW_LISTENER)
out["link"] = os.readlink(f"/proc/self/fd/{fd}")
"""
    )
    assert out["link"] == "anon_inode:seccomp notify"


def test_a_thread_that_cannot_follow(inside: Inside) -> None:
    out = inside(
        PROGRAM
        + """
credentials.set_no_new_privs()
start, stop = threading.Event(), threading.Event()
def other():
    seccomp.seccomp_set_mode_filter(program("sethostname", 2))
    start.set(); stop.wait()
thread = threading.Thread(target=other); thread.start(); start.wait()
out["refused"] = error_of(lambda: seccomp.seccomp_set_mode_filter(program("sethostname", 1), C.SECCOMP_FILTER_FLAG_TSYNC))
out["mode"] = status.status().seccomp
stop.set(); thread.join()
"""
    )
    assert out["refused"]["errno"] == errno.ESRCH
    assert out["mode"] == 0


def test_programs_that_are_none(inside: Inside) -> None:
    with pytest.raises(ValueError, match="8-byte"):
        seccomp.seccomp_set_mode_filter(b"1234567")
    out = inside(
        """
        credentials.set_no_new_privs()
        out["empty"] = error_of(lambda: seccomp.seccomp_set_mode_filter(b""))
        out["endless"] = error_of(lambda: seccomp.seccomp_set_mode_filter(bytes(8)))
        """
    )
    assert out["empty"]["errno"] == out["endless"]["errno"] == errno.EINVAL


def test_actions() -> None:
    seccomp.seccomp_get_action_avail(C.SECCOMP_RET_ALLOW)
    with pytest.raises(OSError, match="supported") as caught:
        seccomp.seccomp_get_action_avail(0x12340000)
    assert caught.value.errno == errno.EOPNOTSUPP
