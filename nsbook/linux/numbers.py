"""System call numbers: the calls that the wrappers of this floor make, and no others.

From arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h of Linux. aarch64, riscv64 and
loongarch64 share the generic table. On any other machine, or another system than Linux, the table is empty and every
wrapper answers ENOSYS. All calls since Linux 5.1 (number 424 and above) have one number everywhere.
"""

from __future__ import annotations

import os
import sys

_BOTH: dict[str, tuple[int, int]] = {  # name: (x86_64, generic)
    "capget": (125, 90),
    "capset": (126, 91),
    "clone": (56, 220),
    "finit_module": (313, 273),
    "mount": (165, 40),
    "pivot_root": (155, 41),
    "prctl": (157, 167),
    "reboot": (169, 142),
    "seccomp": (317, 277),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "umount2": (166, 39),
    "unshare": (272, 97),
}
_SINCE_5_1: dict[str, int] = {
    "pidfd_send_signal": 424,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
}


def table(machine: str) -> dict[str, int]:
    """Name -> number on that machine (as uname(2) calls it); empty where it is not known."""
    if machine == "x86_64":
        return {name: pair[0] for name, pair in _BOTH.items()} | _SINCE_5_1
    if machine in ("aarch64", "riscv64", "loongarch64"):
        return {name: pair[1] for name, pair in _BOTH.items()} | _SINCE_5_1
    return {}


NUMBERS: dict[str, int] = table(os.uname().machine) if sys.platform == "linux" and sys.maxsize > 2**32 else {}
"""This machine's table (64-bit Python only: the numbers of a 32-bit process are others)."""
