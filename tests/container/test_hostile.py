"""A root file system is foreign content: nothing in it may lead a mount, a directory or a device out of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import nsbook
from needs import requires
from nsbook.container.container import Container
from nsbook.errors import SetupError
from nsbook.spawn.result import Result

pytestmark = requires("root", "overlay")


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host's that links in the image point to. It must stay empty."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "dir").mkdir()
    (place / "file").write_text("the host's")
    before = tree(place)
    table = Path("/proc/self/mountinfo").read_text()
    yield place
    assert tree(place) == before
    assert Path("/proc/self/mountinfo").read_text() == table
    assert not nsbook.ledger()


def tree(place: Path) -> list[tuple[str, int, int]]:
    return sorted((str(p), p.lstat().st_mode, p.lstat().st_size) for p in place.rglob("*"))


def replace(path: Path, to: str) -> None:
    """Put a link in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(to)


def run(rootfs: Path, line: str = "cat /proc/self/mountinfo", **given: object) -> Result | None:
    """None: it was refused, which is as good."""
    try:
        return Container.run(str(rootfs), ["/bin/busybox", "sh", "-c", line], **given)
    except SetupError as error:
        assert error.op is not None
        assert isinstance(error.__cause__, OSError)
        return None


TARGETS: list[Callable[[Path], str]] = [
    lambda outside: str(outside / "dir"),
    lambda outside: "../" * 12 + str(outside / "dir").lstrip("/"),
    lambda outside: "/proc/self/root/" + str(outside / "dir"),
    lambda outside: "/proc/1/root" + str(outside / "dir"),
    lambda outside: "loop",
    lambda outside: str(outside / "file"),
    lambda outside: "/",
    lambda outside: "/etc",
]


@pytest.mark.parametrize("number", range(len(TARGETS)))
@pytest.mark.parametrize("name", ["proc", "dev", "sys", "tmp"])
def test_a_mount_point_that_is_a_link(rootfs: Path, outside: Path, name: str, number: int) -> None:
    (rootfs / "loop").symlink_to("loop")
    replace(rootfs / name, TARGETS[number](outside))
    result = run(rootfs, tmpfs={"/tmp": ""})
    if result is not None and result.exit_code == 0:
        places = [line.split()[4] for line in result.stdout.splitlines()]
        assert not [p for p in places if "outside" in p and not p.startswith(str(outside))], places


@pytest.mark.parametrize("name", ["dev/shm", "dev/pts", "sys/fs/cgroup", "dev/mqueue"])
def test_a_link_below_a_mount_point_is_covered(rootfs: Path, outside: Path, name: str) -> None:
    place = rootfs / name
    place.parent.mkdir(parents=True, exist_ok=True)
    replace(place, str(outside / "dir"))
    result = run(rootfs)
    assert result is not None
    assert result.exit_code == 0
    assert f" /{name} " in result.stdout


def test_a_bind_target_that_is_a_link(rootfs: Path, outside: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "hello").write_text("hello")
    (rootfs / "data").symlink_to(outside / "dir")
    (rootfs / "config").symlink_to(outside / "file")
    (rootfs / "dangling").symlink_to(outside / "not-there")
    (rootfs / "deep").symlink_to(outside / "dir")
    for target in ("/data", "/dangling", "/deep/er/est"):
        result = run(rootfs, f"cat {target}/hello", binds=[f"{source}:{target}"])
        assert result is None or result.stdout == "hello" or result.exit_code != 0
    for target in ("/config", "/deep/file"):
        result = run(rootfs, f"cat {target}", binds=[f"{source}/hello:{target}"])
        assert result is None or result.stdout == "hello" or result.exit_code != 0


def test_a_masked_path_that_is_a_link_stays_inside(rootfs: Path, outside: Path) -> None:
    """A /sys/firmware of the image's own making is under the mount; what is masked is the kernel's."""
    (rootfs / "sys").mkdir(exist_ok=True)
    replace(rootfs / "sys/firmware", str(outside / "dir"))
    result = run(rootfs, "ls -A /sys/firmware")
    assert result is not None
    assert result.stdout == ""


def test_a_working_directory_that_is_a_link(rootfs: Path, outside: Path) -> None:
    """It is entered after the root has changed, so it can only mean a place inside."""
    (rootfs / "work").symlink_to(outside / "dir")
    result = run(rootfs, "pwd -P; touch here", workdir="/work")
    assert result is None or str(outside) not in result.stdout or not (outside / "dir/here").exists()


def test_the_password_file_is_read_inside(rootfs: Path, outside: Path) -> None:
    (outside / "dir").chmod(0o755)
    secret = outside.parent / "secret-passwd"
    secret.write_text("spy:x:4242:4242::/:/bin/sh\n")
    replace(rootfs / "etc/passwd", str(secret))
    with pytest.raises(ValueError, match="spy"):
        run(rootfs, user="spy")
    replace(rootfs / "etc/passwd", "../../../../../../../.." + str(secret))
    with pytest.raises(ValueError, match="spy"):
        run(rootfs, user="spy")


def test_a_password_file_that_never_ends(rootfs: Path) -> None:
    (rootfs / "etc/passwd").unlink()
    os.mkfifo(rootfs / "etc/passwd")
    with pytest.raises(ValueError, match="reader"):
        run(rootfs, user="reader")


def test_a_way_out_of_the_new_root(rootfs: Path, outside: Path) -> None:
    """After pivot_root no path leads back: not by .., not by process 1's root, not by a descriptor."""
    result = run(
        rootfs, f"cat /../../../..{outside}/file /proc/1/root{outside}/file /proc/self/fd/*{outside}/file; ls /proc/1/root; ls /.."
    )
    assert result is not None
    assert "the host's" not in result.stdout
    assert result.stdout.split().count("etc") == 2


def test_a_program_that_removes_everything(rootfs: Path, outside: Path) -> None:
    result = run(rootfs, "busybox rm -rf / 2>/dev/null; echo gone")
    assert result is not None
    assert result.stdout == "gone\n"
    assert (rootfs / "bin/busybox").exists()
    assert os.path.exists("/etc/passwd")
