"""Who a process is and what it may do: capget(2), capset(2), capabilities(7), setresuid(2), prctl(2)."""

from __future__ import annotations

import ctypes
import os

from nsbook.linux import constants
from nsbook.linux.call import entry, failed, flags, integer, pointer, syscall
from nsbook.linux.constants import CAPABILITIES as CAPABILITIES
from nsbook.linux.process import prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from nsbook.linux.call import Show

_prctl = entry("prctl", integer, integer, integer, integer, integer)
_capget = entry("capget", pointer, pointer)
_capset = entry("capset", pointer, pointer)
_Header = ctypes.c_uint32 * 2
_Data = ctypes.c_uint32 * 6
_LOW = 0xFFFFFFFF


@syscall(result=lambda sets: f"effective={sets[0]:#x} permitted={sets[1]:#x} inheritable={sets[2]:#x}")
def capget(pid: int = 0) -> tuple[int, int, int]:
    """The effective, permitted and inheritable sets as bit masks (bit n is capability n): capget(2). 0 is the caller."""
    data = _Data()
    if _capget(_Header(constants._LINUX_CAPABILITY_VERSION_3, pid), data) < 0:
        raise failed()
    effective, permitted, inheritable = (data[i] | data[i + 3] << 32 for i in range(3))
    return effective, permitted, inheritable


@syscall(effective=hex, permitted=hex, inheritable=hex)
def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the calling thread's three sets: capset(2)."""
    low = [mask & _LOW for mask in (effective, permitted, inheritable)]
    high = [mask >> 32 & _LOW for mask in (effective, permitted, inheritable)]
    if _capset(_Header(constants._LINUX_CAPABILITY_VERSION_3, 0), _Data(*low, *high)) < 0:
        raise failed()


def _control(option: int, arg2: int, arg3: int = 0) -> int:
    value = _prctl(option, arg2, arg3, 0, 0)
    if value < 0:
        raise failed()
    return value


def _on(option: str) -> Show:
    """Shows a capability's number behind the prctl option that it is for."""
    return lambda cap: f"{option}, {CAPABILITIES[cap] if 0 <= cap < len(CAPABILITIES) else cap}"


@syscall("prctl", cap=_on("PR_CAPBSET_READ"))
def cap_bset_read(cap: int) -> bool:
    """Whether the bounding set has the capability; EINVAL for one that this kernel does not know."""
    return _control(constants.PR_CAPBSET_READ, cap) == 1


@syscall("prctl", cap=_on("PR_CAPBSET_DROP"))
def cap_bset_drop(cap: int) -> None:
    """Take the capability out of the bounding set, for good. Needs CAP_SETPCAP."""
    _control(constants.PR_CAPBSET_DROP, cap)


@syscall("prctl", cap=_on("PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE"))
def cap_ambient_raise(cap: int) -> None:
    """Add to the ambient set; the capability must be permitted and inheritable."""
    _control(constants.PR_CAP_AMBIENT, constants.PR_CAP_AMBIENT_RAISE, cap)


def cap_ambient_clear() -> None:
    """Empty the ambient set."""
    prctl(constants.PR_CAP_AMBIENT, constants.PR_CAP_AMBIENT_CLEAR_ALL)


def last_cap() -> int:
    """The highest capability number of this kernel (/proc/sys/kernel/cap_last_cap; without /proc, by trying)."""
    try:
        with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        number = 0
        try:
            while number < 63:
                cap_bset_read(number + 1)
                number += 1
        except OSError:  # EINVAL: one too far
            pass
        return number


def set_no_new_privs() -> None:
    """From now on execve(2) gives no privilege that was not there before; it can't be taken back. prctl(2)."""
    prctl(constants.PR_SET_NO_NEW_PRIVS, 1)


def get_securebits() -> int:
    """The securebits flags of capabilities(7)."""
    return prctl(constants.PR_GET_SECUREBITS)


def set_securebits(bits: int) -> None:
    """Set the securebits flags. Needs CAP_SETPCAP."""
    prctl(constants.PR_SET_SECUREBITS, bits)


@syscall()
def setresuid(ruid: int, euid: int, suid: int) -> None:
    """Set real, effective and saved user ids; -1 keeps one: setresuid(2)."""
    os.setresuid(ruid, euid, suid)


@syscall()
def setresgid(rgid: int, egid: int, sgid: int) -> None:
    """Set real, effective and saved group ids; -1 keeps one: setresgid(2)."""
    os.setresgid(rgid, egid, sgid)


@syscall()
def setgroups(groups: Sequence[int]) -> None:
    """Set the supplementary groups: setgroups(2)."""
    os.setgroups(groups)


def capability_names(mask: int) -> tuple[str, ...]:
    """The names of the bits of a mask; a bit without a name is ``CAP_n``."""
    return tuple(CAPABILITIES[n] if n < len(CAPABILITIES) else f"CAP_{n}" for n in range(mask.bit_length()) if mask >> n & 1)


show_securebits = flags("SECBIT_")
"""Securebits by their names."""
