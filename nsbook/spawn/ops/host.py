"""Ops that run on the host side: values written, id maps, and the ends of processes."""

from __future__ import annotations

import errno
import os
import time

from nsbook.linux import files
from nsbook.linux import process as sys_process
from nsbook.spawn.channel import wait_readable
from nsbook.spawn.ops.base import Op, Place, Shell, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class WriteFile(Op):
    """Write a value to a file of the kernel's (a limit, a setting)."""

    where: ClassVar[str] = "host"
    call: ClassVar[str] = "write"
    man: ClassVar[str] = "cgroups(7)"

    path: str
    text: str
    why: str = ""
    optional: bool = False
    """Nothing is lost where the kernel was built without this file (swap accounting)."""

    def execute(self, at: Place) -> None:
        try:
            files.write_file(self.path, self.text)
        except FileNotFoundError:
            if not self.optional:
                raise

    def shell(self) -> Shell:
        return Shell("statement", f"echo {quote(self.text)} > {quote(self.path)}" + (" || true" if self.optional else ""))

    def what(self) -> str:
        return self.why or f"set {os.path.basename(self.path)} to {self.text}"


class WriteIdMap(Op):
    """Say which ids of the user namespace are which outside: (inside, outside, how many) ranges."""

    where: ClassVar[str] = "host"
    call: ClassVar[str] = "write"
    man: ClassVar[str] = "user_namespaces(7)"

    kind: str
    """``uid`` or ``gid``."""
    ranges: tuple[tuple[int, int, int], ...]
    tool: str = ""
    """``newuidmap`` or ``newgidmap`` where an ordinary user maps more than their own id; empty: write the file."""
    pid: str = "$child"

    def execute(self, at: Place) -> None:
        pid = at.bind(self.pid)
        if self.tool:
            _run_tool([self.tool, str(pid), *(str(n) for r in self.ranges for n in r)])
            return
        if self.kind == "gid" and os.geteuid() != 0:
            files.write_file(f"/proc/{pid}/setgroups", "deny")
        files.write_file(f"/proc/{pid}/{self.kind}_map", "".join(f"{a} {b} {n}\n" for a, b, n in self.ranges))

    def shell(self) -> Shell:
        if self.tool:
            return Shell("statement", f'{self.tool} "$child" ' + " ".join(str(n) for r in self.ranges for n in r))
        text = "\\n".join(f"{a} {b} {n}" for a, b, n in self.ranges)
        deny = '[ "$(id -u)" = 0 ] || echo deny > "/proc/$child/setgroups"; ' if self.kind == "gid" else ""
        return Shell("statement", f'{deny}printf "{text}\\n" > "/proc/$child/{self.kind}_map"')

    def what(self) -> str:
        return ", ".join(f"{self.kind} {a} inside is {b} outside" + (f" (and {n - 1} more)" if n > 1 else "") for a, b, n in self.ranges)


def _run_tool(argv: list[str]) -> None:
    """A set-uid helper: run it, and raise what it said."""
    read, write = os.pipe()
    try:
        actions = [(os.POSIX_SPAWN_DUP2, write, 2), (os.POSIX_SPAWN_DUP2, write, 1)]
        pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions)
    except OSError as error:
        error.add_note(f"running {argv[0]} (package uidmap)")
        raise
    finally:
        os.close(write)
    with open(read, "rb") as stream:
        said = stream.read().decode(errors="replace").strip()
    _, status = os.waitpid(pid, 0)
    if status:
        refused = OSError(errno.EPERM, said or f"{argv[0]} failed with status {os.waitstatus_to_exitcode(status)}")
        refused.add_note(" ".join(argv))
        raise refused


def half_built_name(run: str) -> bytes:
    """By what name (PR_SET_NAME) a process of that run is known before its exec gives it its environment."""
    from binascii import crc32

    return b"nsb-%08x" % crc32(run.encode("utf-8", "surrogateescape"))


class KillRun(Op):
    """End the processes that carry a run id in their environment, and a half-built one that has its name."""

    where: ClassVar[str] = "host"
    call: ClassVar[str] = "kill"
    man: ClassVar[str] = "kill(2)"

    run: str

    def execute(self, at: Place) -> None:
        while self._pass():
            pass  # who was killed may just have forked

    def _pass(self) -> bool:
        """End all that are found; whether there were any."""
        killed = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            try:
                pidfd = sys_process.pidfd_open(int(entry))
            except OSError:
                continue
            try:
                if self._is_ours(entry):
                    sys_process.pidfd_send_signal(pidfd, 9)
                    killed.append(os.dup(pidfd))
            except OSError:
                continue
            finally:
                os.close(pidfd)
        gone = False
        for pidfd in killed:  # what they have open and mounted goes with them, so wait until they have ended
            gone |= wait_readable(pidfd, 2.0)
            os.close(pidfd)
        return gone

    def _is_ours(self, pid: str) -> bool:
        if files.read_bytes(f"/proc/{pid}/comm") == half_built_name(self.run) + b"\n":
            return files.read_bytes(f"/proc/{pid}/stat").rpartition(b") ")[2][:1] != b"Z"  # a zombie has ended, and keeps its name
        needle = f"NSBOOK_RUN={self.run}".encode("utf-8", "surrogateescape")
        for _ in range(50):
            variables = files.read_bytes(f"/proc/{pid}/environ")
            if variables:
                return needle in variables.split(b"\0")
            if files.read_bytes(f"/proc/{pid}/cmdline"):
                return False  # it was given none
            os.readlink(f"/proc/{pid}/exe")  # fails for a thread of the kernel's and for a zombie: they have neither
            time.sleep(0.0005)  # in the middle of an exec: the new one is not there yet
        return False

    def shell(self) -> Shell:
        return Shell("statement", f"grep -lsz '^NSBOOK_RUN={self.run}$' /proc/[0-9]*/environ | cut -d/ -f3 | xargs -r kill -9")

    def what(self) -> str:
        return f"end what is left of run {self.run}"
