"""Images from a name, a tar, a directory; what they are equal to and what they say."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from needs import requires
from nsbook.errors import ImageError, ImageNotFound, UnsafeArchive
from nsbook.images import Image, ImageConfig, resolve, sources, unpacked

Archive = Callable[..., bytes]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NSBOOK_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr(sources, "_made", {})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names(archive: Archive, elsewhere: Path) -> None:
    (elsewhere / "base").mkdir()
    (elsewhere / "rootfs.tar").write_bytes(archive({"name": "f", "data": b"x"}))
    image = resolve("base")
    assert isinstance(image, Image)
    assert image.name == "base"
    assert resolve("./base") == str(elsewhere / "base")
    tar = resolve("rootfs.tar")
    assert isinstance(tar, Image)
    assert tar == resolve(elsewhere / "rootfs.tar")


@pytest.mark.parametrize(
    ("name", "near"), [("bas", "'base'"), ("rootsf.tar", "'rootfs.tar'"), ("debian:12", None), ("", None), ("/nowhere/x.tar", None)]
)
def test_what_is_no_image(name: str, near: str | None, elsewhere: Path) -> None:
    (elsewhere / "rootfs.tar").touch()
    with pytest.raises(ImageNotFound) as caught:
        resolve(name)
    text = str(caught.value)
    assert "'base', a directory" in text
    assert ".tar.gz" in text
    assert (f"Did you mean {near}" in text) if near else ("Did you mean" not in text)


def test_gzip_is_the_same_image(archive: Archive, elsewhere: Path) -> None:
    """Its layer is: a diff_id is that of the uncompressed tar."""
    content = archive({"name": "f", "data": b"x"})
    (elsewhere / "a.tar").write_bytes(content)
    (elsewhere / "a.tar.gz").write_bytes(gzip.compress(content))
    plain, packed = Image.from_tar("a.tar"), Image.from_tar("a.tar.gz")
    assert plain == packed
    assert hash(plain) == hash(packed)
    assert plain.layers == packed.layers
    assert packed.layers[0].compression == "gzip"
    assert packed.layers[0].size == len(content)
    assert packed.layers[0].stored < len(content)
    assert unpacked(packed) == unpacked(plain)
    assert [e.path for e in packed.layers[0].entries()] == ["f"]
    assert "gzip" in str(packed.layers[0])
    assert packed.layers[0].inspect().diff(plain.layers[0].inspect()).changes[0].where in ("stored", "compression")


def test_a_tar_is_looked_through_once(archive: Archive, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "a.tar").write_bytes(archive({"name": "f", "data": b"x"}))
    first = Image.from_tar("a.tar")
    monkeypatch.setattr(sources, "_made", {})
    monkeypatch.setattr(sources, "_looked_through", lambda path, stored: pytest.fail("read again"))
    assert Image.from_tar("a.tar") == first


def test_what_is_no_root_file_system(archive: Archive, elsewhere: Path) -> None:
    (elsewhere / "saved.tar").write_bytes(archive({"name": "manifest.json", "data": b"[]"}))
    with pytest.raises(ImageError, match="archive of images"):
        resolve("saved.tar")
    (elsewhere / "text").write_text("hello\n" * 200)
    with pytest.raises(UnsafeArchive, match="not a tar"):
        resolve("text")
    (elsewhere / "cut.tar").write_bytes(archive({"name": "f", "data": b"x" * 2000})[:1500])
    with pytest.raises(UnsafeArchive, match="cut off"):
        resolve("cut.tar")
    with pytest.raises(ImageNotFound):
        Image.from_tar("absent.tar")


def test_from_directory_and_back(archive: Archive, elsewhere: Path, listing: Callable[..., Any]) -> None:
    source = elsewhere / "source"
    (source / "dir/sub").mkdir(parents=True)
    (source / "dir/f").write_bytes(os.urandom(600_000))
    os.link(source / "dir/f", source / "hard")
    (source / "link").symlink_to("/etc/passwd")
    (source / ("long-" * 30)).write_text("x")
    (source / "ümlaut").write_text("x")
    (source / "empty").touch()
    os.mkfifo(source / "pipe")
    (source / "dir/sub").chmod(0o1711)
    os.setxattr(source / "empty", "user.colour", b"blue\n=\0")
    if os.geteuid() == 0:
        os.mknod(source / "null", 0o020644, os.makedev(1, 3))
        os.chown(source / "empty", 3_000_000, 70_000)
    os.utime(source / "empty", ns=(0, 123_456_789_012_345_678))
    os.utime(source / "link", ns=(0, 5), follow_symlinks=False)
    image = Image.from_directory(source)
    assert listing(Path(unpacked(image))) == listing(source)
    assert Image.from_directory("source") == image, "packed again, it is the same"
    (source / "empty").write_text("changed")
    assert Image.from_directory(source) != image


def test_from_directory_refused(elsewhere: Path) -> None:
    with pytest.raises(ImageError, match="No such"):
        Image.from_directory("nowhere")
    (elsewhere / "d/locked").mkdir(parents=True)
    (elsewhere / "d/f").touch()
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(elsewhere / "d")
        listener.bind("s")
        os.chdir(elsewhere)
    assert [e.path for e in Image.from_directory("d").layers[0].entries()] == ["./", "f", "locked/"], "a socket is no content"


def test_documents_are_what_the_specification_asks() -> None:
    config = ImageConfig(
        env=("A=b",),
        cmd=("sh",),
        entrypoint=("/init",),
        user="1:2",
        labels=(("k", "v"),),
        exposed_ports=("80/tcp",),
        created="2024-01-01T00:00:00Z",
    )
    document = json.loads(config.document(("sha256:" + "0" * 64,)))
    assert document["rootfs"] == {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}
    assert document["config"]["Labels"] == {"k": "v"}
    assert document["config"]["ExposedPorts"] == {"80/tcp": {}}
    assert document["created"] == "2024-01-01T00:00:00Z"
    assert config.argv() == ("/init", "sh")
    assert config.argv(("x",)) == ("/init", "x")
    assert ImageConfig(env=("A=b",)).document(()) == ImageConfig(env=("A=b",)).document(())


def test_importing_images_is_light() -> None:
    script = (
        "import sys; before = set(sys.modules); from nsbook.images import Image, unpacked, resolve; "
        "print(*sorted(set(sys.modules) - before))"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    loaded = subprocess.run([sys.executable, "-S", "-c", script], env=env, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    assert not {"ctypes", "json", "hashlib", "re", "tarfile", "subprocess", "enum", "typing", "zlib"} & set(loaded)
    assert not [name for name in loaded if name.startswith("nsbook.linux")]


@pytest.mark.xdist_group("debian")
@pytest.mark.timeout(240)
@requires("mmdebstrap", "debian-packages", "userns")
def test_a_real_debian_runs(debian: Path) -> None:
    image = Image.from_tar(debian)
    apart = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    done = subprocess.run(
        ["unshare", *apart, "chroot", unpacked(image), "/bin/bash", "-c", "dpkg -l | wc -l; cat /etc/debian_version"],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    count, version = done.stdout.split()
    assert int(count) > 50
    assert version.startswith("12")


def test_the_tar_of_a_directory_is_python_s_too(elsewhere: Path) -> None:
    (elsewhere / "d").mkdir()
    (elsewhere / "d/f").write_text("x")
    layer = Image.from_directory("d").layers[0]
    with tarfile.open(layer.path) as tar:
        assert tar.getnames() == [".", "f"]
