"""The doctor's verdicts on other kinds of machines: pods that forbid everything in three ways, and guests."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from environments.machines import MODES, Machine, Pod
from needs import requires

pytestmark = [requires("root"), pytest.mark.xdist_group("guest")]

LOOK = """
import json, sys
import nsbook
from nsbook.errors import SetupError, Unsupported
report = nsbook.doctor(deep="deep" in sys.argv)
try:
    ran = nsbook.Container.run("base", ["true"]).exit_code == 0
except (SetupError, Unsupported):
    ran = False
from nsbook.spawn import shutdown
shutdown()
print(json.dumps({**report.to_json(), "ran": ran, "ledger": len(nsbook.ledger())}))
"""
KINDS = tuple(f"{kind} namespace" for kind in ("mnt", "uts", "ipc", "pid", "net", "cgroup"))
MOUNTS = ("mount", "overlay", "overlay in a user namespace", "proc", "proc in a user namespace", "sysfs", "pivot_root", "mknod")
LIMITS = ("cgroup", "memory limit", "cpu limit", "pids limit")

Told = dict[str, dict[str, Any]]


def read(text: str) -> tuple[str, bool, Told]:
    """The tier, whether a container ran, and the findings by feature."""
    out = json.loads(text)
    assert out["ledger"] == 0
    by: Told = {f["feature"]: f for f in out["findings"]}
    assert (by["container"]["verdict"] != "refused") == out["ran"], by["container"]
    return out["tier"], out["ran"], by


def verdicts(by: Told, *features: str) -> set[tuple[str, str]]:
    return {(by[f]["verdict"], by[f]["layer"]) for f in features}


@pytest.fixture(scope="module")
def told() -> dict[str, tuple[str, bool, Told]]:
    """Each mode is asked once."""
    return {}


@pytest.fixture
def ask(pod: Pod, told: dict[str, tuple[str, bool, Told]]) -> Any:
    def run(mode: str) -> tuple[str, bool, Told]:
        if mode not in told:
            done = pod(sys.executable, "-c", LOOK, mode=mode)
            assert done.returncode == 0, done.stderr
            told[mode] = read(done.stdout)
        return told[mode]

    return run


@pytest.mark.parametrize("mode", MODES)
def test_what_every_pod_forbids(ask: Any, mode: str) -> None:
    tier, ran, by = ask(mode)
    assert (tier, ran) == ("unprivileged", False)
    assert verdicts(by, *LIMITS) == {("refused", "read-only cgroup")}
    assert "guest" in by["cgroup"]["fix"]
    assert by["sub-ids"]["layer"] == "no_new_privs"
    assert by["capabilities"]["verdict"] == "refused"
    assert "the bounding set is empty" in by["capabilities"]["why"]
    assert verdicts(by, "seccomp", "pidfd", "openat2") == {("works", "")}


def test_docker_s_filter(ask: Any) -> None:
    """No namespace can be made, and so nothing in one be tried: it is the filter each time."""
    _, _, by = ask("docker")
    assert verdicts(by, "root", "namespaces", *KINDS, "user namespace", "network", *MOUNTS, "container") == {("refused", "seccomp")}
    assert "'Operation not permitted' too" in by["user namespace"]["why"]
    assert (by["clone3"]["verdict"], by["clone3"]["layer"]) == ("partly", "seccomp")
    assert "seccompProfile" in by["overlay"]["fix"]


def test_mounts_forbidden_alone(ask: Any) -> None:
    """What stands for AppArmor's rule in this pod is a filter that answers EACCES; a profile would be named as one. The
    doctor is not taken in: it is a filter that it names."""
    _, _, by = ask("apparmor")
    assert verdicts(by, "namespaces", *KINDS, "user namespace", "network", "clone3") == {("works", "")}
    assert verdicts(by, *MOUNTS, "container") == {("refused", "seccomp")}
    assert "'Permission denied' too" in by["mount"]["why"]
    assert by["root"]["layer"] == "capability"


def test_nothing_but_masks(ask: Any) -> None:
    """Namespaces and mounts, but no proc of one's own, because the present one is masked: the container fails at that."""
    _, _, by = ask("none")
    assert verdicts(by, "namespaces", *KINDS, "user namespace", "network", "mount", "overlay", "pivot_root", "clone3") == {("works", "")}
    assert verdicts(by, "proc", "proc in a user namespace", "sysfs", "container") == {("refused", "masked /proc")}
    assert "/proc/sys" in by["proc"]["why"]
    assert "/sys/firmware" in by["sysfs"]["why"]
    assert (by["mknod"]["verdict"], by["mknod"]["layer"]) == ("partly", "user namespace")


@requires("uml")
@pytest.mark.parametrize("mode", MODES)
def test_a_kernel_of_one_s_own_is_the_way_out(pod: Pod, mode: str) -> None:
    """Booted, not promised."""
    script = "import nsbook; print(nsbook.doctor(deep=True)['guest kernel'])"
    done = pod(sys.executable, "-c", script, mode=mode)
    assert done.returncode == 0, done.stderr
    assert "verdict='works'" in done.stdout


@requires("uml")
def test_root_of_a_guest_with_version_2(guest_v2: Machine) -> None:
    done = guest_v2.python(LOOK)
    assert done.exit_code == 0, done.stderr
    tier, ran, by = read(done.stdout.decode())
    assert (tier, ran) == ("root, cgroup v2", True)
    assert verdicts(by, "root", "namespaces", *KINDS, "user namespace", "sub-ids", *MOUNTS, *LIMITS, "container") == {("works", "")}
    assert "version 2" in by["cgroup"]["how"]
    assert verdicts(by, "time namespace") == {("refused", "kernel")}  # User Mode Linux is built without
    assert "built without time namespaces" in by["time namespace"]["why"]


@requires("uml")
def test_an_ordinary_user_of_a_guest(guest_user: Machine) -> None:
    """Sub-ids by newuidmap, and limits in the group that was delegated."""
    done = guest_user.python(LOOK)
    assert done.exit_code == 0, done.stderr
    tier, ran, by = read(done.stdout.decode())
    assert (tier, ran) == ("rootless", True)
    assert verdicts(by, "namespaces", *KINDS, "user namespace", "sub-ids", "overlay", "proc", "sysfs", *LIMITS, "container") == {
        ("works", "")
    }
    assert by["root"]["layer"] == "capability"
    assert (by["mknod"]["verdict"], by["mknod"]["layer"]) == ("partly", "user namespace")
