"""Ops that furnish the new root: device nodes, links, and the paths that are hidden or made read-only."""

from __future__ import annotations

import os
import stat

from nsbook.linux import constants as C
from nsbook.linux import files
from nsbook.linux import mount as sys_mount
from nsbook.spawn.ops.base import Op, Place, Shell, quote
from nsbook.spawn.ops.mounts import magic, open_target, remount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class MakeDevice(Op):
    """Make a device node, or bind the host's where the kernel lets nobody make one (in a user namespace)."""

    call: ClassVar[str] = "mknod"
    man: ClassVar[str] = "mknod(2)"

    path: str
    root: str
    major: int
    minor: int
    kind: str = "c"
    mode: int = 0o666
    uid: int = 0
    gid: int = 0
    bind: str = ""

    def execute(self, at: Place) -> None:
        if self.bind:
            fd = open_target(at, self.root, self.path, "file")
            try:
                sys_mount.mount(self.bind, magic(fd), None, C.MS_BIND, None)
            finally:
                os.close(fd)
            return
        parent, _, name = self.path.rpartition("/")
        fd = open_target(at, self.root, parent, "dir")
        try:
            kind = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}[self.kind]
            files.mknod(name, kind | self.mode, os.makedev(self.major, self.minor), dir_fd=fd)
            os.chmod(name, self.mode, dir_fd=fd)  # whatever the umask says
            if self.uid or self.gid:
                os.chown(name, self.uid, self.gid, dir_fd=fd, follow_symlinks=False)
        except FileExistsError:
            pass
        finally:
            os.close(fd)

    def shell(self) -> Shell:
        place = quote(self.root + self.path)
        if self.bind:
            return Shell("statement", f": > {place}; mount --bind {quote(self.bind)} {place}")
        return Shell("statement", f"mknod -m {self.mode:o} {place} {self.kind} {self.major} {self.minor}")

    def what(self) -> str:
        return f"make {self.path}" if not self.bind else f"show the host's {self.bind}: nobody makes devices in a user namespace"


class MakeLink(Op):
    """Make a symbolic link inside the new root."""

    call: ClassVar[str] = "symlinkat"
    man: ClassVar[str] = "symlink(2)"

    path: str
    to: str
    root: str

    def execute(self, at: Place) -> None:
        parent, _, name = self.path.rpartition("/")
        fd = open_target(at, self.root, parent, "dir")
        try:
            files.symlink(self.to, name, dir_fd=fd)
        except FileExistsError:
            pass
        finally:
            os.close(fd)

    def shell(self) -> Shell:
        return Shell("statement", f"ln -s {quote(self.to)} {quote(self.root + self.path)}")

    def what(self) -> str:
        return f"make {self.path} a link to {self.to}"


class MaskPath(Op):
    """Hide a path that tells or changes too much about the host."""

    call: ClassVar[str] = "mount"
    man: ClassVar[str] = "mount(2)"

    path: str
    root: str = ""

    def execute(self, at: Place) -> None:
        try:
            fd = open_target(at, self.root or "/", self.path, "")
        except FileNotFoundError:
            return
        try:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                sys_mount.mount("tmpfs", magic(fd), "tmpfs", C.MS_RDONLY | C.MS_NOSUID | C.MS_NODEV | C.MS_NOEXEC, "size=0k,nr_inodes=1")
            else:
                sys_mount.mount("/dev/null", magic(fd), None, C.MS_BIND, None)
        finally:
            os.close(fd)

    def shell(self) -> Shell:
        p = quote(self.root + self.path)
        return Shell(
            "statement",
            f"[ -d {p} ] && mount -t tmpfs -o ro,nosuid,nodev,noexec,size=0k,nr_inodes=1 tmpfs {p} || "
            f"{{ [ ! -e {p} ] || mount --bind /dev/null {p}; }}",
        )

    def what(self) -> str:
        return f"hide {self.path}"


class ReadOnlyPath(Op):
    """Let a path be read but not written."""

    call: ClassVar[str] = "mount"
    man: ClassVar[str] = "mount(2)"

    path: str
    root: str = ""

    def execute(self, at: Place) -> None:
        try:
            fd = open_target(at, self.root or "/", self.path, "")
        except FileNotFoundError:
            return
        try:
            sys_mount.mount(magic(fd), magic(fd), None, C.MS_BIND | C.MS_REC, None)
        finally:
            os.close(fd)
        fd = open_target(at, self.root or "/", self.path, "")
        try:
            remount(fd, ("ro", "nosuid", "nodev", "noexec"))
        finally:
            os.close(fd)

    def shell(self) -> Shell:
        p = quote(self.root + self.path)
        return Shell("statement", f"[ ! -e {p} ] || {{ mount --rbind {p} {p}; mount -o remount,bind,ro,nosuid,nodev,noexec {p}; }}")

    def what(self) -> str:
        return f"make {self.path} read-only"
