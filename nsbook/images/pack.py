"""From a directory to a layer: the tar of what is in it, in an order that depends on nothing but the names.

Owners, modes, times to the nanosecond, xattrs (file capabilities and ACLs are xattrs), hard links, devices and fifos
are kept; sockets are not, as they mean nothing without their process. Without privilege ``trusted.`` attributes are not
seen, and a file that can't be read is an error.
"""

from __future__ import annotations

import os
import stat

from nsbook.errors import ImageError
from nsbook.images.stream import CHUNK
from nsbook.images.tar import BLOCK, XATTR, Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
}
_TYPES = {"file": b"0", "hardlink": b"1", "symlink": b"2", "char": b"3", "block": b"4", "dir": b"5", "fifo": b"6"}
_OVERLAY = ("trusted.overlay.", "user.overlay.")

TRAILER = bytes(2 * BLOCK)
"""What ends an archive."""


def pack(directory: str | os.PathLike[str]) -> Iterator[bytes]:
    """The uncompressed tar, in pieces. Symlinks are packed, never followed. ImageError where a file changes size meanwhile
    or can't be read."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        top = os.open(directory, flags)
    except OSError as error:
        raise ImageError(f"{os.fspath(directory)}: {error.strerror}") from error
    try:
        yield from _entry(top, b".", b"./", {})
        yield from _directory(top, b"", {})
    finally:
        os.close(top)
    yield TRAILER


def _directory(at: int, prefix: bytes, links: dict[tuple[int, int], bytes]) -> Iterator[bytes]:
    for name in sorted(map(os.fsencode, os.listdir(at))):
        path = prefix + name
        try:
            mode = os.stat(name, dir_fd=at, follow_symlinks=False).st_mode
            if not stat.S_ISDIR(mode):
                yield from _entry(at, name, path, links)
                continue
            yield from _entry(at, name, path + b"/", links)
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        except OSError as error:
            raise ImageError(f"{path.decode('utf-8', 'surrogateescape')}: {error.strerror}") from error
        try:
            yield from _directory(inner, path + b"/", links)
        finally:
            os.close(inner)


def _entry(at: int, name: bytes, path: bytes, links: dict[tuple[int, int], bytes]) -> Iterator[bytes]:
    status = os.stat(name, dir_fd=at, follow_symlinks=False)
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return
    entry = Entry(path, kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, 0, status.st_mtime_ns)
    if kind != "dir" and status.st_nlink > 1:
        first = links.setdefault((status.st_dev, status.st_ino), path)
        if first != path:
            entry.kind, entry.target = "hardlink", first
            yield header(entry)
            return
    if kind in ("char", "block"):
        entry.device = (os.major(status.st_rdev), os.minor(status.st_rdev))
    elif kind == "symlink":
        entry.target = os.readlink(name, dir_fd=at)
    entry.xattrs = _xattrs(b"/proc/self/fd/%d/%s" % (at, name))
    if kind != "file":
        yield header(entry)
        return
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    try:
        entry.size = left = os.fstat(fd).st_size
        yield header(entry)
        while left:
            piece = os.read(fd, min(left, CHUNK))
            if not piece:
                raise ImageError(f"{entry.path}: it became shorter while it was packed")
            left -= len(piece)
            yield piece
    finally:
        os.close(fd)
    yield bytes(-entry.size % BLOCK)


def _xattrs(path: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """What overlayfs notes for itself is not part of the content."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return ()  # a file system without them
    return tuple(
        (os.fsencode(name), os.getxattr(path, name, follow_symlinks=False)) for name in sorted(names) if not name.startswith(_OVERLAY)
    )


def header(entry: Entry) -> bytes:
    """The header blocks of an entry: ustar, with a PAX header before it for what ustar can't hold. Its content, padded to
    whole blocks, comes next; :data:`TRAILER` ends the archive. The same entry gives the same bytes, always."""
    pax: list[tuple[bytes, bytes]] = []
    name, target = entry.name, entry.target
    if len(name) > 100 or not name.isascii():
        pax.append((b"path", name))
    if len(target) > 100 or not target.isascii():
        pax.append((b"linkpath", target))
    for key, value, width in ((b"uid", entry.uid, 7), (b"gid", entry.gid, 7), (b"size", entry.size, 11)):
        if value >= 8**width:
            pax.append((key, b"%d" % value))
    if entry.mtime % 1_000_000_000 or not 0 <= entry.mtime < 8**11 * 1_000_000_000:
        sign, whole = (b"-" if entry.mtime < 0 else b""), abs(entry.mtime)
        pax.append((b"mtime", b"%s%d.%09d" % (sign, whole // 1_000_000_000, whole % 1_000_000_000)))
    pax += [(XATTR + key, value) for key, value in sorted(entry.xattrs)]
    out = b""
    if pax:
        body = b"".join(_record(key, value) for key, value in pax)
        out = _block(b"PaxHeaders/entry", b"x", 0o644, 0, 0, len(body), 0, b"", (0, 0)) + body + bytes(-len(body) % BLOCK)
    seconds = entry.mtime // 1_000_000_000
    return out + _block(
        name[:100],
        _TYPES[entry.kind],
        entry.mode,
        entry.uid if entry.uid < 8**7 else 0,
        entry.gid if entry.gid < 8**7 else 0,
        entry.size if entry.size < 8**11 else 0,
        seconds if 0 <= seconds < 8**11 else 0,
        target[:100],
        entry.device,
    )


def _record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3
    size = rest + len(str(rest))
    size = rest + len(str(size))  # the length counts its own digits
    return b"%d %s=%s\n" % (size, key, value)


def _block(name: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, target: bytes, device: tuple[int, int]) -> bytes:
    major, minor = device
    block = b"".join(
        [
            name.ljust(100, b"\0"),
            b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, uid, gid, size, mtime),
            b" " * 8 + kind + target.ljust(100, b"\0") + b"ustar\x0000" + bytes(64),
            b"%07o\0%07o\0" % (major, minor),
            bytes(167),
        ]
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
