"""Control groups: made with limits that the kernel keeps, joined, frozen, killed, removed; only what was made is removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import nsbook
from needs import has, need, requires
from nsbook import Cgroup
from nsbook.errors import Conflict, InvalidOption, SetupError, StateError

from .conftest import AsUser

pytestmark = requires("root")


@pytest.fixture(autouse=True)
def controllers() -> None:
    """Either version will do, with memory, cpu and pids."""
    if not has("cgroup-v2"):
        need("cgroup-v1")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as child:
        yield child
        child.kill()


def run_in(group: Cgroup, *command: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    """A command that is in the group before its first instruction."""
    code = (
        "import os, sys\n[open(p + '/cgroup.procs', 'w').write('0') for p in sys.argv[1].split(':')]\nos.execvp(sys.argv[2], sys.argv[2:])"
    )
    return subprocess.run(
        [sys.executable, "-c", code, ":".join(group.paths), *command], capture_output=True, text=True, timeout=timeout, check=False
    )


def in_state(pid: int, letters: str) -> bool:
    """Whether the process gets there within five seconds."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in letters:
            return True
        time.sleep(0.005)
    return False


def test_made_with_limits_and_removed() -> None:
    with Cgroup.create(memory="64M", cpus=0.5, pids=20) as group:
        assert all(os.path.isdir(path) for path in group.paths)
        seen = group.inspect()
        assert (seen.memory_max, seen.pids_max, seen.processes, seen.frozen) == (64 << 20, 20, (), False)
        assert (seen.cpu_quota or 0) / (seen.cpu_period or 1) == 0.5
        assert (seen.pids_current, seen.oom_kills) == (0, 0)
        assert json.loads(json.dumps(seen.to_dict())) == seen.to_dict()
        assert len(nsbook.ledger()) == 1
        paths = group.paths
    assert not any(os.path.exists(path) for path in paths)
    assert not list(nsbook.ledger())
    group.close()
    group.remove()
    with pytest.raises(StateError, match="is gone"):
        group.inspect()


def test_limits_are_kept_by_the_kernel() -> None:
    with Cgroup.create(pids=4) as group:
        # A shell that can't fork says so (dash, busybox and bash differ in words) and fails.
        done = run_in(group, "sh", "-c", "sleep 0.3 & sleep 0.3 & sleep 0.3 & sleep 0.3 & sleep 0.3 & wait")
        assert done.returncode != 0
        assert "fork" in done.stderr.lower()
    with Cgroup.create(memory="16M") as group:
        done = run_in(group, sys.executable, "-c", "x = bytearray(64 << 20)")
        assert done.returncode == -9
        assert group.inspect().oom_kills == 1
        assert (group.inspect().memory_peak or 0) <= 16 << 20


def test_cpu_time_is_throttled() -> None:
    with Cgroup.create(cpus=0.1) as group:
        done = run_in(group, sys.executable, "-c", "import time\nend = time.monotonic() + 0.6\nwhile time.monotonic() < end: pass")
        assert done.returncode == 0
        seen = group.inspect()
        assert (seen.cpu_throttled or 0) > 0
        assert 0 < (seen.cpu_usage or 0) < 400_000, "of 600 ms at a tenth of a CPU (and one burst at the start)"


def test_changing_a_limit_leaves_the_others() -> None:
    with Cgroup.create(memory="32M", pids=10) as group:
        before = group.inspect()
        group.limit(pids=11)
        assert [(c.where, c.before, c.after) for c in before.diff(group.inspect()).changes] == [("pids_max", "10", "11")]
        group.limit(memory="48M")
        assert (group.inspect().memory_max, group.inspect().pids_max) == (48 << 20, 11)


def test_joined_and_found_again(sleeper: subprocess.Popen[bytes]) -> None:
    with Cgroup.create() as group:
        group.join(sleeper.pid)
        assert group.processes() == (sleeper.pid,)
        assert group.inspect().processes == (sleeper.pid,)
        found = Cgroup.of(sleeper.pid)
        assert set(group.paths) <= set(found.paths)
        by_path = Cgroup.open(group.paths[0])
        assert by_path == Cgroup.open(group.paths[0])
        assert by_path.processes() == (sleeper.pid,)
        by_path.close()
        found.close()
        assert os.path.isdir(group.paths[0]), "what was adopted is not removed"
        assert not found.explain().ops
        sleeper.kill()
        sleeper.wait()


def test_frozen_and_thawed(sleeper: subprocess.Popen[bytes]) -> None:
    with Cgroup.create() as group:
        group.join(sleeper.pid)
        group.freeze()
        assert group.inspect().frozen
        assert "frozen" in str(group)
        sleeper.send_signal(15)
        time.sleep(0.05)
        if group.version == 1:  # version 2 lets a signal through that ends it anyway
            assert sleeper.poll() is None, "a frozen process gets no signal"
        group.thaw()
        assert not group.inspect().frozen
        assert sleeper.wait(timeout=5) == -15


def test_killed_all_at_once() -> None:
    with Cgroup.create() as group:
        children = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
        for child in children:
            group.join(child.pid)
        group.kill()
        assert [child.wait(timeout=5) for child in children] == [-9, -9, -9]
        assert group.processes() == ()


def test_removed_with_what_runs_in_it_even_frozen(sleeper: subprocess.Popen[bytes]) -> None:
    group = Cgroup.create()
    group.join(sleeper.pid)
    group.freeze()
    assert in_state(sleeper.pid, "DST")
    group.close()
    assert sleeper.wait(timeout=5) == -9
    assert not any(os.path.exists(path) for path in group.paths)


def test_a_name_that_is_taken_is_refused_and_stays_as_it_is(sleeper: subprocess.Popen[bytes]) -> None:
    with Cgroup.create("nsbook-test-taken") as group:
        group.join(sleeper.pid)
        with pytest.raises(Conflict, match="already"):
            Cgroup.create("nsbook-test-taken")
        assert group.processes() == (sleeper.pid,)
        assert sleeper.poll() is None
        assert len(nsbook.ledger()) == 1
        sleeper.kill()
        sleeper.wait()


def test_what_can_be_said_beforehand_is_said() -> None:
    for name in ("a/b", ".", ".."):
        with pytest.raises(InvalidOption, match="one directory name"):
            Cgroup.create(name)
    with pytest.raises(InvalidOption):
        Cgroup.create(memory="much")
    with pytest.raises(FileNotFoundError, match="not a control group"):
        Cgroup.open("/proc")


def test_a_refusal_leaves_nothing() -> None:
    with pytest.raises(SetupError) as refused:
        Cgroup.create(cpus=0.000001)  # a quota of less than a millisecond: EINVAL
    assert refused.value.op.name == "WriteFile"
    assert not list(nsbook.ledger())


def test_plan_and_transcript() -> None:
    with Cgroup.create(memory="16M", pids=5) as group:
        names = [op.name for op in group.explain().ops]
        assert names[-1] == "Barrier"
        assert names.count("MakeCgroup") == 1
        ran = [c.name for c in group.transcript.ops]
        assert ran == names[: len(ran)]
        assert len(ran) >= len(names) - 1
        masked = group.sheet().text(mask=True)
        assert "16,777,216 B" in masked


@requires("setpriv")
def test_an_ordinary_user_without_delegation_is_told_what_helps(as_user: AsUser) -> None:
    out = as_user("""
from nsbook.errors import Unsupported
try:
    nsbook.Cgroup.create(memory="16M")
except Unsupported as error:
    out.update(reason=error.reason, fix=error.fix)
own = nsbook.Cgroup.of("self")
out["processes"] = os.getpid() in own.processes()
""")
    assert "not ours to write to" in out["reason"] or "no memory controller" in out["reason"]
    assert out["fix"]
    assert out["processes"] is True
