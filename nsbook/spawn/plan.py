"""A plan: what is going to be done, as a value.

``Plan.to_bytes()`` is canonical JSON, and it is what the launcher is sent: what ``explain()`` shows and what runs come from
one generator. ``Plan.script()`` is the same as a shell script.
"""

from __future__ import annotations

import os

from nsbook.frozen import Frozen
from nsbook.inspectable import Inspectable, Sheet
from nsbook.spawn.ops import Op, from_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Plan(Inspectable, Frozen):
    """Ops in order. ``run`` is the run id under which all that they make can be found; ``warnings`` say what this host
    reduced."""

    run: str
    ops: tuple[Op, ...]
    warnings: tuple[str, ...] = ()
    title: str = "Plan"

    def __len__(self) -> int:
        return len(self.ops)

    def __getitem__(self, index: int) -> Op:
        return self.ops[index]

    def find(self, name: str, **fields: Any) -> Op:
        """The first op of that name whose fields have these values. Raises LookupError."""
        for op in self.ops:
            if op.name == name and all(getattr(op, k) == v for k, v in fields.items()):
                return op
        raise LookupError(f"no op {name} {fields or ''} in this plan; it has: {', '.join(sorted({o.name for o in self.ops}))}")

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        import json

        body = {"run": self.run, "title": self.title, "ops": [op.to_json() for op in self.ops], "warnings": list(self.warnings)}
        return json.dumps(body, separators=(",", ":")).encode("utf-8", "surrogateescape")

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """The way back. Raises ValueError or LookupError."""
        import json

        body = json.loads(data.decode("utf-8", "surrogateescape"))
        return cls(body["run"], tuple([from_json(op) for op in body["ops"]]), tuple(body["warnings"]), body["title"])

    def undo(self) -> tuple[Op, ...]:
        """What takes everything back that these ops leave on the host, last thing first."""
        out: list[Op] = []
        for op in reversed(self.ops):
            out += op.undo()
        return tuple(out)

    def script(self) -> str:
        """The whole as a shell script for root (see :mod:`nsbook.spawn.script`)."""
        from nsbook.spawn.script import script

        return script(self)

    def sheet(self) -> Sheet:
        """One row an op: where it runs, what it is, its shell form and its man page."""
        rows = []
        for number, op in enumerate(self.ops):
            shell = op.shell()
            text = shell.text if shell.kind != "none" else "—"
            rows.append((str(number), op.where, op.name, op.what(), op.call, text, op.man))
        return Sheet(
            f"{self.title}: {len(self.ops)} ops",
            ("#", "where", "op", "what it does", "call", "in a shell", "man page"),
            tuple(rows),
            self.warnings,
            "plan",
        )


def new_run_id() -> str:
    """Twelve hexadecimal digits."""
    return os.urandom(6).hex()
