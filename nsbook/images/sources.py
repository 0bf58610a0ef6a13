"""Where images come from: a tar, a directory, a name.

A tar stays where it is: looking it through once gives its digest, which is kept together with the file's stamp (device,
inode, size, times), so that the next process need not read it again. Should it change afterwards, unpacking notices.
"""

from __future__ import annotations

import os

from nsbook.errors import ImageError, ImageNotFound, UnsafeArchive
from nsbook.images import store
from nsbook.images.config import ARCHITECTURES, ImageConfig
from nsbook.images.image import Image, Layer
from nsbook.places import data_root

_made: dict[str, tuple[str, Image]] = {}
"""What this process has made already: by place and file, with the file's stamp."""

ACCEPTED = "'base', a directory that holds a root file system, or such a file system in a .tar or .tar.gz"


def resolve(name: str | os.PathLike[str]) -> Image | str:
    """What ``name`` means: an Image, or the absolute path of a directory that is a root file system as it stands.

    ``base`` is the embedded image (a directory of that name is ``./base``). ImageNotFound says what is accepted.
    """
    text = os.fspath(name)
    if text == "base":
        return Image.base()
    if os.path.isdir(text):
        return os.path.abspath(text)
    if os.path.isfile(text):
        return from_tar(text)
    from difflib import get_close_matches

    above = os.path.dirname(text)
    try:
        there = [os.path.join(above, found) for found in os.listdir(above or ".") if not found.startswith(".")]
    except OSError:
        there = []
    near = get_close_matches(text, ["base", *there], 1, 0.7)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ImageNotFound(f"there is no image {text!r}. An image is {ACCEPTED}.{hint}")


def from_tar(path: str | os.PathLike[str]) -> Image:
    """An image of one layer, from a root file system in a tar or tar.gz. It is looked through, but not unpacked.

    UnsafeArchive where it is no tar, or cut off; ImageError for an archive of images (``docker save``), which is none of
    a root file system.
    """
    text = os.path.abspath(path)
    root = data_root()
    try:
        mark = store.stamp(text)
    except FileNotFoundError:
        raise ImageNotFound(f"there is no archive {text!r}") from None
    known = _made.get(f"{root}\n{text}")
    if known is not None and known[0] == mark:
        return known[1]
    status = os.stat(text)
    name = f"tar-{status.st_dev}-{status.st_ino}"
    first = [mark, *store.stamps(__file__, "config.py", "image.py")]
    config = ImageConfig(cmd=("/bin/sh",), architecture=architecture())
    lines = store.seen(root, name)
    if len(lines) == len(first) + 5 and lines[: len(first)] == first:
        diff_id, size, compression, image_id, digest = lines[len(first) :]
        layer = Layer(diff_id, int(size), text, status.st_size, compression)
        image = Image(os.path.basename(text), config, (layer,), image_id, digest)
    else:
        layer = _looked_through(text, status.st_size)
        image = Image.of(os.path.basename(text), config, (layer,))
        store.note(root, name, [*first, layer.diff_id, str(layer.size), layer.compression, image.image_id, image.digest])
    _made[f"{root}\n{text}"] = (mark, image)
    return image


def _looked_through(path: str, stored: int) -> Layer:
    from nsbook.images.layer import clean
    from nsbook.images.stream import hashing, plain_stream
    from nsbook.images.tar import Reader

    size = 0
    with open(path, "rb", buffering=0) as file:
        read, compression = plain_stream(file)

        def counted(n: int) -> bytes:
            nonlocal size
            piece = read(n)
            size += len(piece)
            return piece

        hashed, digest = hashing(counted)
        reader = Reader(hashed)
        for entry in reader:
            if clean(entry.name) in (b"oci-layout", b"manifest.json"):
                raise ImageError(f"{path} is an archive of images ({entry.path} is in it), not of a root file system")
        if not reader.complete:
            raise UnsafeArchive(f"{path} is cut off: its end-of-archive blocks are missing")
        reader.drain()
    return Layer(digest(), size, path, stored, compression)


def from_directory(path: str | os.PathLike[str]) -> Image:
    """An image of one layer, from what is in a directory now (owners, modes, times, xattrs, hard links). The layer is
    stored; packing the same content again gives the same digest."""
    from nsbook.images.pack import pack

    text = os.path.abspath(path)
    root = data_root()
    digest, size = store.keep(root, pack(text))
    layer = Layer(digest, size, store.blob(root, digest), size)
    return Image.of(os.path.basename(text) or "/", ImageConfig(cmd=("/bin/sh",), architecture=architecture()), (layer,))


def architecture() -> str:
    """This machine's, in the words of images."""
    machine = os.uname().machine
    return ARCHITECTURES.get(machine, machine)
