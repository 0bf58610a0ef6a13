"""What the tests of the command lines share: each runs a Python of its own, as a shell would."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

import nsbook

NSBOOK = [sys.executable, "-m", "nsbook.cli.main"]

Done = subprocess.CompletedProcess[str]
Cli = Callable[..., Done]
Begin = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def cli() -> Cli:
    """Run ``nsbook WORDS``; what it printed and its status come back."""

    def run(*words: str, **more: Any) -> Done:
        given = {"stdin": subprocess.DEVNULL} if "input" not in more else {}
        return subprocess.run([*NSBOOK, *words], capture_output=True, text=True, timeout=60, check=False, **given, **more)

    return run


@pytest.fixture
def begin() -> Begin:
    """Begin ``nsbook WORDS`` and go on: a Popen, to be used with ``with``."""

    def start(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen([*NSBOOK, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


@pytest.fixture
def until() -> Callable[[Callable[[], object], str], None]:
    """Wait until something is so."""

    def wait(so: Callable[[], object], what: str) -> None:
        end = time.monotonic() + 20
        while not so():
            assert time.monotonic() < end, f"waited in vain: {what}"
            time.sleep(0.005)

    return wait


@pytest.fixture
def empty() -> Callable[[], None]:
    """Nothing is written down, and no container's directory is left."""

    def check() -> None:
        assert not nsbook.ledger(), str(nsbook.ledger())
        containers = os.path.join(os.environ["NSBOOK_ROOT"], "data", "containers")
        assert not os.path.isdir(containers) or os.listdir(containers) == []

    return check
