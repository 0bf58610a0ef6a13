"""Ops that give the container its own view of the file system, from the private mount namespace to ``pivot_root``.

Targets lie below ``root``, the directory that is going to be the container's ``/``. An image is foreign content: its
``/proc`` may be a symbolic link to ``/etc``. So a target is never followed by its name; it is opened with openat2(2) and
RESOLVE_IN_ROOT, which treats ``root`` as the root of every link, and the mount is put on what that opened.
"""

from __future__ import annotations

import errno
import os

from nsbook.linux import constants as C
from nsbook.linux import files
from nsbook.linux import mount as sys_mount
from nsbook.spawn.ops.base import Op, Place, Shell, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

FLAGS: dict[str, int] = {
    "ro": C.MS_RDONLY,
    "nosuid": C.MS_NOSUID,
    "nodev": C.MS_NODEV,
    "noexec": C.MS_NOEXEC,
    "sync": C.MS_SYNCHRONOUS,
    "dirsync": C.MS_DIRSYNC,
    "noatime": C.MS_NOATIME,
    "nodiratime": C.MS_NODIRATIME,
    "relatime": C.MS_RELATIME,
    "strictatime": C.MS_STRICTATIME,
}
"""Mount options that are flags of mount(2), by the names that mount(8) gives them."""

RECURSIVE: dict[str, int] = {
    "rro": C.MOUNT_ATTR_RDONLY,
    "rnosuid": C.MOUNT_ATTR_NOSUID,
    "rnodev": C.MOUNT_ATTR_NODEV,
    "rnoexec": C.MOUNT_ATTR_NOEXEC,
}
"""Those that hold for all mounts below, too (runtime-spec, config.md, "Linux mount options")."""

PROPAGATION: dict[str, int] = {
    "private": C.MS_PRIVATE,
    "slave": C.MS_SLAVE,
    "shared": C.MS_SHARED,
    "unbindable": C.MS_UNBINDABLE,
}


def flag_bits(names: tuple[str, ...]) -> int:
    """``("nosuid", "ro")`` as bits."""
    bits = 0
    for name in names:
        bits |= FLAGS[name]
    return bits


def open_target(at: Place, root: str, target: str, create: str) -> int:
    """An O_PATH descriptor of ``target`` inside ``root``, made first if it is missing (``create``: dir, file or "")."""
    root_fd = at.root_fd(root)
    path = target.lstrip("/") or "."
    try:
        return files.open_in_root(root_fd, path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        if not create:
            raise
    here = os.dup(root_fd)
    parts = [p for p in path.split("/") if p not in ("", ".")]
    try:
        for i in range(1, len(parts) + 1):
            prefix = "/".join(parts[:i])
            last = i == len(parts)
            try:
                there = files.open_in_root(root_fd, prefix, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                if last and create == "file":
                    os.close(os.open(parts[-1], os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=here))
                else:
                    files.mkdir(parts[i - 1], 0o755, dir_fd=here)
                there = files.open_in_root(root_fd, prefix, os.O_PATH | os.O_CLOEXEC)
            os.close(here)
            here = there
        return os.dup(here)
    finally:
        os.close(here)


def magic(fd: int) -> str:
    """A path that means exactly what ``fd`` is open on."""
    return f"/proc/self/fd/{fd}"


class SetPropagation(Op):
    """Cut the mounts off from the host: what is mounted from now on stays in here."""

    call: ClassVar[str] = "mount"
    man: ClassVar[str] = "mount_namespaces(7)"

    path: str = "/"
    mode: str = "private"
    recursive: bool = True

    def execute(self, at: Place) -> None:
        sys_mount.mount(None, self.path, None, PROPAGATION[self.mode] | (C.MS_REC if self.recursive else 0), None)

    def shell(self) -> Shell:
        return Shell("statement", f"mount --make-{'r' if self.recursive else ''}{self.mode} {quote(self.path)}")

    def what(self) -> str:
        return f"make {'every mount' if self.recursive else 'the mount'} {self.mode}: nothing spreads to or from the host"


class MountOverlay(Op):
    """Stack the image's read-only layers and lay one writable layer on top."""

    call: ClassVar[str] = "mount"
    man: ClassVar[str] = "mount(2), Documentation/filesystems/overlayfs"

    lowerdirs: tuple[str, ...]
    """Top first, as the kernel orders them."""
    target: str
    upperdir: str = ""
    workdir: str = ""
    userxattr: bool = False

    def options(self) -> tuple[tuple[str, str], ...]:
        """Everything but the lower directories."""
        out: list[tuple[str, str]] = []
        if self.upperdir:
            out += [("upperdir", self.upperdir), ("workdir", self.workdir)]
        if self.userxattr:
            out.append(("userxattr", ""))
        return tuple(out)

    def execute(self, at: Place) -> None:
        data = self.data(escape=True)
        odd = any(c in d for d in (*self.lowerdirs, self.upperdir, self.workdir) for c in ":,\\")
        if not odd and len(data) < 4000:
            sys_mount.mount("overlay", self.target, "overlay", 0, data)
        else:
            self._by_fsconfig()
        at.forget_root(self.target)

    def _by_fsconfig(self) -> None:
        """More layers than a page of text holds, or names with its separators: one ``lowerdir+`` each (Linux 6.5)."""
        fd = sys_mount.fsopen("overlay", C.FSOPEN_CLOEXEC)
        try:
            for lower in self.lowerdirs:
                sys_mount.fsconfig(fd, C.FSCONFIG_SET_STRING, "lowerdir+", lower, 0)
            for key, value in self.options():
                if value:
                    sys_mount.fsconfig(fd, C.FSCONFIG_SET_STRING, key, value, 0)
                else:
                    sys_mount.fsconfig(fd, C.FSCONFIG_SET_FLAG, key, None, 0)
            sys_mount.fsconfig(fd, C.FSCONFIG_CMD_CREATE, None, None, 0)
            made = sys_mount.fsmount(fd, C.FSMOUNT_CLOEXEC, 0)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS):
                raise
            sys_mount.mount("overlay", self.target, "overlay", 0, self.data(escape=True))
            return
        finally:
            os.close(fd)
        try:
            sys_mount.move_mount(made, "", C.AT_FDCWD, self.target, C.MOVE_MOUNT_F_EMPTY_PATH)
        finally:
            os.close(made)

    def data(self, *, escape: bool) -> str:
        """The option string of mount(2)."""

        def safe(path: str) -> str:
            return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,") if escape else path

        parts = ["lowerdir=" + ":".join(safe(d) for d in self.lowerdirs)]
        parts += [f"{k}={safe(v)}" if v else k for k, v in self.options()]
        return ",".join(parts)

    def shell(self) -> Shell:
        return Shell("statement", f"mount -t overlay -o {quote(self.data(escape=True))} overlay {quote(self.target)}")

    def what(self) -> str:
        n = len(self.lowerdirs)
        return f"stack {n} read-only layer{'s' * (n != 1)}" + (" under one writable layer" if self.upperdir else "")


class Mount(Op):
    """Mount a file system of the kernel's own inside the new root."""

    call: ClassVar[str] = "mount"
    man: ClassVar[str] = "mount(2)"

    fstype: str
    target: str
    root: str = ""
    source: str = ""
    flags: tuple[str, ...] = ()
    data: str = ""
    optional: bool = False
    """The container works without it too (a message queue file system that the kernel lacks)."""

    def execute(self, at: Place) -> None:
        fd = open_target(at, self.root or "/", self.target, "dir")
        try:
            sys_mount.mount(self.source or self.fstype, magic(fd), self.fstype, flag_bits(self.flags), self.data or None)
        except OSError as error:
            if not (self.optional and error.errno in (errno.ENODEV, errno.EPERM)):
                raise
        finally:
            os.close(fd)

    def shell(self) -> Shell:
        options = ",".join((*self.flags, *([self.data] if self.data else [])))
        target = quote(self.root + self.target)
        line = f"mount -t {self.fstype} {'-o ' + quote(options) + ' ' if options else ''}{quote(self.source or self.fstype)} {target}"
        return Shell("statement", f"mkdir -p {target}; {line}" + (" || true" if self.optional else ""))

    def what(self) -> str:
        return f"mount {self.fstype} on {self.target}"


class BindMount(Op):
    """Show a directory or file of the host at a place inside the new root."""

    call: ClassVar[str] = "mount"
    man: ClassVar[str] = "mount(2)"

    source: str
    target: str
    root: str = ""
    recursive: bool = True
    flags: tuple[str, ...] = ()
    propagation: str = ""

    def execute(self, at: Place) -> None:
        kind = "dir" if os.path.isdir(self.source) else "file"
        fd = open_target(at, self.root or "/", self.target, kind)
        try:
            sys_mount.mount(self.source, magic(fd), None, C.MS_BIND | (C.MS_REC if self.recursive else 0), None)
        finally:
            os.close(fd)
        if self.target == "/":
            at.forget_root(self.root)
        if not self.flags and not self.propagation:
            return
        fd = open_target(at, self.root or "/", self.target, "")
        try:
            plain = tuple([f for f in self.flags if f not in RECURSIVE])
            if plain:
                remount(fd, plain)
            if len(plain) < len(self.flags):
                remount_all(fd, tuple([f for f in self.flags if f in RECURSIVE]))
            if self.propagation:
                bits = PROPAGATION[self.propagation.removeprefix("r")]
                sys_mount.mount(None, magic(fd), None, bits | (C.MS_REC if self.propagation.startswith("r") else 0), None)
        finally:
            os.close(fd)

    def shell(self) -> Shell:
        target = quote(self.root + self.target)
        make = f"[ -d {quote(self.source)} ] && mkdir -p {target} || {{ mkdir -p $(dirname {target}); : >> {target}; }}"
        lines = [make, f"mount --{'r' if self.recursive else ''}bind {quote(self.source)} {target}"]
        plain = ",".join(f for f in self.flags if f not in RECURSIVE)
        below = ",".join(f[1:] for f in self.flags if f in RECURSIVE)
        if plain:
            lines.append(f"mount -o remount,bind,{plain} {target}")
        if below:
            lines.append(f'findmnt -Rlno TARGET {target} | while IFS= read -r m; do mount -o remount,bind,{below} "$m"; done')
        if self.propagation:
            lines.append(f"mount --make-{self.propagation} {target}")
        return Shell("statement", "; ".join(lines))

    def what(self) -> str:
        read_only = " (read-only)" if "ro" in self.flags or "rro" in self.flags else ""
        return f"show the host's {self.source} at {self.target}{read_only}"


def remount(fd: int, flags: tuple[str, ...], path: str = "") -> None:
    """Change the flags of the mount that ``fd`` is on. In a user namespace, flags that the host's mount has are locked:
    the kernel answers EPERM to any attempt to drop them, so what is there is kept."""
    bits = C.MS_REMOUNT | C.MS_BIND | flag_bits(flags)
    try:
        sys_mount.mount(None, path or magic(fd), None, bits, None)
    except PermissionError:
        have = os.fstatvfs(fd).f_flag
        locked = have & (os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME)
        relatime = C.MS_RELATIME if have & os.ST_RELATIME else 0
        sys_mount.mount(None, path or magic(fd), None, bits | locked | relatime, None)


def remount_all(fd: int, flags: tuple[str, ...]) -> None:
    """Set flags of :data:`RECURSIVE` on the mount that ``fd`` is on and on all below it, at once where the kernel can
    (mount_setattr, Linux 5.12), else one after the other."""
    bits = 0
    for flag in flags:
        bits |= RECURSIVE[flag]
    try:
        sys_mount.mount_setattr(fd, "", C.AT_EMPTY_PATH | C.AT_RECURSIVE, attr_set=bits)
        return
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
    from nsbook.linux.mountinfo import mountinfo

    top = os.readlink(magic(fd))
    for mount in mountinfo():
        if mount.mountpoint == top or mount.mountpoint.startswith(top.rstrip("/") + "/"):
            here = os.open(mount.mountpoint, os.O_PATH | os.O_CLOEXEC)
            try:
                remount(here, tuple([f[1:] for f in flags]))
            finally:
                os.close(here)


class MountCgroups(Op):
    """Mount the control groups, read-only: the container sees its own as the root."""

    call: ClassVar[str] = "mount"
    man: ClassVar[str] = "cgroup_namespaces(7)"

    target: str
    root: str
    version: int
    controllers: tuple[str, ...] = ()
    """Version 1: the hierarchies as they are mounted on the host (``cpu,cpuacct``, ``name=systemd``)."""
    read_only: bool = True
    sources: tuple[str, ...] = ()
    """Directories to bind, one for each of ``controllers``, where the hierarchies themselves can't be mounted."""

    def execute(self, at: Place) -> None:
        base = C.MS_NOSUID | C.MS_NODEV | C.MS_NOEXEC
        ro = C.MS_RDONLY if self.read_only else 0
        fd = open_target(at, self.root, self.target, "dir")
        try:
            if self.version == 2:
                sys_mount.mount("cgroup2", magic(fd), "cgroup2", base | ro, None)
                return
            sys_mount.mount("tmpfs", magic(fd), "tmpfs", base, "mode=755")
        finally:
            os.close(fd)
        for number, names in enumerate(self.controllers):
            place = f"{self.target}/{names.removeprefix('name=')}"
            if self.sources:
                flags = ("nosuid", "nodev", "noexec", *(("ro",) if ro else ()))
                BindMount(self.sources[number], place, self.root, False, flags).execute(at)
                continue
            fd = open_target(at, self.root, place, "dir")
            try:
                sys_mount.mount("cgroup", magic(fd), "cgroup", base | ro, ("none," if names.startswith("name=") else "") + names)
            finally:
                os.close(fd)
        if ro:
            fd = open_target(at, self.root, self.target, "")
            try:
                sys_mount.mount(None, magic(fd), None, C.MS_REMOUNT | C.MS_BIND | base | ro, None)
            finally:
                os.close(fd)

    def shell(self) -> Shell:
        target = self.root + self.target
        ro = ",ro" if self.read_only else ""
        opts = "nosuid,nodev,noexec"
        if self.version == 2:
            return Shell("statement", f"mkdir -p {quote(target)}; mount -t cgroup2 -o {opts}{ro} cgroup2 {quote(target)}")
        lines = [f"mkdir -p {quote(target)}", f"mount -t tmpfs -o {opts},mode=755 tmpfs {quote(target)}"]
        for number, names in enumerate(self.controllers):
            place = quote(f"{target}/{names.removeprefix('name=')}")
            if self.sources:
                lines.append(f"mkdir {place}; mount --bind {quote(self.sources[number])} {place}; mount -o remount,bind,{opts}{ro} {place}")
                continue
            none = "none," if names.startswith("name=") else ""
            lines.append(f"mkdir {place}; mount -t cgroup -o {opts}{ro},{none}{names} cgroup {place}")
        if ro:
            lines.append(f"mount -o remount,bind,{opts},ro {quote(target)}")
        return Shell("statement", "; ".join(lines))

    def what(self) -> str:
        return f"mount cgroup v{self.version} on {self.target}" + (", read-only" if self.read_only else "")


class PivotRoot(Op):
    """Make the new root ``/`` and let go of the old one, so that no path leads back."""

    call: ClassVar[str] = "pivot_root"
    man: ClassVar[str] = "pivot_root(2)"

    root: str

    def execute(self, at: Place) -> None:
        old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            files.chdir(self.root)
            # pivot_root(".", "."): the old root is stacked on top of the new one, so no directory is needed for it.
            sys_mount.pivot_root(".", ".")
            files.fchdir(old)
            # The old root must not carry our unmounting back to the host.
            sys_mount.mount(None, ".", None, C.MS_SLAVE | C.MS_REC, None)
            sys_mount.umount2(".", C.MNT_DETACH)
            files.chdir("/")
        finally:
            os.close(old)
        at.forget_root(self.root)

    def shell(self) -> Shell:
        return Shell("statement", f"cd {quote(self.root)}; pivot_root . .; umount -l .; cd /")

    def what(self) -> str:
        return "make the new root / and let go of the host's"


class RemountRoot(Op):
    """Make the container's root read-only."""

    call: ClassVar[str] = "mount"
    man: ClassVar[str] = "mount(2)"

    flags: tuple[str, ...] = ("ro",)

    def execute(self, at: Place) -> None:
        fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remount(fd, self.flags, "/")
        finally:
            os.close(fd)

    def shell(self) -> Shell:
        return Shell("statement", f"mount -o remount,bind,{','.join(self.flags)} /")

    def what(self) -> str:
        return f"remount / {','.join(self.flags)}"
