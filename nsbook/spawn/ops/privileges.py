"""Ops that give up what a container must not have: capabilities, user ids, new privileges, system calls."""

from __future__ import annotations

from nsbook.linux import constants as C
from nsbook.linux import credentials
from nsbook.linux import process as sys_process
from nsbook.linux import seccomp as sys_seccomp
from nsbook.spawn.ops.base import Op, Place, Shell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class DropBounding(Op):
    """Drop what no program of the container may ever get from the bounding set."""

    call: ClassVar[str] = "prctl"
    man: ClassVar[str] = "capabilities(7)"

    keep: tuple[str, ...]

    def execute(self, at: Place) -> None:
        keep = {credentials.CAPABILITIES.index(name) for name in self.keep}
        for number in range(credentials.last_cap() + 1):
            if number not in keep:
                credentials.cap_bset_drop(number)

    def shell(self) -> Shell:
        words = ",".join(["-all", *(f"+{n.removeprefix('CAP_').lower()}" for n in self.keep)])
        return Shell("wrapper", f"setpriv --bounding-set={words}")

    def what(self) -> str:
        return f"keep {len(self.keep)} capabilities in the bounding set, drop the rest"


class SetUser(Op):
    """Become the container's user, with its groups."""

    call: ClassVar[str] = "setresuid"
    man: ClassVar[str] = "credentials(7)"

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    keep_capabilities: bool = False
    set_groups: bool = True

    def execute(self, at: Place) -> None:
        if self.keep_capabilities:
            sys_process.prctl(C.PR_SET_KEEPCAPS, 1)
        if self.set_groups:
            credentials.setgroups(self.groups)
        credentials.setresgid(self.gid, self.gid, self.gid)
        credentials.setresuid(self.uid, self.uid, self.uid)
        if self.keep_capabilities:
            sys_process.prctl(C.PR_SET_KEEPCAPS, 0)

    def shell(self) -> Shell:
        if not self.set_groups:
            groups = "--keep-groups"
        else:
            groups = "--groups=" + ",".join(map(str, self.groups)) if self.groups else "--clear-groups"
        return Shell("wrapper", f"setpriv --reuid={self.uid} --regid={self.gid} {groups}")

    def what(self) -> str:
        return f"become user {self.uid}, group {self.gid}"


class SetCapabilities(Op):
    """Set what the process may do now, may take up, and hands on."""

    call: ClassVar[str] = "capset"
    man: ClassVar[str] = "capabilities(7)"

    effective: tuple[str, ...]
    permitted: tuple[str, ...]
    inheritable: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()

    def execute(self, at: Place) -> None:
        credentials.capset(_mask(self.effective), _mask(self.permitted), _mask(self.inheritable))
        credentials.cap_ambient_clear()
        for name in self.ambient:
            credentials.cap_ambient_raise(credentials.CAPABILITIES.index(name))

    def shell(self) -> Shell:
        inheritable = ",".join(["-all", *(f"+{n.removeprefix('CAP_').lower()}" for n in self.inheritable)])
        ambient = ",".join(["-all", *(f"+{n.removeprefix('CAP_').lower()}" for n in self.ambient)])
        return Shell("wrapper", f"setpriv --inh-caps={inheritable} --ambient-caps={ambient}")

    def what(self) -> str:
        return f"keep {len(self.effective)} capabilities in effect"


class NoNewPrivileges(Op):
    """Let no set-uid program or file capability ever give more than there is now."""

    call: ClassVar[str] = "prctl"
    man: ClassVar[str] = "PR_SET_NO_NEW_PRIVS(2const)"

    def execute(self, at: Place) -> None:
        credentials.set_no_new_privs()

    def shell(self) -> Shell:
        return Shell("wrapper", "setpriv --no-new-privs")


class LoadSeccomp(Op):
    """Filter the system calls: the program runs before each one."""

    call: ClassVar[str] = "seccomp"
    man: ClassVar[str] = "seccomp(2)"
    needs: ClassVar[tuple[str, ...]] = ("binascii",)

    program: str
    """The compiled filter, in base64."""
    profile: str = ""
    flags: int = 0

    def execute(self, at: Place) -> None:
        from binascii import a2b_base64

        sys_seccomp.seccomp_set_mode_filter(a2b_base64(self.program), self.flags)

    def shell(self) -> Shell:
        return Shell(
            "none",
            "a program for the kernel's filter machine has no line of shell (setpriv --seccomp-filter came with util-linux 2.40)",
        )

    def what(self) -> str:
        return f"load the system-call filter {self.profile or ''}: {len(self.program) * 3 // 4 // 8} instructions".replace(" :", ":")


def _mask(names: tuple[str, ...]) -> int:
    bits = 0
    for name in names:
        bits |= 1 << credentials.CAPABILITIES.index(name)
    return bits
