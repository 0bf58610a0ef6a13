"""Namespaces: all eight kinds made, held, entered, looked at and let go."""

from __future__ import annotations

import gc
import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

import nsbook
from needs import need, requires
from nsbook import Namespace
from nsbook.errors import InvalidOption, NotFound, SetupError, StateError
from nsbook.linux.constants import NAMESPACES

from .conftest import UID, AsUser

KINDS = ("mnt", "uts", "ipc", "net", "pid", "user", "cgroup", "time")


def inode(pid: int | str, kind: str) -> int:
    return os.stat(f"/proc/{pid}/ns/{kind}").st_ino


def kind_or_skip(kind: str) -> str:
    if kind == "time":
        need("time-namespaces")
    return kind


@requires("root")
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_made_held_entered_and_let_go(kind: str) -> None:
    kind_or_skip(kind)
    before = {k: inode("self", k) for k in KINDS}
    with Namespace.create(kind) as made:
        holder = made.pid
        assert made.kind == kind
        assert made.inode == inode(holder, kind) != before[kind]
        assert made.processes() == (holder,)
        others = {k: inode(holder, k) for k in KINDS if k != kind}
        assert others == {k: before[k] for k in others}, "the other seven are ours"
        shown = made.run(["readlink", f"/proc/self/ns/{kind}"])
        assert (shown.exit_code, shown.stdout.strip(), shown.stderr) == (0, f"{kind}:[{made.inode}]", "")
    assert {k: inode("self", k) for k in KINDS} == before, "the caller never moves"
    assert not os.path.exists(f"/proc/{holder}")
    assert not list(nsbook.ledger())


def test_the_kinds_are_the_kernel_s() -> None:
    assert set(KINDS) == set(NAMESPACES)


@requires("root")
def test_what_happens_inside_stays_inside() -> None:
    with Namespace.create("uts") as uts:
        assert uts.run(["hostname", "inside"]).exit_code == 0
        assert uts.run(["hostname"]).stdout == "inside\n"
    assert socket.gethostname() != "inside"
    with Namespace.create("mnt") as mnt:
        assert mnt.run(["mount", "-t", "tmpfs", "inside", "/mnt"]).exit_code == 0
        assert "inside /mnt tmpfs" in mnt.run(["cat", "/proc/self/mounts"]).stdout
    assert "inside /mnt" not in Path("/proc/self/mounts").read_text()
    with Namespace.create("net") as net:
        assert net.run(["cat", "/proc/self/net/dev"]).stdout.count("lo:") == 1
        assert [line.split(":")[0].strip() for line in net.run(["cat", "/proc/self/net/dev"]).stdout.splitlines()[2:]] == ["lo"]


@requires("root")
def test_a_pid_namespace_counts_its_own() -> None:
    with Namespace.create("pid") as made:
        told = made.run(["sh", "-c", "echo $$; grep ^NSpid /proc/self/status"])
    number = int(told.stdout.split()[0])
    assert 1 < number < 10, "process 1 is the paused child"
    parent = Namespace.of("self", "pid")
    assert parent == Namespace.of("self", "pid")
    assert len(told.stdout.splitlines()[1].split()) == 3, "grep has a number in each of the two namespaces"


@requires("root")
def test_parents_and_owners() -> None:
    with Namespace.create("pid") as pid, Namespace.create("user") as user, Namespace.create("uts") as uts:
        for one in (pid, user):
            parent = one.parent()
            assert parent is not None
            with parent:
                assert parent == Namespace.of("self", one.kind)
                assert parent != one
        assert uts.parent() is None
        owner = uts.owner()
        assert owner is not None
        assert owner == Namespace.of("self", "user")
        assert uts.owner_uid == user.owner_uid == 0
        seen = user.inspect()
        assert seen.parent_inode == seen.owner_inode == inode("self", "user")
        assert (seen.uid_map, seen.gid_map) == (((0, 0, 1),), ((0, 0, 1),))
        assert [(r.inside, r.outside, r.count) for r in user.uid_map()] == [(0, 0, 1)]
        with pytest.raises(StateError, match="only a user namespace"):
            uts.uid_map()


@requires("root")
def test_id_maps_are_what_was_asked_for() -> None:
    with Namespace.create("user", uid_map=[(0, 1000, 1), (1, 5000, 10)], gid_map=[(0, 2000, 3)]) as made:
        assert made.inspect().uid_map == ((0, 1000, 1), (1, 5000, 10))
        assert made.inspect().gid_map == ((0, 2000, 3),)
    with Namespace.create("user", uid_map=()) as made:
        assert made.inspect().uid_map == ()
        assert made.run(["id", "-u"]).stdout.strip() == Path("/proc/sys/kernel/overflowuid").read_text().strip()
    for wrong in ([(0, 0)], [(0, 0, 0)], [(-1, 0, 1)], [("0", 0, 1)]):
        with pytest.raises(InvalidOption, match="rows of"):
            Namespace.plan("user", uid_map=wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="has no id maps"):
        Namespace.plan("uts", uid_map=[(0, 0, 1)])


@requires("root", "time-namespaces")
def test_clocks_are_shifted() -> None:
    with Namespace.create("time", offsets={"boottime": 864000, "monotonic": 1000}) as made:
        up = float(made.run(["cat", "/proc/uptime"]).stdout.split()[0])
        assert abs(up - time.clock_gettime(time.CLOCK_BOOTTIME) - 864000) < 60
        assert [op.name for op in made.explain().ops].count("SetTimeOffset") == 2
    with pytest.raises(InvalidOption, match="monotonic and boottime"):
        Namespace.plan("time", offsets={"realtime": 1})
    with pytest.raises(InvalidOption, match="time namespace"):
        Namespace.plan("uts", offsets={"boottime": 1})


def test_adopting_by_process_path_and_descriptor(tmp_path: Path) -> None:
    with Namespace.of("self", "uts") as mine, Namespace.of(os.getpid(), "uts") as same, Namespace.open("/proc/self/ns/uts") as by_path:
        assert mine == same == by_path
        assert len({mine, same, by_path}) == 1
        with Namespace.open(mine.fileno()) as by_fd:
            assert by_fd == mine
            assert by_fd.fileno() != mine.fileno()
        assert os.fstat(mine.fileno()).st_ino == mine.inode, "closing the copy leaves the original open"
        assert not mine.explain().ops
        assert len(mine.transcript) == 0
        assert os.getpid() in mine.processes()
    all_of = Namespace.all_of()
    assert [one.kind for one in all_of] == [k for k in NAMESPACES if os.path.exists(f"/proc/self/ns/{k}")]
    assert {one.kind: one.inode for one in all_of} == {one.kind: inode("self", one.kind) for one in all_of}
    for one in all_of:
        one.close()
    plain = tmp_path / "plain"
    plain.touch()
    with pytest.raises(InvalidOption, match="is no namespace"):
        Namespace.open(plain)
    with pytest.raises(NotFound, match="nowhere"):
        Namespace.open(tmp_path / "nowhere")
    with pytest.raises(NotFound, match="no process"):
        Namespace.of(1 << 30, "uts")
    with pytest.raises(NotFound, match="no process"):
        Namespace.all_of(1 << 30)
    with pytest.raises(InvalidOption, match="mnt, uts"):
        Namespace.of("self", "mount")


@requires("root")
def test_an_adopted_namespace_outlives_its_processes(tmp_path: Path) -> None:
    """The descriptor keeps it; closing an adopted one destroys nothing that somebody else holds."""
    made = Namespace.create("uts")
    made.run(["hostname", "kept"])
    held = Namespace.open(made.fileno())
    made.close()
    assert held.processes() == ()
    assert held.run(["hostname"]).stdout == "kept\n"
    held.close()


@requires("root")
def test_closed_is_closed() -> None:
    made = Namespace.create("ipc")
    made.close()
    made.close()
    assert made.pid == 0
    assert "closed" in repr(made)
    for ask in (made.inspect, made.owner, made.sheet, lambda: made.run(["true"])):
        with pytest.raises(StateError, match="is closed"):
            ask()
    assert len(made.transcript) >= 3
    assert made.explain().ops


def test_a_forgotten_handle_closes_its_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        Namespace.of("self", "net")
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


@requires("root")
def test_statuses_input_environment_and_time_out() -> None:
    with Namespace.create("uts") as made:
        assert made.run(["sh", "-c", "exit 7"]).exit_code == 7
        assert made.run(["sh", "-c", "kill -9 $$"]).exit_code == 137
        assert made.run(["no-such-program"]).exit_code == 127
        assert made.run(["/etc"]).exit_code == 126
        assert made.run(["cat"], input="given").stdout == "given"
        assert made.run(["sh", "-c", "echo $GIVEN"], env={"GIVEN": "word"}).stdout == "word\n"
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            made.run(["sleep", "30"], timeout=0.2)
        assert time.monotonic() - begin < 10
        for wrong in ("hostname", []):
            with pytest.raises(InvalidOption):
                made.run(wrong)


@requires("root")
def test_what_a_command_leaves_running_is_ended() -> None:
    with Namespace.create("uts") as made:
        told = made.run(["sh", "-c", "setsid sleep 300 & echo $!"])
        left = int(told.stdout)
        end = time.monotonic() + 5
        while os.path.exists(f"/proc/{left}") and time.monotonic() < end:
            time.sleep(0.01)
        assert not os.path.exists(f"/proc/{left}")
        assert made.processes() == (made.pid,)


@requires("root")
def test_snapshots_and_drawing() -> None:
    with Namespace.create("user") as made:
        before = made.inspect()
        assert json.loads(json.dumps(before.to_dict())) == before.to_dict()
        with pytest.raises(AttributeError):
            before.kind = "uts"  # type: ignore[misc]
        sleeper = subprocess.Popen(["nsenter", f"--user=/proc/{made.pid}/ns/user", "--preserve-credentials", "sleep", "30"])
        try:
            end = time.monotonic() + 10
            while len(made.processes()) < 2 and time.monotonic() < end:
                time.sleep(0.01)
            changed = before.diff(made.inspect()).changes
            assert [c.where for c in changed] == [f"processes[{sleeper.pid}]"]
        finally:
            sleeper.kill()
            sleeper.wait()
        assert "0 inside is 0 outside" in str(made)
        masked = made.sheet().text(mask=True)
        assert str(made.inode) not in masked
        assert str(made.pid) not in masked.split()
        assert masked == made.sheet().text(mask=True)


@requires("root")
def test_explain_is_what_ran() -> None:
    with Namespace.create("mnt") as made:
        plan = made.explain()
        assert [op.name for op in plan.ops] == ["Clone", "Unshare", "SetPropagation", "Barrier"]
        assert [call.name for call in made.transcript.ops] == [op.name for op in plan.ops]
    with nsbook.record() as transcript, Namespace.create("user"):
        pass
    assert "clone3" in [call.name for call in transcript.syscalls]
    assert [call.args for call in transcript if call.kind == "write" and "uid_map" in call.args]


@requires("root")
def test_a_refusal_is_diagnosed_and_leaves_nothing() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SetupError) as refused:
        Namespace.create("user", uid_map=[(0, 0, 1), (0, 5, 1)])  # two rows for one id: EINVAL
    assert refused.value.op.name == "WriteIdMap"
    assert isinstance(refused.value.__cause__, OSError)
    del refused
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
    assert not list(nsbook.ledger())


@requires("root", "setpriv", "userns")
def test_an_ordinary_user_gets_a_user_namespace_along(as_user: AsUser) -> None:
    kinds = [k for k in KINDS if os.path.exists(f"/proc/self/ns/{k}")]
    out = as_user(f"""
for kind in {kinds!r}:
    with nsbook.Namespace.create(kind) as made:
        owner = made.owner()
        told = made.run(["sh", "-c", "readlink /proc/self/ns/" + kind + "; id -u"]).stdout.split()
        out[kind] = dict(told=told, want=f"{{kind}}:[{{made.inode}}]", owner=owner.inode, mine=os.stat("/proc/self/ns/user").st_ino,
                         uid=made.owner_uid, warnings=len(made.explain().warnings), map=[list(r) for r in made.inspect().uid_map])
""")
    assert out.pop("ledger") == 0
    for kind, told in out.items():
        assert told["told"] == [told["want"], "0"], kind
        assert told["uid"] == UID
        assert (told["owner"] == told["mine"]) == (kind == "user"), f"{kind}: what came along owns it"
        assert told["warnings"] == (kind != "user")
    assert out["user"]["map"] == [[0, UID, 1]]


@requires("root", "setpriv")
def test_what_is_not_a_user_s_to_look_at_is_said(as_user: AsUser) -> None:
    out = as_user(f"""
from nsbook.errors import Unsupported
try:
    nsbook.Namespace.of({os.getpid()}, "mnt")
except Unsupported as error:
    out.update(feature=error.feature, reason=error.reason, fix=error.fix)
out["seen"] = {os.getpid()} in nsbook.Namespace.of("self", "user").processes()
""")
    assert "ptrace" in out["reason"]
    assert out["fix"]
    assert out["seen"] is False
