"""Every class is held to the rows of the object protocol that it owes (``nsbook.inspectable`` says what they mean)."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import nsbook
from needs import need
from nsbook.inspectable import Difference, Inspectable, Sheet, Snapshot
from nsbook.spawn.plan import Plan
from nsbook.trace import Transcript

sys.path.insert(0, str(Path(__file__).parent))
from recipes import ALL, MADE, Recipe


def the_class(name: str) -> Any:
    return getattr(nsbook, name)


@pytest.fixture
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A real object of the class that the test is parametrised with, undone afterwards."""
    recipe: Recipe = ALL[request.param]
    need(*recipe.needs)
    with ExitStack() as stack:
        thing = recipe.make(tmp_path, stack)
        if request.param in MADE:
            stack.callback(thing.close)
        yield thing


def test_every_class_of_the_face_has_a_recipe() -> None:
    """So that a new primitive can't be left out."""
    classes = {name for name in nsbook._names if inspect.isclass(getattr(nsbook, name)) and issubclass(the_class(name), Inspectable)}
    assert classes == set(ALL)


@pytest.mark.parametrize("name", sorted(ALL))
def test_what_every_class_owes(name: str) -> None:
    owed = ["inspect", "sheet", "widget", "_repr_mimebundle_"]
    if name in MADE:
        owed += ["explain", "transcript", "close", "__enter__", "__exit__"]
    missing = [row for row in owed if not hasattr(the_class(name), row)]
    assert not missing, f"{name} owes {', '.join(missing)}"
    assert the_class(name).__repr__ is not object.__repr__


@pytest.mark.parametrize("name", sorted(MADE.keys() - {"Container", "Assembly"}))
def test_a_primitive_is_made_or_adopted(name: str) -> None:
    assert hasattr(the_class(name), "create")
    assert hasattr(the_class(name), "of") or hasattr(the_class(name), "open")


@pytest.mark.parametrize("made", sorted(ALL), indirect=True)
def test_inspect_is_a_frozen_snapshot_that_json_can_carry(made: Any) -> None:
    before = made.inspect()
    assert isinstance(before, Snapshot)
    assert before.taken > 0
    assert json.loads(json.dumps(before.to_dict())) == before.to_dict()
    with pytest.raises(AttributeError):
        before.taken = 0
    assert isinstance(before.diff(made.inspect()), Difference)


@pytest.mark.parametrize("made", sorted(ALL), indirect=True)
def test_it_draws_itself_without_a_kernel_and_the_same_twice(made: Any) -> None:
    sheet = made.sheet()
    assert isinstance(sheet, Sheet)
    assert sheet.title or sheet.rows
    bundle = made._repr_mimebundle_()
    assert bundle["text/plain"].strip()
    assert "<table" in bundle["text/html"]
    assert "<script" not in bundle["text/html"]
    assert bundle == made._repr_mimebundle_()
    assert " at 0x" not in bundle["text/plain"] + bundle["text/html"] + repr(made)


@pytest.mark.parametrize("made", sorted(MADE), indirect=True)
def test_explain_is_a_plan_and_runs_nothing(made: Any) -> None:
    before = made.inspect()
    plan = made.explain()
    assert isinstance(plan, Plan)
    assert len(plan.ops) > 0
    assert plan == made.explain()
    assert not [c for c in before.diff(made.inspect()).changes if not c.where.startswith(("memory", "cpu", "usage", "process"))]


@pytest.mark.parametrize("made", sorted(MADE), indirect=True)
def test_the_transcript_tells_how_it_was_made(made: Any) -> None:
    assert isinstance(made.transcript, Transcript)
    assert len(made.transcript) > 0


@pytest.mark.parametrize("name", sorted(MADE))
def test_closing_twice_leaves_nothing(name: str, tmp_path: Path) -> None:
    """The guard around every test looks at the kernel; the ledger is asked here."""
    need(*MADE[name].needs)
    before = {entry.run for entry in nsbook.ledger()}
    with ExitStack() as stack, MADE[name].make(tmp_path, stack) as thing:
        pass
    thing.close()
    thing.close()
    assert {entry.run for entry in nsbook.ledger()} == before


@pytest.mark.parametrize("name", sorted(MADE))
def test_an_exception_undoes_it_too(name: str, tmp_path: Path) -> None:
    need(*MADE[name].needs)
    before = {entry.run for entry in nsbook.ledger()}

    def fail() -> None:
        with ExitStack() as stack, MADE[name].make(tmp_path, stack):
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert {entry.run for entry in nsbook.ledger()} == before


@pytest.mark.parametrize("made", ["Capabilities", "SeccompFilter", "Process"], indirect=True)
def test_equal_by_what_it_is_not_by_which_object(made: Any, tmp_path: Path) -> None:
    with ExitStack() as stack:
        again = ALL[type(made).__name__].make(tmp_path, stack)
    assert again == made
    assert hash(again) == hash(made)
