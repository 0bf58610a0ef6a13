"""Files: openat2(2), traced writes, and overlayfs' whiteouts as they lie on disk.

The whiteouts are those of Documentation/filesystems/overlayfs.rst: a character device 0/0 hides the name below, the
extended attribute ``trusted.overlay.opaque`` = ``y`` (``user.overlay.opaque`` where mounted with ``userxattr``) hides
what the directory below contains. The ``.wh.`` names of image layers are not Linux's and not here.
"""

from __future__ import annotations

import ctypes
import os
from time import perf_counter

from nsbook.linux import constants
from nsbook.linux.call import directory, encode, entry, failed, flags, integer, note, octal, pointer, string, syscall
from nsbook.trace import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nsbook.linux.call import Path

_openat2 = entry("openat2", integer, string, pointer, integer)
_S_IFMT, _S_IFCHR, _S_IFBLK, _S_IFIFO = 0o170000, 0o020000, 0o060000, 0o010000
EIO, EAGAIN, ENODATA, EINTR = 5, 11, 61, 4


def _open_flags(value: int) -> str:
    named = constants.flag_names(value, "O_")
    return named if value & os.O_ACCMODE else "O_RDONLY" if named == "0" else f"O_RDONLY|{named}"


def _mode(value: int) -> str:
    kind = {_S_IFCHR: "S_IFCHR|", _S_IFBLK: "S_IFBLK|", _S_IFIFO: "S_IFIFO|"}.get(value & _S_IFMT)
    return f"{kind}{octal(value & ~_S_IFMT)}" if kind else octal(value)


def _device(value: int) -> str:
    return f"makedev({os.major(value):#x}, {os.minor(value):#x})"


def _at(value: int | None) -> str | None:
    return None if value is None else f"dirfd {value}"


@syscall(dirfd=directory, flags=_open_flags, mode=octal, resolve=flags("RESOLVE_"))
def openat2(dirfd: int, path: Path, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Open a file under rules of path resolution: openat2(2). The descriptor is close-on-exec.

    ENOSYS before Linux 5.6 (and where a filter hides it) is left to the caller; so is EAGAIN, which RESOLVE_BENEATH and
    RESOLVE_IN_ROOT give when something on the way was renamed meanwhile.
    """
    how = (ctypes.c_uint64 * 3)(flags | os.O_CLOEXEC, mode, resolve)
    fd = _openat2(dirfd, encode(path), how, ctypes.sizeof(how))
    if fd < 0:
        raise failed(path)
    return fd


def open_in_root(rootfd: int, path: Path, flags: int, mode: int = 0) -> int:
    """Open ``path`` as if ``rootfd`` were the root directory: no symlink, ``..`` or /proc link leads out of it.

    A rename race (EAGAIN) is tried again, up to 32 times.
    """
    resolve = constants.RESOLVE_IN_ROOT | constants.RESOLVE_NO_MAGICLINKS
    for _ in range(31):
        try:
            return openat2(rootfd, path, flags, mode, resolve)
        except OSError as error:
            if error.errno != EAGAIN:
                raise
    return openat2(rootfd, path, flags, mode, resolve)


def write_file(path: Path, content: str | bytes, dir_fd: int | None = None) -> None:
    """Write to an existing file in one write(2), as /proc and cgroup files want it; it is neither made nor truncated.

    A short write is EIO. Recorded with kind ``write``: ``'64M' > /sys/fs/cgroup/x/memory.max``.
    """
    transcript = current.get()
    raw = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    start = perf_counter()
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=dir_fd)
        try:
            if os.write(fd, raw) != len(raw):
                raise failed(errno=EIO)
        finally:
            os.close(fd)
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        shown = f"{raw.decode('utf-8', 'replace')!r} > {os.fsdecode(path)}"
        if transcript is not None:
            usec = (perf_counter() - start) * 1e6
            transcript.add("write", "write", shown, "-1", error.errno or 0, usec, os.getpid())
        note(error, "write", 2, shown, {"path": path, "content": content, "dir_fd": dir_fd})
        raise
    if transcript is not None:
        shown = f"{raw.decode('utf-8', 'replace')!r} > {os.fsdecode(path)}"
        transcript.add("write", "write", shown, str(len(raw)), 0, (perf_counter() - start) * 1e6, os.getpid())


def read_bytes(path: Path) -> bytes:
    """A file's whole content; made for /proc and /sys, whose files have no size."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def read_file(path: Path) -> str:
    """A file's whole content as text, no line ending translated, bytes that are no UTF-8 kept as surrogates."""
    return read_bytes(path).decode("utf-8", "surrogateescape")


@syscall(mode=octal, dir_fd=_at)
def mkdir(path: Path, mode: int = 0o777, dir_fd: int | None = None) -> None:
    """mkdir(2)."""
    os.mkdir(path, mode, dir_fd=dir_fd)


@syscall(dir_fd=_at)
def rmdir(path: Path, dir_fd: int | None = None) -> None:
    """rmdir(2)."""
    os.rmdir(path, dir_fd=dir_fd)


@syscall(mode=_mode, device=_device, dir_fd=_at)
def mknod(path: Path, mode: int, device: int = 0, dir_fd: int | None = None) -> None:
    """Make a device node, FIFO or file: mknod(2). ``mode`` contains the type; devices need CAP_MKNOD."""
    os.mknod(path, mode, device, dir_fd=dir_fd)


@syscall(dir_fd=_at)
def symlink(target: Path, linkpath: Path, dir_fd: int | None = None) -> None:
    """symlink(2)."""
    os.symlink(target, linkpath, dir_fd=dir_fd)


@syscall(mode=octal, dir_fd=_at)
def chmod(path: Path | int, mode: int, dir_fd: int | None = None) -> None:
    """chmod(2)."""
    os.chmod(path, mode, dir_fd=dir_fd)


@syscall(dir_fd=_at)
def chown(path: Path | int, uid: int, gid: int, dir_fd: int | None = None, follow_symlinks: bool = True) -> None:
    """chown(2)."""
    os.chown(path, uid, gid, dir_fd=dir_fd, follow_symlinks=follow_symlinks)


@syscall(dir_fd=_at)
def unlink(path: Path, dir_fd: int | None = None) -> None:
    """unlink(2)."""
    os.unlink(path, dir_fd=dir_fd)


@syscall()
def chdir(path: Path) -> None:
    """chdir(2)."""
    os.chdir(path)


@syscall()
def fchdir(fd: int) -> None:
    """fchdir(2)."""
    os.fchdir(fd)


@syscall()
def chroot(path: Path) -> None:
    """chroot(2). A container wants pivot_root: a process with CAP_SYS_CHROOT gets out of a chroot."""
    os.chroot(path)


@syscall()
def getxattr(path: Path | int, name: str, follow_symlinks: bool = True) -> bytes:
    """getxattr(2). ENODATA where there is no such attribute."""
    return os.getxattr(path, name, follow_symlinks=follow_symlinks)


@syscall(flags=octal)
def setxattr(path: Path | int, name: str, value: bytes, flags: int = 0, follow_symlinks: bool = True) -> None:
    """setxattr(2)."""
    os.setxattr(path, name, value, flags, follow_symlinks=follow_symlinks)


@syscall()
def listxattr(path: Path | int, follow_symlinks: bool = True) -> list[str]:
    """listxattr(2). Without privilege, ``trusted.`` attributes are not listed."""
    return os.listxattr(path, follow_symlinks=follow_symlinks)


def is_whiteout(status: os.stat_result) -> bool:
    """Whether an lstat result is that of an overlayfs whiteout: a character device with number 0/0."""
    return status.st_mode & _S_IFMT == _S_IFCHR and status.st_rdev == 0


def make_whiteout(dirfd: int, name: str) -> None:
    """Make a whiteout in the directory. Linux allows device 0/0 to everybody (since 5.8)."""
    mknod(name, _S_IFCHR, 0, dirfd)


def _opaque(user: bool) -> str:
    return f"{'user' if user else 'trusted'}.overlay.opaque"


def is_opaque(path: Path | int, *, user: bool = False) -> bool:
    """Whether the directory hides what lies below it. ``user``: as an overlay mounted with ``userxattr`` marks it."""
    try:
        return os.getxattr(path, _opaque(user), follow_symlinks=isinstance(path, int)) == b"y"
    except OSError as error:
        if error.errno in (ENODATA, 95):  # not set; ENOTSUP: this file system keeps no such attributes
            return False
        raise


def set_opaque(path: Path | int, *, user: bool = False) -> None:
    """Let the directory hide what lies below it. ``trusted.`` attributes need CAP_SYS_ADMIN."""
    setxattr(path, _opaque(user), b"y", 0, isinstance(path, int))
