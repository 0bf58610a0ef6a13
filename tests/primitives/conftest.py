"""Primitives as an ordinary user has them: lines of Python run by a process of our own that becomes one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nsbook
import station

UID = 12346
PRELUDE = "import json, os, nsbook\nout = {}"
CODA = "out['ledger'] = len(nsbook.ledger())\nnsbook.spawn.shutdown()\nprint(json.dumps(out))\n"
AsUser = Callable[[str], Any]


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package where every user may read it."""
    place = tmp_path_factory.mktemp("sources")
    for parent in (place, place.parent, place.parent.parent):
        parent.chmod(0o755)
    shutil.copytree(os.path.dirname(nsbook.__file__), place / "nsbook", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["chmod", "-R", "a+rX", str(place)], check=True)
    station.let_others_in(place)
    return place


@pytest.fixture
def as_user(sources: Path, tmp_path: Path) -> AsUser:
    """Run lines of Python as that user, who owns nothing but ``$NSBOOK_ROOT``; what they put in ``out`` comes back."""
    tmp_path.chmod(0o755)
    root = tmp_path / "root"
    root.mkdir()
    os.chown(root, UID, UID)
    become = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=-all"]
    # By a shell, since setpriv's own exec still has root's capabilities: a Python below /root is out of reach then.
    readable = subprocess.run([*become, "sh", "-c", 'exec "$0" -c ""', sys.executable], check=False, capture_output=True).returncode == 0
    python = sys.executable if readable else "/usr/bin/python3"
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(root), "NSBOOK_ROOT": str(root), "PYTHONPATH": str(sources)}

    def run(lines: str) -> Any:
        code = f"{PRELUDE}\n{lines}\n{CODA}"
        done = subprocess.run(
            [*become, "sh", "-c", 'exec "$0" -B -c "$1"', python, code],
            env=environment,
            cwd=root,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run
