"""What was really called: :class:`Call`, :class:`Transcript` and :func:`record`.

There are three emitters and no others: the system-call wrappers and the traced file writes of :mod:`nsbook.linux`, and
its netlink requests. Nothing above them mentions tracing. The recorder is a context variable: a plain thread does not
see it unless it is started in a copy of the context (:func:`contextvars.copy_context`). Processes that nsbook starts
keep their own transcript and send it to whoever asked, so the rows of a child stand among those of its parent.

Without a recorder an emitter costs one look at the variable.
"""

from __future__ import annotations

from contextvars import ContextVar

from nsbook.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType
    from typing import Any

    from nsbook.inspectable import Sheet


class Call(Frozen):
    """One thing that was done. ``kind``: ``op`` (a step of a plan), ``syscall``, ``write`` or ``netlink``.

    ``result`` is what the call returned, as text; ``errno`` is 0 on success; ``usec`` is wall time in microseconds;
    ``actor`` says which process did it (``caller``, ``host``: the one that sets things up, ``child``: the container);
    ``op`` is the number of the plan's op that it belongs to, -1 if none.
    """

    kind: str
    name: str
    args: str
    result: str = ""
    errno: int = 0
    usec: float = 0.0
    actor: str = "caller"
    pid: int = 0
    op: int = -1
    note: str = ""


class Transcript:
    """The calls that were made, in order. Iterate over it, index it, or let it draw itself."""

    def __init__(self, calls: Iterable[Call] = (), *, actor: str = "caller") -> None:
        self._calls: list[Call] = list(calls)
        self.actor = actor
        self.op = -1

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)

    def __getitem__(self, index: int) -> Call:
        return self._calls[index]

    def add(self, kind: str, name: str, args: str, result: str, errno: int, usec: float, pid: int) -> None:
        """Called by the emitters."""
        self._calls.append(Call(kind, name, args, result, errno, usec, self.actor, pid, self.op))

    def extend(self, calls: Iterable[Call]) -> None:
        """Take in what another process did."""
        self._calls.extend(calls)

    @property
    def ops(self) -> tuple[Call, ...]:
        """The steps of plans alone."""
        return tuple(c for c in self._calls if c.kind == "op")

    @property
    def syscalls(self) -> tuple[Call, ...]:
        """The system calls alone."""
        return tuple(c for c in self._calls if c.kind == "syscall")

    def to_list(self) -> list[dict[str, object]]:
        """Plain data, one dict a row."""
        return [c.to_dict() for c in self._calls]

    def sheet(self) -> Sheet:
        """One row an op (numbered as in its plan) and, indented below it, one a call that it made."""
        from nsbook.inspectable import Sheet

        failed = sum(1 for c in self._calls if c.errno)
        calls = len(self._calls) - len(self.ops)
        counts = [f"{len(self.ops)} ops"] if self.ops else []
        counts += [f"{calls} calls"] if calls or not counts else []
        counts += [f"{failed} failed"] if failed else []
        return Sheet(
            f"Transcript: {', '.join(counts)}",
            ("#", "actor", "op or call", "arguments", "result", "errno", "µs"),
            tuple([_row(c) for c in self._calls]),
            () if self._calls else ("nothing was called",),
            "transcript",
        )

    def __str__(self) -> str:
        return self.sheet().text()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        from nsbook.inspectable import mimebundle

        return mimebundle(self.sheet())

    def __repr__(self) -> str:
        failed = sum(1 for c in self._calls if c.errno)
        return f"<Transcript: {len(self.ops)} ops, {len(self._calls) - len(self.ops)} calls, {failed} failed>"


def _row(call: Call) -> tuple[str, ...]:
    """A call as cells. Results other than success and failure are descriptors, pids and counts: they differ from run to run."""
    from errno import errorcode

    from nsbook.inspectable import Volatile

    is_op = call.kind == "op"
    name = call.name if is_op or call.op < 0 else f"  {call.name}"
    arguments = call.args if len(call.args) <= LONGEST else f"{call.args[: LONGEST - 2]} …"
    result = "" if is_op or call.errno else call.result if call.result in ("", "0", "None") else Volatile(call.result)
    failed = errorcode.get(call.errno, str(call.errno)) if call.errno else ""
    number = str(call.op) if is_op and call.op >= 0 else ""
    return number, call.actor, name, arguments, result, failed, Volatile(f"{call.usec:.0f}")


LONGEST = 140
"""Longer arguments are cut where a transcript is displayed; the rows themselves keep all."""

current: ContextVar[Transcript | None] = ContextVar("nsbook_transcript", default=None)
"""The transcript that emitters write to, or None."""


class unrecorded:
    """``with unrecorded(): ...``: the same shape as :class:`record`, and nothing is recorded."""

    def __enter__(self) -> None:
        self._token = current.set(None)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        current.reset(self._token)


class record:
    """``with record() as transcript: ...``: everything that nsbook calls inside the block, children included."""

    def __init__(self, *, actor: str = "caller") -> None:
        self.transcript = Transcript(actor=actor)

    def __enter__(self) -> Transcript:
        self._token = current.set(self.transcript)
        return self.transcript

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        current.reset(self._token)
