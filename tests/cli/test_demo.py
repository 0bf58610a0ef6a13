"""``nsbook demo``: every op with its result, then the shell's own words, then an empty ledger."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nsbook
from needs import requires

UID = 12345


def told(output: str, nonce: str) -> list[str]:
    """Holds the output of any demo to what it promises; returns the lines of the ops."""
    head = re.search(r"A container from its pieces: (\d+) ops", output)
    assert head is not None, output
    ops = re.findall(r"^ *(\d+) (host|child|both) .*$", output, re.MULTILINE)
    assert [int(number) for number, _ in ops] == list(range(int(head[1])))
    lines = [line for line in output.splitlines() if re.match(r" *\d+ (host|child|both) ", line)]
    assert [line for line in lines if " µs  ok  " not in line] == []
    assert "refused" not in output
    said = output.partition("and the shell in it says:\n")[2]
    assert said.startswith("Hello from process 1 of a container: root on nsbook-demo\n")
    assert f"you said: {nonce}\n" in said
    assert f"my kernel: {Path('/proc/version').read_text()}" in said
    assert re.search(r"processes that I see:\n  1 sh\n(  \d+ \w+\n){0,2}my root:", said), said
    assert "my root's file system: overlay / overlay\n" in said
    assert output.endswith("exit status 0; the ledger: empty again\n")
    return lines


@requires("root", "overlay")
def test_as_root(cli: Any, empty: Callable[[], None]) -> None:
    nonce = secrets.token_hex(8)
    done = cli("demo", "--say", nonce)
    assert (done.returncode, done.stderr) == (0, "")
    lines = told(done.stdout, nonce)
    for call in ("clone3", "unshare", "mount", "pivot_root", "sethostname", "seccomp", "execve"):
        assert any(f" {call} " in line for line in lines), call
    empty()


@requires("root", "overlay", "cgroup-v1")
def test_the_memory_limit_is_seen_inside(cli: Any) -> None:
    assert "my limit: 67108864 bytes of memory" in cli("demo").stdout
    assert "my limit: 33554432 bytes of memory" in cli("demo", "--memory", "32M").stdout


@requires("root", "overlay")
def test_the_calls_of_each_op(cli: Any) -> None:
    nonce = secrets.token_hex(8)
    done = cli("demo", "--calls", "--say", nonce)
    told(done.stdout, nonce)
    for call in (r"pivot_root\(.*\) = 0", r"sethostname\(.*\) = 0", r"clone3\(.*\) = \d+"):
        assert re.search(call, done.stdout), call


@requires("root", "overlay", "setpriv", "userns")
def test_as_an_ordinary_user(tmp_path: Path) -> None:
    """Who has no name, no other ids, no control group, and whose sources lie where everyone may read them."""
    sources, root = tmp_path / "sources", tmp_path / "root"
    for place in (tmp_path, *list(tmp_path.parents)[:3]):
        place.chmod(0o755)
    shutil.copytree(os.path.dirname(nsbook.__file__), sources / "nsbook", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["chmod", "-R", "a+rX", str(sources)], check=True)
    root.mkdir()
    os.chown(root, UID, UID)
    become = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=-all"]
    # By a shell: setpriv's own exec still has root's capabilities.
    readable = subprocess.run([*become, "sh", "-c", 'exec "$0" -c ""', sys.executable], check=False, capture_output=True).returncode == 0
    python = sys.executable if readable else "/usr/bin/python3"
    environment = {
        "NSBOOK_ROOT": str(root),
        "PYTHONPATH": str(sources),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": str(root),
        "TMPDIR": str(root),
        "LC_ALL": "C.UTF-8",
    }

    def demo(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*become, python, "-m", "nsbook.cli.main", *words],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    nonce = secrets.token_hex(8)
    done = demo("demo", "--say", nonce)
    assert (done.returncode, done.stderr) == (0, "")
    told(done.stdout, nonce)
    assert demo("ledger", "--json").stdout == "[]\n"
    assert os.listdir(root / "data/containers") == []


@pytest.mark.parametrize("given", ["lots", "1k"])
def test_a_limit_that_is_none(cli: Any, given: str) -> None:
    done = cli("demo", "--memory", given)
    assert done.returncode == 125
    assert given in done.stderr
    assert "Traceback" not in done.stderr
