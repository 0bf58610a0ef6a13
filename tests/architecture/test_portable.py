"""No file names a machine, a registry of packages, or what only one developer has."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Written in pieces, so that this file does not find itself.
FORBIDDEN = re.compile(
    "|".join(
        [
            r"(?<![\w.}])/(?:work|farm)/",
            r"/tmp/" + r"setup\b",
            r"(?<![\w.}])/root/\.",
            r"[a-z.]*(?:debian|pypi|npm)[a-z]*\." + r"(?:org|com)\b",
            r"pythonhosted\." + "org",
        ]
    )
)


def test_no_path_of_one_machine_and_no_registry() -> None:
    try:
        listed = subprocess.run(
            ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs git: which files are the project's is git's to say; apt install git")
    found = []
    for name in listed.decode().split("\0"):
        path = ROOT / name
        if not name or not path.is_file():
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{name}:{n}: {line.strip()[:120]}" for n, line in enumerate(text.splitlines(), 1) if FORBIDDEN.search(line)]
    assert not found, "\n".join(found)
