"""The tar format, read: ustar, the PAX extensions and GNU's. (:mod:`nsbook.images.pack` writes it.)

A layer is a tar stream (OCI image-spec, ``layer.md``). The standard library reads them too, but a header costs it five
times what it costs here, and it guesses where a layer must be exact: this reader refuses whatever is not a well-formed
entry, and hands out names as the bytes that they are.

Sources: ``pax(1)`` of POSIX.1-2017 (ustar, extended headers), ``tar(5)`` of libarchive (old and GNU formats, base-256
numbers, ``SCHILY.xattr``), GNU tar's manual, "Storing Sparse Files".
"""

from __future__ import annotations

import os

from nsbook.errors import UnsafeArchive
from nsbook.frozen import Frozen
from nsbook.images.stream import CHUNK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


BLOCK = 512

KINDS = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "hardlink",
    b"2": "symlink",
    b"3": "char",
    b"4": "block",
    b"5": "dir",
    b"6": "fifo",
    b"S": "file",
}
XATTR = b"SCHILY.xattr."


class Limits(Frozen):
    """What an archive may ask for at most; more is :class:`~nsbook.errors.UnsafeArchive`.

    ``entries``: their number; ``size``: bytes of all files together, holes of sparse ones included; ``extension``: bytes
    of one extended header (long names, xattrs), which is held in memory; ``name``: bytes of a path (the kernel's
    PATH_MAX, without which no system call takes it).
    """

    entries: int = 4_000_000
    size: int = 1 << 40
    extension: int = 1 << 20
    name: int = 4095


class Entry:
    """One entry. ``name`` and ``target`` are bytes; ``mtime`` is in ns; ``device`` is (major, minor); ``xattrs`` are
    pairs of name and value; ``sparse`` lists (offset, length) of the stored pieces of a file with holes, else None."""

    __slots__ = ("device", "gid", "kind", "mode", "mtime", "name", "size", "sparse", "target", "uid", "xattrs")

    def __init__(
        self,
        name: bytes,
        kind: str,
        mode: int = 0o644,
        uid: int = 0,
        gid: int = 0,
        size: int = 0,
        mtime: int = 0,
        target: bytes = b"",
        device: tuple[int, int] = (0, 0),
        xattrs: tuple[tuple[bytes, bytes], ...] = (),
        sparse: list[tuple[int, int]] | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.size = size
        self.mtime = mtime
        self.target = target
        self.device = device
        self.xattrs = xattrs
        self.sparse = sparse

    @property
    def path(self) -> str:
        """The name as text (undecodable bytes as surrogates)."""
        return self.name.decode("utf-8", "surrogateescape")

    def __repr__(self) -> str:
        return f"Entry({self.path!r}, {self.kind!r}, {self.mode:#o}, size={self.size})"


class Reader:
    """Iterate over it for the entries; :meth:`copy` or :meth:`data` gives the present one's content.

    ``complete`` is true once the end-of-archive blocks have been read. Where they are missing the iteration simply
    ends: what that means is the caller's to judge (it may know the digest).
    """

    def __init__(self, read: Callable[[int], bytes], limits: Limits | None = None) -> None:
        self._read = read
        self._limits = limits or Limits()
        self._buffer = b""
        self._at = 0
        self._stored = 0  # bytes of content of the present entry that are still unread
        self._padding = 0
        self._globals: dict[bytes, bytes] = {}
        self.complete = False
        self.entries = 0
        self.size = 0

    def __iter__(self) -> Iterator[Entry]:
        limits = self._limits
        pax: dict[bytes, bytes] = {}
        holes: list[tuple[int, int]] = []
        long_name = long_target = None
        while True:
            self._skip(self._stored + self._padding)
            self._stored = self._padding = 0
            head = self._take(BLOCK, at_end=True)
            if not head:
                if pax or long_name or long_target:
                    raise UnsafeArchive("the archive ends between an extended header and its entry")
                return
            if not head.rstrip(b"\0"):
                # One zero block is the end for every reader; a second one makes it regular.
                self.complete = self._take(BLOCK, at_end=True) == bytes(BLOCK)
                return
            _verify(head)
            kind = head[156:157]
            size = _number(head[124:136], "size")
            if size < 0:
                raise UnsafeArchive(f"an entry has a negative size ({size})")
            if kind in b"xgXLK":
                if size > limits.extension:
                    raise UnsafeArchive(f"an extended header of {size} bytes: more than {limits.extension}")
                body = self._take(size)
                self._skip(-size % BLOCK)
                if kind == b"L":
                    long_name = body.split(b"\0", 1)[0]
                elif kind == b"K":
                    long_target = body.split(b"\0", 1)[0]
                elif kind == b"g":
                    self._globals.update(_records(body, []))
                else:
                    pax = _records(body, holes)
                continue
            if kind == b"V":  # a volume's label: no content, no entry
                continue
            entry = self._entry(head, kind, size, {**self._globals, **pax} if self._globals else pax, holes)
            if long_name is not None and b"path" not in pax:
                entry.name = long_name
            if long_target is not None and b"linkpath" not in pax:
                entry.target = long_target
            if kind in b"0\0" and entry.name.endswith(b"/"):
                entry.kind = "dir"  # before ustar there was no type for directories
                self._stored = self._padding = entry.size = 0
            if len(entry.name) > limits.name or len(entry.target) > limits.name:
                raise UnsafeArchive(f"a name of {max(len(entry.name), len(entry.target))} bytes: more than {limits.name}")
            if b"\0" in entry.name or b"\0" in entry.target:
                raise UnsafeArchive(f"a name with a NUL in it: {entry.name!r}")
            self.entries += 1
            self.size += entry.size
            if self.entries > limits.entries:
                raise UnsafeArchive(f"more than {limits.entries} entries")
            if self.size > limits.size:
                raise UnsafeArchive(f"{entry.path}: files of more than {limits.size} bytes in all")
            yield entry
            if pax:
                pax = {}
            if holes:
                holes = []
            long_name = long_target = None

    def _entry(self, head: bytes, kind: bytes, size: int, pax: dict[bytes, bytes], holes: list[tuple[int, int]]) -> Entry:
        word = KINDS.get(kind)
        if word is None:
            raise UnsafeArchive(f"an entry of the unknown type {kind!r}")
        name = head[0:100].split(b"\0", 1)[0]
        target = head[157:257].split(b"\0", 1)[0]
        if head[345] and head[257:263] == b"ustar\0":
            name = head[345:500].split(b"\0", 1)[0] + b"/" + name
        uid = _number(head[108:116], "uid")
        gid = _number(head[116:124], "gid")
        mtime = _number(head[136:148], "mtime") * 1_000_000_000
        device = (0, 0)
        if kind in b"34":
            device = (_number(head[329:337], "device"), _number(head[337:345], "device"))
        xattrs: tuple[tuple[bytes, bytes], ...] = ()
        if pax:
            name = pax.get(b"path", name)
            target = pax.get(b"linkpath", target)
            if b"size" in pax:
                size = _decimal(pax[b"size"], "size")
            if b"uid" in pax:
                uid = _decimal(pax[b"uid"], "uid")
            if b"gid" in pax:
                gid = _decimal(pax[b"gid"], "gid")
            if b"mtime" in pax:
                mtime = _time(pax[b"mtime"])
            xattrs = tuple((k[len(XATTR) :], v) for k, v in pax.items() if k.startswith(XATTR))
        if uid < 0 or gid < 0:
            raise UnsafeArchive(f"{name!r}: a negative uid or gid")
        if word != "file":
            size = 0  # as every reader has it: only files have content, whatever the field says
        self._stored, self._padding = size, -size % BLOCK
        sparse = None
        if kind == b"S" or any(k.startswith(b"GNU.sparse.") for k in pax):
            name, size, sparse = self._sparse(head, kind, name, size, pax, holes)
        # mode: twelve bits; some writers put the file type above them
        return Entry(name, word, _number(head[100:108], "mode") & 0o7777, uid, gid, size, mtime, target, device, xattrs, sparse)

    def _sparse(
        self, head: bytes, kind: bytes, name: bytes, size: int, pax: dict[bytes, bytes], holes: list[tuple[int, int]]
    ) -> tuple[bytes, int, list[tuple[int, int]]]:
        """GNU's four ways to write a file with holes: the old header, and PAX 0.0, 0.1 and 1.0."""
        pieces: list[tuple[int, int]] = []
        if kind == b"S":
            real = _number(head[483:495], "size")
            table, more = head[386:482], head[482]
            while True:
                for i in range(0, len(table) - 23, 24):
                    if table[i]:
                        pieces.append((_number(table[i : i + 12], "offset"), _number(table[i + 12 : i + 24], "length")))
                if not more:
                    break
                if len(pieces) > 1_000_000:
                    raise UnsafeArchive(f"{name!r}: a map of more than a million pieces")
                block = self._take(BLOCK)
                table, more = block[:504], block[504]
        else:
            real = _decimal(pax.get(b"GNU.sparse.realsize") or pax.get(b"GNU.sparse.size") or b"%d" % size, "size")
            name = pax.get(b"GNU.sparse.name", name)
            if pax.get(b"GNU.sparse.major") == b"1":
                numbers = self._numbers(name)
                pieces = [(next(numbers), next(numbers)) for _ in range(next(numbers))]
            elif b"GNU.sparse.map" in pax:
                flat = [_decimal(n, "map") for n in pax[b"GNU.sparse.map"].split(b",") if n]
                pieces = list(zip(flat[::2], flat[1::2], strict=False))
            else:
                pieces = holes
        end = 0
        for offset, length in pieces:
            if offset < end or length < 0 or offset + length > real:
                raise UnsafeArchive(f"{name!r}: the map of its holes makes no sense")
            end = offset + length
        if sum(length for _, length in pieces) != self._stored:
            raise UnsafeArchive(f"{name!r}: the map of its holes does not fit its content")
        return name, real, pieces

    def _numbers(self, name: bytes) -> Iterator[int]:
        """PAX 1.0: the map stands before the content, as decimal lines in whole blocks."""
        rest = b""
        while True:
            line, newline, after = rest.partition(b"\n")
            if newline:
                rest = after
                yield _decimal(line, "map")
            else:
                if self._stored < BLOCK or len(rest) > 64:
                    raise UnsafeArchive(f"{name!r}: the map of its holes is broken")
                rest += self._take(BLOCK)
                self._stored -= BLOCK

    def data(self, entry: Entry) -> Iterator[memoryview | bytes]:
        """The stored content of the present entry, in pieces (of a sparse file: without its holes)."""
        while self._stored:
            if self._at == len(self._buffer):
                self._fill(entry)
            end = min(len(self._buffer), self._at + self._stored)
            piece = memoryview(self._buffer)[self._at : end]
            self._stored -= end - self._at
            self._at = end
            yield piece

    def copy(self, entry: Entry, fd: int) -> None:
        """Write the content of the present entry to an empty file."""
        if entry.sparse is not None:
            self._copy_sparse(entry, fd)
            return
        for piece in self.data(entry):
            written = os.write(fd, piece)
            while written < len(piece):
                written += os.write(fd, piece[written:])

    def _copy_sparse(self, entry: Entry, fd: int) -> None:
        content = self.data(entry)
        held: memoryview | bytes = b""
        for offset, length in entry.sparse or ():
            while length:
                if not held:
                    held = next(content)
                done = os.pwrite(fd, held[:length], offset)
                held, offset, length = held[done:], offset + done, length - done
        os.ftruncate(fd, entry.size)

    def drain(self) -> None:
        """Read on to the end of the stream, so that all of it is hashed and gzip's own checksum is looked at. What stands
        behind the end of the archive is no entry; it is limited all the same."""
        self._buffer, self._at = b"", 0
        left = self._limits.size
        while piece := self._read(CHUNK):
            left -= len(piece)
            if left < 0:
                raise UnsafeArchive(f"more than {self._limits.size} bytes behind the end of the archive")

    def _fill(self, what: object) -> None:
        self._buffer, self._at = self._read(CHUNK), 0
        if not self._buffer:
            raise UnsafeArchive(f"the archive is cut off in the middle of {what}")

    def _take(self, size: int, *, at_end: bool = False) -> bytes:
        """Exactly ``size`` bytes; with ``at_end`` none at all will do."""
        end = self._at + size
        if end <= len(self._buffer):
            taken = self._buffer[self._at : end]
            self._at = end
            return taken
        parts = [self._buffer[self._at :]]
        have = len(parts[0])
        self._buffer, self._at = b"", 0
        while have < size:
            more = self._read(CHUNK)
            if not more:
                if at_end and not have:
                    return b""
                raise UnsafeArchive("the archive is cut off in the middle of a header")
            parts.append(more)
            have += len(more)
        whole = b"".join(parts)
        self._buffer, self._at = whole, size
        return whole[:size]

    def _skip(self, size: int) -> None:
        while size:
            if self._at == len(self._buffer):
                self._fill("an entry")
            step = min(size, len(self._buffer) - self._at)
            self._at += step
            size -= step


def _verify(head: bytes) -> None:
    """The checksum is that of the header with eight blanks in its own field; old writers summed signed bytes."""
    try:
        said = int(head[148:156].split(b"\0", 1)[0], 8)
    except ValueError:
        said = -1
    rest = head[:148] + head[156:]
    total = sum(rest) + 256
    if total != said and total - 256 * sum(1 for byte in rest if byte > 127) != said:
        raise UnsafeArchive("not a tar archive, or a broken one: a header's checksum is wrong")


def _number(field: bytes, what: str) -> int:
    """An octal number, or GNU's base-256 (first byte 0x80 or 0xff) where that is too narrow."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=False) & ((1 << (8 * len(field) - 1)) - 1)
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    text = field.split(b"\0", 1)[0].strip(b" ")
    if not text:
        return 0
    try:
        if text.isdigit():  # int() alone would take signs and underscores, too
            return int(text, 8)
    except ValueError:
        pass
    raise UnsafeArchive(f"a header's {what} is no number: {field!r}")


def _decimal(text: bytes, what: str) -> int:
    if not text.isdigit() or len(text) > 20:
        raise UnsafeArchive(f"an extended header's {what} is no number: {text[:40]!r}")
    return int(text)


def _time(text: bytes) -> int:
    """PAX times are decimal fractions of seconds; a float would lose nanoseconds."""
    minus = text.startswith(b"-")
    whole, _, part = text.removeprefix(b"-").partition(b".")
    if part and not part.isdigit():
        raise UnsafeArchive(f"an extended header's mtime is no number: {text[:40]!r}")
    value = _decimal(whole or b"0", "mtime") * 1_000_000_000 + int(part[:9].ljust(9, b"0") if part else 0)
    return -value if minus else value


def _records(body: bytes, holes: list[tuple[int, int]]) -> dict[bytes, bytes]:
    """The records of an extended header, each ``LENGTH KEY=VALUE\\n``. PAX 0.0 repeats keys for each hole of a file."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(body):
        blank = body.find(b" ", at, at + 12)
        text = body[at:blank] if blank > 0 else b""
        if not text.isdigit():
            if not body[at:].strip(b"\0"):
                break
            raise UnsafeArchive("an extended header is broken: a record without a length")
        end = at + int(text)
        key, equals, value = body[blank + 1 : end - 1].partition(b"=")
        if end > len(body) or end <= blank + 1 or body[end - 1 : end] != b"\n" or not equals:
            raise UnsafeArchive("an extended header is broken: a record does not end where it says")
        if key == b"GNU.sparse.offset":
            holes.append((_decimal(value, "offset"), 0))
        elif key == b"GNU.sparse.numbytes" and holes:
            holes[-1] = (holes[-1][0], _decimal(value, "length"))
        elif value:
            found[key] = value
        else:
            found.pop(key, None)  # an empty value takes back a global one
            if key.startswith(XATTR):
                found[key] = b""
        at = end
    return found
