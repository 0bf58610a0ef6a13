"""What the doctor says of this machine, held to what happens when the thing itself is done."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import nsbook
from needs import has, need, requires
from nsbook.cli.main import main
from nsbook.container.prepare import containers_root
from nsbook.doctor import FEATURES, needs
from nsbook.doctor.report import Report
from nsbook.doctor.whole import place
from nsbook.errors import InvalidOption, SetupError, Unsupported
from nsbook.linux import rules

TIERS = ("root, cgroup v1/hybrid", "root, cgroup v2", "root, no cgroup", "rootless", "unprivileged")


@pytest.fixture(scope="module")
def report() -> Report:
    return nsbook.doctor(fresh=True)


def python(script: str, *words: str) -> str:
    """The script in an interpreter of its own."""
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_feature_has_a_finding_that_is_complete(report: Report) -> None:
    assert tuple(f.feature for f in report.findings) == FEATURES
    assert report.tier in TIERS
    assert (report.kernel, report.uid) == (os.uname().release, os.geteuid())
    for found in report.findings:
        assert found.how
        assert found.verdict in ("works", "partly", "refused")
        assert bool(found.why) == bool(found.layer) == (found.verdict != "works"), found
        assert not found.layer or found.layer in (*rules.LAYERS, "system"), found


@requires("root")
def test_root_may_do_what_containers_are_made_of(report: Report) -> None:
    wanted = [
        "root",
        "namespaces",
        "net namespace",
        "network",
        "mount",
        "proc",
        "sysfs",
        "pivot_root",
        "mknod",
        "seccomp",
        "pidfd",
        "openat2",
    ]
    wanted += ["clone3", "container"]
    assert {f: report[f].verdict for f in wanted} == dict.fromkeys(wanted, "works")
    assert report.tier.startswith("root, cgroup")


@pytest.mark.parametrize(
    ("feature", "name"),
    [
        ("user namespace", "userns"),
        ("overlay", "overlay"),
        ("time namespace", "time-namespaces"),
        ("net namespace", "net-admin"),
    ],
)
def test_it_agrees_with_the_tools(report: Report, feature: str, name: str) -> None:
    """The suite's own trials use unshare, mount and ip."""
    if name == "net-admin":
        need("ip")
    assert report.can(feature) == has(name)


def test_limits_agree_with_the_tools(report: Report) -> None:
    assert (report["cgroup"].verdict == "works") == (has("cgroup-v1") or has("cgroup-v2"))
    assert all(report.can(f"{name} limit") for name in ("memory", "cpu", "pids")) == (report["cgroup"].verdict == "works")


def test_the_container_tried_is_like_a_container(report: Report) -> None:
    assert place() == containers_root()
    try:
        works = nsbook.Container.run("base", ["true"]).exit_code == 0
    except (SetupError, Unsupported):
        works = False
    assert report.can("container") == works


def test_what_the_bounding_set_lacks_is_named(report: Report) -> None:
    with open("/proc/self/status") as file:
        bounding = next(int(line.split()[1], 16) for line in file if line.startswith("CapBnd"))
    with open("/proc/sys/kernel/cap_last_cap") as file:
        full = (1 << int(file.read()) + 1) - 1
    found = report["capabilities"]
    assert found.verdict == ("works" if bounding == full else "partly" if bounding else "refused")
    missing = [name for number, name in enumerate(nsbook.linux.constants.CAPABILITIES) if full & ~bounding & 1 << number]
    assert bounding == 0 or all(name in found.why for name in missing)


def test_only_what_is_asked_for_is_tried() -> None:
    """A call that the kernel answers right here needs no launcher, so none is started."""
    script = (
        "from nsbook.doctor import needs; from nsbook.spawn import statistics; print(needs('openat2')[0].verdict, statistics()['launcher'])"
    )
    assert python(script) == "works 0\n"


def test_what_was_tried_is_remembered_until_it_is_asked_for_afresh() -> None:
    with nsbook.record() as first:
        before = needs("uts namespace", fresh=True)
    with nsbook.record() as second:
        assert needs("uts namespace") == before
    with nsbook.record() as third:
        assert needs("uts namespace", fresh=True) == before
    assert any(call.name == "unshare" for call in first)
    assert len(second) == 0
    assert any(call.name == "unshare" for call in third)


def test_a_recorder_sees_trials_that_run_side_by_side() -> None:
    with nsbook.record() as transcript:
        needs("pivot_root", "network", "seccomp", fresh=True)
    assert {"pivot_root", "ioctl", "seccomp"} <= {call.name for call in transcript if call.kind == "syscall"}


def test_a_feature_that_nobody_knows() -> None:
    with pytest.raises(InvalidOption, match="no trial of 'teleport'"):
        needs("teleport")


def test_one_name_whichever_was_imported_first() -> None:
    """The package and the function that the face offers bear the same name."""
    for first in (
        "import nsbook",
        "import nsbook.doctor",
        "from nsbook.doctor import needs",
        "from nsbook import doctor",
        "import nsbook.book",
    ):
        script = f"import nsbook\n{first}\nprint(nsbook.doctor.needs('pidfd')[0].verdict, type(nsbook.doctor()).__name__)"
        assert python(script) == "works Report\n", first


def test_deep_boots_a_kernel() -> None:
    need("uml")
    found = nsbook.doctor(deep=True)["guest kernel"]
    assert (found.verdict, "booted" in found.how) == ("works", True), found


def test_a_guest_that_is_not_there_is_not_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSBOOK_GUEST_KERNEL", "/nowhere")
    found = needs("guest kernel", fresh=True)[0]
    monkeypatch.undo()
    needs("guest kernel", fresh=True)
    assert found.verdict == "refused"
    assert "/nowhere/usr/bin/linux.uml" in found.why


def test_a_kernel_that_does_not_boot_is_not_promised(monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]) -> None:
    """A program that only says what it was asked for."""
    kernel = os.path.join(tmp_path, "usr/bin/linux.uml")
    os.makedirs(os.path.dirname(kernel))
    with open(kernel, "w") as file:
        file.write('#!/bin/sh\n[ "$1" = --version ] && echo 1.2.3 || echo "no ptrace"\n')
    os.chmod(kernel, 0o755)
    monkeypatch.setenv("NSBOOK_GUEST_KERNEL", str(tmp_path))
    assert "1.2.3" in needs("guest kernel", fresh=True)[0].how
    found = nsbook.doctor(deep=True)["guest kernel"]
    monkeypatch.undo()
    needs("guest kernel", fresh=True)
    assert found.verdict == "refused"
    assert "no ptrace" in found.why


def test_without_linux_it_says_so() -> None:
    """The floor that speaks to the kernel made absent, and another system feigned."""
    for absent in ("sys.modules['nsbook.linux'] = None", "sys.platform = 'darwin'"):
        script = (
            f"import sys\n{absent}\nimport nsbook\nr = nsbook.doctor()\nprint(r.tier, {{f.verdict for f in r.findings}}, r.can('overlay'))"
        )
        assert python(script) == "other system {'refused'} False\n"
        script = f"import sys\n{absent}\nfrom nsbook.cli.main import main\nsys.exit(main(['doctor']))"
        assert "Tier: other system" in python(script)


def test_a_launcher_that_can_t_be_started_is_a_finding() -> None:
    script = "import sys, nsbook\nsys.executable = '/nowhere/python'\nr = nsbook.doctor()\nprint(r['mount'].layer, r.tier, r['pidfd'].verdict)\nprint(r['mount'].why)"
    first, why = python(script).splitlines()
    assert first == "file unprivileged works"
    assert "/nowhere/python" in why


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "Tier: " in capsys.readouterr().out
    assert main(["doctor", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [f["feature"] for f in data["findings"]] == list(FEATURES)
    assert main(["doctor", "overlay", "proc"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:4]] == ["overlay", "proc"]
