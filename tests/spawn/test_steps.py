"""One op at a time: what an Assembly does, asked of the shepherd directly."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nsbook
from needs import requires
from nsbook.container.prepare import Prepared
from nsbook.spawn.client import Session
from nsbook.spawn.ops import Op, SetHostname, Unshare

pytestmark = requires("root", "overlay")


class Steps:
    """A session that is told each op."""

    def __init__(self, made: Prepared, fds: dict[str, int]) -> None:
        self.made = made
        self.fds = fds
        self.session = Session(made.plan, step=True, observe=made.observe, tagged=made.tagged)
        self.index = 0

    def do(self, op: Op) -> dict[str, Any]:
        fds = self.fds if op.name == "ConnectStreams" else {}
        self.session.tell({"op": op.to_json(), "index": self.session.number(op), "fds": list(fds)}, list(fds.values()))
        return self.session.hear(20)

    def to(self, name: str) -> dict[str, Any]:
        """Up to and with the op of that name."""
        while True:
            op = self.made.plan.ops[self.index]
            self.index += 1
            reply = self.do(op)
            assert "failed" not in reply, reply
            if op.name == name:
                return reply

    def ask(self, **question: Any) -> Any:
        self.session.tell(question)
        return self.session.hear(20)


@pytest.fixture
def steps(container_plan: Any, streams: dict[str, int]) -> Iterator[Steps]:
    made = Steps(container_plan(argv=("sleep", "60"), hostname="stepwise", memory="64M"), streams)
    yield made
    made.session.close()
    assert not nsbook.ledger()


def test_nothing_is_done_that_was_not_asked_for(steps: Steps) -> None:
    pid = steps.to("Clone")["child"]
    assert pid > 0
    assert os.stat(f"/proc/{pid}/ns/pid").st_ino != os.stat("/proc/self/ns/pid").st_ino
    for kind in ("mnt", "uts", "net"):
        assert os.stat(f"/proc/{pid}/ns/{kind}").st_ino == os.stat(f"/proc/self/ns/{kind}").st_ino
    steps.to("SetPropagation")
    for kind in ("mnt", "uts", "net"):
        assert os.stat(f"/proc/{pid}/ns/{kind}").st_ino != os.stat(f"/proc/self/ns/{kind}").st_ino
    assert steps.ask(look="hostname")["seen"] == os.uname().nodename
    steps.to("SetHostname")
    assert steps.ask(look="hostname")["seen"] == "stepwise"


def test_it_can_be_looked_at_from_inside_and_outside(steps: Steps) -> None:
    steps.to("MountOverlay")
    merged = f"{steps.made.directory}/merged"
    assert "bin" in steps.ask(look="list", path=merged)["seen"]
    assert os.listdir(merged) == []  # the host sees nothing of it
    assert steps.ask(look="file", path="/etc/hostname")["seen"] == Path("/etc/hostname").read_text()
    steps.to("PivotRoot")
    assert steps.ask(look="exists", path=steps.made.directory)["seen"] is False
    assert steps.ask(look="ids")["seen"] | {"pid": 1, "uid": 0, "cwd": "/"} == steps.ask(look="ids")["seen"]
    missing = steps.ask(look="file", path="/no/such")
    assert missing["failed"]["errno"] == 2


def test_a_command_can_be_tried_in_between(steps: Steps) -> None:
    steps.to("SetHostname")
    out = os.memfd_create("out")
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        steps.session.tell({"try": ["sh", "-c", "hostname; exit 4"], "env": ["PATH=/bin"]}, [null, out, out])
        assert steps.session.hear(20)["status"] == 4
        assert os.pread(out, 100, 0) == b"stepwise\n"
        steps.session.tell({"try": ["nothing"], "env": ["PATH=/bin"]}, [null, out, out])
        assert steps.session.hear(20)["status"] == 127
    finally:
        os.close(out)
        os.close(null)


def test_an_op_that_is_refused_leaves_the_child_as_it_was(steps: Steps) -> None:
    steps.to("SetHostname")
    reply = steps.do(SetHostname("x" * 65))
    assert reply["failed"]["errno"] == 22
    assert steps.ask(look="hostname")["seen"] == "stepwise"
    assert "ok" in steps.do(SetHostname("another"))
    assert steps.ask(look="hostname")["seen"] == "another"


def test_no_child_no_question(steps: Steps) -> None:
    assert "Clone comes first" in steps.do(Unshare(("uts",)))["failed"]["message"]
    assert "no half-built child" in steps.ask(look="hostname")["failed"]["message"]


def test_it_becomes_the_command(steps: Steps) -> None:
    reply = steps.to("Exec")
    assert reply["running"] == steps.session.pid
    assert Path(f"/proc/{steps.session.pid}/cmdline").read_bytes() == b"sleep\x0060\0"
    assert [c.op for c in steps.session.transcript.ops] == list(range(len(steps.made.plan)))
    os.kill(steps.session.pid, 9)
    steps.session.end(10)
    assert steps.session.status == -9
    assert steps.session.observed


def test_the_same_transcript_as_in_one_go(steps: Steps, run_plan: Any, container_plan: Any) -> None:
    steps.to("Exec")
    whole = run_plan(container_plan(hostname="stepwise", memory="64M"))
    try:
        whole.end(20)
        ours = {(c.op, c.name, c.errno) for c in steps.session.transcript.ops}
        assert {(c.op, c.name, c.errno) for c in whole.transcript.ops} == ours
    finally:
        whole.close()
