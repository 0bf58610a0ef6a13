"""Where the cgroups are: this machine, and the texts of others."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from needs import own_cgroups, requires
from nsbook.linux import cgroups
from nsbook.linux.cgroups import CgroupLine

Inside = Callable[..., dict[str, Any]]


def test_lines() -> None:
    text = "11:cpu,cpuacct:/a:b\n1:name=systemd:/\n0::/user.slice/x (deleted)\n"
    assert cgroups.parse(text) == (
        CgroupLine(11, ("cpu", "cpuacct"), "/a:b"),
        CgroupLine(1, ("name=systemd",), "/"),
        CgroupLine(0, (), "/user.slice/x (deleted)"),
    )


def test_own_directories_hold_this_process() -> None:
    rows = cgroups.hierarchies()
    if not rows:
        pytest.skip("needs cgroups: no hierarchy is mounted")
    assert len({row.controllers for row in rows}) == len(rows)
    for row in rows:
        assert row.directory, row
        assert str(os.getpid()) in Path(row.directory, "cgroup.procs").read_text().split(), row
    named = {controller: Path(row.directory) for row in rows if row.version == 1 for controller in row.controllers}
    assert named == {name: path for name, path in own_cgroups().items() if name and name in named}


def test_layout_is_that_of_the_mounts() -> None:
    types = {line.split(" - ")[1].split()[0] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    expected = {(True, True): "hybrid", (True, False): "v1", (False, True): "v2", (False, False): "none"}
    assert cgroups.layout() == expected["cgroup" in types, "cgroup2" in types]


def test_controllers_are_those_of_the_kernel() -> None:
    table = cgroups.controllers()
    assert set(table) == {line.split()[0] for line in Path("/proc/cgroups").read_text().splitlines() if line[0] != "#"}
    assert all(enabled in (True, False) and count >= 0 for _, count, enabled in table.values())


@pytest.mark.parametrize(
    "mountpoint, root, path, expected",
    [
        ("/sys/fs/cgroup", "/", "/", "/sys/fs/cgroup"),
        ("/sys/fs/cgroup", "/", "/a/b", "/sys/fs/cgroup/a/b"),
        ("/sys/fs/cgroup/memory", "/docker/x", "/docker/x", "/sys/fs/cgroup/memory"),
        ("/sys/fs/cgroup/memory", "/docker/x", "/docker/x/y", "/sys/fs/cgroup/memory/y"),
        ("/sys/fs/cgroup/memory", "/docker/x", "/docker/xy", ""),
        ("/sys/fs/cgroup", "/", "/../other", ""),
        ("/sys/fs/cgroup", "/../..", "/", ""),
    ],
)
def test_where_a_cgroup_shows(mountpoint: str, root: str, path: str, expected: str) -> None:
    assert cgroups._directory(mountpoint, root, path) == expected


@requires("userns")
def test_what_is_mounted_over_is_not_there(inside: Inside) -> None:
    out = inside(
        """
        before = {h.mountpoint for h in cgroups.hierarchies()}
        mount.mount("tmpfs", "/sys/fs/cgroup", "tmpfs")
        out["left"] = sorted({h.mountpoint for h in cgroups.hierarchies()} & before)
        """,
        unshare=("--mount", "--propagation", "private"),
    )
    assert out["left"] == []


@requires("cgroup-v1", "root")
def test_a_container_sees_its_cgroup_at_the_mounts_root(inside: Inside) -> None:
    out = inside(
        """
        own = next(h for h in cgroups.hierarchies() if "pids" in h.controllers)
        there = own.directory + "/inner"
        os.mkdir(there)
        try:
            def body():
                files.write_file(there + "/cgroup.procs", str(os.getpid()))
                process.unshare(C.CLONE_NEWNS)
                mount.mount(None, "/", None, C.MS_REC | C.MS_PRIVATE)
                mount.mount(there, own.mountpoint, None, C.MS_BIND)
                mount.mount(None, own.mountpoint, None, C.MS_BIND | C.MS_REMOUNT | C.MS_RDONLY)
                bound = next(h for h in cgroups.hierarchies() if "pids" in h.controllers).to_dict()
                process.unshare(C.CLONE_NEWCGROUP)
                line = next(c for c in cgroups.cgroup() if "pids" in c.controllers).path
                return bound, line
            out["bound"], out["path"] = in_child(body)
        finally:
            os.rmdir(there)
        out["point"] = own.mountpoint
        """
    )
    assert out["path"] == "/"
    assert out["bound"]["read_only"] is True
    # The hierarchy is mounted twice now, one above the other: what a lookup finds is the upper one, which shows "inner".
    assert out["bound"]["root"].endswith("/inner")
    assert out["bound"]["directory"] == out["point"]
