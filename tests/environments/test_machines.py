"""The guests that other tests work in are what they are said to be."""

from __future__ import annotations

import os

import pytest

from environments.machines import Machine
from needs import requires

pytestmark = [requires("uml"), pytest.mark.xdist_group("guest")]


def test_root_s_machine(guest_v2: Machine) -> None:
    done = guest_v2.python(
        "import os, nsbook; print(os.getuid(), os.path.exists('/sys/fs/cgroup/cgroup.controllers'), os.getcwd(), nsbook.__file__)"
    )
    assert done.exit_code == 0, done.stderr
    uid, v2, cwd, where = done.stdout.decode().split()
    assert (uid, v2) == ("0", "True")
    assert where.startswith(cwd)


def test_nothing_of_this_run_s_places_is_told(guest_v2: Machine) -> None:
    assert "NSBOOK_ROOT" in os.environ
    variables = {line.split("=")[0] for line in guest_v2.run("env").stdout.decode().splitlines()}
    assert not {"NSBOOK_ROOT", "NSBOOK_TESTS_OUTSIDE", "TMPDIR", "PYTEST_CURRENT_TEST"} & variables
    assert guest_v2.run("sh", "-c", "echo $A", env={"A": "b"}).stdout == b"b\n"


def test_an_ordinary_user_s_machine(guest_user: Machine) -> None:
    script = (
        "unshare --user --map-auto --map-root-user --mount sh -c 'mount -t tmpfs t /mnt && wc -l < /proc/self/uid_map' &&"
        " mkdir /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/mine && id -u && ! mount -t tmpfs t /mnt"
    )
    done = guest_user.run("sh", "-c", script)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.split()[0] == b"2"
    assert int(done.stdout.split()[1]) >= 1000


def test_the_suite_runs_in_it(guest_v2: Machine, guest_user: Machine) -> None:
    """The kernel floor's own tests, against another kernel."""
    for machine in (guest_v2, guest_user):
        done = machine.pytest("tests/linux/test_mount.py")
        assert done.exit_code == 0, (done.stdout + done.stderr).decode()[-6000:]
