"""Refusals, each by another layer, brought about here: an ordinary user, a limit on user namespaces, covered and read-only mounts.

Pods and guests are in ``tests/environments/test_doctor.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import nsbook
from needs import requires

pytestmark = requires("root", "setpriv", "userns", "overlay")

UID = 12345
LOOK = """
import json, os, sys
import nsbook
from nsbook.errors import SetupError, Unsupported
report = nsbook.doctor()
try:
    ran = nsbook.Container.run("base", ["true"]).exit_code == 0
except (SetupError, Unsupported):
    ran = False
from nsbook.spawn import shutdown
shutdown()
print(json.dumps({**report.to_json(), "ran": ran, "ledger": len(nsbook.ledger())}))
"""


class Told(NamedTuple):
    """What came back: ``layers`` has who refused, by feature."""

    tier: str
    verdicts: dict[str, str]
    layers: dict[str, str]
    whys: dict[str, str]
    fixes: dict[str, str]
    ran: bool

    def refused(self, layer: str) -> set[str]:
        return {f for f, found in self.layers.items() if found == layer}


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., Told]:
    """Run the doctor behind these words of a command line, as root or as an ordinary user without a name."""
    for directory in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        directory.chmod(0o755)
    source = tmp_path / "source"
    shutil.copytree(os.path.dirname(nsbook.__file__), source / "nsbook", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["chmod", "-R", "a+rX", str(source)], check=True)

    def run(*before: str, uid: int = 0) -> Told:
        root = Path(tempfile.mkdtemp(dir=tmp_path))
        as_user = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=-all"]
        os.chown(root, uid, uid)
        # By a shell: setpriv's own exec still has root's capabilities.
        readable = subprocess.run([*as_user, "sh", "-c", 'exec "$0" -c ""', sys.executable], check=False, capture_output=True)
        python = sys.executable if readable.returncode == 0 else "/usr/bin/python3"
        env = {"NSBOOK_ROOT": str(root), "PYTHONPATH": str(source), "PATH": os.environ["PATH"], "HOME": str(root), "TMPDIR": str(root)}
        command = [*(as_user if uid else ()), *before, python, "-B", "-c", LOOK]
        done = subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        out: dict[str, Any] = json.loads(done.stdout)
        assert out["ledger"] == 0
        by = {f["feature"]: f for f in out["findings"]}
        columns = [{name: found[key] for name, found in by.items()} for key in ("verdict", "layer", "why", "fix")]
        return Told(out["tier"], *columns, out["ran"])

    return run


def shell(script: str) -> tuple[str, ...]:
    """The script, then the rest of the command line in its stead."""
    return ("sh", "-ec", f'{script}; exec "$0" "$@"')


def test_an_ordinary_user(told: Callable[..., Told]) -> None:
    t = told(uid=UID)
    assert (t.tier, t.ran) == ("rootless", True)
    works = ["user namespace", "namespaces", "pid namespace", "network", "mount", "overlay", "proc", "sysfs", "pivot_root", "seccomp"]
    assert {f: t.verdicts[f] for f in works} == dict.fromkeys(works, "works")
    assert t.layers["root"] == "capability"
    assert "CAP_SYS_ADMIN" in t.whys["root"]
    assert t.layers["sub-ids"] == "file"
    assert "no name in /etc/passwd" in t.whys["sub-ids"]
    assert (t.verdicts["mknod"], t.layers["mknod"]) == ("partly", "user namespace")
    assert t.refused("cgroup") == {"cgroup", "memory limit", "cpu limit", "pids limit", "container"}
    assert "belongs to uid 0, the process is uid 12345" in t.whys["cgroup"]
    assert "delegated" in t.fixes["cgroup"]
    assert t.verdicts["container"] == "partly"  # it runs, without limits


def test_no_new_privileges_and_sub_ids(told: Callable[..., Told]) -> None:
    t = told("setpriv", "--no-new-privs", uid=UID)
    assert t.layers["sub-ids"] == "no_new_privs"
    assert (t.verdicts["user namespace"], t.verdicts["seccomp"], t.ran) == ("works", "works", True)


def test_user_namespaces_limited_to_none(told: Callable[..., Told]) -> None:
    """The limit belongs to a user namespace, so one of the test's own has it; in it we are root."""
    t = told("unshare", "--user", "--map-root-user", *shell("echo 0 > /proc/sys/user/max_user_namespaces"))
    assert t.refused("user-namespace limit") == {"user namespace", "overlay in a user namespace", "proc in a user namespace"}
    assert "max_user_namespaces is 0" in t.whys["user namespace"]
    assert "user.max_user_namespaces" in t.fixes["user namespace"]
    assert (t.verdicts["mount"], t.verdicts["net namespace"], t.verdicts["overlay"]) == ("works", "works", "works")
    assert t.layers["sub-ids"] == "user namespace"  # of one id nothing can be handed on
    assert not t.ran
    assert (t.tier, t.verdicts["container"]) == ("unprivileged", "refused")


def test_net_namespaces_limited_to_none(told: Callable[..., Told]) -> None:
    """One kind is missing: it is named, and the others are not taken along."""
    t = told("unshare", "--user", "--map-root-user", *shell("echo 0 > /proc/sys/user/max_net_namespaces"))
    assert t.refused("user-namespace limit") >= {"namespaces", "net namespace", "network", "sysfs", "container"}
    assert "max_net_namespaces is 0" in t.whys["net namespace"]
    kinds = [f"{kind} namespace" for kind in ("mnt", "uts", "ipc", "pid", "cgroup")]
    assert {k: t.verdicts[k] for k in kinds} == dict.fromkeys(kinds, "works")


APART = ("unshare", "--mount", "--propagation", "private")


def test_a_covered_proc_and_sys(told: Callable[..., Told]) -> None:
    """Root of the machine may have a whole one all the same; in a user namespace the kernel lets nobody uncover anything."""
    t = told(*APART, *shell("mount -t tmpfs t /proc/fs; mount -t tmpfs t /sys/firmware"))
    assert (t.verdicts["proc"], t.verdicts["sysfs"]) == ("works", "works")
    assert t.refused("masked /proc") == {"proc in a user namespace"}
    assert "/proc/fs is covered" in t.whys["proc in a user namespace"]
    become = f"setpriv --reuid={UID} --regid={UID} --clear-groups --inh-caps=-all"
    script = f'mount -t tmpfs t /proc/fs; mount -t tmpfs t /sys/firmware; chown {UID}:{UID} "$NSBOOK_ROOT"; exec {become} "$0" "$@"'
    t = told(*APART, "sh", "-ec", script)
    assert t.refused("masked /proc") == {"proc", "proc in a user namespace", "sysfs", "container"}
    assert "/sys/firmware is covered" in t.whys["sysfs"]
    assert not t.ran


def test_a_read_only_cgroup(told: Callable[..., Told]) -> None:
    t = told(*APART, *shell("for m in $(findmnt -Rlno TARGET /sys/fs/cgroup); do mount -o remount,bind,ro $m; done"))
    assert t.refused("read-only cgroup") == {"cgroup", "memory limit", "cpu limit", "pids limit", "container"}
    assert (t.verdicts["container"], t.ran) == ("partly", True)
    assert "mounted read-only" in t.whys["cgroup"]
    assert t.tier.startswith("root")


def test_no_cgroup_at_all(told: Callable[..., Told]) -> None:
    t = told(*APART, *shell("umount -R /sys/fs/cgroup"))
    assert t.refused("cgroup") == {"cgroup", "memory limit", "cpu limit", "pids limit", "container"}
    assert "no cgroup file system is mounted" in t.whys["cgroup"]
    assert (t.tier, t.verdicts["container"], t.ran) == ("root, no cgroup", "partly", True)


def test_root_without_capabilities(told: Callable[..., Told]) -> None:
    """uid 0 alone is no power."""
    t = told("setpriv", "--bounding-set=-all", "--inh-caps=-all", "sh", "-c", 'exec "$0" "$@"')
    assert t.refused("capability") >= {"root", "namespaces", "mnt namespace", "net namespace", "overlay", "container", "capabilities"}
    assert "nor in its bounding set" in t.whys["root"]
    assert "the bounding set is empty" in t.whys["capabilities"]
    assert t.layers["user namespace"] == "user namespace"
    assert "CAP_SETFCAP" in t.whys["user namespace"]  # without it nobody maps uid 0 of outside
    assert (t.tier, t.ran) == ("unprivileged", False)
