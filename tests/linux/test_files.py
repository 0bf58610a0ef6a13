"""openat2, traced writes, whiteouts."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from needs import requires
from nsbook.linux import constants as C
from nsbook.linux import files
from nsbook.trace import record

Inside = Callable[..., dict[str, Any]]


def read(rootfd: int, path: str) -> str:
    fd = files.open_in_root(rootfd, path, os.O_RDONLY)
    with open(fd) as file:
        return file.read()


def test_nothing_leads_out_of_a_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    (root / "up").symlink_to("../../../../../../../etc/passwd")
    (root / "absolute").symlink_to("/etc/passwd")
    (root / "beside").symlink_to("../secret")
    (root / "through").symlink_to("/proc/self/root/etc/passwd")
    fd = os.open(root, os.O_PATH)
    try:
        for path in ("/etc/passwd", "up", "absolute", "../../etc/passwd", "etc/../../../etc/passwd"):
            assert read(fd, path) == "inside", path
        for path in ("beside", "through"):
            with pytest.raises(FileNotFoundError):
                read(fd, path)
        with record() as transcript:
            made = files.open_in_root(fd, "new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        assert not os.get_inheritable(made)
        os.close(made)
        assert (root / "new").stat().st_mode & 0o777 == 0o640
        assert transcript[0].args == f'{fd}, "new", O_WRONLY|O_CREAT|O_EXCL, 0640, RESOLVE_NO_MAGICLINKS|RESOLVE_IN_ROOT'
    finally:
        os.close(fd)


def test_magic_links_are_not_followed() -> None:
    root = os.open("/", os.O_PATH)
    try:
        with pytest.raises(OSError, match="symbolic") as caught:
            files.open_in_root(root, "/proc/self/root/etc", os.O_RDONLY)
        assert caught.value.errno == errno.ELOOP
    finally:
        os.close(root)


def test_openat2_beneath() -> None:
    fd = os.open("/usr", os.O_PATH)
    try:
        with pytest.raises(OSError, match="cross-device") as caught:
            files.openat2(fd, "../etc", os.O_RDONLY, resolve=C.RESOLVE_BENEATH)
        assert caught.value.errno == errno.EXDEV
        assert "RESOLVE_BENEATH" in caught.value.__notes__[0]
    finally:
        os.close(fd)


def test_a_rename_race_is_tried_again(tmp_path: Path) -> None:
    """One process renames a directory in and out while another walks through it with ``..``: never out, seldom in vain."""
    import subprocess
    import sys

    (tmp_path / "root/a/b").mkdir(parents=True)
    (tmp_path / "root/file").write_text("inside")
    (tmp_path / "file").write_text("outside")
    (tmp_path / "out").mkdir()
    code = "import os\nwhile True:\n os.rename('root/a/b', 'out/b'); os.rename('out/b', 'root/a/b')"
    mover = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    fd = os.open(tmp_path / "root", os.O_PATH)
    read_well, refused = 0, set()
    try:
        for _ in range(3000):
            try:
                assert read(fd, "a/b/../../file") == "inside"
                read_well += 1
            except OSError as error:
                refused.add(error.errno)
    finally:
        os.close(fd)
        mover.kill()
        mover.wait()
    assert read_well > 0
    assert refused <= {errno.ENOENT, errno.EAGAIN, errno.EXDEV}


def test_write_file(tmp_path: Path) -> None:
    place = tmp_path / "limit"
    place.write_text("")
    directory = os.open(tmp_path, os.O_PATH)
    try:
        with record() as transcript:
            files.write_file(place, "64M")
            files.write_file("limit", b"max\n", dir_fd=directory)
    finally:
        os.close(directory)
    assert place.read_text() == "max\n"
    assert [(c.kind, c.name, c.args, c.result) for c in transcript] == [
        ("write", "write", f"'64M' > {place}", "3"),
        ("write", "write", "'max\\n' > limit", "4"),
    ]


def test_write_file_makes_nothing_and_says_what_failed(tmp_path: Path) -> None:
    with record() as transcript, pytest.raises(FileNotFoundError) as caught:
        files.write_file(tmp_path / "none", "1")
    assert not (tmp_path / "none").exists()
    assert caught.value.__notes__ == [f"write(2): '1' > {tmp_path}/none"]
    assert (transcript[0].result, transcript[0].errno) == ("-1", errno.ENOENT)
    with pytest.raises(PermissionError) as refused:  # the map of the own user namespace is written already
        files.write_file("/proc/self/uid_map", "0 0 1")
    assert refused.value.filename == "/proc/self/uid_map"


def test_a_short_write_is_an_error(inside: Inside, tmp_path: Path) -> None:
    (tmp_path / "small").write_text("")
    out = inside(
        """
        process.prlimit64(0, C.RLIMIT_FSIZE, (4, 4))
        out["refused"] = error_of(lambda: files.write_file(sys.argv[1], "0123456789"))
        """,
        args=(str(tmp_path / "small"),),
    )
    assert out["refused"]["errno"] == errno.EIO
    assert (tmp_path / "small").read_text() == "0123"


def test_read_file_translates_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"a\r\nb\x85\xff\xe2\x80\xa8\n")
    assert files.read_file(tmp_path / "x").encode("utf-8", "surrogateescape") == b"a\r\nb\x85\xff\xe2\x80\xa8\n"
    assert files.read_file("/proc/self/status").startswith("Name:")


def test_traced_file_calls(tmp_path: Path) -> None:
    with record() as transcript:
        files.mkdir(tmp_path / "d", 0o700)
        files.mknod(tmp_path / "fifo", 0o010600)
        files.symlink("fifo", tmp_path / "link")
        files.chmod(tmp_path / "fifo", 0o640)
        files.chown(tmp_path / "link", os.getuid(), os.getgid(), follow_symlinks=False)
        files.unlink(tmp_path / "link")
        files.rmdir(tmp_path / "d")
        with pytest.raises(FileNotFoundError):
            files.rmdir(tmp_path / "d")
    shown = [(c.name, c.args.replace(str(tmp_path), "T"), c.errno) for c in transcript]
    assert shown == [
        ("mkdir", '"T/d", 0700', 0),
        ("mknod", '"T/fifo", S_IFIFO|0600, makedev(0x0, 0x0)', 0),
        ("symlink", '"fifo", "T/link"', 0),
        ("chmod", '"T/fifo", 0640', 0),
        ("chown", f'"T/link", {os.getuid()}, {os.getgid()}, 0', 0),
        ("unlink", '"T/link"', 0),
        ("rmdir", '"T/d"', 0),
        ("rmdir", '"T/d"', errno.ENOENT),
    ]


def test_whiteouts_need_no_privilege(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    try:
        files.make_whiteout(fd, "gone")
    finally:
        os.close(fd)
    assert files.is_whiteout(os.lstat(tmp_path / "gone"))
    assert not files.is_whiteout(os.lstat(tmp_path))
    assert not files.is_whiteout(os.lstat("/dev/null"))


def test_opaque_user(tmp_path: Path) -> None:
    assert files.is_opaque(tmp_path, user=True) is False
    try:
        files.set_opaque(tmp_path, user=True)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            pytest.skip("needs extended attributes: this temporary directory has none")
        raise
    assert files.is_opaque(tmp_path, user=True)
    assert files.listxattr(tmp_path) == ["user.overlay.opaque"]
    assert files.getxattr(tmp_path, "user.overlay.opaque") == b"y"
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert files.is_opaque(fd, user=True)
    finally:
        os.close(fd)


@requires("root", "overlay")
def test_overlay_understands_our_whiteouts_and_leaves_ones_that_we_understand(inside: Inside, tmp_path: Path) -> None:
    out = inside(
        """
        there = sys.argv[1]
        mount.mount("tmpfs", there, "tmpfs")
        os.chdir(there)
        for name in ("lower/dir", "lower/kept", "upper/dir", "work", "merged"): os.makedirs(name)
        for name in ("lower/a", "lower/b", "lower/dir/c", "lower/kept/d"): open(name, "w").close()
        fd = os.open("upper", os.O_PATH)
        files.make_whiteout(fd, "a")
        files.set_opaque("upper/dir")
        mount.mount("overlay", "merged", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work")
        out["seen"] = sorted(os.listdir("merged")) + os.listdir("merged/dir")
        os.unlink("merged/b")
        import shutil; shutil.rmtree("merged/kept"); os.mkdir("merged/kept")
        mount.umount2("merged")
        out["b"] = files.is_whiteout(os.lstat("upper/b"))
        out["kept"] = [files.is_opaque("upper/kept"), files.is_opaque("lower/kept")]
        """,
        unshare=("--mount", "--propagation", "private"),
        args=(str(tmp_path),),
    )
    assert out["seen"] == ["b", "dir", "kept"]
    assert out["b"] is True
    assert out["kept"] == [True, False]
