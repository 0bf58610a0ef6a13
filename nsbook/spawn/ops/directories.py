"""Ops that make a directory of nsbook's on the host, and remove it again with all that is in it."""

from __future__ import annotations

import errno
import os

from nsbook.linux import files
from nsbook.spawn.ops.base import Op, Place, Shell, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class MakeDirectory(Op):
    """Make a directory on the host."""

    where: ClassVar[str] = "host"
    call: ClassVar[str] = "mkdir"
    man: ClassVar[str] = "mkdir(2)"

    path: str
    mode: int = 0o755
    uid_map: tuple[tuple[int, int, int], ...] = ()
    gid_map: tuple[tuple[int, int, int], ...] = ()

    def execute(self, at: Place) -> None:
        try:
            files.mkdir(self.path, self.mode)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self.path), 0o755, exist_ok=True)
            files.mkdir(self.path, self.mode)

    def shell(self) -> Shell:
        return Shell("statement", f"mkdir -p -m {self.mode:o} {quote(self.path)}")

    def what(self) -> str:
        return f"make the directory {self.path}"

    def taken(self) -> str:
        return self.path if os.path.lexists(self.path) else ""

    def undo(self) -> tuple[Op, ...]:
        return (RemoveTree(self.path, self.uid_map, self.gid_map),)


class RemoveTree(Op):
    """Remove a directory of nsbook's with all that is in it."""

    where: ClassVar[str] = "host"
    call: ClassVar[str] = "unlinkat"
    man: ClassVar[str] = "unlinkat(2)"

    path: str
    uid_map: tuple[tuple[int, int, int], ...] = ()
    gid_map: tuple[tuple[int, int, int], ...] = ()

    def execute(self, at: Place) -> None:
        if os.path.ismount(self.path):
            raise OSError(errno.EBUSY, "something is still mounted there: not removed", self.path)
        try:
            remove_tree(self.path)
        except PermissionError:
            if not self.uid_map:
                raise
            from nsbook.spawn.subids import as_root_of

            as_root_of(self.uid_map, self.gid_map, self.path)

    def shell(self) -> Shell:
        return Shell("statement", f"rm -rf --one-file-system {quote(self.path)}")

    def what(self) -> str:
        return f"remove {self.path}"


def remove_tree(path: str) -> None:
    """``rm -rf`` that never crosses into another file system, and opens directories that were left at mode 000. Somebody
    else may be removing the same."""
    try:
        _remove(path)
    except FileNotFoundError:
        pass


def _remove(path: str) -> None:
    try:
        os.rmdir(path)
        return
    except NotADirectoryError:
        os.unlink(path)
        return
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except PermissionError:
        os.chmod(path, 0o700)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _empty(fd, os.fstat(fd).st_dev)
    finally:
        os.close(fd)
    os.rmdir(path)


def _empty(fd: int, device: int) -> None:
    for name in os.listdir(fd):
        try:
            _remove_entry(fd, name, device)
        except FileNotFoundError:
            continue


def _remove_entry(fd: int, name: str, device: int) -> None:
    try:
        os.unlink(name, dir_fd=fd)
        return
    except IsADirectoryError:
        pass
    except PermissionError:
        if not _is_directory(fd, name):
            mode = os.fstat(fd).st_mode
            if mode & 0o300 == 0o300:
                raise
            os.fchmod(fd, 0o700)
            os.unlink(name, dir_fd=fd)
            return
    try:
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
    try:
        if os.fstat(inner).st_dev != device:
            raise OSError(errno.EXDEV, "another file system is mounted there: not removed", name)
        if os.fstat(inner).st_mode & 0o300 != 0o300:
            os.fchmod(inner, 0o700)
        _empty(inner, device)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=fd)


def _is_directory(fd: int, name: str) -> bool:
    import stat

    return stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
