"""Processes and namespaces: clone3(2), unshare(2), setns(2), pidfd_open(2), waitid(2), prctl(2) and their kin."""

from __future__ import annotations

import ctypes
import os

from nsbook.linux.call import ENOSYS, encode, entry, failed, flags, integer, name, pointer, string, syscall
from nsbook.linux.constants import (
    CLD_EXITED,
    CLONE_CLEAR_SIGHAND,
    CLONE_INTO_CGROUP,
    CLONE_NEWTIME,
    CLONE_PARENT,
    CLONE_PIDFD,
    CLONE_SETTLS,
    CLONE_SIGHAND,
    CLONE_THREAD,
    CLONE_VFORK,
    CLONE_VM,
    P_PIDFD,
    SIGCHLD,
    WCONTINUED,
    WSTOPPED,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from signal import SIG_BLOCK, SIG_SETMASK, pthread_sigmask, valid_signals
    from typing import NoReturn

    from nsbook.linux.call import Path
else:  # the C half of the signal module: the other half costs an enum of every signal
    from _signal import SIG_BLOCK, SIG_SETMASK, pthread_sigmask, valid_signals

_clone3_entry = entry("clone3", pointer, integer, hold_gil=True)
_clone_entry = entry("clone", integer, pointer, pointer, integer, integer, hold_gil=True)
_unshare = entry("unshare", integer)
_setns = entry("setns", integer, integer)
_pidfd_open = entry("pidfd_open", integer, integer)
_pidfd_send_signal = entry("pidfd_send_signal", integer, integer, pointer, integer)
_pidfd_getfd = entry("pidfd_getfd", integer, integer, integer)
_prctl = entry("prctl", integer, pointer, pointer, pointer, pointer)
_sethostname = entry("sethostname", string, integer)
_setdomainname = entry("setdomainname", string, integer)
_close_range = entry("close_range", integer, integer, integer)

_NOT_A_FORK = CLONE_VM | CLONE_VFORK | CLONE_THREAD | CLONE_SIGHAND | CLONE_SETTLS
_ONLY_CLONE3 = CLONE_NEWTIME | CLONE_CLEAR_SIGHAND | CLONE_INTO_CGROUP


@syscall(
    flags=flags("CLONE_"),
    exit_signal=lambda value: "SIGCHLD" if value == SIGCHLD else str(value),
    cgroup=lambda value: None if value < 0 else str(value),
    result=lambda pair: None if pair[0] == 0 else f"{pair[0]} (pidfd {pair[1]})",
)
def clone3(flags: int = 0, *, exit_signal: int = SIGCHLD, cgroup: int = -1) -> tuple[int, int]:
    """Fork, with namespaces: ``(pid, pidfd)`` in the parent, ``(0, -1)`` in the child. clone3(2) with CLONE_PIDFD.

    The child is born in the cgroup v2 directory open as ``cgroup``, if given (CLONE_INTO_CGROUP). Under CLONE_PARENT the
    exit signal is the caller's own. Where clone3 is ENOSYS (Docker's seccomp filter says so on every kernel) clone(2) does
    the same; what only clone3 can do (a cgroup, CLONE_NEWTIME, CLONE_CLEAR_SIGHAND) then fails with ENOSYS.

    For a process with one thread. The interpreter forks rightly: its fork hooks run around the call, and the call keeps
    the GIL. The C library's own (pthread_atfork handlers, malloc's locks) do not run; with one thread nobody can hold one.
    """
    if flags & _NOT_A_FORK:
        raise ValueError("the child of clone3() gets its own copy of the memory: no CLONE_VM, VFORK, THREAD, SIGHAND, SETTLS")
    if flags & CLONE_PARENT:
        exit_signal = 0
    flags |= CLONE_PIDFD | (CLONE_INTO_CGROUP if cgroup >= 0 else 0)
    pidfd = ctypes.c_int(-1)
    place = ctypes.addressof(pidfd)
    wanted = (ctypes.c_uint64 * 11)(flags, place, 0, 0, exit_signal, 0, 0, 0, 0, 0, max(cgroup, 0))

    def call() -> int:
        pid = _clone3_entry(wanted, ctypes.sizeof(wanted))
        if pid < 0 and ctypes.get_errno() == ENOSYS and not flags & _ONLY_CLONE3:
            pid = _clone_entry(flags | exit_signal, None, place, 0, 0)
        return pid

    pid, errno = _fork(call)
    if pid < 0:
        raise failed(errno=errno)
    return (pid, pidfd.value) if pid else (0, -1)


def _fork(call: Callable[[], int]) -> tuple[int, int]:
    """Make the call as :func:`os.fork` would: hooks around it, and no signal handler of Python's in between."""
    python = ctypes.pythonapi
    before, parent, child = python.PyOS_BeforeFork, python.PyOS_AfterFork_Parent, python.PyOS_AfterFork_Child
    mask = pthread_sigmask(SIG_BLOCK, ())
    try:
        pthread_sigmask(SIG_BLOCK, valid_signals())
        before()
        pid = call()
        errno = ctypes.get_errno()
        if pid == 0:
            child()
        else:
            parent()
    finally:
        pthread_sigmask(SIG_SETMASK, mask)
    return pid, errno


@syscall(flags=flags("CLONE_"))
def unshare(flags: int) -> None:
    """Leave namespaces for new ones: unshare(2). Of the calling thread alone, but for CLONE_NEWUSER: EINVAL with threads."""
    if _unshare(flags) < 0:
        raise failed()


@syscall(nstype=flags("CLONE_"))
def setns(fd: int, nstype: int = 0) -> None:
    """Enter the namespace open as ``fd``, or several of the process whose pidfd it is: setns(2)."""
    if _setns(fd, nstype) < 0:
        raise failed()


@syscall()
def pidfd_open(pid: int, flags: int = 0) -> int:
    """A descriptor that stands for the process, whatever becomes of its number: pidfd_open(2)."""
    fd = _pidfd_open(pid, flags)
    if fd < 0:
        raise failed()
    return fd


@syscall()
def pidfd_send_signal(pidfd: int, sig: int) -> None:
    """Signal the process (0 only asks whether it is there): pidfd_send_signal(2)."""
    if _pidfd_send_signal(pidfd, sig, None, 0) < 0:
        raise failed()


@syscall()
def pidfd_getfd(pidfd: int, targetfd: int, flags: int = 0) -> int:
    """A copy of the other process's descriptor ``targetfd``: pidfd_getfd(2). Needs the right to ptrace it."""
    fd = _pidfd_getfd(pidfd, targetfd, flags)
    if fd < 0:
        raise failed()
    return fd


@syscall("waitid", options=flags("W"))
def waitid_pidfd(pidfd: int, options: int) -> tuple[int, int] | None:
    """Wait for the child's end: ``(pid, status)``, status its exit code or minus the signal that killed it. waitid(2).

    ``options`` needs WEXITED. With WNOHANG, None while it runs. Stops and continuations are not waited for here.
    """
    if options & (WSTOPPED | WCONTINUED):
        raise ValueError("waitid_pidfd waits for an exit only")
    got = os.waitid(P_PIDFD, pidfd, options)
    if got is None or got.si_pid == 0:
        return None
    return got.si_pid, got.si_status if got.si_code == CLD_EXITED else -got.si_status


@syscall()
def sethostname(name: str) -> None:
    """Set the host name of this UTS namespace, at most 64 bytes: sethostname(2)."""
    raw = encode(name) or b""
    if _sethostname(raw, len(raw)) < 0:
        raise failed()


@syscall(section=2)
def setdomainname(name: str) -> None:
    """Set the NIS domain name of this UTS namespace, at most 64 bytes: setdomainname(2)."""
    raw = encode(name) or b""
    if _setdomainname(raw, len(raw)) < 0:
        raise failed()


@syscall(option=name("PR_SET_", "PR_GET_", "PR_CAPBSET_", "PR_CAP_AMBIENT"))
def prctl(option: int, arg2: int | bytes = 0, arg3: int | bytes = 0, arg4: int = 0, arg5: int = 0) -> int:
    """Operations on the calling thread: prctl(2). Bytes are passed by address (PR_SET_NAME)."""
    value = _prctl(option, arg2, arg3, arg4, arg5)
    if value < 0:
        raise failed()
    return value


@syscall()
def setsid() -> None:
    """Start a session of one's own: setsid(2)."""
    os.setsid()


@syscall()
def kill(pid: int, sig: int) -> None:
    """Signal a process or a group by its number: kill(2). Prefer a pidfd: numbers are used again."""
    os.kill(pid, sig)


@syscall(first=str, last=str, flags=flags("CLOSE_RANGE_"))
def close_range(first: int, last: int, flags: int = 0) -> None:
    """Close all descriptors from ``first`` to ``last``, both included: close_range(2)."""
    if _close_range(first, last, flags) < 0:
        raise failed()


@syscall(resource=name("RLIMIT_"))
def prlimit64(pid: int, resource: int, limits: tuple[int, int] | None = None) -> tuple[int, int]:
    """Set (unless ``limits`` is None) and return the former soft and hard limit; -1 is no limit: prlimit(2). pid 0 is oneself."""
    from resource import prlimit

    return prlimit(pid, resource) if limits is None else prlimit(pid, resource, limits)


@syscall(argv=lambda value: _words(value), envp=lambda value: f"/* {len(value)} vars */")
def execve(pathname: Path, argv: Sequence[str | bytes], envp: Mapping[str, str]) -> NoReturn:
    """Become another program: execve(2). Returns only by failing (so a success leaves no row)."""
    os.execve(pathname, tuple(argv), envp)


def _words(argv: Sequence[str | bytes]) -> str:
    quoted = ['"' + os.fsdecode(word).replace('"', '\\"') + '"' for word in argv]
    return f"[{', '.join(quoted)}]"
