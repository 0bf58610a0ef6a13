"""``nsbook demo`` runs a real container where nothing is allowed: in a guest, in a pod; and in a guest with cgroup v2.

A nonce, made up a moment ago, must come back from inside the container beside the guest kernel's own version: a recording
could not know either.
"""

from __future__ import annotations

import secrets
import sys

import pytest

from environments.machines import MODES, Machine, Pod
from needs import requires
from nsbook.guest import uml

pytestmark = [requires("uml"), pytest.mark.xdist_group("guest")]

NSBOOK = [sys.executable, "-m", "nsbook.cli.main"]


def holds(said: str, nonce: str) -> None:
    lines = said.splitlines()
    assert f"you said: {nonce}" in lines
    assert any(line.startswith(f"my kernel: Linux version {uml.find().release} ") for line in lines)
    assert any(line.startswith("Hello from process 1 of a container: root on nsbook-demo") for line in lines)


@requires("root")
@pytest.mark.parametrize("mode", MODES)
def test_a_container_in_a_guest_in_a_pod(pod: Pod, mode: str) -> None:
    nonce = secrets.token_hex(8)
    done = pod(*NSBOOK, "guest", "run", *NSBOOK, "demo", "--say", nonce, mode=mode)
    assert done.returncode == 0, done.stdout + done.stderr
    holds(done.stdout, nonce)


def test_a_container_with_cgroup_v2_as_root(guest_v2: Machine) -> None:
    nonce = secrets.token_hex(8)
    done = guest_v2.run(*NSBOOK, "demo", "--say", nonce)
    assert done.exit_code == 0, (done.stdout + done.stderr).decode()
    holds(done.stdout.decode(), nonce)


def test_a_container_with_cgroup_v2_as_an_ordinary_user(guest_user: Machine) -> None:
    nonce = secrets.token_hex(8)
    done = guest_user.run(*NSBOOK, "demo", "--say", nonce)
    assert done.exit_code == 0, (done.stdout + done.stderr).decode()
    holds(done.stdout.decode(), nonce)
