"""The engine for where User Mode Linux is missing: its parts, and once a whole boot with Debian's kernel."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from apart import outside
from needs import requires
from nsbook.errors import Unsupported
from nsbook.guest import Guest, qemu

RELEASE = "6.1.0-9-amd64"


def kernel_at(root: Path, release: str, *, dep: str | None = "kernel/net/9p/9pnet_virtio.ko: kernel/net/9p/9pnet.ko\n") -> None:
    (root / "boot").mkdir(exist_ok=True)
    (root / f"boot/vmlinuz-{release}").write_bytes(b"")
    modules = root / "lib/modules" / release
    modules.mkdir(parents=True)
    if dep is not None:
        (modules / "modules.dep").write_text(dep)


def test_the_newest_kernel_with_9p_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NSBOOK_GUEST_KERNEL", str(tmp_path))
    kernel_at(tmp_path, RELEASE)
    kernel_at(tmp_path, "6.1.0-10-amd64")
    kernel_at(tmp_path, "6.1.0-11-cloud-amd64", dep="kernel/fs/ext4/ext4.ko:\n")
    found = qemu.find()
    assert found.release == "6.1.0-10-amd64"
    assert found.modules == f"{tmp_path}/lib/modules/6.1.0-10-amd64"


@pytest.mark.parametrize(
    ("dep", "reason"), [(None, "modules.dep"), ("kernel/fs/ext4/ext4.ko:\n", "no module 9pnet_virtio"), ("none", "there is no kernel")]
)
def test_what_a_kernel_lacks_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dep: str | None, reason: str) -> None:
    monkeypatch.setenv("NSBOOK_GUEST_KERNEL", str(tmp_path))
    if dep != "none":
        kernel_at(tmp_path, RELEASE, dep=dep)
    with pytest.raises(Unsupported) as refusal:
        qemu.find()
    assert reason in refusal.value.reason
    assert "cloud kernel has no 9p" in refusal.value.fix


@requires("busybox-static")
def test_the_first_files_are_an_archive_that_cpio_reads(tmp_path: Path) -> None:
    data = qemu.archive({"init": b"#!/bin/sh\n", "bin/busybox": bytes(range(256)) * 5, "modules/a.ko": b"x"})
    listed = subprocess.run(["busybox", "cpio", "-t"], input=data, capture_output=True, check=True).stdout.decode().split()
    assert listed == ["bin", "modules", "init", "bin/busybox", "modules/a.ko"]
    subprocess.run(["busybox", "cpio", "-i"], input=data, cwd=tmp_path, capture_output=True, check=True)
    assert (tmp_path / "bin/busybox").read_bytes() == bytes(range(256)) * 5
    assert (tmp_path / "init").stat().st_mode & 0o777 == 0o755


@pytest.fixture(scope="module")
def debian_kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Debian's ordinary kernel, unpacked: it need not be installed."""
    there = tmp_path_factory.mktemp("kernel")
    script = """
    set -e
    package=$(apt-cache depends --important linux-image-amd64 | sed -n 's/.*Depends: //p' | head -1)
    apt-get download -qq "$package"
    dpkg-deb -x "$package"_*.deb .
    rm -f *.deb
    [ -d lib/modules ] || { mkdir -p lib; mv usr/lib/modules lib/; }
    busybox depmod -b . "$(ls lib/modules)"
    """
    done = subprocess.run(outside("sh", "-c", script), cwd=there, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    yield there
    subprocess.run(["rm", "-rf", there], check=True)


@requires("qemu", "busybox-static", "debian-packages")
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_whole_boot(debian_kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By software emulation, since /dev/kvm is not everywhere."""
    monkeypatch.setenv("NSBOOK_GUEST_KERNEL", str(debian_kernel))
    monkeypatch.setenv("NSBOOK_GUEST_KVM", "0")
    with Guest.boot(engine="qemu", share=[debian_kernel], timeout=200) as guest:
        state = guest.inspect()
        assert (state.engine, state.scratch) == ("qemu", "ext4")
        assert state.release in str(next((debian_kernel / "boot").glob("vmlinuz-*")))
        data = bytes(range(256)) * 8000
        result = guest.run(["cat"], stdin=data, timeout=100)
        assert (result.exit_code, result.stdout == data) == (0, True)
        assert "memory" in guest.run(["cat", "/sys/fs/cgroup/cgroup.controllers"]).stdout.decode().split()
        assert guest.run(["nft", "add", "table", "ip", "t"]).exit_code == 0  # what UML has not
        assert int(guest.run(["id", "-u"], user="ann").stdout) >= 2000
        assert guest.run(["sh", "-c", "echo x > /etc/x && cat /etc/x"]).stdout == b"x\n"
        assert guest.run(["sh", "-c", "sleep 99; exit 1"], timeout=1).timed_out
    assert not Path("/etc/x").exists()
