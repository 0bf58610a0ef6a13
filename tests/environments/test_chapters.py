"""The chapters, in the guest and in the guest in a pod, against the same stored outputs as on the host."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from environments.machines import MODES, ROOT, Machine, Pod
from needs import requires

pytestmark = [requires("uml"), pytest.mark.xdist_group("guest"), pytest.mark.timeout(300)]

CHAPTERS = [str(path.relative_to(ROOT)) for path in sorted(Path(ROOT, "notebooks").glob("[0-9][0-9]-*.ipynb"))]
NBVAL = ["-q", "-p", "no:cacheprovider", "-o", "addopts=", "-o", "filterwarnings=", "--rootdir", ".", "--nbval"]
NBVAL += ["--nbval-cell-timeout", "120", "--nbval-kernel-startup-timeout", "120"]
NBVAL += ["--nbval-sanitize-with", "tests/notebooks/sanitize.cfg", *CHAPTERS]


def test_in_a_guest_with_cgroup_v2(guest_v2: Machine) -> None:
    done = guest_v2.run(sys.executable, "-m", "pytest", *NBVAL, timeout=280)
    assert done.exit_code == 0, done.stdout.decode()[-3000:]
    assert b" passed" in done.stdout


@requires("root")
@pytest.mark.parametrize("mode", MODES[:1])
def test_in_a_guest_in_a_pod(pod: Pod, mode: str) -> None:
    """As on Binder, where nothing is allowed but to run programs."""
    done = pod(sys.executable, "-m", "nsbook.cli.main", "guest", "run", sys.executable, "-m", "pytest", *NBVAL, mode=mode, timeout=280)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout


def test_as_an_ordinary_user_of_a_guest(guest_user: Machine) -> None:
    """Rootless, with sub-ids and a delegated control group: other ops, so other outputs; but every cell runs."""
    for chapter in CHAPTERS:
        words = ["-m", "jupyter", "execute", "--startup_timeout=120", "--timeout=120", chapter]
        done = guest_user.run(sys.executable, *words, timeout=200)
        assert done.exit_code == 0, done.stderr.decode()[-3000:]
