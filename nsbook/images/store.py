"""What images leave on disk, below the data root:

* ``blobs/sha256/HEX``: layers that nsbook has made itself, under their digests;
* ``layers/HEX/rootfs``: an unpacked layer, under its chain_id: made once, shared, and never written to again;
* ``partial/``: blobs that are being written;
* ``seen/NAME``: what is known of a file elsewhere (a tar's digest, say), valid as long as that file's stamp is the same.

Any number of processes may do this at once. A blob comes into being by rename(2); an unpacked layer is made under a lock
(flock(2), which dies with its holder) beside its final place and renamed. kill -9 leaves a ``partial`` directory, which
the next one to want the layer takes away. The directories are for their owner alone: an image may well contain an old
setuid programme, which no other user of the host should get at.
"""

from __future__ import annotations

import os

from nsbook.errors import ImageError
from nsbook.places import data_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nsbook.images.image import Image, Layer
    from nsbook.progress import Progress


def unpacked(image: Image, root: str | os.PathLike[str] | None = None, *, progress: Progress | None = None) -> str:
    """The directory that holds the file system of an image of one layer, unpacked at the first call. Read it only.

    ``root`` is the data root, if it is to be another one. ImageError for an image of several layers (they are several
    directories: :func:`unpacked_layers`), UnsafeArchive, DigestMismatch.
    """
    if len(image.layers) != 1:
        raise ImageError(f"image {image.name} has {len(image.layers)} layers: unpacked_layers() gives a directory for each")
    return unpacked_layers(image, root, progress=progress)[0]


def unpacked_layers(image: Image, root: str | os.PathLike[str] | None = None, *, progress: Progress | None = None) -> tuple[str, ...]:
    """A directory for each layer, base first, whiteouts as overlayfs wants them. Each is made at most once."""
    base = os.path.join(os.fspath(root) if root is not None else data_root(), "layers")
    paths = []
    for layer, chain_id in zip(image.layers, image.chain_ids, strict=True):
        above = os.path.join(base, chain_id.partition(":")[2])
        path = os.path.join(above, "rootfs")
        if not os.path.isdir(path):
            _unpack(layer, above, progress)
        paths.append(path)
    return tuple(paths)


def _unpack(layer: Layer, above: str, progress: Progress | None) -> None:
    from nsbook.images.rooted import remove

    at = _locked(above)
    try:
        names = os.listdir(at)
        if "rootfs" in names:
            return
        if "partial" in names:
            remove(at, b"partial")
        os.mkdir("partial", dir_fd=at)
        os.chmod("partial", 0o755, dir_fd=at)  # whatever the umask
        layer.apply(os.path.join(above, "partial"), encoding="overlay", progress=progress)
        os.rename("partial", "rootfs", src_dir_fd=at, dst_dir_fd=at)
    except BaseException:
        if "partial" in os.listdir(at):
            remove(at, b"partial")
        raise
    finally:
        os.close(at)


def _locked(path: str) -> int:
    """A descriptor of the directory, made if need be, with an exclusive lock on it."""
    from fcntl import LOCK_EX, flock

    while True:
        _private(os.path.dirname(path))
        _private(path)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            flock(fd, LOCK_EX)
            here, there = os.fstat(fd), os.stat(path)
            if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # whoever held the lock has taken the directory away


def _private(directory: str) -> None:
    """A directory for its owner alone. (The mode of makedirs is for the last one only: the data root is not made private.)"""
    if not os.path.isdir(directory):
        os.makedirs(directory, 0o700, exist_ok=True)


def blob(root: str, digest: str) -> str:
    """Where the blob lies, or would."""
    return os.path.join(root, "blobs", *digest.split(":"))


def keep(root: str, content: Iterable[bytes]) -> tuple[str, int]:
    """Store a blob: (its digest, its size). Written and hashed in one pass."""
    import hashlib

    sha = hashlib.sha256()
    beside, size = _write(root, content, sha.update)
    digest = "sha256:" + sha.hexdigest()
    _place(beside, blob(root, digest))
    return digest, size


def _write(root: str, content: Iterable[bytes], also: Callable[[bytes], object]) -> tuple[str, int]:
    """A new file in ``partial``, whole; what kill -9 has left there goes after an hour."""
    directory = os.path.join(root, "partial")
    _private(directory)
    _sweep(directory)
    beside = os.path.join(directory, f"{os.getpid()}-{os.urandom(6).hex()}")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    size = 0
    try:
        with open(fd, "wb") as file:
            for piece in content:
                file.write(piece)
                also(piece)
                size += len(piece)
    except BaseException:
        os.unlink(beside)
        raise
    return beside, size


def _place(beside: str, path: str) -> None:
    _private(os.path.dirname(path))
    os.rename(beside, path)


def _sweep(directory: str) -> None:
    from time import time

    with os.scandir(directory) as found:
        for entry in found:
            try:
                if entry.stat(follow_symlinks=False).st_mtime < time() - 3600:
                    os.unlink(entry.path)
            except FileNotFoundError:
                pass  # another process was faster


def stamp(path: str) -> str:
    """What tells whether a file is still the same one, without reading it: the path, a tab, and its stat(2)."""
    s = os.stat(path)
    return f"{path}\t{s.st_dev}:{s.st_ino} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns}"


def stamps(module: str, *beside: str) -> list[str]:
    """The stamps of a module's file and of others beside it: what is remembered is void when the code that made it changes."""
    directory = os.path.dirname(module)
    return [stamp(module), *(stamp(os.path.join(directory, name)) for name in beside)]


def seen(root: str, name: str) -> list[str]:
    """The lines that are kept under this name; none if there are none. (Lines, because a JSON parser costs more to
    import than the rest of a warm start.)"""
    try:
        with open(os.path.join(root, "seen", name), encoding="utf-8", errors="surrogateescape") as file:
            return file.read().split("\n")
    except OSError:
        return []


def note(root: str, name: str, lines: list[str]) -> None:
    """Keep them."""
    content = "\n".join(lines).encode("utf-8", "surrogateescape")
    beside, _ = _write(root, (content,), len)
    _place(beside, os.path.join(root, "seen", name))
