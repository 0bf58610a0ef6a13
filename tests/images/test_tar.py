"""The reader against Python's and GNU tar's writers; the writer against Python's reader."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsbook.errors import UnsafeArchive
from nsbook.images.layer import apply
from nsbook.images.pack import TRAILER, header
from nsbook.images.stream import plain_stream
from nsbook.images.tar import Entry, Reader

TYPES = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
    "fifo": tarfile.FIFOTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
}

names = st.lists(st.text("abcäß .~-", min_size=1, max_size=40).filter(lambda t: t.strip(". ")), min_size=1, max_size=8).map("/".join)
entries = st.builds(
    Entry,
    name=names.map(str.encode),
    kind=st.sampled_from(sorted(TYPES)),
    mode=st.integers(0, 0o7777),
    uid=st.one_of(st.integers(0, 70_000), st.integers(0, 2**32)),
    gid=st.one_of(st.integers(0, 70_000), st.integers(0, 2**32)),
    mtime=st.integers(-(2**31), 2**34).map(lambda s: s * 1_000_000_000),
    device=st.tuples(st.integers(0, 255), st.integers(0, 255)),
    target=names.map(str.encode),
)


def tidy(entry: Entry, content: bytes) -> Entry:
    """What goes with the kind."""
    entry.size = len(content) if entry.kind == "file" else 0
    if entry.kind not in ("symlink", "hardlink"):
        entry.target = b""
    if entry.kind not in ("char", "block"):
        entry.device = (0, 0)
    return entry


def facts(entry: Entry) -> tuple[object, ...]:
    rest = (entry.kind, entry.mode, entry.uid, entry.gid, entry.size, entry.mtime, entry.target, entry.device, entry.xattrs)
    return (entry.name.rstrip(b"/"), *rest)


@settings(max_examples=150, deadline=None, database=None)
@given(
    st.lists(st.tuples(entries, st.binary(max_size=1500)), max_size=5),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.integers(1, 5000),
)
def test_what_python_writes_is_read(made: list[tuple[Entry, bytes]], format: int, pieces: int) -> None:
    """Also when the stream comes in pieces of any size."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for entry, content in made:
            tidy(entry, content)
            info = tarfile.TarInfo(entry.path)
            info.type = TYPES[entry.kind]
            info.mode, info.uid, info.gid, info.size = entry.mode, entry.uid, entry.gid, entry.size
            info.mtime = entry.mtime // 1_000_000_000
            info.linkname = entry.target.decode()
            info.devmajor, info.devminor = entry.device
            tar.addfile(info, io.BytesIO(content))
    source = io.BytesIO(out.getvalue())
    reader = Reader(lambda n: source.read(min(n, pieces)))
    found = [(facts(e), b"".join(reader.data(e))) for e in reader]
    assert found == [(facts(e), c if e.kind == "file" else b"") for e, c in made]
    assert reader.complete


@settings(max_examples=150, deadline=None, database=None)
@given(st.lists(st.tuples(entries, st.binary(max_size=1500), st.integers(0, 999_999_999)), max_size=5))
def test_what_is_written_python_and_the_reader_read(made: list[tuple[Entry, bytes, int]]) -> None:
    out = b""
    for entry, content, fraction in made:
        tidy(entry, content).mtime += fraction
        out += header(entry) + (content + bytes(-len(content) % 512) if entry.kind == "file" else b"")
    out += TRAILER
    reader = Reader(io.BytesIO(out).read)
    assert [(facts(e), b"".join(reader.data(e))) for e in reader] == [(facts(e), c if e.kind == "file" else b"") for e, c, _ in made]
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        theirs = tar.getmembers()
    assert [(t.name, t.type, t.mode, t.uid, t.gid, t.size) for t in theirs] == [
        (e.path, TYPES[e.kind], e.mode, e.uid, e.gid, e.size) for e, _, _ in made
    ]
    assert all(abs(t.mtime - e.mtime / 1e9) < 1e-3 for t, (e, _, _) in zip(theirs, made, strict=True))


@settings(max_examples=200, deadline=None, database=None)
@given(st.binary(max_size=3000), st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6))
def test_garbage_is_refused_or_read_but_never_worse(garbage: bytes, changes: list[tuple[int, int]]) -> None:
    """Bytes at random, and a good archive with bytes changed at random: entries, or UnsafeArchive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("n" * 120)
        info.pax_headers = {"SCHILY.xattr.user.a": "b", "mtime": "1.5"}
        info.size = 600
        tar.addfile(info, io.BytesIO(bytes(600)))
    good = bytearray(out.getvalue())
    for at, value in changes:
        good[at % len(good)] = value
    for content in (garbage, bytes(good), gzip.compress(bytes(good)), gzip.compress(bytes(good))[: len(garbage)]):
        try:
            read, _ = plain_stream(io.BytesIO(content))
            reader = Reader(read)
            for entry in reader:
                for _ in reader.data(entry):
                    pass
        except UnsafeArchive:
            pass


@pytest.mark.parametrize("style", ["gnu", "0.0", "0.1", "1.0"])
@pytest.mark.parametrize("pieces", [1, 40])
def test_files_with_holes(style: str, pieces: int, tmp_path: Path) -> None:
    """GNU's four ways of writing them, with maps that need more than one block."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    with open(tmp_path / "in/holes", "wb") as file:
        for i in range(pieces):
            file.seek(i * 1_000_000)
            file.write(os.urandom(5000))
        file.truncate(pieces * 1_000_000 + 77)
    (tmp_path / "in/after").write_text("after")
    how = ["--format=gnu"] if style == "gnu" else ["--format=pax", f"--sparse-version={style}"]
    command = ["tar", "--create", "--sparse", *how, "--file", tmp_path / "s.tar", "--directory", tmp_path / "in", "holes", "after"]
    subprocess.run(command, check=True)
    assert (tmp_path / "s.tar").stat().st_size < pieces * 20_000 + 50_000, "tar has not written it with holes"
    apply(tmp_path / "s.tar", tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["after", "holes"]
    assert (tmp_path / "out/holes").read_bytes() == (tmp_path / "in/holes").read_bytes()
    assert (tmp_path / "out/holes").stat().st_blocks * 512 < pieces * 50_000 + 50_000
    assert (tmp_path / "out/after").read_text() == "after"


def test_a_map_of_holes_that_lies(tmp_path: Path) -> None:
    for pax in ({"GNU.sparse.map": "0,600", "GNU.sparse.size": "1000"}, {"GNU.sparse.map": "500,512,0,0", "GNU.sparse.size": "2000"}):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            info = tarfile.TarInfo("f")
            info.pax_headers = {"GNU.sparse.name": "f", **pax}
            info.size = 512
            tar.addfile(info, io.BytesIO(bytes(512)))
        with pytest.raises(UnsafeArchive, match="map of its holes"):
            list(Reader(io.BytesIO(out.getvalue()).read))


@pytest.mark.parametrize("layout", ["members", "padded", "one by one"])
def test_gzip_in_members(layout: str) -> None:
    """Several gzip members in a row are one stream (as pigz, estargz and concatenation make them)."""
    content = os.urandom(300_000)
    halves = gzip.compress(content[:100_000]) + gzip.compress(content[100_000:]) + (bytes(512) if layout == "padded" else b"")
    source = io.BytesIO(halves)
    if layout == "one by one":
        small = type("Small", (), {"read": staticmethod(lambda n: source.read(min(n, 7)))})()
        read, name = plain_stream(small)
    else:
        read, name = plain_stream(source)
    assert name == "gzip"
    out = b""
    while piece := read(4096):
        out += piece
    assert out == content


def test_gzip_that_is_broken() -> None:
    content = bytearray(gzip.compress(os.urandom(10_000)))
    content[-6] ^= 1  # its checksum
    for broken in (bytes(content), bytes(content[:-8]), bytes(content[:5000]), b"\x1f\x8b" + b"nonsense" * 10):
        read, _ = plain_stream(io.BytesIO(broken))
        with pytest.raises(UnsafeArchive, match="gzip stream"):
            list(iter(lambda: read(1 << 16), b""))  # noqa: B023 - used at once


@pytest.mark.parametrize("format", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_gnu_tar_s_formats(format: str, tmp_path: Path) -> None:
    if shutil.which("tar") is None:
        pytest.skip("needs tar: apt install tar")
    (tmp_path / "in/dir").mkdir(parents=True)
    (tmp_path / "in/dir/file").write_text("x" * 1000)
    os.symlink("file", tmp_path / "in/dir/link")
    subprocess.run(["tar", "--create", f"--format={format}", "--file", tmp_path / "t.tar", "--directory", tmp_path / "in", "."], check=True)
    with open(tmp_path / "t.tar", "rb") as file:
        assert sorted((e.name, e.kind, e.size) for e in Reader(file.read)) == [
            (b"./", "dir", 0),
            (b"./dir/", "dir", 0),
            (b"./dir/file", "file", 1000),
            (b"./dir/link", "symlink", 0),
        ]
