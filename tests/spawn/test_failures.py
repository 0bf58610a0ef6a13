"""What fails is told: the op, what had been done, who refused and why, and the OSError itself as the cause."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

import nsbook
from needs import requires
from nsbook.errors import CleanupError, Conflict, SetupError
from nsbook.spawn.client import Session
from nsbook.spawn.ops import (
    Barrier,
    BindMount,
    ChangeDirectory,
    Clone,
    EnterNamespace,
    Exec,
    JoinCgroup,
    LoadSeccomp,
    MakeCgroup,
    MakeDirectory,
    Mount,
    MountOverlay,
    Op,
    PivotRoot,
    SetHostname,
    SetRlimit,
    SetSysctl,
    SetUser,
    Unshare,
    WriteFile,
    WriteIdMap,
)
from nsbook.spawn.plan import Plan, new_run_id

pytestmark = requires("root")
PATH = f"PATH={os.environ['PATH']}"
OWN = Unshare(("mnt", "uts"))

FAILING: dict[str, tuple[tuple[Op, ...], int]] = {
    "a directory that cannot be": ((MakeDirectory("/proc/x"),), errno.ENOENT),
    "a file that is not there": ((WriteFile("/sys/fs/cgroup/nothing", "1"),), errno.ENOENT),
    "a value that the kernel refuses": ((WriteFile("/proc/self/oom_score_adj", "5000"),), errno.EINVAL),
    "a cgroup in a group that is not there": ((MakeCgroup(("/sys/fs/cgroup/no/such",)),), errno.ENOENT),
    "a cgroup to be joined": ((Clone(), JoinCgroup(("/nowhere",))), errno.ENOENT),
    "a namespace that is not there": ((Clone(), EnterNamespace("/nowhere", "net")), errno.ENOENT),
    "a namespace that is none": ((Clone(), EnterNamespace("/etc/passwd", "net")), errno.EINVAL),
    "an unknown file system": ((Clone(), OWN, Mount("nofs", "/mnt")), errno.ENODEV),
    "an option of no file system": ((Clone(), OWN, Mount("tmpfs", "/mnt", data="colour=red")), errno.EINVAL),
    "a mount point that is a file": ((Clone(), OWN, Mount("tmpfs", "/etc/passwd")), errno.ENOTDIR),
    "a bind of nothing": ((Clone(), OWN, BindMount("/nowhere", "/etc/passwd")), errno.ENOENT),
    "an overlay of nothing": ((Clone(), OWN, MountOverlay(("/nowhere", "/usr"), "/mnt")), errno.ENOENT),
    "a root that is no mount": ((Clone(), OWN, PivotRoot("/etc")), errno.EBUSY),
    "a name that is too long": ((Clone(), OWN, SetHostname("x" * 65)), errno.EINVAL),
    "a parameter that is not there": ((Clone(), SetSysctl("net.no.such", "1")), errno.ENOENT),
    "a directory to go to": ((Clone(), ChangeDirectory("/nowhere")), errno.ENOENT),
    "a limit above the limit": ((Clone(), SetUser(1, 1), SetRlimit("RLIMIT_NOFILE", 2**30, 2**30)), errno.EPERM),
    "a user that may not": ((Clone(), SetUser(1, 1), SetUser(2, 2, set_groups=False)), errno.EPERM),
    "namespaces that a user may not have": ((Clone(), SetUser(1, 1), Unshare(("net",))), errno.EPERM),
    "a filter that is none": ((Clone(), LoadSeccomp("AAAAAAAAAAA=")), errno.EINVAL),
    "a program that is not there": ((Clone(), Exec(("no-such-program",), (PATH,))), errno.ENOENT),
    "a program that is none": ((Clone(), Exec(("/etc/passwd",), ())), errno.EACCES),
    "maps that overlap": (
        (Clone(("user",)), Barrier("made"), WriteIdMap("uid", ((0, 0, 1), (0, 1, 1))), Barrier("mapped")),
        errno.EINVAL,
    ),
}


def fail(*ops: Op, **more: Any) -> SetupError:
    plan = Plan(new_run_id(), ops, (), "a test")
    session = Session(plan, **more)
    try:
        with pytest.raises(SetupError) as caught:
            session.end(10)
    finally:
        session.close()
    return caught.value


@pytest.mark.parametrize("name", list(FAILING))
def test_each_kind(name: str) -> None:
    ops, number = FAILING[name]
    error = fail(*ops)
    failed = next(op for op in reversed(ops) if not isinstance(op, Barrier))
    assert error.op == failed
    assert isinstance(error.__cause__, OSError)
    assert error.__cause__.errno == number
    assert type(error.__cause__) is type(OSError(number, ""))  # FileNotFoundError and its kin stay what they are
    assert os.strerror(number).split()[0] in str(error) or "no such program" in str(error)
    assert failed.what() in str(error)
    last = error.transcript.ops[-1]
    assert (last.name, last.errno, last.result) == (failed.name, number, "-1")
    assert [c.errno for c in error.transcript.ops[:-1]] == [0] * (len(error.transcript.ops) - 1)
    assert error.diagnosis is not None
    assert error.diagnosis.layer
    assert getattr(error.__cause__, "__notes__", None) or error.__cause__.filename  # the call as it was made, or on what
    assert not nsbook.ledger()


def test_the_diagnosis_names_who_refused() -> None:
    error = fail(Clone(), SetUser(1, 1), Unshare(("net",)))
    assert error.diagnosis.layer == "capability"
    assert "CAP_SYS_ADMIN" in error.diagnosis.why
    assert "refused by" in str(error)


def test_an_error_that_is_no_oserror() -> None:
    """A mistake in a plan: a slot that nobody binds."""
    error = fail(WriteIdMap("uid", ((0, 0, 1),)))
    assert "$child" in str(error)
    assert error.__cause__ is None


def test_recorded_calls_of_the_child_come_back_too() -> None:
    with nsbook.record() as transcript:
        fail(Clone(), OWN, Mount("nofs", "/mnt"))
    calls = [(c.name, c.actor, c.errno) for c in transcript.syscalls]
    assert ("clone3", "host", 0) in calls
    assert ("unshare", "child", 0) in calls
    assert ("mount", "child", errno.ENODEV) in calls


def test_what_was_made_before_the_failure_is_undone(tmp_path: Path) -> None:
    fail(MakeDirectory(str(tmp_path / "a")), MakeDirectory(str(tmp_path / "a" / "b")), WriteFile("/nowhere", "1"))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "before", [(), (MakeDirectory("/nowhere/x"),), (WriteFile("/nowhere", "1"),)], ids=["alone", "after", "never reached"]
)
def test_what_is_somebody_elses_is_not_taken_away(before: tuple[Op, ...], tmp_path: Path) -> None:
    """Undoing would remove it, also when another op fails first: so nothing is even begun."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "precious").write_text("x")
    for theirs in (MakeDirectory(str(tmp_path / "theirs")), MakeCgroup((str(tmp_path / "new"), str(tmp_path / "theirs")))):
        session = Session(Plan(new_run_id(), (*before, theirs), (), "a test"))
        with pytest.raises(Conflict, match="theirs is there already"):
            session.end(10)
        session.close()
        assert (tmp_path / "theirs" / "precious").exists()
        assert not (tmp_path / "new").exists()
        assert not nsbook.ledger()


def test_what_cannot_be_undone_is_told_beside_the_error(tmp_path: Path) -> None:
    """And stays in the ledger, for later."""
    from nsbook.linux import mount as m

    session = Session(
        Plan(new_run_id(), (MakeDirectory(str(tmp_path / "a")), Clone(), Exec(("sleep", "60"), (PATH,))), (), "a test"), interactive=True
    )
    session.hear(10)
    (tmp_path / "a" / "b").mkdir()
    m.mount("tmpfs", str(tmp_path / "a" / "b"), "tmpfs", 0, "size=64k")
    try:
        with pytest.raises(CleanupError, match="remove"):
            session.close()
        assert len(nsbook.ledger()) == 1
    finally:
        m.umount2(str(tmp_path / "a" / "b"), 0)
    while any(e.live for e in nsbook.ledger()):
        pass
    nsbook.ledger().clean()
    assert not (tmp_path / "a").exists()


def test_a_child_that_dies_while_it_is_built(gate: Any, container_plan: Any, run_plan: Any, processes: Any) -> None:
    made = container_plan(gate)
    session = run_plan(made, gate.before(made.plan, len(made.plan) - 3))
    try:
        gate.wait()
        processes(made.plan.run).kill("child")
        with pytest.raises(SetupError, match="signal 9"):
            session.end(10)
    finally:
        session.close()
    assert not nsbook.ledger()
