"""apply: the tree is what the archive says. (What archives must not do is in test_hostile.)"""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from needs import requires
from nsbook.images.layer import Row, apply, clean
from nsbook.progress import Cancelled, Event

Archive = Callable[..., bytes]
Listing = Callable[..., dict[str, tuple[Any, ...]]]

FILE, DIR, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def stream(content: bytes) -> io.BytesIO:
    return io.BytesIO(content)


# --- right ------------------------------------------------------------------------------------------------------------


def rich(archive: Archive) -> bytes:
    """An archive with one of everything that an ordinary user may make, too."""
    long = "deep/" + "/".join("d" * 60 for _ in range(4))
    return archive(
        {"name": "./", "type": DIR, "mode": 0o751, "mtime": 12},
        {"name": "./ro", "type": DIR, "mode": 0o555, "mtime": 1},
        {"name": "./ro/file", "data": b"inside", "mode": 0o444, "mtime": 2.5},
        {"name": "setuid", "data": b"#!", "mode": 0o4755},
        {"name": "sticky", "type": DIR, "mode": 0o1777},
        {"name": "empty", "mode": 0o600},
        {"name": "big", "data": os.urandom(3 << 20)},
        {"name": "hard", "type": HARD, "linkname": "./big"},
        {"name": "absolute", "type": LINK, "linkname": "/etc/passwd", "mtime": 77},
        {"name": "dangling", "type": LINK, "linkname": "../../x"},
        {"name": "hard-to-symlink", "type": HARD, "linkname": "absolute"},
        {"name": "usr/lib", "type": DIR},
        {"name": "lib", "type": LINK, "linkname": "/usr/lib"},
        {"name": "lib/through", "data": b"through a symlink"},
        {"name": f"{long}/x", "data": b"long", "mtime": -5},
        {"name": "umläut-ß", "data": b"utf-8"},
        {"name": "odd-\udcff", "data": b"latin"},
        {"name": "pipe", "type": tarfile.FIFOTYPE, "mode": 0o640},
        {"name": ".wheel", "data": b"no whiteout"},
        {"name": "attr", "data": b"x", "pax_headers": {"SCHILY.xattr.user.colour": "blue", "SCHILY.xattr.user.empty": ""}},
        {"name": "twice", "data": b"first"},
        {"name": "twice", "data": b"second"},
    )


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_the_tree_is_what_the_archive_says(format: int, archive: Archive, place: Path) -> None:
    root = place / "root"
    root.mkdir()
    content = rich(lambda *e: archive(*({**x, "mtime": int(x.get("mtime", 0))} for x in e), format=format))
    applied = apply(stream(content), root)
    assert not applied.warnings
    assert oct(root.stat().st_mode) == "0o40751"
    assert root.stat().st_mtime == 12
    assert (root / "ro").stat().st_mtime == 1
    assert oct((root / "ro").stat().st_mode) == "0o40555"
    assert oct((root / "setuid").stat().st_mode) == "0o104755"
    assert oct((root / "sticky").stat().st_mode) == "0o41777"
    assert (root / "big").stat().st_ino == (root / "hard").stat().st_ino
    assert os.readlink(root / "absolute") == "/etc/passwd"
    assert os.lstat(root / "absolute").st_mtime == 77
    assert os.lstat(root / "absolute").st_ino == os.lstat(root / "hard-to-symlink").st_ino
    assert (root / "usr/lib/through").read_text() == "through a symlink"
    assert stat.S_ISFIFO((root / "pipe").stat().st_mode)
    assert os.path.exists(os.fsencode(root) + b"/odd-\xff")
    assert (root / "twice").read_text() == "second"
    assert [row.action for row in applied if row.path == "twice"] == ["made", "replaced"]
    if format == tarfile.PAX_FORMAT:
        assert os.getxattr(root / "attr", "user.colour") == b"blue"
        assert os.getxattr(root / "attr", "user.empty") == b""


def test_the_umask_is_left_alone_and_does_not_matter(archive: Archive, tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        apply(stream(archive({"name": "implied/f", "mode": 0o666}, {"name": "d", "type": DIR, "mode": 0o777})), tmp_path)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(old)
    assert [oct((tmp_path / n).stat().st_mode & 0o777) for n in ("implied", "implied/f", "d")] == ["0o755", "0o666", "0o777"]


def test_replacing(archive: Archive, tmp_path: Path) -> None:
    """A directory goes for a file, a file for a directory; a directory is kept for a directory; no hard link is written
    through."""
    (tmp_path / "d/deep/er").mkdir(parents=True)
    (tmp_path / "d/deep/er/f").write_text("x")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/old").write_text("old")
    (tmp_path / "f").write_text("shared")
    os.link(tmp_path / "f", tmp_path / "g")
    content = archive(
        {"name": "d", "data": b"now a file"},
        {"name": "kept", "type": DIR, "mode": 0o700},
        {"name": "kept/new", "data": b"new"},
        {"name": "f", "data": b"changed"},
    )
    applied = apply(stream(content), tmp_path)
    assert (tmp_path / "d").read_text() == "now a file"
    assert sorted(os.listdir(tmp_path / "kept")) == ["new", "old"]
    assert (tmp_path / "g").read_text() == "shared"
    assert [row.action for row in applied] == ["replaced", "merged", "made", "replaced"]


def test_a_very_deep_tree_goes_too(tmp_path: Path, archive: Archive) -> None:
    """Deeper than the descriptors, the stack, and a path's length would reach."""
    at = os.open(tmp_path, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=at)
        inner = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    apply(stream(archive({"name": "d", "data": b"x"})), tmp_path)
    assert (tmp_path / "d").read_text() == "x"


def test_many_directories_need_few_descriptors(archive: Archive, tmp_path: Path) -> None:
    content = archive(*({"name": f"d{i}/f", "data": b"x"} for i in range(300)), *({"name": f"d{i}/g"} for i in range(300)))
    before = len(os.listdir("/proc/self/fd"))
    most = 0

    def look(event: Event) -> None:
        nonlocal most
        most = max(most, len(os.listdir("/proc/self/fd")))

    apply(stream(content), tmp_path, progress=look)
    assert len(os.listdir("/proc/self/fd")) == before
    assert most - before < 100


def test_progress_and_cancelling(archive: Archive, tmp_path: Path) -> None:
    content = archive(*({"name": f"f{i}", "data": bytes(20_000)} for i in range(1000)))
    seen: list[Event] = []
    apply(stream(content), tmp_path, progress=seen.append)
    assert len(seen) >= 2
    assert [e.done for e in seen] == sorted(e.done for e in seen)

    def stop(event: Event) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        apply(stream(content), tmp_path, progress=stop)


def test_an_ordinary_user(archive: Archive, place: Path, as_user: Any) -> None:
    """No owners, no devices, and it is said; all else as it should be."""
    content = archive(
        {"name": "f", "data": b"x", "uid": 12, "gid": 34, "mode": 0o640},
        {"name": "null", "type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3},
        {"name": "disk", "type": tarfile.BLKTYPE, "devmajor": 8, "devminor": 0},
        {"name": "capable", "data": b"x", "pax_headers": {"SCHILY.xattr.trusted.x": "1"}},
        {"name": "locked", "type": DIR, "mode": 0o000},
        {"name": "locked/f", "data": b"x"},
    )
    with as_user():
        (place / "root").mkdir()
        applied = apply(stream(content), place / "root")
        who = os.geteuid()
    assert {row.path: row.action for row in applied.warnings} == {"null": "left out", "disk": "left out", "capable": "made"}
    assert (place / "root/f").stat().st_uid == who
    assert sorted(os.listdir(place / "root")) == ["capable", "f", "locked"]
    assert oct((place / "root/locked").stat().st_mode) == "0o40000"
    assert "only root makes devices" in str(applied)


@requires("root")
def test_root_makes_devices_and_owners(archive: Archive, tmp_path: Path) -> None:
    content = archive(
        {"name": "f", "data": b"x", "uid": 12, "gid": 34, "mode": 0o6755},
        {"name": "large", "data": b"x", "uid": 3_000_000_000, "gid": 3_000_000_001},
        {"name": "link", "type": LINK, "linkname": "f", "uid": 5, "gid": 6},
        {"name": "null", "type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3, "mode": 0o666, "uid": 7},
        {"name": "white", "type": tarfile.CHRTYPE, "devmajor": 0, "devminor": 0},
        {"name": "a", "data": b"x", "pax_headers": {"SCHILY.xattr.trusted.x": "1", "SCHILY.xattr.trusted.overlay.redirect": "/etc"}},
    )
    applied = apply(stream(content), tmp_path)
    s = (tmp_path / "f").stat()
    assert (s.st_uid, s.st_gid, oct(s.st_mode)) == (12, 34, "0o106755")
    assert (tmp_path / "large").stat().st_uid == 3_000_000_000
    assert os.lstat(tmp_path / "link").st_uid == 5
    s = (tmp_path / "null").stat()
    assert (os.major(s.st_rdev), os.minor(s.st_rdev), oct(s.st_mode), s.st_uid) == (1, 3, "0o20666", 7)
    assert os.listxattr(tmp_path / "a") == ["trusted.x"]
    assert [row.path for row in applied.warnings] == ["white", "a"]


@requires("root")
def test_a_file_capability_is_kept(archive: Archive, tmp_path: Path) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    content = archive({"name": "ping", "data": b"x", "mode": 0o755, "uid": 3, "pax_headers": {"SCHILY.xattr.security.capability": "CAP"}})
    record = b"57 SCHILY.xattr.security.capability=" + capability + b"\n"  # bytes that the standard library would encode
    size = bytearray(content[:512])
    size[124:136] = b"%011o\0" % len(record)
    size[148:156] = b" " * 8
    size[148:156] = b"%06o\0 " % sum(size)
    content = bytes(size) + record.ljust(512, b"\0") + content[1024:]
    apply(stream(content), tmp_path)
    assert os.getxattr(tmp_path / "ping", "security.capability") == capability


# --- whiteouts --------------------------------------------------------------------------------------------------------


def lower(root: Path) -> None:
    (root / "d/sub").mkdir(parents=True)
    for name in ("gone", "stays", "d/one", "d/two", "d/sub/deep"):
        (root / name).write_text(f"lower {name}")


def upper(archive: Archive, order: int) -> bytes:
    """Whiteouts before, between and after what stands beside them: the order must not matter."""
    entries: list[dict[str, Any]] = [
        {"name": ".wh.gone"},
        {"name": "d", "type": DIR},
        {"name": "d/.wh..wh..opq"},
        {"name": "d/new", "data": b"upper"},
        {"name": "d/sub", "type": DIR},
        {"name": "d/sub/fresh", "data": b"upper"},
        {"name": ".wh.never-was"},
        {"name": ".wh..wh.plnk"},
    ]
    return archive(*(entries, entries[1:2] + entries[3:] + entries[:1] + entries[2:3])[order])


@pytest.mark.parametrize("order", [0, 1])
def test_plain_whiteouts_delete(order: int, archive: Archive, tmp_path: Path) -> None:
    lower(tmp_path)
    applied = apply(stream(upper(archive, order)), tmp_path)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["d", "d/new", "d/sub", "d/sub/fresh", "stays"]
    assert Row("gone", "whiteout", 0, "hidden") in list(applied)


@requires("root", "overlay")
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(
    "extra",
    [
        [],
        [{"name": "d", "type": DIR}, {"name": ".wh.d"}, {"name": "d/only", "data": b"1"}],
        [{"name": ".wh.d"}, {"name": "d", "type": DIR}, {"name": "d/only", "data": b"1"}],
        [{"name": ".wh.stays"}, {"name": "stays", "data": b"new"}],
        [{"name": "stays", "data": b"new"}, {"name": ".wh.stays"}],
    ],
    ids=["none", "directory, whiteout", "whiteout, directory", "whiteout, file", "file, whiteout"],
)
def test_overlay_s_own_view_is_that_of_plain(
    order: int, extra: list[dict[str, Any]], archive: Archive, tmp_path: Path, listing: Listing
) -> None:
    """The kernel's merge of a layer unpacked for overlay is what plain unpacking gives."""
    for name in ("plain", "lower", "upper", "merged"):
        (tmp_path / name).mkdir()
    content = archive(*extra) if extra else upper(archive, order)
    lower(tmp_path / "plain")
    lower(tmp_path / "lower")
    apply(stream(content), tmp_path / "plain")
    apply(stream(content), tmp_path / "upper", encoding="overlay")
    options = f"lowerdir={tmp_path}/upper:{tmp_path}/lower"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", tmp_path / "merged"], check=True)
    try:
        merged = {str(p.relative_to(tmp_path / "merged")): p.is_dir() or p.read_text() for p in (tmp_path / "merged").rglob("*")}
    finally:
        subprocess.run(["umount", tmp_path / "merged"], check=True)
    assert merged == {str(p.relative_to(tmp_path / "plain")): p.is_dir() or p.read_text() for p in (tmp_path / "plain").rglob("*")}


def test_an_ordinary_user_s_whiteouts(archive: Archive, place: Path, as_user: Any) -> None:
    with as_user():
        (place / "up").mkdir()
        apply(stream(upper(archive, 0)), place / "up", encoding="overlay")
    there = os.lstat(place / "up/gone")
    assert stat.S_ISCHR(there.st_mode)
    assert there.st_rdev == 0
    assert os.getxattr(place / "up/d", "user.overlay.opaque") == b"y"


# --- the real thing ---------------------------------------------------------------------------------------------------


@pytest.mark.xdist_group("debian")
@pytest.mark.timeout(240)
@requires("mmdebstrap", "debian-packages")
def test_debian_as_gnu_tar_has_it(debian: Path, place: Path, listing: Listing) -> None:
    """A whole Debian: every name, mode, owner, time, link, device, xattr and byte, against GNU tar."""
    for name in ("ours", "theirs"):
        (place / name).mkdir()
    applied = apply(debian, place / "ours")
    command = ["tar", "--extract", "--file", debian, "--directory", place / "theirs", "--xattrs", "--xattrs-include=*"]
    subprocess.run([*command, "--preserve-permissions"], check=os.geteuid() == 0, stderr=subprocess.DEVNULL)
    assert len(applied) > 5000
    root = os.geteuid() == 0
    ours = listing(place / "ours", owners=root, devices=root)
    assert ours == listing(place / "theirs", owners=root, devices=root)
    assert not [row for row in applied.warnings if row.kind not in ("char", "block")]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [(b"./", b""), (b"/", b""), (b"a/", b"a"), (b"./a//b/./c/", b"a/b/c"), (b"/a", b"a"), (b"..a/b..", b"..a/b.."), (b"a/.b", b"a/.b")],
)
def test_clean(name: bytes, wanted: bytes) -> None:
    assert clean(name) == wanted
