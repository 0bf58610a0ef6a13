"""Kinds of machines for tests, on any machine: pods that forbid everything, and guests with cgroup v2.

Tests here take them as fixtures (``conftest.py``)::

    @pytest.mark.parametrize("mode", MODES)
    def test_refusals(pod: Pod, mode: str) -> None:
        done = pod(sys.executable, "-c", "...", mode=mode)

    def test_limits(guest_v2: Machine) -> None:
        assert guest_v2.python("...").exit_code == 0

One Python in User Mode Linux takes half a second to start and runs at full speed then: run one pytest per guest
(:meth:`Machine.pytest`), not one guest per test.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from nsbook.guest import Guest, GuestResult

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MODES = ("docker", "apparmor", "none")
"""What holds a pod's process: Docker's seccomp profile; none, but AppArmor's rules for mounts; none of both."""


class Pod:
    """Runs commands as a Binder pod would: uid 1000, no capability, a filter, a memory limit (``binderlike.py``)."""

    def command(self, *words: str, mode: str = "docker", options: Sequence[str] = ()) -> list[str]:
        """The command line that does it."""
        shown = [word for path in (ROOT, os.getcwd(), sys.prefix) for word in ("--share", str(path))]
        return [sys.executable, str(HERE / "binderlike.py"), "--seccomp", mode, *shown, *options, "--", *words]

    def __call__(
        self,
        *words: str,
        mode: str = "docker",
        options: Sequence[str] = (),
        data: str = "",
        timeout: float = 100,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run one. ``options`` are binderlike's; ``env`` comes on top of the pod's."""
        assignments = [word for name, value in (env or {}).items() for word in ("-e", f"{name}={value}")]
        return subprocess.run(
            self.command(*words, mode=mode, options=[*options, *assignments]),
            input=data,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={k: v for k, v in os.environ.items() if k == "TMPDIR" or not ours(k)},
        )


class Machine:
    """A guest and who works on it: root, or an ordinary user with sub-ids, a home and a cgroup that is his to divide."""

    def __init__(self, guest: Guest, user: str = "root") -> None:
        self.guest = guest
        self.user = user

    def run(
        self, *words: str, data: bytes = b"", timeout: float = 100, env: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> GuestResult:
        """Run a command. ``env`` comes on top of the usual one, which says nothing of this suite's own places."""
        variables = {k: v for k, v in self.guest.environment().items() if not ours(k)} | dict(env or {})
        return self.guest.run(words, stdin=data, timeout=timeout, env=variables, user=self.user, cwd=cwd or str(ROOT))

    def python(self, script: str, *words: str, timeout: float = 100) -> GuestResult:
        """Run a script with the Python of the tests."""
        return self.run(sys.executable, "-c", script, *words, timeout=timeout)

    def pytest(self, *words: str, timeout: float = 600) -> GuestResult:
        """Run tests there, in one go; nothing is written to the cache of this machine's runs."""
        return self.run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=300", *words, timeout=timeout)


def ours(name: str) -> bool:
    """Whether a variable tells of this suite's own places, which are not those of another machine."""
    return name in ("NSBOOK_ROOT", "NSBOOK_TESTS_OUTSIDE", "NSBOOK_TESTS_MUST_RUN", "TMPDIR") or name.startswith("PYTEST_")
