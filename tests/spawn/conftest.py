"""What the tests of plans share: a way to stop a plan between two of its ops."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import leaks
from nsbook import spawn
from nsbook.container.prepare import Prepared, prepare
from nsbook.container.spec import options
from nsbook.spawn.client import Session
from nsbook.spawn.ledger import Ledger
from nsbook.spawn.ops import Clone, JoinCgroup, Op, PivotRoot, WriteFile
from nsbook.spawn.plan import Plan

INSIDE = "/gate"


class Gate:
    """Two fifos. A plan that writes to the first says that it has come so far, and waits at the second: an open for
    writing blocks until somebody reads. Both are ordinary ops of the vocabulary, so nothing knows of it but the test.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir(mode=0o777, exist_ok=True)
        place.chmod(0o777)
        for name in ("arrived", "closed"):
            (place / name).mkdir(mode=0o755)
            os.mkfifo(place / name / "tasks")
            (place / name / "tasks").chmod(0o666)
        self.reader = os.open(place / "arrived" / "tasks", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self.opened = -1

    def ops(self, plan: Plan, index: int) -> tuple[Op, ...]:
        """The two ops, for a place before op ``index``."""
        clone = next((i for i, op in enumerate(plan.ops) if isinstance(op, Clone)), len(plan.ops))
        pivot = next((i for i, op in enumerate(plan.ops) if isinstance(op, PivotRoot)), len(plan.ops))
        names = ("arrived", "closed")
        if index <= clone:
            return tuple(WriteFile(f"{self.place}/{name}/tasks", "0") for name in names)
        root = INSIDE if index > pivot else str(self.place)
        return tuple(JoinCgroup((f"{root}/{name}",)) for name in names)

    def before(self, plan: Plan, index: int) -> Plan:
        """The plan, stopping before op ``index``."""
        return plan.replace(ops=plan.ops[:index] + self.ops(plan, index) + plan.ops[index:])

    def wait(self, timeout: float = 20.0) -> None:
        """Until the plan has come there."""
        ready, _, _ = select.select([self.reader], [], [], timeout)
        assert ready, "the plan never came to that op"
        os.read(self.reader, 100)

    def open(self) -> None:
        """Let it go on, now and from now on."""
        if self.opened < 0:
            self.opened = os.open(self.place / "closed" / "tasks", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def shut(self) -> None:
        """Whoever comes next waits again."""
        if self.opened >= 0:
            os.close(self.opened)
            self.opened = -1

    def close(self) -> None:
        self.shut()
        os.close(self.reader)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path / "g")
    yield made
    made.close()


class Processes:
    """Who is who in a run that is under way."""

    def __init__(self, run: str) -> None:
        self.launcher: int = spawn.statistics()["launcher"]
        entry = next(e for e in Ledger() if e.run == run)
        self.shepherd = entry.owner
        self.child = next(iter(sorted(leaks.children(self.shepherd, frozenset()))), 0)

    def kill(self, who: str) -> None:
        """SIGKILL to one of them, or to all."""
        for pid in {"all": (self.launcher, self.shepherd, self.child)}.get(who) or (getattr(self, who),):
            if pid:
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def processes() -> type[Processes]:
    return Processes


def prepared(gate: Gate | None = None, argv: tuple[str, ...] = ("true",), **given: Any) -> Prepared:
    """A container's plan."""
    if gate is not None:
        given["binds"] = (*given.get("binds", ()), f"{gate.place}:{INSIDE}")
    return prepare("base", argv, options(**given))


@pytest.fixture
def container_plan() -> Callable[..., Prepared]:
    return prepared


@pytest.fixture
def streams() -> Iterator[dict[str, int]]:
    """/dev/null thrice."""
    fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    yield dict.fromkeys(("stdin", "stdout", "stderr"), fd)
    os.close(fd)


@pytest.fixture
def run_plan(streams: dict[str, int]) -> Callable[..., Session]:
    def start(made: Prepared, plan: Plan | None = None, **more: Any) -> Session:
        return Session(plan or made.plan, streams=streams, observe=made.observe, tagged=made.tagged, **more)

    return start


def eventually(check: Callable[[], bool], timeout: float = 5.0) -> bool:
    """Whether it becomes true in time."""
    end = time.monotonic() + timeout
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., bool]:
    return eventually
