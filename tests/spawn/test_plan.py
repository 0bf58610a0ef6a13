"""A plan is a value: there and back through JSON, byte for byte what the launcher is sent, and complete in each op."""

from __future__ import annotations

import inspect
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from needs import requires
from nsbook.container.container import Container
from nsbook.spawn import client
from nsbook.spawn.channel import Channel
from nsbook.spawn.ops import Op, from_json, vocabulary
from nsbook.spawn.plan import Plan

FULL: dict[str, Any] = {
    "memory": "64M",
    "cpus": 0.5,
    "pids": 40,
    "tmpfs": {"/t": "size=1m"},
    "binds": ["/usr:/u:ro"],
    "rlimits": {"nofile": 100},
    "oom_score": 1,
    "init": True,
    "time": True,
    "userns": True,
    "read_only": True,
    "env": {"A": "grüße \udcff"},
    "sysctls": {"net.ipv4.ip_forward": "1"},
}
NO_SHELL = {
    "Barrier",
    "ConnectStreams",
    "LoadSeccomp",
    "OpenTerminal",
}
"""The ops that a shell has no line for. Whoever adds one must find no way to say it, and say why."""


pytestmark = requires("limits")


@pytest.fixture(scope="module")
def full() -> Plan:
    return Container("base", ["sh", "-c", "true"], **FULL).explain()


def test_there_and_back(full: Plan) -> None:
    data = full.to_bytes()
    again = Plan.from_bytes(data)
    assert again == full
    assert again.to_bytes() == data
    assert hash(again) == hash(full)
    assert json.loads(data)["ops"][0]["op"] == full.ops[0].name


def test_the_bytes_are_canonical() -> None:
    """Two plans of the same options differ in nothing but the run id."""
    one, two = [Container("base", ["true"], **FULL).explain() for _ in range(2)]
    assert one.run != two.run
    assert one.to_bytes().replace(one.run.encode(), b"") == two.to_bytes().replace(two.run.encode(), b"")
    assert Container("base", ["true"], id="same").explain().to_bytes() == Container("base", ["true"], id="same").explain().to_bytes()


def test_broken_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        Plan.from_bytes(b"{")
    with pytest.raises(LookupError, match="Fly"):
        Plan.from_bytes(b'{"run":"a","title":"","warnings":[],"ops":[{"op":"Fly"}]}')
    with pytest.raises(TypeError):
        Plan.from_bytes(b'{"run":"a","title":"","warnings":[],"ops":[{"op":"Exec","speed":1}]}')


@requires("root", "overlay")
def test_what_explain_shows_is_what_the_launcher_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listened to on the channel itself, while containers run in each of the ways there are."""
    sent: list[bytes] = []
    send = Channel.send_bytes

    def listen(self: Channel, body: bytes, fds: Any = ()) -> None:
        sent.append(body)
        send(self, body, fds)

    monkeypatch.setattr(Channel, "send_bytes", listen)

    def plans() -> list[bytes]:
        found = [json.loads(body)["plan"].encode("utf-8", "surrogateescape") for body in sent if b'"plan"' in body]
        sent.clear()
        return found

    explained = Container("base", ["true"], id="spied", memory="64M").explain().to_bytes()
    Container.run("base", ["true"], id="spied", memory="64M")
    assert plans() == [explained]
    with Container.create("base", ["sleep", "5"], **FULL) as made:
        made.start()
        assert plans() == [made.explain().to_bytes()]


@pytest.mark.parametrize("kind", list(vocabulary.values()), ids=lambda kind: kind.__name__)
def test_every_op_of_the_vocabulary_is_whole(kind: type[Op]) -> None:
    assert kind.where in ("host", "child", "both")
    assert kind.call
    assert "(" in kind.man
    assert inspect.getdoc(kind)
    assert kind.execute is not Op.execute or kind.__name__ == "Clone"  # the shepherd's own
    assert kind.shell is not Op.shell


def every_op() -> list[Op]:
    """One of each kind that real plans have."""
    found: dict[str, Op] = {}
    for given in (FULL, {}, {"user": "1000", "no_new_privileges": False, "hostname": "x"}):
        for op in Container("base", ["true"], **given).explain().ops:
            found.setdefault(op.name, op)
            for inverse in op.undo():
                found.setdefault(inverse.name, inverse)
    return list(found.values())


def test_ops_and_their_shell_forms() -> None:
    for op in every_op():
        form = op.shell()
        assert form.kind in ("statement", "wrapper", "composite", "none"), op
        assert (form.kind == "none") == (op.name in NO_SHELL), op
        assert form.text
        assert op.what()
        assert "\n" not in op.what()
        assert from_json(json.loads(json.dumps(op.to_json()))) == op
        if form.kind == "statement":
            done = subprocess.run(["sh", "-n"], input=form.text.encode(errors="surrogateescape"), capture_output=True, check=False)
            assert done.returncode == 0, (form.text, done.stderr)


@requires("linux")
def test_man_pages_exist() -> None:
    """By the names that man-pages gives them; where none are installed there is nothing to look at."""
    places = [Path(f"/usr/share/man/man{section}") for section in ("1", "2", "5", "7", "8")]
    known = {path.name.removesuffix(".gz") for place in places if place.is_dir() for path in place.iterdir()}
    if "clone.2" not in known:
        pytest.skip("needs linux: manpages-dev is not installed")
    missing = []
    for op in every_op():
        for page in op.man.split(", "):
            name, _, section = page.rstrip(")").partition("(")
            split = {"PR_SET_NO_NEW_PRIVS": "prctl.2", "proc_pid_oom_score_adj": "proc.5"}  # pages of their own since 6.10
            if section and split.get(name, f"{name}.{section}") not in known:
                missing.append(page)
    assert not [page for page in missing if page not in ("pidfd_open(2)",)], missing


def test_find_and_index(full: Plan) -> None:
    assert full.find("Mount", target="/proc").what() == "mount proc on /proc"
    assert full[0] is full.ops[0]
    assert len(full) == len(full.ops)
    with pytest.raises(LookupError, match=r"it has: .*Barrier"):
        full.find("Mount", target="/nowhere")


def test_the_inverses_come_last_thing_first(full: Plan) -> None:
    undone = [op.to_dict() for op in full.undo()]
    made = [op for op in full.ops if op.undo()]
    assert undone == [inverse.to_dict() for op in reversed(made) for inverse in op.undo()]
    assert full.undo()[0].name == "RemoveCgroup"
    assert full.undo()[-1].name == "RemoveTree"


def test_it_draws_itself(full: Plan) -> None:
    sheet = full.sheet()
    assert len(sheet.rows) == len(full)
    assert [row[2] for row in sheet.rows] == [op.name for op in full.ops]
    assert "text/plain" in full._repr_mimebundle_()
    client.shutdown()
