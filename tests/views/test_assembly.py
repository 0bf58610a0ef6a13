"""What the view of an assembly says, without a browser (which tests/browser has)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("anywidget", reason="needs anywidget: pip install 'nsbook[lab]'")

import nsbook
from needs import requires
from nsbook.errors import InvalidOption, SetupError, Unsupported
from nsbook.linux.diagnose import Diagnosis
from nsbook.linux.rules import LAYERS
from nsbook.spawn.ops import SetHostname
from nsbook.views import assembly_state


@pytest.fixture
def assembly() -> Iterator[Any]:
    with nsbook.Assembly("base", ["sh", "-c", "echo out; echo err >&2; exit 7"], hostname="assembled") as made:
        yield made
    assert len(nsbook.ledger()) == 0


@pytest.fixture
def view(assembly: Any) -> Iterator[Any]:
    made = assembly.widget()
    yield made
    made.close()


def ask(view: Any, what: str, **more: Any) -> dict[str, Any]:
    """As a message from the page arrives."""
    view._handle_custom_msg({"do": what, **more}, [])
    return dict(view.state)


def fact(facts: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(each for each in facts if each["name"] == name)


# ---- what is shown


@requires("root")
def test_the_plan_is_the_assembly_s(assembly: Any) -> None:
    rows = assembly_state.plan(assembly)
    assert [(r["name"], r["where"], r["what"], r["man"]) for r in rows] == [(o.name, o.where, o.what(), o.man) for o in assembly.plan.ops]
    assert {r["form"] for r in rows} <= {"statement", "wrapper", "composite", "none"}


@requires("root")
def test_before_there_is_a_child_nothing_is_said_of_it(assembly: Any) -> None:
    seen = assembly_state.look(assembly)
    assert (seen["outside"], seen["inside"], seen["output"], seen["phase"]) == (None, None, None, "made")


@requires("root")
def test_from_outside_and_from_inside(assembly: Any) -> None:
    assembly.run_to("Clone")
    seen = assembly_state.look(assembly)
    assert fact(seen["outside"]["facts"], "process")["values"] == [f"pid {assembly.pid} on the host"]
    assert fact(seen["inside"], "ls /")["values"] == sorted(os.listdir("/"))
    assert fact(seen["inside"], "host name")["values"] == [os.uname().nodename]
    assert fact(seen["outside"]["facts"], "seccomp")["values"] == ["no filter"]
    before = seen
    assembly.run_to("LoadSeccomp")
    seen = assembly_state.look(assembly)
    assert fact(seen["inside"], "host name")["values"] == ["assembled"]
    assert fact(seen["outside"]["facts"], "seccomp")["values"] == ["filtered"]
    assert fact(seen["outside"]["facts"], "no_new_privs")["values"] == ["set"]
    assert len(fact(seen["outside"]["facts"], "capabilities")["values"]) == 14
    changed = {c["where"]: c for c in assembly_state.changes(before, seen)}
    assert (changed["uts namespace"]["was"], changed["uts namespace"]["now"]) == ("the host's", "its own")
    assert changed["inside: host name"]["now"] == "assembled"
    assert changed["inside: ls /"]["was"] == str(len(os.listdir("/")))
    assert "user namespace" not in changed
    assert assembly_state.changes(seen, assembly_state.look(assembly)) == []


@requires("root")
def test_a_proc_of_another_pid_namespace_refuses_and_that_is_shown(assembly: Any) -> None:
    """After pivot_root nothing but the new /proc is there: looked at without it, the answer is the child's errno."""
    assembly.run_to("MountOverlay")
    assembly.do(assembly.plan.find("PivotRoot"))
    answer = fact(assembly_state.look(assembly)["inside"], "/proc/self/mounts")
    assert answer["refused"] == "ENOENT: No such file or directory"
    assert answer["values"] == []


@requires("root")
def test_the_command_s_output(assembly: Any) -> None:
    assembly.run_to("Exec")
    assembly.wait()
    seen = assembly_state.look(assembly)
    assert seen["output"] == {"exit_code": 7, "stdout": "out\n", "stderr": "err\n"}
    assert (seen["inside"], seen["phase"]) == (None, "exited")


def said(**facts: Any) -> dict[str, Any]:
    rows = [
        {"name": k, "values": v if isinstance(v, list) else [v], "count": "line" if isinstance(v, list) else "", "refused": ""}
        for k, v in facts.items()
    ]
    return {"outside": {"namespaces": [], "facts": rows}, "inside": None}


def test_changes_of_long_lists_name_what_came_or_went() -> None:
    def change(was: list[str], now: list[str]) -> tuple[str, str]:
        [found] = assembly_state.changes(said(mounts=was), said(mounts=now))
        return found["was"], found["now"]

    assert change(["a"], ["a", "b"]) == ("1", "2 (+ b)")
    assert change(["a", "b", "c", "d"], ["a"]) == ("4", "1 (− b, − c and 1 more)")
    assert change(["a", "b"], ["b", "a"]) == ("2", "2")
    assert assembly_state.changes(said(ids="0 is 5 outside"), said(ids="0 is 6 outside"))[0]["now"] == "0 is 6 outside"
    assert assembly_state.changes(said(mounts=["a"]), said(mounts=["a"])) == []


def test_id_maps_in_words() -> None:
    assert assembly_state._ids(("0 0 4294967295",)) == ["those of the host"]
    assert assembly_state._ids(("0 1000 1", "1 100000 65536")) == ["0 is 1000 outside", "1 to 65536 are 100000 to 165535 outside"]
    assert assembly_state._ids(()) == ["none yet: nobody outside is mapped"]


def test_refusals() -> None:
    found = Diagnosis("file", "A pathname was empty.", "mount(2)", "it is not there", "Make it.", "mount", 2)
    error = SetupError("long text", op=SetHostname("x"), diagnosis=found)
    error.__cause__ = OSError(2, "No such file or directory")
    panel = assembly_state.refusal(error)
    assert panel["title"] == "SetHostname was refused with ENOENT: No such file or directory"
    assert (panel["why"], panel["fix"], panel["page"]) == ("it is not there", "Make it.", "mount(2)")
    assert assembly_state.refusal(SetupError("long text"))["why"] == "long text"
    assert assembly_state.refusal(Unsupported("x", "the kernel is old", "a new one"))["fix"] == "a new one"
    assert assembly_state.refusal(InvalidOption("nonsense"))["title"] == "InvalidOption"
    assert assembly_state.refusal(FileNotFoundError(2, "No such file", "/x"))["why"] == "/x"
    assert "division" in assembly_state.refusal(ZeroDivisionError("division by zero"))["title"]
    assert set(assembly_state.WHO) <= set(LAYERS)


# ---- the widget's side in the kernel


@requires("root")
def test_clicks(assembly: Any, view: Any) -> None:
    assert ask(view, "step")["done"] == [0]
    state = ask(view, "run_to", to=3)
    assert (assembly.position, state["position"], state["error"]) == (4, 4, None)
    assert set(state["took"]) == {"0", "1", "2", "3"}
    assert ask(view, "undo")["position"] == assembly.position == 3
    assert ask(view, "start over")["done"] == []
    assert assembly.state == "made"
    assert ask(view, "close")["phase"] == assembly.state == "closed"


@requires("root")
def test_no_message_can_raise(assembly: Any, view: Any) -> None:
    assert ask(view, "undo")["error"]["title"] == "StateError"
    assert "KeyError" in ask(view, "run_to")["error"]["title"]
    assert "ValueError" in ask(view, "run_to", to="x")["error"]["title"]
    assert ask(view, "no such thing")["error"] is None
    assembly.close()
    assert ask(view, "step")["error"]["title"] == "StateError"


@requires("root")
def test_the_message_after_an_error_clears_it(assembly: Any, view: Any) -> None:
    assert ask(view, "undo")["error"]
    assert ask(view, "step")["error"] is None


@requires("root")
def test_it_keeps_up_with_cells(assembly: Any, view: Any) -> None:
    serial = view.state["serial"]
    view.keep_up()
    assert view.state["serial"] == serial  # nothing has moved: nothing is sent
    assembly.step(2)
    view.keep_up()
    assert view.state["done"] == [0, 1]


@requires("root")
def test_an_assembly_has_one_view_until_it_is_closed(assembly: Any) -> None:
    first = assembly.widget()
    assert assembly.widget() is first
    first.close()
    first.close()
    second = assembly.widget()
    assert second is not first
    second.close()


@requires("root")
def test_it_says_what_it_is_where_there_is_no_kernel(assembly: Any, view: Any) -> None:
    assembly.step(2)
    assert repr(view) == f"<AssemblyView: 2 of {len(assembly.plan)} ops done, building>"
    data, _ = view._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert assembly._repr_mimebundle_() == {k: data[k] for k in ("text/plain", "text/html")}
