"""The README says nothing that is not there: its commands exist, its code runs."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import nsbook
from needs import requires

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def blocks(*kinds: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(README.read_text()) if kind in kinds]


def commands() -> list[list[str]]:
    """Each line of the shell blocks, without prompt and comment; the words before a pipe."""
    found = []
    for block in blocks("sh", "bash", "console"):
        for line in block.splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words:
                found.append(words)
    return found


def test_there_are_commands_and_code() -> None:
    assert commands()
    assert blocks("python")


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_exists(words: list[str]) -> None:
    while words[0] == "sudo" or "=" in words[0]:
        words = words[1:]
    programme = words[0].rpartition("/")[2]
    if programme == "make":
        targets = [w for w in words[1:] if "=" not in w]
        done = subprocess.run(["make", "--dry-run", *targets], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    elif programme in ("nsbook", "nsbook-runtime"):
        verb = [*words[1:2], "--help"]
        done = subprocess.run([Path(sys.executable).parent / programme, *verb], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert words[1] in done.stdout
    else:
        assert programme in ("git", "cd", "podman", "apt", "pip", "python", "python3", "binderlike"), f"what is {programme}?"


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.strip().splitlines()[0][:40])
def test_code_names_what_exists(code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "nsbook":
            assert hasattr(nsbook, node.attr), f"nsbook.{node.attr}"


@requires("root", "overlay")
@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.strip().splitlines()[0][:40])
def test_code_runs(code: str, tmp_path: Path) -> None:
    script = tmp_path / "readme.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        if "://" not in target:
            assert (ROOT / target).exists(), target
