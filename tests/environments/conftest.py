"""The machines as fixtures: ``pod``, ``guest_v2``, ``guest_user``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from environments.machines import Machine, Pod
from needs import need
from nsbook.guest import Guest

USER = "ann"


@pytest.fixture
def pod() -> Pod:
    """Runs commands in a pod that forbids everything."""
    need("root")
    return Pod()


@pytest.fixture(scope="session")
def _guest() -> Iterator[Guest]:
    need("uml")
    with Guest.boot(memory="1536M") as guest:
        yield guest


@pytest.fixture
def guest_v2(_guest: Guest) -> Machine:
    """A machine with cgroup v2 and all its controllers, as root. All tests of a session share the guest."""
    return Machine(_guest)


@pytest.fixture
def guest_user(_guest: Guest) -> Machine:
    """The same machine, as an ordinary user: sub-ids, a home, a delegated cgroup."""
    return Machine(_guest, USER)
