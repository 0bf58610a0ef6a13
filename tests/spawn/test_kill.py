"""SIGKILL to every process of ours at every op of a container's plan; then ``clean``; then the host is as before.

A plan is stopped between two ops by a gate (``conftest.py``), the victim is killed there, the others go on, and what the
kernel still has of it is looked for. What nobody is left to undo is in the ledger, and ``clean`` undoes it.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

import leaks
from needs import requires
from nsbook.container.prepare import containers_root
from nsbook.errors import NsbookError
from nsbook.spawn import client
from nsbook.spawn.client import Session
from nsbook.spawn.ledger import ledger

pytestmark = [requires("root", "overlay"), pytest.mark.timeout(300)]

FULL: dict[str, Any] = {"memory": "64M", "cpus": 0.5, "pids": 40, "tmpfs": ("/t",), "rlimits": {"nofile": 100}, "oom_score": 100}
VARIANTS: dict[str, dict[str, Any]] = {
    "full": FULL,
    "userns": {**FULL, "userns": True, "time": True, "read_only": True},
    "no-cgroup": {"cgroup": False, "user": "1000", "no_new_privileges": False},
}


def clean() -> None:
    """As ``nsbook clean``; a shepherd that was killed a moment ago may have to be waited for, and so may one that is still undoing."""
    end = time.monotonic() + 10
    while True:
        ledger().clean()
        if not len(ledger()):
            return
        assert time.monotonic() < end, f"not cleaned: {ledger()}"
        time.sleep(0.005)


def finish(session: Session) -> None:
    """Whatever has become of it."""
    with contextlib.suppress(NsbookError):
        session.end(20)
    assert session.state == "ended"
    session.close()


def kill_at(index: int, who: str, given: dict[str, Any], gate: Any, processes: Any, container_plan: Any, run_plan: Any) -> None:
    made = container_plan(gate, **given)
    gate.shut()
    session = run_plan(made, gate.before(made.plan, index))
    gate.wait()
    there = processes(made.plan.run)
    there.kill(who)
    gate.open()
    finish(session)
    clean()
    known = leaks.kept()  # a child that was alone learns of it at its next barrier, and ends by itself
    end = time.monotonic() + 3
    while leaks.processes(known.pids) - BEFORE[0].processes and time.monotonic() < end:
        time.sleep(0.01)
    gate.shut()  # not before: who has arrived may not have come to the second fifo yet
    left = leaks.left_since(BEFORE[0])
    assert not left, f"{who} killed before op {index} ({made.plan.ops[index].name}): {left}"
    assert not os.listdir(containers_root())


BEFORE: list[leaks.Look] = []


@pytest.fixture(autouse=True)
def _host_before(container_plan: Callable[..., Any], run_plan: Callable[..., Any], gate: Any) -> None:
    """Unpack the image and start the launcher first; then look."""
    made = container_plan(gate)
    finish(run_plan(made))
    BEFORE[:] = [leaks.look()]


@pytest.mark.parametrize("who", ["child", "shepherd", "launcher", "all"])
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_at_every_op(variant: str, who: str, gate: Any, processes: Any, container_plan: Any, run_plan: Any) -> None:
    given = VARIANTS[variant]
    plan = container_plan(gate, **given).plan
    first = 1 + next(i for i, op in enumerate(plan.ops) if op.name == "Clone") if who == "child" else 0
    for index in range(first, len(plan)):
        kill_at(index, who, given, gate, processes, container_plan, run_plan)


@pytest.mark.parametrize("seed", range(4))
def test_at_random_moments(seed: int, processes: Any, container_plan: Any, run_plan: Any) -> None:
    """Also in the middle of an op, and while everything is being undone."""
    dice = random.Random(seed)
    for _ in range(10):
        who = dice.choice(["child", "shepherd", "launcher", "all"])
        made = container_plan(argv=("sleep", dice.choice(["0", "0.01"])), **VARIANTS[dice.choice(list(VARIANTS))])
        session = run_plan(made)
        time.sleep(dice.random() * 0.05)
        with contextlib.suppress(StopIteration, ProcessLookupError):  # it has ended already
            processes(made.plan.run).kill(who)
        finish(session)
        clean()
        left = leaks.left_since(BEFORE[0])
        assert not left, f"{who}: {left}"


def test_the_next_container_runs(container_plan: Any, run_plan: Any, eventually: Any) -> None:
    """A launcher that was killed is replaced without a word."""
    killed = client.launcher()
    gone = killed.pid
    os.kill(gone, 9)
    assert eventually(lambda: not killed.alive())
    session = run_plan(container_plan())
    finish(session)
    assert session.status == 0
    assert client.launcher().pid != gone
