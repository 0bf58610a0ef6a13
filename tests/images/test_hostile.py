"""Archives that lie, climb, loop, swell or break off: refused or contained, and nothing outside is ever touched."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nsbook.errors import DigestMismatch, ImageError, UnknownMediaType, UnsafeArchive
from nsbook.images.layer import apply
from nsbook.images.tar import Limits

Archive = Callable[..., bytes]
Listing = Callable[..., dict[str, tuple[Any, ...]]]

DIR, LINK, HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def stream(content: bytes) -> io.BytesIO:
    return io.BytesIO(content)


def field(content: bytes, start: int, value: bytes) -> bytes:
    """The archive with bytes of its first header changed, and the checksum made right."""
    head = bytearray(content[:512])
    head[start : start + len(value)] = value
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + content[512:]


def hostile(archive: Archive, outside: str) -> dict[str, bytes]:
    """Archives that want out. ``outside`` is an absolute directory beside the root."""
    up = "../" * 40 + outside.lstrip("/")
    return {
        "a name that climbs": archive({"name": "../victim", "data": b"x"}),
        "a name that climbs from within": archive({"name": "a", "type": DIR}, {"name": "a/../../victim", "data": b"x"}),
        "a name that ends in ..": archive({"name": "a/..", "type": DIR, "mode": 0o000}),
        "an absolute name": archive({"name": f"{outside}/victim", "data": b"x"}),
        "an absolute symlink, then through it": archive(
            {"name": "out", "type": LINK, "linkname": outside}, {"name": "out/victim", "data": b"x"}
        ),
        "a climbing symlink, then through it": archive({"name": "out", "type": LINK, "linkname": up}, {"name": "out/victim", "data": b"x"}),
        "a symlink that takes a kept directory's place": archive(
            {"name": "d", "type": DIR},
            {"name": "d/one", "data": b"1"},
            {"name": "d", "type": LINK, "linkname": outside},
            {"name": "d/victim", "data": b"x"},
        ),
        "a symlink, then a file of its name": archive(
            {"name": "f", "type": LINK, "linkname": f"{outside}/victim"}, {"name": "f", "data": b"x"}
        ),
        "a symlink, then a directory of its name": archive(
            {"name": "d", "type": LINK, "linkname": outside}, {"name": "d", "type": DIR, "mode": 0o777}, {"name": "d/victim", "data": b"x"}
        ),
        "a hard link to an absolute name": archive(
            {"name": "h", "type": HARD, "linkname": f"{outside}/secret"}, {"name": "h", "data": b"overwritten"}
        ),
        "a climbing hard link": archive({"name": "h", "type": HARD, "linkname": up + "/secret"}),
        "a hard link through a symlink": archive(
            {"name": "out", "type": LINK, "linkname": outside}, {"name": "h", "type": HARD, "linkname": "out/secret"}
        ),
        "a hard link to a symlink, then written": archive(
            {"name": "s", "type": LINK, "linkname": f"{outside}/secret"},
            {"name": "h", "type": HARD, "linkname": "s"},
            {"name": "h", "data": b"overwritten"},
        ),
        "a way through /proc": archive({"name": "p", "type": LINK, "linkname": "/proc/self/cwd"}, {"name": "p/victim", "data": b"x"}),
        "a whiteout that climbs": archive({"name": "../.wh.secret"}),
        "a whiteout of ..": archive({"name": "a", "type": DIR}, {"name": "a/.wh..."}, {"name": "a/.wh..", "data": b""}),
        "a whiteout through a symlink": archive({"name": "out", "type": LINK, "linkname": outside}, {"name": "out/.wh.secret"}),
        "an opaque whiteout through a symlink": archive({"name": "out", "type": LINK, "linkname": outside}, {"name": "out/.wh..wh..opq"}),
        "a file as a directory": archive({"name": "f", "data": b"x"}, {"name": "f/victim", "data": b"x"}),
        "a loop of symlinks": archive({"name": "l", "type": LINK, "linkname": "l"}, {"name": "l/victim", "data": b"x"}),
        "a long way of symlinks": archive(
            *({"name": f"s{i}", "type": LINK, "linkname": f"s{i + 1}"} for i in range(60)), {"name": "s0/victim", "data": b"x"}
        ),
        "a fifo, then a file of its name": archive({"name": "p", "type": tarfile.FIFOTYPE}, {"name": "p", "data": b"x"}),
    }


REFUSED = {
    "a name that climbs",
    "a name that climbs from within",
    "a name that ends in ..",
    "a hard link to an absolute name",
    "a climbing hard link",
    "a hard link through a symlink",
    "a whiteout that climbs",
    "a whiteout of ..",
    "a file as a directory",
    "a loop of symlinks",
    "a long way of symlinks",
    "an absolute symlink, then through it",
    "a climbing symlink, then through it",
    "a symlink that takes a kept directory's place",
    "a way through /proc",
}
"""The others are contained: what they name is made inside."""
REFUSED_FOR_OVERLAY = {"a whiteout through a symlink", "an opaque whiteout through a symlink"}
"""Plain, they hide nothing, since nothing is there; for overlay a mark would have to be put where no directory is."""


@pytest.mark.parametrize("encoding", ["plain", "overlay"])
@pytest.mark.parametrize("user", [False, True], ids=["self", "user"])
@pytest.mark.parametrize("name", sorted(hostile(lambda *entries: b"", "/nowhere")))
def test_nothing_outside_is_touched(
    name: str, user: bool, encoding: str, archive: Archive, listing: Listing, place: Path, as_user: Any
) -> None:
    beside, above = place / "outside", place / "above"
    for directory in (beside, above):
        directory.mkdir()
        directory.chmod(0o777)
    (beside / "secret").write_text("secret")
    (beside / "secret").chmod(0o666)
    content = hostile(archive, str(beside))[name]
    before = listing(beside)
    refused = False
    with as_user() if user else contextlib.nullcontext():
        (above / "root").mkdir()
        try:
            apply(stream(content), above / "root", encoding=encoding)
        except UnsafeArchive:
            refused = True
    assert listing(beside) == before
    assert sorted(p.name for p in place.iterdir()) == ["above", "outside"]
    assert [p.name for p in above.iterdir()] == ["root"]
    assert refused == (name in REFUSED or (name in REFUSED_FOR_OVERLAY and encoding == "overlay"))


def test_a_symlink_is_followed_inside(archive: Archive, place: Path, listing: Listing) -> None:
    """Absolute and climbing symlinks mean the root of the image, as they will when it runs."""
    beside, root = place / "outside", place / "root"
    beside.mkdir()
    root.mkdir()
    content = archive(
        {"name": str(beside), "type": DIR},
        {"name": "absolute", "type": LINK, "linkname": str(beside)},
        {"name": "climbing", "type": LINK, "linkname": "../" * 40 + str(beside)},
        {"name": "absolute/one", "data": b"1"},
        {"name": "climbing/two", "data": b"2"},
        {"name": "hard", "type": HARD, "linkname": "absolute/one"},
        {"name": f"{beside}/.wh.three"},
    )
    apply(stream(content), root)
    assert not list(beside.iterdir())
    assert sorted(os.listdir(f"{root}{beside}")) == ["one", "two"]
    assert (root / "hard").read_text() == "1"


@pytest.mark.parametrize(
    "head",
    [
        pytest.param((124, b"\xff" * 12), id="a negative size"),
        pytest.param((124, b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7), id="a size of exabytes"),
        pytest.param((124, b"77777777777\0"), id="a size of 8 GiB that is not there"),
        pytest.param((124, b"-0000000001\0"), id="a minus"),
        pytest.param((124, b"0000000_001\0"), id="an underscore"),
        pytest.param((124, b"00000000009\0"), id="no octal digit"),
        pytest.param((108, b"\xff" * 8), id="a negative uid"),
        pytest.param((156, b"Z"), id="an unknown type"),
        pytest.param((156, b"x"), id="an extended header that is a file"),
        pytest.param((148, b"0000000\0"), id="a checksum"),
    ],
)
def test_broken_headers_are_refused(head: tuple[int, bytes], archive: Archive, tmp_path: Path) -> None:
    content = archive({"name": "f", "data": b"hello"}, format=tarfile.GNU_FORMAT)
    start, value = head
    content = field(content, start, value) if start != 148 else content[:148] + value + content[156:]
    with pytest.raises(UnsafeArchive):
        apply(stream(content), tmp_path)


def test_cut_off_anywhere(archive: Archive, place: Path) -> None:
    """At every place where an archive can be cut: the middle of a header, a file, between entries, within the end."""
    whole = archive({"name": "a", "data": b"a" * 700}, {"name": "b" * 150, "data": b"b"})
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for n, size in enumerate([0, 1, 100, 511, 512, 600, 1212, 1535, 1536, 2000, 2048, end, end + 512]):
        root = place / str(n)
        root.mkdir()
        with pytest.raises(UnsafeArchive):
            apply(stream(whole[:size]), root)
        with pytest.raises(UnsafeArchive):
            apply(stream(gzip.compress(whole)[: -max(1, n)]), root)
    assert len(apply(stream(whole[: end + 1024]), tmp := place)) == 2
    assert (tmp / ("b" * 150)).read_bytes() == b"b"


def test_a_cut_off_end_is_forgiven_where_the_digest_is_known(archive: Archive, tmp_path: Path) -> None:
    """Some writers leave the two zero blocks out; with the digest that is no doubt any more."""
    content = archive({"name": "a", "data": b"x"})[:1024]
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    assert [row.path for row in apply(stream(content), tmp_path, diff_id=digest)] == ["a"]


@pytest.mark.parametrize(
    "limits", [Limits(entries=2), Limits(size=10), Limits(name=20), Limits(extension=30)], ids=["entries", "size", "name", "extension"]
)
def test_limits(limits: Limits, archive: Archive, tmp_path: Path) -> None:
    content = archive(*({"name": f"{i}" * 120, "data": b"1234"} for i in range(3)))
    assert len(apply(stream(content), tmp_path)) == 3
    with pytest.raises(UnsafeArchive):
        apply(stream(content), tmp_path, limits=limits)


def test_a_bomb_is_stopped_early(tmp_path: Path) -> None:
    """2 GiB of zeros in 2 MB: refused by the header, before a byte of it is inflated."""
    info = tarfile.TarInfo("zeros")
    info.size = 2 << 30
    bomb = gzip.compress(info.tobuf(tarfile.GNU_FORMAT)) + gzip.compress(bytes(1 << 20)) * 2048
    with pytest.raises(UnsafeArchive, match="more than"):
        apply(stream(bomb), tmp_path, limits=Limits(size=1 << 30))
    assert not list(tmp_path.iterdir())


def test_a_wrong_digest(archive: Archive, tmp_path: Path) -> None:
    content = archive({"name": "a", "data": b"x"})
    for changed in (content.replace(b"x", b"y"), content + b"\1"):
        with pytest.raises((DigestMismatch, UnsafeArchive)):
            apply(stream(changed), tmp_path, diff_id="sha256:" + hashlib.sha256(content).hexdigest())
    apply(stream(gzip.compress(content)), tmp_path, diff_id="sha256:" + hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("magic", [b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh9"])
def test_other_compressions_are_named(magic: bytes, tmp_path: Path) -> None:
    with pytest.raises(UnknownMediaType, match="compressed by"):
        apply(stream(magic + bytes(1000)), tmp_path)


def test_not_a_tar(tmp_path: Path) -> None:
    with pytest.raises(UnsafeArchive, match="not a tar"):
        apply(stream(b"hello, world\n" * 100), tmp_path)


def test_a_refusing_file_system_is_an_image_error(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises((ImageError, UnsafeArchive)) as caught:
        apply(stream(archive({"name": "n" * 300, "data": b"x"})), tmp_path)
    assert isinstance(caught.value.__cause__, OSError)
