"""seccomp(2): installing a filter program."""

from __future__ import annotations

import ctypes

from nsbook.linux import constants
from nsbook.linux.call import entry, failed, flags, integer, name, pointer, syscall

_seccomp = entry("seccomp", integer, integer, pointer)
ESRCH = 3


class _Program(ctypes.Structure):
    """struct sock_fprog: how many instructions, and where."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


@syscall("seccomp", program=lambda value: f"{{len={len(value) // 8}, filter=...}}", flags=flags("SECCOMP_FILTER_FLAG_"))
def seccomp_set_mode_filter(program: bytes, flags: int = 0) -> int:
    """Install a filter: ``program`` is an array of struct sock_filter (8 bytes each, at most 4096). Returns 0, or a
    descriptor with SECCOMP_FILTER_FLAG_NEW_LISTENER. Needs no_new_privs or CAP_SYS_ADMIN. The filter can't be removed.

    With SECCOMP_FILTER_FLAG_TSYNC a thread that can't follow is ESRCH, and nothing is installed.
    """
    if len(program) % 8 or len(program) // 8 > 0xFFFF:
        raise ValueError("a seccomp program is made of 8-byte instructions, at most 65535 in its length field")
    value = _seccomp(constants.SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(_Program(len(program) // 8, program)))
    if value < 0:
        raise failed()
    if value and not flags & constants.SECCOMP_FILTER_FLAG_NEW_LISTENER:  # the id of the thread in the way
        raise failed(errno=ESRCH)
    return value


@syscall("seccomp", action=name("SECCOMP_RET_"))
def seccomp_get_action_avail(action: int) -> None:
    """Ask whether the kernel knows the filter action: EOPNOTSUPP if not."""
    if _seccomp(constants.SECCOMP_GET_ACTION_AVAIL, 0, ctypes.byref(ctypes.c_uint32(action))) < 0:
        raise failed()
