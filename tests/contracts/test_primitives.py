"""The primitives' own contract, beside the object protocol's: every name of the floor is held to it, what was adopted is not
destroyed, what is drawn shows nothing that differs from run to run; and every op of the vocabulary can be explained."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import nsbook
import nsbook.primitives
from needs import need
from nsbook import trace
from nsbook.inspectable import Difference
from nsbook.linux.syscalls import numbers
from nsbook.spawn.ops import Op, from_json, vocabulary
from nsbook.spawn.plan import Plan

sys.path.insert(0, str(Path(__file__).parent))
from recipes import ALL, MADE, OBSERVERS, VALUES

OURS = sorted(set(nsbook.primitives._names) & set(ALL))


# ---- objects


def test_every_name_of_the_floor_is_there_and_held_to_the_contract() -> None:
    for name in nsbook.primitives._names:
        assert inspect.isclass(getattr(nsbook.primitives, name))
        assert getattr(nsbook, name) is getattr(nsbook.primitives, name)
    assert set(OURS) == set(nsbook.primitives._names)


@pytest.mark.parametrize("name", OURS)
def test_every_public_method_says_what_it_does(name: str) -> None:
    cls = getattr(nsbook.primitives, name)
    silent = [
        f"{name}.{method}"
        for method, what in inspect.getmembers(cls)
        if not method.startswith("_") and (inspect.isroutine(what) or isinstance(what, property)) and not inspect.getdoc(what)
    ]
    assert not silent
    assert (cls.__doc__ or "").strip()


ADOPT: dict[str, Any] = {
    "Namespace": lambda made: nsbook.Namespace.open(made.fileno()),
    "Cgroup": lambda made: nsbook.Cgroup.open(made.paths[0]),
    "Mount": lambda made: nsbook.Mount.of(made.target),
    "Overlay": lambda made: nsbook.Overlay.of(made.merged),
}


def test_all_that_is_made_can_be_adopted() -> None:
    assert set(ADOPT) == set(MADE) & set(OURS)


@pytest.mark.parametrize("name", sorted(ADOPT))
def test_closing_what_was_adopted_destroys_nothing(name: str, tmp_path: Path) -> None:
    need(*MADE[name].needs)
    with ExitStack() as stack, MADE[name].make(tmp_path, stack) as made:
        before = made.inspect()
        with ADOPT[name](made) as found:
            assert type(found) is type(made)
            assert isinstance(found.explain(), Plan)
            assert len(found.explain()) == len(found.transcript) == 0
            assert found.inspect().to_dict().keys() == before.to_dict().keys()
            assert found.sheet().rows
        found.close()
        assert not [c for c in before.diff(made.inspect()).changes if not c.where.startswith(("memory_", "cpu_", "pids_current"))]


@pytest.mark.parametrize("name", sorted(set(OURS) & set(MADE)))
def test_two_of_a_kind_look_the_same_once_masked(name: str, tmp_path: Path) -> None:
    """So that a notebook's stored output can be compared with a new run's."""
    need(*MADE[name].needs)
    drawn = []
    for number in ("one", "two"):
        there = tmp_path / number
        there.mkdir()
        with ExitStack() as stack, MADE[name].make(there, stack) as made:
            bundle = made._repr_mimebundle_()
            drawn.append(bundle["text/plain"])
            assert str(there) not in bundle["text/plain"]
            assert made.sheet().text(mask=True) == bundle["text/plain"]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("name", sorted(set(OURS) & set(MADE)))
def test_explain_calls_nothing(name: str, tmp_path: Path) -> None:
    need(*MADE[name].needs)
    with ExitStack() as stack, MADE[name].make(tmp_path, stack) as made:
        with trace.record() as calls:
            plan = made.explain()
            plan.sheet()
            plan.to_bytes()
        assert len(calls) == 0
        assert Plan.from_bytes(plan.to_bytes()) == plan
        ran = [call.name for call in made.transcript.ops]
        assert ran == [op.name for op in plan.ops][: len(ran)], "explained and done are the same ops, in order"


@pytest.mark.parametrize("name", sorted((VALUES.keys() | OBSERVERS.keys()) & set(OURS)))
def test_values_and_observers_compare_and_own_nothing(name: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        one = ALL[name].make(tmp_path, stack)
        two = ALL[name].make(tmp_path, stack)
        difference = one.inspect().diff(two.inspect())
        assert isinstance(difference, Difference)
        assert not [c for c in difference.changes if not c.where.startswith(("descriptors", "threads", "state"))]
        assert not hasattr(one, "close")
        assert not hasattr(one, "transcript")


# ---- ops

ODD = "/a b/it's $x;*"
OPS: tuple[Op, ...] = tuple(
    vocabulary[name](*values)
    for name, *values in (
        ("Barrier", "kept", True),
        ("BindMount", ODD, "/inside", ODD, True, ("ro",), "rprivate"),
        ("ChangeDirectory", ODD, True),
        ("Clone", ("pid", "uts")),
        ("ConnectStreams",),
        ("DropBounding", ("CAP_KILL",)),
        ("EnterForChildren", ODD),
        ("EnterNamespace", ODD, "uts"),
        ("EnterTimeNamespace",),
        ("Exec", ("echo", ODD), (f"A={ODD}",)),
        ("Fork",),
        ("HostMount", ODD, "tmpfs", "", ("nosuid",), "size=1m"),
        ("HostOverlay", (ODD, "/b"), ODD, ODD, ODD),
        ("Init",),
        ("JoinCgroup", (ODD,), 2),
        ("KillRun", "0123456789ab"),
        ("LeaveForLeaf", ODD),
        ("LoadSeccomp", "AAAAAAAAAAA=", "default"),
        ("LoopbackUp",),
        ("MakeCgroup", (ODD, "/b"), ("memory",)),
        ("MakeCgroupParents", (ODD,)),
        ("MakeDevice", "/dev/null", ODD, 1, 3),
        ("MakeDirectory", ODD, 0o711),
        ("MakeLink", "/dev/fd", ODD, ODD),
        ("MaskPath", "/proc/kcore", ODD),
        ("Mount", "proc", "/proc", ODD, "", ("nosuid",), "hidepid=1"),
        ("MountCgroups", "/sys/fs/cgroup", ODD, 1, ("cpu,cpuacct", "name=systemd")),
        ("MountOverlay", (ODD, "/b"), ODD, ODD, ODD, True),
        ("MoveBack", ODD, "leaf"),
        ("NewSession",),
        ("NoNewPrivileges",),
        ("OpenTerminal",),
        ("PivotRoot", ODD),
        ("ReadOnlyPath", "/proc/sys", ODD),
        ("RemountRoot",),
        ("RemoveCgroup", (ODD,)),
        ("RemoveEmptyCgroups", (ODD,)),
        ("RemoveTree", ODD),
        ("SetCapabilities", ("CAP_KILL",), ("CAP_KILL",)),
        ("SetDomainname", "domain"),
        ("SetHostname", "host"),
        ("SetOomScore", 500),
        ("SetPropagation", ODD),
        ("SetRlimit", "RLIMIT_NOFILE", 1024, 2048),
        ("SetSysctl", "net.ipv4.ip_forward", "1"),
        ("SetTimeOffset", "boottime", 60),
        ("SetUmask", 0o22),
        ("SetUser", 1000, 1000, (5, 6)),
        ("Setns", "$target", ("uts", "ipc")),
        ("Unmount", ODD, True, 7),
        ("Unshare", ("mnt", "net")),
        ("WriteFile", ODD, "a b"),
        ("WriteIdMap", "uid", ((0, 1000, 1), (1, 5000, 10))),
    )
)
"""One of each, with names that a shell could trip over."""

NO_SHELL = {"Barrier", "ConnectStreams", "LoadSeccomp", "OpenTerminal"}
"""The closed list of those that a shell can't say. To lengthen it, say why in the op."""

each_op = pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)


def test_there_is_one_of_each() -> None:
    real = {name for name, cls in vocabulary.items() if cls.__module__.startswith("nsbook.")}
    assert sorted(op.name for op in OPS) == sorted(real)


def test_the_list_without_a_shell_form_is_closed() -> None:
    assert {op.name for op in OPS if op.shell().kind == "none"} == NO_SHELL


@each_op
def test_an_op_explains_itself(op: Op) -> None:
    assert op.where in ("host", "child", "both")
    assert op.call in numbers("x86_64"), f"{op.call} is no system call"
    assert re.search(r"[\w.]+\(\d\w*\)", op.man), op.man
    assert (type(op).__doc__ or "").strip()
    assert op.what().strip()
    assert "\n" not in op.what()


@each_op
def test_an_op_s_shell_form_is_of_a_declared_kind_and_parses(op: Op) -> None:
    shell = op.shell()
    assert shell.kind in ("statement", "wrapper", "composite", "none")
    assert shell.text.strip()
    if shell.kind == "none":
        assert len(shell.text.split()) > 4, "the reason, in a sentence"
        return
    line = shell.text if shell.kind == "statement" else f"{shell.text.partition('(')[0]} true"
    done = subprocess.run(["sh", "-n", "-c", line], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"{line}: {done.stderr}"
    if shell.kind == "statement":
        assert ODD not in shell.text.replace(shlex.quote(ODD), "").replace(shlex.quote(f"A={ODD}"), ""), "unquoted"


@each_op
def test_an_op_survives_the_way_to_another_process(op: Op) -> None:
    sent = json.dumps(op.to_json())
    again = from_json(json.loads(sent))
    assert again == op
    assert type(again) is type(op)
    assert hash(again) == hash(op)
    with pytest.raises(AttributeError):
        op.where = "elsewhere"  # type: ignore[misc]


@each_op
def test_an_inverse_is_an_op_of_the_host_s_and_final(op: Op) -> None:
    for inverse in op.undo():
        assert inverse.where == "host"
        assert inverse.undo() == ()
        assert from_json(json.loads(json.dumps(inverse.to_json()))) == inverse
    if op.where == "child":
        assert op.undo() == (), "what a child does in its own namespaces goes with it"


@pytest.mark.parametrize("op", [i for op in OPS for i in op.undo()], ids=lambda op: op.name)
def test_an_inverse_may_be_run_for_nothing(op: Op, tmp_path: Path) -> None:
    """After a kill nobody knows how far it had got: all inverses are run, some of them for nothing, or twice."""
    from nsbook.spawn.ops import Place

    def there(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(there(v) for v in value)
        return f"{tmp_path}{value}" if isinstance(value, str) and value.startswith("/") else value

    moved = type(op)(**{field: there(getattr(op, field)) for field in op.fields})
    moved.execute(Place())
    moved.execute(Place())
    assert os.listdir(tmp_path) == []
