"""The process that holds a guest, so that the guest never outlives who asked for it.

It starts the engine in a process group of its own, collects what the engine leaves (PR_SET_CHILD_SUBREAPER), and ends it
all when the owner closes its socket or is gone, in whatever way: then the group is killed, all is reaped, and the session's
directory removed. It has one thread and nothing to do in between.
"""

from __future__ import annotations

import marshal
import os
import select
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypedDict

    class Order(TypedDict):
        """What to start and what to remove in the end."""

        owner: int
        command: list[str]
        environment: dict[str, str]
        console: str
        session: str
        keep: list[int]


PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Standard input is the socket to the owner; the order comes first on it, its length before it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    size = int.from_bytes(read_exactly(4), "big")
    order: Order = marshal.loads(read_exactly(size))
    watched = select.poll()
    watched.register(0, select.POLLIN | select.POLLHUP)
    try:
        watched.register(os.pidfd_open(order["owner"]), select.POLLIN)
    except OSError:
        pass  # gone already, which the socket says too; or a filter that does not know the call
    pid = start(order)
    tell(f"pid {pid}\n")
    collect_orphans()
    try:
        watched.register(os.pidfd_open(pid), select.POLLIN)
    except OSError:
        pass
    status: int | None = None
    while True:
        for fd, _ in watched.poll():
            if fd == 0 or status is not None:
                finish(order, pid)
            ended, code = os.waitpid(pid, os.WNOHANG)
            if not ended:  # then it was the owner who went
                finish(order, pid)
            status = code
            tell(f"ended {os.waitstatus_to_exitcode(code)}\n")
            watched.unregister(fd)


def read_exactly(size: int) -> bytes:
    """From the owner; nothing at all if it is gone."""
    data = b""
    while len(data) < size:
        more = os.read(0, size - len(data))
        if not more:
            os._exit(0)
        data += more
    return data


def tell(text: str) -> None:
    """To the owner, if it is still there."""
    try:
        os.write(0, text.encode())
    except OSError:
        pass


def start(order: Order) -> int:
    """The engine. Its descriptors are closed here, so that its line goes dead with the owner."""
    actions: list[tuple[int, int, str, int, int] | tuple[int, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, order["console"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    default = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGXFSZ)
    command = order["command"]
    try:
        pid = os.posix_spawn(command[0], command, order["environment"], file_actions=actions, setpgroup=0, setsigdef=default)
    except OSError as error:
        tell(f"refused {error}\n")
        finish(order, 0)
    for fd in order["keep"]:
        os.close(fd)
    return pid


def collect_orphans() -> None:
    """Engines have helper processes, and nobody else may be there to reap them."""
    from nsbook.linux.process import prctl

    prctl(PR_SET_CHILD_SUBREAPER, 1)


def finish(order: Order, pid: int) -> None:
    """End the engine, reap everything, remove the session's directory. Never returns."""
    if pid:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    try:
        while True:
            os.wait()
    except ChildProcessError:
        pass
    from shutil import rmtree

    rmtree(order["session"], ignore_errors=True)
    os._exit(0)
