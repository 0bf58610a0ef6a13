"""A directory tree reached from its root only, as :manpage:`openat2(2)` does it.

Entries of an archive name paths. Whoever joins such a path to a directory's and opens the result follows whatever
symlinks an earlier entry has put on the way. Here each new parent directory is resolved by the kernel with
``RESOLVE_IN_ROOT``: absolute symlinks and ``..`` stay inside, as after chroot(2), and no check of strings is involved.
The descriptors of parents are kept, since entries of one directory follow each other; they are dropped as soon as
something that could have been on their way (a symlink, a directory) is taken away.
"""

from __future__ import annotations

import errno
import os

from nsbook.errors import UnsafeArchive, Unsupported
from nsbook.linux.files import open_in_root

KEPT = 64
"""How many descriptors of parents are kept at most."""

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_REFUSED = {
    errno.ELOOP: "a loop of symlinks",
    errno.ENOTDIR: "something that is no directory",
    errno.ENAMETOOLONG: "a name that is too long",
    errno.EXDEV: "a way out of the root",
    errno.EINVAL: "a name that the file system refuses",
    errno.EILSEQ: "a name that the file system refuses",
}


class Rooted:
    """The tree below ``directory``. A context manager: closing it closes all its descriptors."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._parents: dict[bytes, int] = {}

    def __enter__(self) -> Rooted:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every descriptor."""
        self.forget()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def forget(self) -> None:
        """Drop the kept descriptors: the way to them may have changed."""
        for fd in self._parents.values():
            os.close(fd)
        self._parents.clear()

    def parent(self, path: bytes, *, make: bool = True) -> int:
        """A descriptor (O_PATH) of the directory ``path``; b"" is the root. It stays ours: not to be closed.

        With ``make`` missing directories are made (0755), as every unpacker does. UnsafeArchive where the way leads
        through something that is no directory.
        """
        if not path:
            return self.fd
        fd = self._parents.pop(path, None)
        if fd is not None:
            self._parents[path] = fd  # the last used is the last to go
            return fd
        try:
            fd = self.open(path, _DIRECTORY)
        except FileNotFoundError:
            if not make:
                raise
            fd = self._make(path)
        if len(self._parents) >= KEPT:
            oldest = next(iter(self._parents))
            os.close(self._parents.pop(oldest))
        self._parents[path] = fd
        return fd

    def open(self, path: bytes, flags: int) -> int:
        """openat2(2) below the root; the descriptor is the caller's. FileNotFoundError, UnsafeArchive, Unsupported."""
        try:
            return open_in_root(self.fd, path, flags)
        except OSError as error:
            if error.errno in _REFUSED:
                raise UnsafeArchive(f"{_text(path)}: the way leads through {_REFUSED[error.errno]}") from error
            if error.errno == errno.ENOSYS:
                raise Unsupported(
                    "unpacking an image",
                    "openat2(2), by which entries are kept inside of the root, is not there",
                    "Linux 5.6 or newer, or a sandbox that lets it through",
                ) from error
            raise

    def _make(self, path: bytes) -> int:
        above, _, name = path.rpartition(b"/")
        at = self.parent(above)
        try:
            os.mkdir(name, 0o755, dir_fd=at)
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.fchmod(fd, 0o755)  # whatever the umask
            return fd
        except FileExistsError:
            raise UnsafeArchive(f"{_text(path)}: a symlink to nowhere stands where a directory should be") from None


def remove(at: int, name: bytes) -> None:
    """Take away ``name`` in the directory ``at``, and if it is a directory all that is in it. Follows no symlink.

    However deep the tree, it takes no recursion and three descriptors: what lies in a directory's directories is moved up
    until there is nothing left in them.
    """
    try:
        os.unlink(name, dir_fd=at)
        return
    except IsADirectoryError:
        pass
    top = _open(at, name)
    try:
        moved = 0
        while children := os.listdir(top):
            for child in map(os.fsencode, children):
                try:
                    os.unlink(child, dir_fd=top)
                    continue
                except IsADirectoryError:
                    pass
                try:
                    os.rmdir(child, dir_fd=top)
                    continue
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                inner = _open(top, child)
                try:
                    for grandchild in map(os.fsencode, os.listdir(inner)):
                        try:
                            os.unlink(grandchild, dir_fd=inner)
                        except IsADirectoryError:
                            moved += 1
                            os.close(_open(inner, grandchild))
                            os.rename(grandchild, b"\1moved-%d" % moved, src_dir_fd=inner, dst_dir_fd=top)
                finally:
                    os.close(inner)
                os.rmdir(child, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=at)


def _open(at: int, name: bytes) -> int:
    """A directory, made accessible to its owner first: the archive may have said otherwise."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=at)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=at)
        fd = os.open(name, flags, dir_fd=at)
    if os.fstat(fd).st_mode & 0o700 != 0o700:
        os.fchmod(fd, 0o700)
    return fd


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
