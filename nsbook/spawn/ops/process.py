"""Ops that shape the process itself: limits, session, streams, working directory, init, exec."""

from __future__ import annotations

import errno
import os
import resource
import signal

from nsbook.linux import constants as C
from nsbook.linux import files
from nsbook.linux import mount as sys_mount
from nsbook.linux import process as sys_process
from nsbook.spawn.ops.base import Op, Place, Shell, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class SetRlimit(Op):
    """Set a resource limit, soft and hard."""

    call: ClassVar[str] = "prlimit64"
    man: ClassVar[str] = "getrlimit(2)"

    resource: str
    soft: int
    hard: int

    def execute(self, at: Place) -> None:
        number = 10 if self.resource == "RLIMIT_LOCKS" else getattr(resource, self.resource)  # Python doesn't list that one
        sys_process.prlimit64(0, number, (_limit(self.soft), _limit(self.hard)))

    def shell(self) -> Shell:
        option = self.resource.removeprefix("RLIMIT_").lower()
        show = [("unlimited" if v < 0 or v >= 2**63 else str(v)) for v in (self.soft, self.hard)]
        return Shell("statement", f"prlimit --pid $$ --{option}={':'.join(show)}")

    def what(self) -> str:
        return f"limit {self.resource.removeprefix('RLIMIT_').lower()} to {self.soft} (at most {self.hard})"


def _limit(value: int) -> int:
    return resource.RLIM_INFINITY if value < 0 or value >= 2**63 else value


class NewSession(Op):
    """Become the leader of a session of its own, so that the caller's terminal signals don't reach it."""

    call: ClassVar[str] = "setsid"
    man: ClassVar[str] = "setsid(2)"
    needs: ClassVar[tuple[str, ...]] = ("fcntl", "termios")

    terminal: str = ""
    """A slot: a terminal that becomes the controlling one."""

    def execute(self, at: Place) -> None:
        sys_process.setsid()
        if self.terminal:
            import fcntl
            import termios

            fcntl.ioctl(at.bind(self.terminal), termios.TIOCSCTTY, 0)

    def shell(self) -> Shell:
        return Shell("wrapper", "setsid --ctty" if self.terminal else "setsid")


class ChangeDirectory(Op):
    """Go to the container's working directory."""

    call: ClassVar[str] = "chdir"
    man: ClassVar[str] = "chdir(2)"

    path: str
    create: bool = False

    def execute(self, at: Place) -> None:
        if self.create:
            os.makedirs(self.path, 0o755, exist_ok=True)
        files.chdir(self.path)

    def shell(self) -> Shell:
        make = f"mkdir -p {quote(self.path)}; " if self.create else ""
        return Shell("statement", f"{make}cd {quote(self.path)}")

    def what(self) -> str:
        return f"go to {self.path}"


class OpenTerminal(Op):
    """Open a terminal of the container's own, hand its master end out, and make it /dev/console."""

    call: ClassVar[str] = "open"
    man: ClassVar[str] = "pts(4)"
    needs: ClassVar[tuple[str, ...]] = ("fcntl", "termios", "array", "socket")

    def execute(self, at: Place) -> None:
        import array
        import fcntl
        import socket

        master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            # TIOCSPTLCK and TIOCGPTN of ioctl_tty(2), which the termios module does not have before Python 3.13.
            fcntl.ioctl(master, 0x40045431, b"\0\0\0\0")
            number = int.from_bytes(fcntl.ioctl(master, 0x80045430, b"\0\0\0\0"), "little")
            name = f"/dev/pts/{number}"
            terminal = os.open(name, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
            with socket.socket(fileno=os.dup(at.bind("$console"))) as console:
                console.sendmsg([b"/dev/ptmx"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [master]))])
        finally:
            os.close(master)
        try:
            os.close(os.open("/dev/console", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            sys_mount.mount(name, "/dev/console", None, C.MS_BIND, None)
        except PermissionError:
            pass  # an exec'd process lacks the privilege, and the first one's console stays
        at.slots.update(stdin=terminal, stdout=terminal, stderr=terminal)

    def shell(self) -> Shell:
        return Shell("none", "a script runs on the terminal that it is given")


class SetUmask(Op):
    """Set the mask of file modes."""

    call: ClassVar[str] = "umask"
    man: ClassVar[str] = "umask(2)"

    mask: int

    def execute(self, at: Place) -> None:
        os.umask(self.mask)

    def shell(self) -> Shell:
        return Shell("statement", f"umask {self.mask:04o}")

    def what(self) -> str:
        return f"set the umask to {self.mask:04o}"


class SetOomScore(Op):
    """Say how willingly the kernel's out-of-memory killer takes this process."""

    call: ClassVar[str] = "write"
    man: ClassVar[str] = "proc_pid_oom_score_adj(5)"

    score: int

    def execute(self, at: Place) -> None:
        files.write_file("/proc/self/oom_score_adj", str(self.score))

    def shell(self) -> Shell:
        return Shell("statement", f"echo {self.score} > /proc/self/oom_score_adj")


class ConnectStreams(Op):
    """Connect standard input, output and error, and close all other descriptors at exec."""

    call: ClassVar[str] = "dup3"
    man: ClassVar[str] = "dup(2)"

    stdin: str = "$stdin"
    stdout: str = "$stdout"
    stderr: str = "$stderr"
    preserve: int = 0
    """How many descriptors after 2 are handed on as they are (podman's --preserve-fds)."""

    def execute(self, at: Place) -> None:
        wanted = [at.bind(self.stdin), at.bind(self.stdout), at.bind(self.stderr)]
        # One of them may sit at 0..2 already, where another is about to go.
        moved = [os.dup(fd) if fd != number and fd <= 2 else fd for number, fd in enumerate(wanted)]
        for number, fd in enumerate(moved):
            if fd == number:
                os.set_inheritable(fd, True)
            else:
                os.dup2(fd, number)
        for fd in moved:
            if fd > 2 and fd not in wanted:
                os.close(fd)
        sys_process.close_range(3 + self.preserve, 0xFFFFFFFF, C.CLOSE_RANGE_CLOEXEC)

    def shell(self) -> Shell:
        return Shell("none", "a script's standard streams are handed on as they are")


class Init(Op):
    """Stay as process 1: reap the orphans, forward signals, and end when the command ends."""

    call: ClassVar[str] = "clone3"
    man: ClassVar[str] = "pid_namespaces(7)"

    needs: ClassVar[tuple[str, ...]] = ("nsbook.spawn.init",)

    def execute(self, at: Place) -> None:
        from nsbook.spawn.init import stay_as_init

        stay_as_init(at)

    def shell(self) -> Shell:
        return Shell("wrapper", "sh -c '\"$@\"; exit $?' init")


def candidates(name: str, path: str) -> list[str]:
    """Where a command of that name may lie: execvp(3)'s rule."""
    if "/" in name:
        return [name]
    return [f"{directory or '.'}/{name}" for directory in path.split(":")] if path else []


class Exec(Op):
    """Become the command: the last step, after which nothing of nsbook is left in the process."""

    call: ClassVar[str] = "execve"
    man: ClassVar[str] = "execve(2)"

    argv: tuple[str, ...]
    env: tuple[str, ...] = ()

    def execute(self, at: Place) -> None:
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP):
                try:
                    if signal.getsignal(number) not in (signal.SIG_DFL, None):
                        signal.signal(number, signal.SIG_DFL)
                except (OSError, ValueError):
                    continue
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        env = dict(e.partition("=")[::2] for e in self.env)
        refused: OSError | None = None
        for path in candidates(self.argv[0], env.get("PATH", "")):
            try:
                sys_process.execve(path, self.argv, env)
            except FileNotFoundError as error:
                refused = refused or error
            except (NotADirectoryError, PermissionError) as error:
                # As execvp(3): go on looking, but remember that something was there.
                refused = error if refused is None or refused.errno == errno.ENOENT else refused
        raise refused or FileNotFoundError(errno.ENOENT, "no such program in the container's PATH", self.argv[0])

    def shell(self) -> Shell:
        env = " ".join(quote(e) for e in self.env)
        return Shell("statement", f"exec env -i {env} " + " ".join(map(quote, self.argv)))

    def what(self) -> str:
        words = " ".join(" ".join(self.argv).split())
        return "become " + (words if len(words) <= 60 else words[:59] + "…")
