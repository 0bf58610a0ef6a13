"""Mounts on the host, where everybody sees them, and the way to take them off again: only what was put on.

By its path alone, ``umount`` takes off whatever is on top there: if the mounting itself was refused, that would be
somebody else's mount. So an op is told beforehand which mount it is going to lie on (``beneath``, its id in
/proc/self/mountinfo), and its inverse touches nothing but what lies directly on that one.
"""

from __future__ import annotations

import errno

from nsbook.linux import constants as C
from nsbook.linux import mount as sys_mount
from nsbook.linux.mountinfo import mountinfo
from nsbook.spawn.ops.base import Op, Place, Shell, quote
from nsbook.spawn.ops.mounts import PROPAGATION, MountOverlay, flag_bits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class Unmount(Op):
    """Take a mount off again."""

    where: ClassVar[str] = "host"
    call: ClassVar[str] = "umount2"
    man: ClassVar[str] = "umount(2)"

    target: str
    detach: bool = False
    beneath: int = 0
    """The id of the mount that it lies on; 0: take off whatever is on top."""

    def execute(self, at: Place) -> None:
        # Looked up, not tried: umount2 refuses one without privilege before it finds that nothing is there to be undone.
        here = [m for m in mountinfo() if m.mountpoint == self.target]
        ours = {m.id for m in here if m.parent == self.beneath or not self.beneath}
        if not ours:
            return
        if self.beneath and any(m.parent in ours for m in here):
            raise OSError(errno.EBUSY, "something else has been mounted on top of it: unmount that first", self.target)
        try:
            sys_mount.umount2(self.target, (C.MNT_DETACH if self.detach else 0) | C.UMOUNT_NOFOLLOW)
        except OSError as error:
            # EINVAL: not a mount point (any more); ENOENT: not even a directory. Undone already.
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise

    def shell(self) -> Shell:
        return Shell("statement", f"umount {'-l ' if self.detach else ''}{quote(self.target)}")

    def what(self) -> str:
        return f"unmount {self.target}"


class HostOverlay(MountOverlay):
    """Stack layers on the host, where everybody sees them."""

    where: ClassVar[str] = "host"

    beneath: int = 0

    def undo(self) -> tuple[Op, ...]:
        return (Unmount(self.target, False, self.beneath),)


class HostMount(Op):
    """Mount something on the host, where everybody sees it."""

    where: ClassVar[str] = "host"
    call: ClassVar[str] = "mount"
    man: ClassVar[str] = "mount(2)"

    target: str
    fstype: str = ""
    """Empty: a bind mount of ``source``."""
    source: str = ""
    flags: tuple[str, ...] = ()
    data: str = ""
    propagation: str = "private"
    recursive: bool = False
    """A bind mount with all that is mounted below."""
    beneath: int = 0

    def execute(self, at: Place) -> None:
        bits = flag_bits(self.flags)
        # Submounts that came along must not stay peers of the originals: unmounting them would unmount those, too.
        deep = C.MS_REC if self.recursive else 0
        if self.fstype:
            sys_mount.mount(self.source or self.fstype, self.target, self.fstype, bits, self.data or None)
        else:
            sys_mount.mount(self.source, self.target, None, C.MS_BIND | deep, None)
        if self.propagation:
            sys_mount.mount(None, self.target, None, PROPAGATION[self.propagation] | deep, None)
        if bits and not self.fstype:
            sys_mount.mount(None, self.target, None, C.MS_REMOUNT | C.MS_BIND | bits, None)

    def shell(self) -> Shell:
        options = ",".join((*self.flags, *([self.data] if self.data else [])))
        target = quote(self.target)
        deep = "r" if self.recursive else ""
        if self.fstype:
            lines = [
                f"mount -t {self.fstype} {'-o ' + quote(options) + ' ' if options else ''}{quote(self.source or self.fstype)} {target}"
            ]
        else:
            lines = [f"mount --{deep}bind {quote(self.source)} {target}"]
        if self.propagation:
            lines.append(f"mount --make-{deep}{self.propagation} {target}")
        if options and not self.fstype:
            lines.append(f"mount -o remount,bind,{quote(options)} {target}")
        return Shell("statement", "; ".join(lines))

    def what(self) -> str:
        return f"mount {self.fstype} on {self.target}" if self.fstype else f"show {self.source} at {self.target} too"

    def undo(self) -> tuple[Op, ...]:
        return (Unmount(self.target, True, self.beneath),)
