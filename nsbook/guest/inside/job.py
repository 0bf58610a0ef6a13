"""One command in the guest: how it is started, fed and heard. posix_spawn(3), pty(7), execve(2)."""

from __future__ import annotations

import os
import signal
import termios

from nsbook.guest.inside.users import User

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypedDict

    class Request(TypedDict):
        """What the host asks for. ``stdin``: ``pipe``, ``null`` or the name of a file in the session's directory."""

        argv: list[str]
        cwd: str
        env: dict[str, str]
        user: str
        stdin: str
        size: tuple[int, int]
        tty: bool


RESET = (signal.SIGPIPE, signal.SIGXFSZ)  # what Python ignores, a command must not inherit


class Refused(Exception):
    """The command could not be started. ``status``: what a shell would say (126, 127), 125 for our own troubles."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Job:
    """A command that runs. Descriptors are -1 once closed; ``credit`` is what may still be sent of its output."""

    def __init__(self, stream: int, credit: int) -> None:
        self.stream = stream
        self.credit = credit
        self.pid = 0
        self.into = self.out = self.err = -1
        self.tty = False
        self.pending = bytearray()
        self.end_of_input = False
        self.cgroups: list[str] = []
        self.status: int | None = None
        self.began = 0.0


def start(job: Job, request: Request, user: User | None, session: int) -> None:
    """Start it (the caller is already in the cgroup in which it shall be born). Raises :class:`Refused`."""
    if job.tty:
        theirs, name = _terminal(job, request, user)
    else:
        theirs, name = _pipes(job, request, session), ""
    try:
        try:
            os.chdir(request["cwd"])
        except OSError as error:
            raise Refused(125, f"working directory {request['cwd']}: {error.strerror} in the guest") from None
        path = find(request["argv"][0], request["env"].get("PATH", os.defpath))
        if user is None:
            job.pid = _spawn(path, request, theirs, name)
        else:
            job.pid = _fork(path, request, theirs, name, user)
    except BaseException:
        for fd in (job.into, job.out, job.err):
            close(fd)
        raise
    finally:
        for fd in set(theirs):
            os.close(fd)
        os.chdir("/")


def close(fd: int) -> None:
    """Close it if it is open."""
    if fd >= 0:
        os.close(fd)


def find(word: str, path: str) -> str:
    """The program's file, as a shell finds it."""
    if "/" in word:
        return word
    refused = False
    for directory in path.split(":"):
        candidate = f"{directory or '.'}/{word}"
        if os.path.isfile(candidate):
            if os.access(candidate, os.X_OK):
                return candidate
            refused = True
    raise Refused(126, f"{word}: permission denied") if refused else Refused(127, f"{word}: not found")


def _pipes(job: Job, request: Request, session: int) -> tuple[int, int, int]:
    if request["stdin"] == "pipe":
        reading, job.into = os.pipe()
        os.set_blocking(job.into, False)
    elif request["stdin"] == "null":
        reading = os.open(os.devnull, os.O_RDONLY)
    else:
        reading = os.open(request["stdin"], os.O_RDONLY, dir_fd=session)
    job.out, writing = os.pipe()
    job.err, complaining = os.pipe()
    os.set_blocking(job.out, False)
    os.set_blocking(job.err, False)
    return reading, writing, complaining


def _terminal(job: Job, request: Request, user: User | None) -> tuple[tuple[int, int, int], str]:
    ours, theirs = os.openpty()
    name = os.ttyname(theirs)
    rows, columns = request["size"]
    if rows and columns:
        termios.tcsetwinsize(ours, (rows, columns))
    if user is not None:
        os.chown(name, user.uid, user.gid)
    os.set_blocking(ours, False)
    job.out, job.into = ours, os.dup(ours)
    return (theirs, theirs, theirs), name


def _spawn(path: str, request: Request, theirs: tuple[int, int, int], tty: str) -> int:
    """As root: posix_spawn(3), since copying this process's memory for a fork takes twice as long in the guest."""
    reading, writing, complaining = theirs
    actions: list[tuple[int, int, str, int, int] | tuple[int, int, int]] = []
    if tty:  # opened by the leader of a new session: it becomes its controlling terminal
        actions.append((os.POSIX_SPAWN_OPEN, 0, tty, os.O_RDWR, 0))
        actions += [(os.POSIX_SPAWN_DUP2, 0, 1), (os.POSIX_SPAWN_DUP2, 0, 2)]
    else:
        actions += [(os.POSIX_SPAWN_DUP2, fd, n) for n, fd in enumerate((reading, writing, complaining))]
    try:
        return os.posix_spawn(path, request["argv"], request["env"], file_actions=actions, setsid=True, setsigdef=RESET)
    except OSError as error:
        raise _not_run(path, error.errno or 0) from None


def _fork(path: str, request: Request, theirs: tuple[int, int, int], tty: str, user: User) -> int:
    """As somebody else."""
    hear, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            fds = (os.open(tty, os.O_RDWR),) * 3 if tty else theirs
            for n, fd in enumerate(fds):
                os.dup2(fd, n)
            for number in RESET:
                signal.signal(number, signal.SIG_DFL)
            os.setgroups(user.groups)
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)
            os.chdir(request["cwd"])
            os.execve(path, request["argv"], request["env"])
        except OSError as error:
            os.write(tell, str(error.errno).encode())
        finally:
            os._exit(127)
    os.close(tell)
    try:
        refusal = os.read(hear, 16)
    finally:
        os.close(hear)
    if refusal:
        os.waitpid(pid, 0)
        raise _not_run(path, int(refusal))
    return pid


def _not_run(path: str, errno: int) -> Refused:
    return Refused(127 if errno == 2 else 126, f"{path}: {os.strerror(errno)}")
