"""Quizzes, exercises, verdicts and recordings: as text and HTML, without a kernel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nsbook import book
from nsbook.book import recordings
from nsbook.errors import SetupError, Unsupported
from nsbook.inspectable import Sheet

QUIZ = book.Quiz("How many <kernels>?", ("one", "two"), (1,), "Containers share it.")


def test_a_quiz_hides_its_answer_and_tells_it() -> None:
    assert QUIZ.answer(1) == "Right. Containers share it."
    assert QUIZ.answer(2).startswith("Not quite")
    assert QUIZ.reveal() == "one. Containers share it."
    shown = QUIZ._repr_mimebundle_()
    assert "share it" not in shown["text/plain"]
    assert "&lt;kernels&gt;" in shown["text/html"]
    assert "<details>" in shown["text/html"]


def test_an_exercise_asks_the_state() -> None:
    exercise = book.Exercise("make 3", lambda n: n == 3 or f"it is {n}", hint="2 + 1", solution="exercise.check(3)")
    assert exercise.check(3)
    wrong = exercise.check(2)
    assert not wrong
    assert wrong.why == "it is 2"
    assert "TypeError" in exercise.check().why
    assert "2 + 1" in exercise._repr_mimebundle_()["text/html"]


def test_needs_tries_only_what_it_is_asked_and_stays_a_function() -> None:
    assert [f.feature for f in book.needs("pidfd").findings] == ["pidfd"]
    assert callable(book.needs)
    assert "pidfd" in str(book.needs("pidfd"))


def test_live_runs_what_can_run() -> None:
    assert book.live("first-container", lambda: 7) == 7


@pytest.mark.parametrize("error", [Unsupported("a container", "seccomp says no", "none"), SetupError("Unshare: no")])
def test_live_shows_a_labelled_recording_where_this_machine_refuses(error: Exception) -> None:
    def refused() -> None:
        raise error

    shown = book.live("first-container", refused)
    assert isinstance(shown, recordings.Recording)
    for text in shown._repr_mimebundle_().values():
        assert "RECORDING, not this machine" in text
        assert shown.day in text
        assert shown.kernel in text
    with pytest.raises(type(error)):
        book.live("there is no such recording", refused)


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        book.live("first-container", lambda: 1 / 0)


def test_a_recording_is_made_by_the_same_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSBOOK_RECORD", str(tmp_path))

    class Shown:
        def _repr_mimebundle_(self) -> dict[str, str]:
            return {"text/plain": Sheet("t", ("a",), (("1",),)).text(), "text/html": "<b>1</b>"}

    book.live("one", Shown)
    made = json.loads((tmp_path / "one.json").read_text())
    assert made["html"] == "<b>1</b>"
    assert made["kernel"]


def test_every_recording_that_a_chapter_names_is_there() -> None:
    chapters = Path(__file__).resolve().parents[2] / "notebooks"
    named = set()
    for path in chapters.glob("*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            source = "".join(cell["source"])
            named |= {part.split('"')[1] for part in source.split("book.live(")[1:]}
    assert named
    for name in named:
        assert recordings.load(name).text
