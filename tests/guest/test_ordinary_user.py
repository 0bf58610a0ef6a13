"""A guest needs no privilege: booted by a user who has none, outside of any sandbox."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import nsbook
from needs import requires

pytestmark = [requires("root", "uml", "setpriv"), pytest.mark.xdist_group("guest")]

UID = 64321
SCRIPT = """
import os, sys
from nsbook.guest import Guest
with Guest.boot(memory="256M") as guest:
    print(os.getuid(), guest.run(["id", "-u"]).stdout.decode().strip())
    print(guest.run(["sh", "-c", "mount -t tmpfs t /mnt && echo mounted > /mnt/x && cat /mnt/x"]).stdout.decode().strip())
    print(guest.run(["id", "-un"], user="ann").stdout.decode().strip())
    print(guest.run([sys.executable, "-c", "import sys; print(sys.version)"]).stdout.decode().strip() == sys.version)
    print(len(guest.run(["head", "-c", "3000000", "/dev/zero"]).stdout))
    pid, path = guest.pid, guest._session.path
print(os.path.exists(path), os.path.exists(f"/proc/{pid}"))
"""


@pytest.fixture
def python() -> Iterator[list[str]]:
    """A Python that this user can reach, with this package: root's own may lie where only root may look."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="nsbook-test-") as there:
        os.chmod(there, 0o755)
        shutil.copytree(Path(nsbook.__file__).parent, Path(there, "nsbook"), ignore=shutil.ignore_patterns("__pycache__"))
        drop = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
        for candidate in (sys.executable, "/usr/local/bin/python3", "/usr/bin/python3"):
            command = [*drop, "env", "-i", f"PATH={os.environ['PATH']}", f"PYTHONPATH={there}", "PYTHONDONTWRITEBYTECODE=1", candidate]
            trial = "import sys; assert sys.version_info >= (3, 11); import nsbook"
            if subprocess.run([*command, "-c", trial], cwd="/", capture_output=True, check=False).returncode == 0:
                yield command
                return
        pytest.fail("no Python that an ordinary user can run: apt install python3")


@pytest.mark.parametrize("cwd", ["/", "/tmp"])
def test_it_boots_and_is_gone(python: list[str], cwd: str) -> None:
    done = subprocess.run([*python, "-c", SCRIPT], cwd=cwd, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:6] == [f"{UID} 0", "mounted", "ann", "True", "3000000", "False False"]
