"""Podman with nsbook-runtime in the place of crun: the same commands, the same outcomes.

Podman has storage, state and a parent control group of its own here, and no network to set up.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nsbook
from needs import own_cgroups, requires

pytestmark = [requires("podman", "root"), pytest.mark.xdist_group("podman")]

LIMITS = ["--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"]
SHARED = Path("/dev/shm/libpod_lock")

Done = subprocess.CompletedProcess[str]


class Podman:
    """One podman that knows of no other."""

    def __init__(self, home: Path, runtime: str, parent: str) -> None:
        self.parent = parent
        self.command = ["podman", "--root", f"{home}/root", "--runroot", f"{home}/run", "--tmpdir", f"{home}/tmp"]
        self.command += ["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", runtime]

    def __call__(self, *words: str, **more: Any) -> Done:
        given = {"stdin": subprocess.DEVNULL} if "input" not in more and "stdin" not in more else {}
        return subprocess.run([*self.command, *words], capture_output=True, timeout=90, check=False, **{"text": True, **given, **more})

    def run(self, *words: str, **more: Any) -> Done:
        """``podman run`` without a network; ``words`` are further options, then the command after ``--``."""
        at = words.index("--")
        return self("run", *LIMITS, "--cgroup-parent", self.parent, *words[:at], "nsbook-base", *words[at + 1 :], **more)


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    """With the embedded image as ``nsbook-base``. What podman leaves in the control groups goes at the end."""
    home = Path(tempfile.mkdtemp(prefix="p-"))  # short: podman wants at most 50 characters of its runroot
    runtime = home / "nsbook-runtime"
    runtime.write_text(f'#!/bin/sh\nexec {sys.executable} -m nsbook.cli.runtime "$@"\n')
    runtime.chmod(0o755)
    had_locks = SHARED.exists()
    name = f"nsbook-podman-{os.getpid()}"
    made = Podman(home, str(runtime), f"/{name}")
    try:
        (home / "image").mkdir()
        nsbook.Image.base().layers[0].apply(home / "image")
        tar = subprocess.run(["tar", "-C", f"{home}/image", "-c", "."], capture_output=True, check=True).stdout
        imported = made("import", "-", "nsbook-base", input=tar, text=False)
        assert imported.returncode == 0, imported.stderr
        yield made
    finally:
        made("rm", "--all", "--force")
        remove_groups(name)
        shutil.rmtree(home)
        if not had_locks:
            SHARED.unlink(missing_ok=True)


def remove_groups(name: str) -> None:
    """Deepest first; conmon, which podman puts below, may take a moment to end."""
    for hierarchy in dict.fromkeys([*Path("/sys/fs/cgroup").iterdir(), *own_cgroups().values(), Path("/sys/fs/cgroup")]):
        for here, _, _ in os.walk(hierarchy / name, topdown=False):
            until(lambda here=here: removed(here), f"{here} is empty")


def removed(path: str) -> bool:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def until(so: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 20
    while not so():
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def nothing_kept(podman: Podman) -> Iterator[None]:
    yield
    if podman("ps", "--all", "--quiet").stdout:
        podman("rm", "--all", "--force", "-t", "0")  # a test that failed half-way
    runtime = Path(os.environ["NSBOOK_ROOT"], "run/runtime")
    until(lambda: not nsbook.ledger() and (not runtime.exists() or not os.listdir(runtime)), f"nothing is left: {nsbook.ledger()}")


def test_output_and_status(podman: Podman) -> None:
    done = podman.run("--rm", "--", "sh", "-c", "echo out; echo err >&2; exit 5")
    assert (done.returncode, done.stdout, done.stderr) == (5, "out\n", "err\n")


def test_podman_means_us(podman: Podman) -> None:
    """Not the runtime that it was installed with."""
    said = podman("info", "--format", "{{.Host.OCIRuntime.Name}} {{.Host.OCIRuntime.Version}}").stdout
    assert f"nsbook-runtime nsbook-runtime {nsbook.__version__}\n" in said


def test_standard_input(podman: Podman) -> None:
    assert podman.run("--rm", "-i", "--", "tr", "a-z", "A-Z", input="through\n").stdout == "THROUGH\n"


@pytest.mark.parametrize(
    ("options", "line", "out"),
    [
        (["--hostname", "anna"], "hostname", "anna"),
        (["--read-only", "--read-only-tmpfs=false"], "touch /x 2>/dev/null || echo no", "no"),
        (["--read-only"], "touch /x 2>/dev/null || echo no; touch /run/x && echo yes", "no\nyes"),
        (["--user", "1000:1000"], "id -u; id -g; grep CapEff /proc/self/status | cut -f 2", "1000\n1000\n" + "0" * 16),
        (["--cap-drop", "ALL"], "grep CapBnd /proc/self/status | cut -f 2", "0" * 16),
        (["--cap-drop", "ALL", "--cap-add", "CHOWN"], "grep CapBnd /proc/self/status | cut -f 2", "0" * 15 + "1"),
        ([], "grep Seccomp: /proc/self/status | cut -f 2; ulimit -n", "2\n1024"),
        (["--security-opt", "seccomp=unconfined"], "grep Seccomp: /proc/self/status | cut -f 2", "0"),
        (["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status | cut -f 2", "1"),
        (["-w", "/usr", "-e", "A=1 2"], 'pwd; echo "$A"', "/usr\n1 2"),
        (["--tmpfs", "/scratch:size=1m"], "grep -c ' /scratch tmpfs ' /proc/mounts", "1"),
    ],
    ids=lambda value: " ".join(value) or "plain" if isinstance(value, list) else "",
)
def test_options(podman: Podman, options: list[str], line: str, out: str) -> None:
    done = podman.run("--rm", *options, "--", "sh", "-c", line)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, out, "")


def test_a_volume(podman: Podman, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    done = podman.run("--rm", "-v", f"{tmp_path}:/v:ro", "--", "sh", "-c", "cat /v/file; touch /v/x 2>/dev/null || echo no")
    assert done.stdout == "from the host\nno\n"


def test_a_memory_limit(podman: Podman) -> None:
    line = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null"
    assert podman.run("--rm", "--cgroupns", "private", "--memory", "32m", "--", "sh", "-c", line).stdout == f"{32 << 20}\n"


def test_a_terminal(podman: Podman) -> None:
    done = podman.run("--rm", "-t", "--", "sh", "-c", "tty; exit 4", text=False)
    assert (done.returncode, done.stdout) == (4, b"/dev/pts/0\r\n")


def test_a_command_that_is_not_there(podman: Podman) -> None:
    done = podman.run("--rm", "--", "nosuch")
    assert done.returncode in (126, 127)
    assert "nosuch" in done.stderr


def test_in_the_background(podman: Podman) -> None:
    """Begun, looked at, entered, stopped by a signal that it catches, removed."""
    line = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done"
    begun = podman.run("-d", "--name", "away", "--", "sh", "-c", line)
    assert begun.returncode == 0, begun.stderr
    until(lambda: podman("logs", "away").stdout == "up\n", "its first word")
    assert podman("inspect", "away", "--format", "{{.State.Status}}").stdout == "running\n"
    inside = podman("exec", "-e", "A=b", "away", "sh", "-c", "echo in $A; cat /proc/1/comm; exit 6")
    assert (inside.returncode, inside.stdout) == (6, "in b\nsh\n"), inside.stderr
    assert podman("exec", "-t", "away", "tty", text=False).stdout.startswith(b"/dev/pts/")
    assert podman("pause", "away").returncode == 0
    assert podman("inspect", "away", "--format", "{{.State.Status}}").stdout == "paused\n"
    assert podman("unpause", "away").returncode == 0
    stopped = podman("stop", "-t", "10", "away")
    assert stopped.returncode == 0, stopped.stderr
    assert podman("inspect", "away", "--format", "{{.State.Status}} {{.State.ExitCode}}").stdout == "exited 3\n"
    assert podman("logs", "away").stdout == "up\nbye\n"
    again = podman("start", "away")
    assert again.returncode == 0, again.stderr
    assert podman("kill", "away").returncode == 0
    assert podman("wait", "away").stdout == "137\n"
    assert podman("rm", "away").returncode == 0
    assert podman("ps", "--all", "--quiet").stdout == ""


def test_one_that_runs_is_removed_by_force(podman: Podman) -> None:
    assert podman.run("-d", "--name", "gone", "--", "sleep", "60").returncode == 0
    assert podman("rm", "--force", "-t", "0", "gone").returncode == 0
    assert podman("ps", "--all", "--quiet").stdout == ""
