"""The few system calls that the sandbox needs, with their refusals as one exception. mount(2), prctl(2), capset(2).

On purpose none of nsbook's own wrappers: this is what nsbook is tested in.
"""

from __future__ import annotations

import ctypes
import os

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_REC, MS_PRIVATE = 16384, 1 << 18
NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWPID, NEWNET = 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x20000000, 0x40000000
SYS_PIVOT_ROOT, SYS_CAPSET = 155, 126  # x86_64
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 22, 24
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 38, 47

libc = ctypes.CDLL(None, use_errno=True)
libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
libc.prctl.argtypes = (ctypes.c_int,) + (ctypes.c_ulong,) * 4
libc.syscall.restype = ctypes.c_long


class Failed(Exception):
    """The sandbox could not be made."""


def check(result: int, what: str) -> int:
    """The result, unless the call was refused."""
    if result < 0:
        raise Failed(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def encoded(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def mount(source: str | None, target: str, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """mount(2)."""
    result = libc.mount(encoded(source), encoded(target), encoded(kind), flags, encoded(data))
    check(result, f"mount {kind or source} on {target}")


def bind(source: str, target: str, flags: int = 0) -> None:
    """Show a tree in a second place; with ``flags``, remounted so."""
    mount(source, target, None, MS_BIND | MS_REC)
    if flags:
        mount(None, target, None, MS_REMOUNT | MS_BIND | flags)
