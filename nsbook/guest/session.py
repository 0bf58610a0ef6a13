"""What one guest has on the host: a directory that goes with it, and the process that sees to that."""

from __future__ import annotations

import marshal
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

import nsbook
from nsbook.guest.inside.tree import NEW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from nsbook.guest.channel import Channel
    from nsbook.guest.inside.tree import Plan

DISK_SIZE = 16 << 30  # sparse: takes what is written, no more
PREFIX = "nsbook-guest-"
ENDING = 10.0
"""Seconds that the keeper has for cleaning up."""
SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+@")


class Session:
    """``path`` holds the plan, the start script, the console's log, the scratch disk and spooled input."""

    def __init__(self) -> None:
        base = os.path.realpath(tempfile.gettempdir())
        if not SAFE.issuperset(base):  # it goes on a kernel's command line
            base = "/tmp"
        self.path = tempfile.mkdtemp(prefix=PREFIX, dir=base)
        self.console = f"{self.path}/console"
        self.python = f"{self.path}/python"
        self.start = f"{self.path}/start"
        self.disk = ""
        self.engine_pid = 0
        self._spooled = 0

    def make_disk(self) -> None:
        """A sparse ext4 disk, if mkfs.ext4 is here; without one the guest's scratch is in its memory."""
        mkfs = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if mkfs is None:
            return
        disk = f"{self.path}/disk"
        with open(disk, "wb") as file:
            file.truncate(DISK_SIZE)
        made = subprocess.run(
            [mkfs, "-q", "-F", "-m", "0", "-O", "^has_journal,^resize_inode", "-E", "lazy_itable_init=1,nodiscard", disk],
            capture_output=True,
            check=False,
        )
        if made.returncode:
            os.unlink(disk)
            return
        self.disk = disk

    def write(self, plan: Plan) -> None:
        """The plan, and what the kernel starts as its first process."""
        with open(f"{self.path}/plan", "wb") as file:
            file.write(marshal.dumps(dict(plan)))
        os.symlink(plan["python"], self.python)
        with open(self.start, "w") as text:
            text.write(f"import sys\nsys.path[:0] = {plan['path']!r}\n")
            text.write(f"from nsbook.guest.inside.start import main\nmain({self.path!r})\n")

    def spool(self, data: bytes) -> str:
        """Much input for a command goes by a file: the serial line takes in no more than a megabyte a second."""
        self._spooled += 1
        name = f"stdin-{self._spooled}"
        with open(f"{self.path}/{name}", "wb") as file:
            file.write(data)
        return name

    def drop(self, name: str) -> None:
        """The command has it open now."""
        os.unlink(f"{self.path}/{name}")

    def console_tail(self, size: int = 3000) -> str:
        """The last words on the console."""
        try:
            with open(self.console, "rb") as file:
                file.seek(max(0, os.path.getsize(self.console) - size))
                return file.read().decode("utf-8", "replace").strip()
        except OSError:
            return ""

    def remove(self) -> None:
        """All of it."""
        shutil.rmtree(self.path, ignore_errors=True)


def interpreter() -> str:
    """The Python that also runs in the guest: this one, outside of any virtual environment."""
    return os.path.realpath(sys.executable)


def import_path() -> list[str]:
    """Where the guest finds this package."""
    return [os.path.dirname(os.path.dirname(os.path.abspath(nsbook.__file__)))]


def below_new(path: str) -> bool:
    """Whether the guest has a directory of its own in this path's place."""
    return any(path.startswith(f"{new}/") for new in NEW)


def shown(extra: Iterable[str]) -> list[str]:
    """Directories that a command will look for although the guest hides them: those named, the Python environment, the way
    to this package, the working directory."""
    wanted = [*extra, *reachable()]
    found: list[str] = []
    for path in sorted({os.path.realpath(w) for w in wanted if w}):
        if below_new(path) and os.path.isdir(path) and not any(path == f or path.startswith(f"{f}/") for f in found):
            found.append(path)
    return found


def reachable() -> list[str]:
    """Directories to which an ordinary user of the guest must find the way."""
    environment = [os.environ.get("VIRTUAL_ENV", ""), sys.prefix, sys.base_prefix, os.path.dirname(interpreter())]
    places = [os.getcwd(), *environment, *import_path(), *(p for p in os.environ.get("PATH", "").split(":") if os.path.isdir(p))]
    return [p for p in dict.fromkeys(places) if p]


def launch_keeper(control: socket.socket, line: socket.socket) -> subprocess.Popen[bytes]:
    """The process that will hold the engine: see :mod:`.keeper`."""
    text = f"import sys; sys.path[:0] = {import_path()!r}; from nsbook.guest.keeper import main; main()"
    return subprocess.Popen(
        [interpreter(), "-I", "-S", "-c", text],
        stdin=control.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        pass_fds=[line.fileno()],
        start_new_session=True,
    )


def finish(owner: int, keeper: subprocess.Popen[bytes], control: socket.socket, where: Session, channel: Channel) -> None:
    """Tell the keeper, and wait until it has cleaned up; do it here should the keeper be gone."""
    if os.getpid() != owner:  # a fork of the owner has no say in this
        return
    channel.close()
    control.close()
    try:
        keeper.wait(ENDING)
    except subprocess.TimeoutExpired:
        keeper.kill()
        keeper.wait()
    if keeper.returncode and where.engine_pid:  # it was killed: what it would have done is done here
        try:
            os.killpg(where.engine_pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    where.remove()
