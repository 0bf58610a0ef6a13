"""Unpacked layers: made once, whoever asks and however many at once, and whole whenever they are there."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nsbook.errors import DigestMismatch, ImageError, UnsafeArchive
from nsbook.images import Image, ImageConfig, Layer, unpacked, unpacked_layers
from nsbook.images.sources import from_tar
from nsbook.images.store import keep

Archive = Callable[..., bytes]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NSBOOK_ROOT", str(tmp_path / "root"))
    return tmp_path / "root/data"


def image_of(root: Path, *contents: bytes) -> Image:
    layers = []
    for content in contents:
        digest, size = keep(str(root), [content])
        layers.append(Layer(digest, size, str(root / "blobs" / digest.replace(":", "/")), size))
    return Image.of("made", ImageConfig(), tuple(layers))


def test_once(elsewhere: Path, archive: Archive) -> None:
    image = image_of(elsewhere, archive({"name": "f", "data": b"x"}))
    path = unpacked(image)
    assert path == f"{elsewhere}/layers/{image.layers[0].diff_id[7:]}/rootfs"
    inode = os.stat(path).st_ino
    start = time.perf_counter()
    for _ in range(100):
        assert unpacked(image) == path
    assert (time.perf_counter() - start) / 100 < 0.001
    assert os.stat(path).st_ino == inode
    assert os.listdir(os.path.dirname(path)) == ["rootfs"]


def test_another_root(elsewhere: Path, archive: Archive, tmp_path: Path) -> None:
    image = image_of(elsewhere, archive({"name": "f", "data": b"x"}))
    assert unpacked(image, tmp_path / "there").startswith(f"{tmp_path}/there/layers/")
    assert not (elsewhere / "layers").exists()


def test_only_their_owner_gets_at_them(elsewhere: Path, archive: Archive) -> None:
    """Whatever the umask: an image may hold an old setuid programme. Its own root stays passable for its own users."""
    old = os.umask(0)
    try:
        path = unpacked(image_of(elsewhere, archive({"name": "su", "data": b"x", "mode": 0o4755})))
        os.umask(0o077)
        other = unpacked(image_of(elsewhere, archive({"name": "g", "data": b"x"})))
    finally:
        os.umask(old)
    for name in ("layers", "blobs/sha256", "partial"):
        assert stat.S_IMODE((elsewhere / name).stat().st_mode) == 0o700
    assert stat.S_IMODE(os.stat(path).st_mode) == stat.S_IMODE(os.stat(other).st_mode) == 0o755


def test_several_layers(elsewhere: Path, archive: Archive) -> None:
    first = archive({"name": "a", "data": b"1"}, {"name": "b", "data": b"1"})
    second = archive({"name": ".wh.a"}, {"name": "c", "data": b"2"})
    image = image_of(elsewhere, first, second)
    below, above = unpacked_layers(image)
    assert sorted(os.listdir(below)) == ["a", "b"]
    assert sorted(os.listdir(above)) == ["a", "c"]
    assert stat.S_ISCHR(os.lstat(f"{above}/a").st_mode)
    chained = hashlib.sha256(f"{image.layers[0].diff_id} {image.layers[1].diff_id}".encode()).hexdigest()
    assert image.chain_id == f"sha256:{chained}"
    assert above == f"{elsewhere}/layers/{chained}/rootfs"
    assert unpacked_layers(image_of(elsewhere, first)) == (below,), "shared by every image with the same layers below"
    with pytest.raises(ImageError, match="2 layers"):
        unpacked(image)


def test_nothing_is_left_of_what_fails(elsewhere: Path, archive: Archive) -> None:
    good = archive(*({"name": f"d{i}/f", "data": b"\2" * 1000} for i in range(50)), {"name": "locked", "type": tarfile.DIRTYPE, "mode": 0})
    image = image_of(elsewhere, good)
    blob = Path(image.layers[0].path)
    blob.chmod(0o600)
    blob.write_bytes(good.replace(b"\2" * 1000, b"\1" * 1000, 1))
    with pytest.raises(DigestMismatch):
        unpacked(image)
    blob.write_bytes(good[:5000])
    with pytest.raises(UnsafeArchive):
        unpacked(image)
    assert os.listdir(elsewhere / "layers" / image.layers[0].diff_id[7:]) == []
    blob.write_bytes(good)
    path = unpacked(image)
    assert len(os.listdir(path)) == 51
    os.chmod(f"{path}/locked", 0o700)  # so that an ordinary user's clean-up gets in


SCRIPT = """
import os, sys, time
from nsbook.images import Image, ImageConfig, Layer, unpacked
path, digest, size, start = sys.argv[1:]
image = Image.of("made", ImageConfig(), (Layer(digest, int(size), path, int(size)),))
while time.time() < float(start): pass
where = unpacked(image)
print(where, os.stat(where).st_ino, sum(len(f) for _, _, f in os.walk(where)))
"""


def start(image: Image, at: float) -> subprocess.Popen[str]:
    layer = image.layers[0]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", SCRIPT, layer.path, layer.diff_id, str(layer.size), str(at)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


def test_eight_processes_at_once(elsewhere: Path, archive: Archive) -> None:
    image = image_of(elsewhere, archive(*({"name": f"d{i % 20}/f{i}", "data": bytes(3000)} for i in range(1500))))
    processes = [start(image, time.time() + 0.7) for _ in range(8)]
    answers = {process.communicate(timeout=60)[0] for process in processes}
    assert all(process.returncode == 0 for process in processes)
    assert len(answers) == 1, "all of them have one and the same directory"
    where, _, files = answers.pop().split()
    assert files == "1500"
    assert os.listdir(os.path.dirname(where)) == ["rootfs"]


def test_killed_in_the_middle(elsewhere: Path, archive: Archive) -> None:
    """At every stage: the next one to ask gets it whole, and takes the rest away."""
    image = image_of(elsewhere, archive(*({"name": f"d{i % 50}/f{i}", "data": bytes(2000)} for i in range(4000))))
    above = elsewhere / "layers" / image.layers[0].diff_id[7:]
    interrupted = 0
    for wanted in (1, 5, 20, 45):
        process = start(image, 0)
        end = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < end:
            try:
                if len(os.listdir(above / "partial")) >= wanted:
                    break
            except FileNotFoundError:
                pass
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        if process.returncode == -signal.SIGKILL and (above / "partial").exists():
            interrupted += 1
            assert not (above / "rootfs").exists()
        subprocess.run(["rm", "-rf", above / "rootfs"], check=True)
    assert interrupted >= 2, "the kills came too late to show anything"
    where = unpacked(image)
    assert sum(len(files) for _, _, files in os.walk(where)) == 4000
    assert os.listdir(above) == ["rootfs"]


def test_a_directory_that_goes_while_one_waits_for_it(elsewhere: Path, archive: Archive) -> None:
    """Whoever removes an unpacked layer does so under its lock; who waited for that lock makes it anew."""
    import fcntl

    image = image_of(elsewhere, archive({"name": "f", "data": b"x"}))
    above = elsewhere / "layers" / image.layers[0].diff_id[7:]
    above.mkdir(parents=True)
    fd = os.open(above, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    process = start(image, 0)
    end = time.monotonic() + 30
    while not any("->" in line and f" {process.pid} " in line for line in Path("/proc/locks").read_text().splitlines()):
        assert time.monotonic() < end, "it does not wait for the lock"
        time.sleep(0.01)
    assert process.poll() is None
    os.rmdir(above)
    os.close(fd)
    assert process.communicate(timeout=30)[0].startswith(str(above))
    assert (above / "rootfs/f").read_bytes() == b"x"


def test_a_blob_that_was_never_finished_goes_in_time(elsewhere: Path) -> None:
    keep(str(elsewhere), [b"x"])
    old, new = elsewhere / "partial/1-old", elsewhere / "partial/2-new"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (0, 0))
    keep(str(elsewhere), [b"y"])
    assert os.listdir(elsewhere / "partial") == ["2-new"]

    def failing() -> Any:
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep(str(elsewhere), failing())
    assert os.listdir(elsewhere / "partial") == ["2-new"]
    assert len(os.listdir(elsewhere / "blobs/sha256")) == 2


def test_a_tar_that_changed_after_it_was_looked_at(elsewhere: Path, archive: Archive, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(archive({"name": "f", "data": b"one"}))
    image = from_tar(path)
    path.write_bytes(archive({"name": "f", "data": b"two"}))
    with pytest.raises(DigestMismatch):
        unpacked(image)
    assert (Path(unpacked(from_tar(path))) / "f").read_bytes() == b"two"
