"""Containers and control groups by cgroup version 2, as root: the host's own tests, run in a guest."""

from __future__ import annotations

import pytest

from environments.machines import Machine
from needs import requires

pytestmark = [requires("uml"), pytest.mark.xdist_group("guest"), pytest.mark.timeout(400), pytest.mark.slow]

CONTAINERS = ("tests/container/test_options.py", "tests/container/test_run.py", "tests/container/test_life.py")


def passes(machine: Machine, *files: str) -> None:
    done = machine.pytest(*files, timeout=380)
    said = (done.stdout + done.stderr).decode()
    assert done.exit_code == 0, said[-6000:]
    assert " passed" in said


def test_containers(guest_v2: Machine) -> None:
    """Every option, seen in the kernel; exit statuses; the whole life."""
    passes(guest_v2, *CONTAINERS)


def test_control_groups_and_being_born_in_one(guest_v2: Machine) -> None:
    passes(guest_v2, "tests/primitives/test_cgroup.py", "tests/linux/test_process.py::test_born_in_a_cgroup")
