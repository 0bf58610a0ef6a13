"""Ops that make and enter namespaces, and set what belongs to them: clone, unshare, setns, host name, loopback."""

from __future__ import annotations

import os

from nsbook.linux import constants as C
from nsbook.linux import files, network
from nsbook.linux import process as sys_process
from nsbook.spawn.ops.base import Op, Place, Shell, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

LONG_OPTION: dict[str, str] = {
    "mnt": "mount",
    "uts": "uts",
    "ipc": "ipc",
    "pid": "pid",
    "net": "net",
    "user": "user",
    "cgroup": "cgroup",
    "time": "time",
}
"""What unshare(1) and nsenter(1) call each kind of namespace."""


def namespace_bits(kinds: tuple[str, ...]) -> int:
    """CLONE_NEW* bits of the kinds by their names in /proc/PID/ns."""
    bits = 0
    for kind in kinds:
        bits |= C.NAMESPACES[kind]
    return bits


class Clone(Op):
    """Make the process that becomes the container, in new namespaces that only a child can enter."""

    where: ClassVar[str] = "host"
    call: ClassVar[str] = "clone3"
    man: ClassVar[str] = "clone(2)"

    namespaces: tuple[str, ...] = ()
    cgroup: str = ""
    """Version 2: a cgroup directory to be born in (CLONE_INTO_CGROUP), which needs no lock over all tasks."""

    # Executed by the shepherd itself: what follows happens on both sides of it.

    def shell(self) -> Shell:
        options = " ".join(f"--{LONG_OPTION[k]}" for k in self.namespaces)
        if "user" in self.namespaces:
            return Shell("composite", f"unshare {options} --fork (stopped until its id maps are written)")
        return Shell("wrapper", f"unshare {options} --fork" if options else "sh -c")

    def what(self) -> str:
        if not self.namespaces:
            return "make a child process"
        text = "make a child in new namespaces: " + ", ".join(self.namespaces)
        return text + ("; it is process 1 of the new pid namespace" if "pid" in self.namespaces else "")


class Barrier(Op):
    """Both sides wait here for each other."""

    where: ClassVar[str] = "both"
    call: ClassVar[str] = "read"
    man: ClassVar[str] = "unix(7)"

    name_: str
    hold: bool = False
    """The container stays here, made but not started, until it is told to go on."""

    def execute(self, at: Place) -> None:
        """Each side's loop does the waiting."""

    def shell(self) -> Shell:
        return Shell("none", "two processes wait for each other over a socket; a script runs one line after the other anyway")

    def what(self) -> str:
        return f"wait for each other: {self.name_}"


class Unshare(Op):
    """Leave a namespace that is shared with the host for a new one."""

    call: ClassVar[str] = "unshare"
    man: ClassVar[str] = "unshare(2)"

    namespaces: tuple[str, ...]

    def execute(self, at: Place) -> None:
        sys_process.unshare(namespace_bits(self.namespaces))

    def shell(self) -> Shell:
        words = []
        for kind in self.namespaces:
            words.append(f"--{LONG_OPTION[kind]}")
            if kind == "mnt":
                words.append("--propagation unchanged")
        return Shell("wrapper", "unshare " + " ".join(words))

    def what(self) -> str:
        of = {
            "mnt": "its own table of mounts",
            "uts": "its own host name",
            "ipc": "its own message queues and shared memory",
            "net": "its own network: nothing but a loopback that is down",
            "cgroup": "its own view of the control groups",
            "user": "its own user and group ids",
            "pid": "its own process numbers, for its children",
            "time": "its own clocks' offsets, for its children",
        }
        return "; ".join(of[k] for k in self.namespaces)


class Setns(Op):
    """Enter namespaces that exist."""

    call: ClassVar[str] = "setns"
    man: ClassVar[str] = "setns(2)"

    fd: str
    """A slot: a pidfd (then ``namespaces`` says which of that process's) or a descriptor of one namespace."""
    namespaces: tuple[str, ...]

    def execute(self, at: Place) -> None:
        sys_process.setns(at.bind(self.fd), namespace_bits(self.namespaces))

    def shell(self) -> Shell:
        return Shell("wrapper", f'nsenter --target "{self.fd}" ' + " ".join(f"--{LONG_OPTION[k]}" for k in self.namespaces))

    def what(self) -> str:
        return "enter the namespaces: " + ", ".join(self.namespaces)


class Fork(Op):
    """Go on in a child: a process never changes its own pid namespace, only its children's."""

    call: ClassVar[str] = "clone3"
    man: ClassVar[str] = "pid_namespaces(7)"

    def execute(self, at: Place) -> None:
        wait, word = os.pipe()
        pid, _ = sys_process.clone3(C.CLONE_PARENT)
        if pid:
            # CLONE_PARENT made it our sibling: whoever waits for us waits for it. It is told which pid to expect.
            at.slots["control"].send({"forked": pid})
            os.write(word, b"x")
            os._exit(0)
        # Were we killed before that was said, nobody would know of the sibling: so it does nothing before.
        os.close(word)
        if not os.read(wait, 1):
            os._exit(125)
        os.close(wait)

    def shell(self) -> Shell:
        return Shell("wrapper", "unshare --fork")


class LoopbackUp(Op):
    """Switch the new network's loopback on."""

    call: ClassVar[str] = "ioctl"
    man: ClassVar[str] = "netdevice(7)"
    needs: ClassVar[tuple[str, ...]] = ("fcntl",)

    def execute(self, at: Place) -> None:
        network.link_up("lo")

    def shell(self) -> Shell:
        return Shell("statement", "ip link set lo up")

    def what(self) -> str:
        return "switch the loopback interface on"


class SetHostname(Op):
    """Give the container its host name."""

    call: ClassVar[str] = "sethostname"
    man: ClassVar[str] = "sethostname(2)"

    hostname: str

    def execute(self, at: Place) -> None:
        sys_process.sethostname(self.hostname)

    def shell(self) -> Shell:
        return Shell("statement", f"hostname {quote(self.hostname)}")

    def what(self) -> str:
        return f"set the host name to {self.hostname}"


class SetDomainname(Op):
    """Give the container its NIS domain name."""

    call: ClassVar[str] = "setdomainname"
    man: ClassVar[str] = "setdomainname(2)"

    domainname: str

    def execute(self, at: Place) -> None:
        sys_process.setdomainname(self.domainname)

    def shell(self) -> Shell:
        return Shell("statement", f"domainname {quote(self.domainname)}")


class SetSysctl(Op):
    """Set a kernel parameter of the new namespaces."""

    call: ClassVar[str] = "write"
    man: ClassVar[str] = "proc(5)"

    key: str
    value: str

    def execute(self, at: Place) -> None:
        files.write_file("/proc/sys/" + self.key.replace(".", "/"), self.value)

    def shell(self) -> Shell:
        return Shell("statement", f"echo {quote(self.value)} > /proc/sys/{self.key.replace('.', '/')}")

    def what(self) -> str:
        return f"set {self.key} to {self.value}"


class EnterForChildren(Op):
    """Have the children be born in a pid namespace that exists."""

    where: ClassVar[str] = "host"
    call: ClassVar[str] = "setns"
    man: ClassVar[str] = "setns(2)"

    path: str
    kind: str = "pid"

    def execute(self, at: Place) -> None:
        enter(self.path, self.kind)

    def shell(self) -> Shell:
        return Shell("wrapper", f"nsenter --{LONG_OPTION[self.kind]}={quote(self.path)}")

    def what(self) -> str:
        return f"be born in the {self.kind} namespace {self.path}"


class EnterNamespace(Op):
    """Enter a namespace that exists, by its path."""

    call: ClassVar[str] = "setns"
    man: ClassVar[str] = "setns(2)"

    path: str
    kind: str

    def execute(self, at: Place) -> None:
        enter(self.path, self.kind)

    def shell(self) -> Shell:
        return Shell("wrapper", f"nsenter --{LONG_OPTION[self.kind]}={quote(self.path)}")

    def what(self) -> str:
        return f"enter the {self.kind} namespace {self.path}"


def enter(path: str, kind: str) -> None:
    """setns(2) into the namespace file at ``path``."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sys_process.setns(fd, C.NAMESPACES[kind])
    finally:
        os.close(fd)


class SetTimeOffset(Op):
    """Shift a clock of the new time namespace, before anybody is in it."""

    call: ClassVar[str] = "write"
    man: ClassVar[str] = "time_namespaces(7)"

    clock: str
    seconds: int
    nanoseconds: int = 0

    def execute(self, at: Place) -> None:
        files.write_file("/proc/self/timens_offsets", f"{self.clock} {self.seconds} {self.nanoseconds}")

    def option(self) -> str:
        """unshare(1)'s option. It has whole seconds alone."""
        return f"--{self.clock} {self.seconds}"

    def shell(self) -> Shell:
        # Not a line of its own: since Linux 6.3 the exec after unshare enters the namespace, and then it is too late.
        return Shell("composite", f"unshare --time {self.option()}")

    def what(self) -> str:
        return f"shift the clock {self.clock} by {self.seconds} s" + (f" and {self.nanoseconds} ns" if self.nanoseconds else "")


class EnterTimeNamespace(Op):
    """Enter the new time namespace, which unshare made for the children alone."""

    call: ClassVar[str] = "setns"
    man: ClassVar[str] = "time_namespaces(7)"

    def execute(self, at: Place) -> None:
        enter("/proc/self/ns/time_for_children", "time")

    def shell(self) -> Shell:
        return Shell("wrapper", "nsenter --time=/proc/self/ns/time_for_children")
