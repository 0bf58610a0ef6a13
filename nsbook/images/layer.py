"""From a layer to a directory: :func:`apply`. (Its inverse, ``diff``, is to stand beside it.)

The stream is read once: inflated, hashed and written in one pass. Every directory is reached through the kernel's own
``RESOLVE_IN_ROOT`` (:mod:`nsbook.images.rooted`), every last component is made without following what may be there, and
what is there already is taken away first, never written through. So no entry, and no series of entries, reaches
anything outside.

An ordinary user gets the same tree with everything owned by themselves; devices and what else the kernel keeps for root
are left out, and named in the rows.

Source: OCI image-spec, ``layer.md`` (entries, whiteouts, opaque whiteouts); ``Documentation/filesystems/overlayfs.rst``
for what they become below an overlay.
"""

from __future__ import annotations

import errno
import os

from nsbook.errors import DigestMismatch, ImageError, NsbookError, UnsafeArchive
from nsbook.frozen import Frozen
from nsbook.images import rooted
from nsbook.images.stream import hashing, plain_stream
from nsbook.images.tar import Entry, Limits, Reader
from nsbook.inspectable import Inspectable, Sheet
from nsbook.progress import Event, silent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from nsbook.images.stream import Readable
    from nsbook.progress import Progress

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"


class Row(Frozen):
    """What became of one entry. ``action``: ``made``, ``replaced`` (what was there before), ``merged`` (a directory that
    was there), ``hidden`` (a whiteout) or ``left out``; ``warning`` says what could not be as the archive has it."""

    path: str
    kind: str
    size: int = 0
    action: str = "made"
    warning: str = ""


class Applied(Inspectable):
    """The rows of one :func:`apply`, one an entry. A sequence; ``warnings`` are those rows that have one."""

    __slots__ = ("_rows", "diff_id", "size")

    def __init__(self) -> None:
        self._rows: list[tuple[bytes, str, int, str, str]] = []
        self.diff_id = ""
        self.size = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        name, kind, size, action, warning = self._rows[index]
        return Row(name.decode("utf-8", "surrogateescape"), kind, size, action, warning)

    def __iter__(self) -> Iterator[Row]:
        return map(self.__getitem__, range(len(self._rows)))

    @property
    def warnings(self) -> tuple[Row, ...]:
        """The rows of entries that are not as the archive has them."""
        return tuple(self[i] for i, row in enumerate(self._rows) if row[4])

    def sheet(self) -> Sheet:
        """How many of each kind, and each warning."""
        counts: dict[tuple[str, str], list[int]] = {}
        for _, kind, size, action, _ in self._rows:
            count = counts.setdefault((kind, action), [0, 0])
            count[0] += 1
            count[1] += size
        rows = tuple((kind, action, str(n), str(size)) for (kind, action), (n, size) in sorted(counts.items()))
        notes = tuple(f"{row.path}: {row.warning}" for row in self.warnings)
        return Sheet(f"{len(self)} entries applied", ("kind", "action", "entries", "bytes"), rows, notes)


def apply(
    source: str | os.PathLike[str] | Readable,
    directory: str | os.PathLike[str],
    *,
    limits: Limits | None = None,
    encoding: str = "plain",
    diff_id: str = "",
    progress: Progress = silent,
) -> Applied:
    """Unpack a layer (tar, or tar in gzip; a path or a binary stream) into an existing directory.

    ``encoding`` says how a whiteout is to be understood. ``plain``: the directory holds the layers below, and what the
    layer hides is deleted. ``overlay``: it is this layer's own, to be mounted above them, and what it hides is marked as
    :manpage:`overlayfs` wants it (for an ordinary user with ``user.`` attributes, hence the mount option ``userxattr``).

    ``diff_id`` (``sha256:…`` of the uncompressed tar) is checked when given.

    UnsafeArchive: broken, cut off, above a limit, or a way out; DigestMismatch; UnknownMediaType; ImageError where the file
    system refuses (its OSError is the cause). After an error the directory holds a part of the layer.
    """
    if encoding not in ("plain", "overlay"):
        raise ValueError(f"encoding is 'plain' or 'overlay', not {encoding!r}")
    if isinstance(source, str | os.PathLike):
        with open(source, "rb", buffering=0) as file:
            return apply(file, directory, limits=limits, encoding=encoding, diff_id=diff_id, progress=progress)
    read, _ = plain_stream(source)
    hashed = None
    if diff_id:
        read, hashed = hashing(read)
    with rooted.Rooted(directory) as root:
        reader = Reader(read, limits)
        work = _Work(root, reader, encoding)
        step = 0
        for entry in reader:
            try:
                work.one(entry)
            except NsbookError:
                raise
            except OSError as error:
                raise ImageError(f"{entry.path} ({entry.kind}): {error.strerror}") from error
            if not reader.entries & 255 and reader.size - step > 4 << 20:
                step = reader.size
                progress(Event("apply", entry.path, step))
        if not reader.complete and (hashed is None or not reader.entries):
            raise UnsafeArchive("the archive is cut off: its end-of-archive blocks are missing")
        reader.drain()
        if hashed is not None:
            found = hashed()
            if found != diff_id:
                raise DigestMismatch(f"the layer's content is {found}, not {diff_id}")
        work.finish()
    work.applied.diff_id = diff_id
    work.applied.size = reader.size
    return work.applied


class _Work:
    """One run of :func:`apply`."""

    def __init__(self, root: rooted.Rooted, reader: Reader, encoding: str) -> None:
        self.root = root
        self.reader = reader
        self.overlay = encoding == "overlay"
        self.owner = os.geteuid() == 0
        self.opaque = b"trusted.overlay.opaque" if self.owner else b"user.overlay.opaque"
        self.applied = Applied()
        self.rows = self.applied._rows
        self.directories: dict[bytes, Entry] = {}
        # Whiteouts hide what is below this layer, never what is in it, wherever in the layer they stand.
        self.ours: set[bytes] = set()
        self.whiteouts: set[bytes] = set()
        self.warning = ""

    def one(self, entry: Entry) -> None:
        """Make one entry."""
        path = clean(entry.name)
        self.warning = ""
        above, _, name = path.rpartition(b"/")
        if name.startswith(WHITEOUT):
            self.whiteout(path, above, name, entry)
            return
        if not path:
            if entry.kind != "dir":
                raise UnsafeArchive(f"{entry.name!r}: the root can only be a directory")
            self.directories[path] = entry
            self.rows.append((b".", "dir", 0, "merged", ""))
            return
        at = self.root.parent(above)
        action = "made"
        make = getattr(self, entry.kind)
        try:
            make(at, name, path, entry)
        except FileExistsError:
            action = self.replace(at, name, path, entry)
            if action == "replaced":
                # What was replaced may have been a way to the parent that is kept open: look for the parent again.
                make(self.root.parent(above), name, path, entry)
        if entry.kind == "dir":
            self.directories[path] = entry
        if not self.overlay:
            self.ours.add(path)
            while above and above not in self.ours:
                self.ours.add(above)
                above = above.rpartition(b"/")[0]
        elif path in self.whiteouts:
            self.whiteouts.discard(path)
            if entry.kind == "dir":
                self.set_opaque(path)
        if self.warning.startswith("left out"):
            action = "left out"
        self.rows.append((path, entry.kind, entry.size, action, self.warning))

    def replace(self, at: int, name: bytes, path: bytes, entry: Entry) -> str:
        """Something is there already. A directory is kept for a directory; anything else goes."""
        there = os.stat(name, dir_fd=at, follow_symlinks=False).st_mode & 0o170000
        if there == 0o040000 and entry.kind == "dir":
            return "merged"
        if entry.kind == "hardlink" and clean(entry.target) == path:
            return "merged"  # a link to itself
        if there in (0o040000, 0o120000):  # a directory or a symlink: it may be on the way to parents that are kept
            self.root.forget()
            at = self.root.parent(path.rpartition(b"/")[0])
            below = path + b"/"
            for gone in [p for p in self.directories if p == path or p.startswith(below)]:
                del self.directories[gone]
        rooted.remove(at, name)
        return "replaced"

    def file(self, at: int, name: bytes, path: bytes, entry: Entry) -> None:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=at)
        try:
            if entry.size:
                self.reader.copy(entry, fd)
            if self.owner:
                self.chown(fd, entry)
            if entry.xattrs:
                self.set_xattrs(fd, entry)
            os.fchmod(fd, entry.mode)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    def dir(self, at: int, name: bytes, path: bytes, entry: Entry) -> None:
        os.mkdir(name, 0o700, dir_fd=at)  # mode, owner and times come last: children would change or need them

    def symlink(self, at: int, name: bytes, path: bytes, entry: Entry) -> None:
        if not entry.target:
            raise UnsafeArchive(f"{entry.path}: a symlink to nothing")
        os.symlink(entry.target, name, dir_fd=at)
        self.finish_at(at, name, entry)

    def hardlink(self, at: int, name: bytes, path: bytes, entry: Entry) -> None:
        target = clean(entry.target)
        above, _, last = target.rpartition(b"/")
        if not target:
            raise UnsafeArchive(f"{entry.path}: a hard link to the root")
        try:
            there = self.root.parent(above, make=False)
            at = self.root.parent(path.rpartition(b"/")[0])  # the line before may have closed the oldest descriptor
            os.link(last, name, src_dir_fd=there, dst_dir_fd=at, follow_symlinks=False)
        except FileNotFoundError:
            raise UnsafeArchive(f"{entry.path}: a hard link to {entry.target!r}, which is not there") from None
        except PermissionError as error:
            raise UnsafeArchive(f"{entry.path}: a hard link to {entry.target!r}, which can't be linked to") from error

    def char(self, at: int, name: bytes, path: bytes, entry: Entry) -> None:
        if entry.kind == "char" and entry.device == (0, 0):
            self.warning = "left out: device 0/0 means a whiteout to overlay"
            return
        kind = {"char": 0o020000, "block": 0o060000, "fifo": 0o010000}[entry.kind]
        if kind != 0o010000 and not self.owner:
            self.warning = "left out: only root makes devices"
            return
        try:
            os.mknod(name, kind | 0o600, os.makedev(*entry.device), dir_fd=at)
        except PermissionError as error:
            self.warning = f"left out: {error.strerror} (mknod; CAP_MKNOD of the host is needed)"
            return
        except OverflowError:
            raise UnsafeArchive(f"{entry.path}: an impossible device number {entry.device}") from None
        self.finish_at(at, name, entry)

    block = fifo = char

    def finish_at(self, at: int, name: bytes, entry: Entry) -> None:
        """Owner, xattrs, mode and time of what can't be opened without a side effect: it was made here, just now."""
        if self.owner:
            try:
                os.chown(name, entry.uid, entry.gid, dir_fd=at, follow_symlinks=False)
            except (OSError, OverflowError) as error:
                self.warning = _not_owned(entry, error)
        if entry.xattrs:
            self.set_xattrs(b"/proc/self/fd/%d/%s" % (at, name), entry)
        if entry.kind != "symlink":
            os.chmod(name, entry.mode, dir_fd=at)
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=at, follow_symlinks=False)

    def chown(self, fd: int, entry: Entry) -> None:
        try:
            os.fchown(fd, entry.uid, entry.gid)
        except (OSError, OverflowError) as error:  # an id that is not mapped into this user namespace, or above 2**32
            self.warning = _not_owned(entry, error)

    def set_xattrs(self, file: int | bytes, entry: Entry) -> None:
        for key, value in entry.xattrs:
            if key.startswith((b"trusted.overlay.", b"user.overlay.")):
                self.warning = f"xattr {_text(key)} left out: it would speak to overlay"
                continue
            try:
                if isinstance(file, int):
                    os.setxattr(file, key, value)
                else:
                    os.setxattr(file, key, value, follow_symlinks=False)
            except (OSError, ValueError) as error:
                self.warning = f"xattr {_text(key)} left out: {getattr(error, 'strerror', error)}"

    def whiteout(self, path: bytes, above: bytes, name: bytes, entry: Entry) -> None:
        """``.wh.NAME`` hides NAME of the layers below; ``.wh..wh..opq`` all that is in this directory below."""
        hidden = name[len(WHITEOUT) :]
        if name == OPAQUE:
            self.set_opaque(above) if self.overlay else self.purge(above)
        elif hidden.startswith(WHITEOUT):
            self.rows.append((path, entry.kind, 0, "left out", "left out: aufs's own notes"))
            return
        elif hidden in (b"", b".", b".."):
            raise UnsafeArchive(f"{entry.name!r}: a whiteout of nothing")
        else:
            path = above + b"/" + hidden if above else hidden
            self.hide(path, above, hidden)
        self.rows.append((path, "whiteout", 0, "hidden", ""))

    def hide(self, path: bytes, above: bytes, name: bytes) -> None:
        if not self.overlay:
            try:
                at = self.root.parent(above, make=False)
                if path not in self.ours:
                    rooted.remove(at, name)
                    self.root.forget()
                elif _is_directory(at, name):
                    self.purge(path)
            except FileNotFoundError:
                pass  # nothing of that name is below: nothing to hide
            return
        at = self.root.parent(above)
        try:
            os.mknod(name, 0o020000, 0, dir_fd=at)  # character device 0/0: allowed to everyone since Linux 5.8
            self.whiteouts.add(path)
        except FileExistsError:
            if _is_directory(at, name):
                self.set_opaque(path)

    def set_opaque(self, path: bytes) -> None:
        self.root.parent(path)
        fd = self.root.open(path or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.setxattr(fd, self.opaque, b"y")
        finally:
            os.close(fd)

    def purge(self, path: bytes) -> None:
        """Take away what the layers below have put into a directory, deeply."""
        waiting = [path]
        while waiting:
            here = waiting.pop()
            try:
                fd = self.root.open(here or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                for child in map(os.fsencode, os.listdir(fd)):
                    full = here + b"/" + child if here else child
                    if full not in self.ours:
                        rooted.remove(fd, child)
                    elif _is_directory(fd, child):
                        waiting.append(full)
            finally:
                os.close(fd)
        self.root.forget()

    def finish(self) -> None:
        """Directories get their modes, owners and times now that nothing more is put into them, the deepest first."""
        for path in sorted(self.directories, key=lambda p: p.count(b"/") if p else -1, reverse=True):
            entry = self.directories[path]
            above, _, name = path.rpartition(b"/")
            try:
                at = self.root.parent(above, make=False)
                fd = os.open(name or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue  # a later entry has taken it away by another path
                raise ImageError(f"{entry.path}: {error.strerror}") from error
            self.warning = ""
            try:
                if self.owner:
                    self.chown(fd, entry)
                if entry.xattrs:
                    self.set_xattrs(fd, entry)
                os.fchmod(fd, entry.mode)
                os.utime(fd, ns=(entry.mtime, entry.mtime))
            finally:
                os.close(fd)
            if self.warning:
                self.rows.append((path, "dir", 0, "merged", self.warning))


def clean(name: bytes) -> bytes:
    """A name without what means nothing (``./``, ``//``, a leading or trailing slash); b"" is the root itself.

    This is for the names' sake; what keeps entries inside is openat2. A ``..`` is refused, as GNU tar does: no tool that
    makes archives of a tree writes one.
    """
    if name.startswith(b"./"):
        name = name[2:]
    if b"//" not in name and b"/." not in name and not name.startswith((b".", b"/")):
        return name[:-1] if name.endswith(b"/") else name
    parts = [part for part in name.split(b"/") if part and part != b"."]
    if b".." in parts:
        raise UnsafeArchive(f"{_text(name)}: a name that climbs by '..'")
    return b"/".join(parts)


def _is_directory(at: int, name: bytes) -> bool:
    return os.stat(name, dir_fd=at, follow_symlinks=False).st_mode & 0o170000 == 0o040000


def _not_owned(entry: Entry, error: Exception) -> str:
    return f"owner {entry.uid}:{entry.gid} not set: {getattr(error, 'strerror', None) or error}"


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
