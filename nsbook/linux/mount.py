"""Mounting: mount(2), umount2(2), pivot_root(2), mount_setattr(2), and fsopen(2) with its kin."""

from __future__ import annotations

import ctypes
import os

from nsbook.linux.call import directory, encode, entry, failed, flags, integer, name, octal, pointer, string, syscall
from nsbook.linux.constants import FSCONFIG_SET_BINARY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nsbook.linux.call import Path

_mount = entry("mount", string, string, string, integer, string)
_umount2 = entry("umount2", string, integer)
_pivot_root = entry("pivot_root", string, string)
_open_tree = entry("open_tree", integer, string, integer)
_move_mount = entry("move_mount", integer, string, integer, string, integer)
_fsopen = entry("fsopen", string, integer)
_fsconfig = entry("fsconfig", integer, integer, string, pointer, integer)
_fsmount = entry("fsmount", integer, integer, integer)
_mount_setattr = entry("mount_setattr", integer, string, integer, pointer, integer)


@syscall(mountflags=flags("MS_"))
def mount(
    source: Path | None, target: Path, filesystemtype: str | None = None, mountflags: int = 0, data: str | bytes | None = None
) -> None:
    """Attach a file system, bind or move a tree, remount, or set propagation: mount(2). ``data`` holds at most a page."""
    if _mount(encode(source), encode(target), encode(filesystemtype), mountflags, encode(data)) < 0:
        raise failed(target)


@syscall(flags=flags("MNT_", "UMOUNT_"))
def umount2(target: Path, flags: int = 0) -> None:
    """Detach what is mounted at ``target``: umount2(2)."""
    if _umount2(encode(target), flags) < 0:
        raise failed(target)


@syscall()
def pivot_root(new_root: Path, put_old: Path) -> None:
    """Make ``new_root`` the root mount of this mount namespace and put the old one at ``put_old``: pivot_root(2)."""
    if _pivot_root(encode(new_root), encode(put_old)) < 0:
        raise failed(new_root)


@syscall(dirfd=directory, flags=flags("OPEN_TREE_", "AT_"))
def open_tree(dirfd: int, path: Path, flags: int = 0) -> int:
    """A descriptor for a mount, or, with OPEN_TREE_CLONE, for a detached copy of it: open_tree(2)."""
    fd = _open_tree(dirfd, encode(path), flags)
    if fd < 0:
        raise failed(path)
    return fd


@syscall(from_dirfd=directory, to_dirfd=directory, flags=flags("MOVE_MOUNT_"))
def move_mount(from_dirfd: int, from_path: Path, to_dirfd: int, to_path: Path, flags: int = 0) -> None:
    """Attach a detached mount, or move an attached one: move_mount(2)."""
    if _move_mount(from_dirfd, encode(from_path), to_dirfd, encode(to_path), flags) < 0:
        raise failed(to_path)


@syscall(flags=flags("FSOPEN_"))
def fsopen(fsname: str, flags: int = 0) -> int:
    """A descriptor for a file system yet to be configured: fsopen(2)."""
    fd = _fsopen(encode(fsname), flags)
    if fd < 0:
        raise failed()
    return fd


@syscall(cmd=name("FSCONFIG_"))
def fsconfig(fd: int, cmd: int, key: str | None = None, value: str | bytes | None = None, aux: int = 0) -> None:
    """Set one parameter of the file system, or create it: fsconfig(2).

    On failure the kernel's own words about it, read from ``fd``, are added to the error as a note. A string parameter
    holds at most 255 bytes; FSCONFIG_SET_BINARY's length is ``aux``.
    """
    raw = value if cmd == FSCONFIG_SET_BINARY else encode(value)
    if _fsconfig(fd, cmd, encode(key), raw, aux) < 0:
        error = failed()
        for line in fs_messages(fd):
            error.add_note(f"the kernel says: {line}")
        raise error


@syscall(flags=flags("FSMOUNT_"), attr_flags=flags("MOUNT_ATTR_"))
def fsmount(fd: int, flags: int = 0, attr_flags: int = 0) -> int:
    """A descriptor for a detached mount of the configured file system: fsmount(2)."""
    mounted = _fsmount(fd, flags, attr_flags)
    if mounted < 0:
        raise failed()
    return mounted


@syscall(
    dirfd=directory,
    flags=flags("AT_"),
    attr_set=flags("MOUNT_ATTR_"),
    attr_clr=flags("MOUNT_ATTR_"),
    propagation=flags("MS_"),
    userns_fd=octal,
)
def mount_setattr(
    dirfd: int, path: Path, flags: int = 0, *, attr_set: int = 0, attr_clr: int = 0, propagation: int = 0, userns_fd: int = 0
) -> None:
    """Change the attributes of a mount, with AT_RECURSIVE of all below it at once: mount_setattr(2)."""
    attributes = (ctypes.c_uint64 * 4)(attr_set, attr_clr, propagation, userns_fd)
    if _mount_setattr(dirfd, encode(path), flags, attributes, ctypes.sizeof(attributes)) < 0:
        raise failed(path)


def fs_messages(fd: int) -> tuple[str, ...]:
    """What the kernel noted about the fsopen descriptor (``e``rrors, ``w``arnings, ``i``nformation), taken off its log."""
    lines: list[str] = []
    try:
        while len(lines) < 64:
            lines.append(os.read(fd, 1024).decode("utf-8", "replace").rstrip("\n"))
    except OSError:  # ENODATA: no more; anything else: it is no such descriptor and has nothing to say
        pass
    return tuple(lines)
