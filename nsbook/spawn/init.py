"""Process 1 of a container, when one is asked for: it forwards signals to the command and reaps the orphans.

The kernel treats process 1 of a pid namespace specially (pid_namespaces(7)): signals that it has no handler for are
dropped, orphans become its children, and when it ends everything in the namespace is killed. A command that is written
for an ordinary place in the process tree knows nothing of that; this little init stands above it.
"""

from __future__ import annotations

import os
import signal

from nsbook.linux import constants as C
from nsbook.linux import process as sys_process
from nsbook.spawn.ops.base import Place

NOT_FORWARDED = frozenset(
    {
        signal.SIGCHLD,
        signal.SIGKILL,
        signal.SIGSTOP,
        signal.SIGTTIN,
        signal.SIGTTOU,
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGTRAP,
        signal.SIGABRT,
        signal.SIGSYS,
    }
)


def stay_as_init(at: Place) -> None:
    """Returns in the command's process; process 1 stays here until the command ends, and ends with its status."""
    forwarded = {s for s in signal.valid_signals() if s not in NOT_FORWARDED}
    waited = forwarded | {signal.SIGCHLD}
    # Blocked before the fork: a signal that comes in between is kept, and fetched below.
    signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        return
    # The shepherd waits for the end of its channel to learn of the exec: we must not keep a copy open. Nor anything else.
    sys_process.close_range(0, 0xFFFFFFFF, 0)
    sys_process.prctl(C.PR_SET_NAME, b"nsbook-init")
    while True:
        info = signal.sigwaitinfo(waited)
        if info.si_signo != signal.SIGCHLD:
            try:
                os.kill(pid, info.si_signo)
            except ProcessLookupError:
                pass
            continue
        while True:
            try:
                gone, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if gone == 0:
                break
            if gone == pid:
                os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))
