"""The guard itself: each kind of leak is seen, and what goes by itself is no leak."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import apart
import leaks
import station
from needs import requires


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "PATIENCE", 0.1)


def test_nothing_is_no_leak() -> None:
    assert leaks.left_since(leaks.look()) == []


def test_a_descriptor_is_seen() -> None:
    before = leaks.look()
    fd = os.open("/", os.O_RDONLY)
    try:
        assert leaks.left_since(before) == [f"descriptor: {fd} -> /"]
    finally:
        os.close(fd)


def test_a_child_is_seen_and_a_zombie_too() -> None:
    before = leaks.look()
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert leaks.left_since(before) == [f"processes: {child.pid} (sleep 60)"]
        child.kill()
        (line,) = leaks.left_since(before)
        assert line.endswith("zombie")
    finally:
        child.kill()
        child.wait()


def test_an_orphan_is_seen() -> None:
    before = leaks.look()
    words = ["sh", "-c", "setsid sleep 60 > /dev/null & echo $!"]
    pid = int(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)
    try:
        assert leaks.left_since(before) == [f"processes: {pid} (sleep 60)"]
    finally:
        os.kill(pid, 9)


def test_a_file_is_seen() -> None:
    before = leaks.look()
    name = tempfile.mkdtemp()
    try:
        assert leaks.left_since(before) == [f"file: {name}"]
    finally:
        os.rmdir(name)


def test_a_ledger_entry_is_seen() -> None:
    before = leaks.look()
    entry = Path(os.environ["NSBOOK_ROOT"], "run", "ledger", "trial")
    entry.parent.mkdir(parents=True, exist_ok=True)
    entry.touch()
    try:
        assert leaks.left_since(before) == [f"ledger: {entry}"]
    finally:
        entry.unlink()


@requires("root")
def test_a_mount_is_seen(tmp_path: Path) -> None:
    before = leaks.look()
    subprocess.run(["mount", "-t", "tmpfs", "trial", tmp_path], check=True)
    try:
        (line,) = leaks.left_since(before)
        assert line.startswith("mount: ")
        assert f" {tmp_path} " in line
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@requires("root", "ip")
def test_a_link_is_seen() -> None:
    before = leaks.look()
    subprocess.run(["ip", "link", "add", "nsbt0", "type", "veth", "peer", "name", "nsbt1"], check=True)
    try:
        assert leaks.left_since(before) == ["link: nsbt0", "link: nsbt1"]
    finally:
        subprocess.run(["ip", "link", "del", "nsbt0"], check=True)


@requires("root", "cgroup-v1")
def test_a_cgroup_is_seen() -> None:
    before = leaks.look()
    mine = station.cgroups[0] / "trial"
    mine.mkdir()
    try:
        assert leaks.left_since(before) == [f"cgroup: {mine}"]
    finally:
        mine.rmdir()


@requires("root")
def test_this_process_stands_apart() -> None:
    """Its mounts and links are no other process's, yet the machine's own network can be reached."""
    for kind in ("net", "mnt"):
        assert os.readlink(f"/proc/self/ns/{kind}") != os.readlink(f"/proc/{os.environ['NSBOOK_TESTS_OUTSIDE']}/ns/{kind}")
    there = subprocess.run(apart.outside("readlink", "/proc/self/ns/net"), stdout=subprocess.PIPE, check=True, text=True).stdout
    assert there.strip() == os.readlink(f"/proc/{os.environ['NSBOOK_TESTS_OUTSIDE']}/ns/net")


def test_loopback_is_up() -> None:
    script = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname()).close()"
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)


def test_looking_is_cheap() -> None:
    """It is done around every test: 5 ms at most for one look, on a busy machine, at its best of ten."""
    import time

    times = []
    for _ in range(10):
        start = time.perf_counter()
        leaks.look()
        times.append(time.perf_counter() - start)
    assert min(times) < 0.005
