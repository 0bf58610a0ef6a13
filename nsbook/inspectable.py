"""The object protocol: what every primitive of nsbook can be asked.

* ``inspect()`` returns a :class:`Snapshot`: frozen, JSON-able, stamped with the time it was taken; ``a.diff(b)`` says
  what changed between two of them.
* ``sheet()`` returns a :class:`Sheet`: the object as a titled table. Text and HTML are both drawn from it, so they can't
  tell different stories. Cells whose value differs from run to run are wrapped in :class:`Volatile`: they are shown, but a
  comparison of stored notebook outputs can leave them out.
* ``_repr_mimebundle_`` offers text and static HTML to a notebook; ``widget()`` is the live view, asked for explicitly.

A model knows no widget. Renderers live in ``views`` (which nothing imports): they are registered here by dotted name in
:data:`renderers` and imported when first needed; without them, text remains.
"""

from __future__ import annotations

import time

from nsbook.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

renderers: dict[str, str] = {}
"""What draws what: ``"html"`` for any sheet, ``"widget:ClassName"`` for a live view -> ``"package.module:function"``."""


class Volatile(str):
    """Text that differs from run to run (a pid, an inode number, microseconds)."""

    __slots__ = ()


class Sheet(Frozen):
    """A titled table. ``rows`` are tuples of text, one cell a column; ``notes`` are sentences below it."""

    title: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    kind: str = "table"

    def text(self, *, mask: bool = False) -> str:
        """The sheet as plain text, columns aligned. ``mask`` replaces volatile cells by an ellipsis."""

        def show(cell: str) -> str:
            return "…" if mask and isinstance(cell, Volatile) else " ".join(str(cell).split("\n"))

        title = self.title if not mask else show(self.title)
        table = [tuple(show(c) for c in row) for row in self.rows]
        heads = [self.columns] if any(self.columns) else []
        count = max((len(r) for r in [*table, self.columns]), default=0)
        widths = [max((len(r[i]) for r in [*table, *heads] if i < len(r)), default=0) for i in range(count)]

        def line(row: tuple[str, ...]) -> str:
            return "  ".join(c.ljust(widths[i]) for i, c in enumerate(row)).rstrip()

        out = [title] if title else []
        if heads:
            out += [line(self.columns), line(tuple("-" * w for w in widths))]
        out += [line(r) for r in table]
        out += list(self.notes)
        return "\n".join(out)


class Change(Frozen):
    """One place in which two snapshots differ. ``before`` or ``after`` is None where it was not there."""

    where: str
    before: Any
    after: Any


class Difference(Frozen):
    """What changed between two snapshots: empty, and false, when nothing did."""

    title: str
    changes: tuple[Change, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changes)

    def __len__(self) -> int:
        return len(self.changes)

    def sheet(self) -> Sheet:
        """One row a change."""
        rows = tuple((c.where, "" if c.before is None else str(c.before), "" if c.after is None else str(c.after)) for c in self.changes)
        return Sheet(self.title, ("what", "before", "after"), rows, () if rows else ("nothing changed",), "diff")

    def __str__(self) -> str:
        return self.sheet().text()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return mimebundle(self.sheet())


class Snapshot(Frozen):
    """What was true at ``taken`` (seconds since the epoch). Subclasses add the fields."""

    taken: float

    def diff(self, after: Snapshot) -> Difference:
        """What changed from this snapshot to a later one of the same kind (``taken`` itself is no change)."""
        changes: list[Change] = []
        _compare("", _content(self), _content(after), changes)
        return Difference(f"{type(self).__name__.removesuffix('Snapshot')}: what changed", tuple(changes))

    def sheet(self) -> Sheet:
        """Field by field."""
        rows = tuple((k, _short(v)) for k, v in _content(self).items())
        return Sheet(type(self).__name__, ("field", "value"), rows, (), "snapshot")

    def __str__(self) -> str:
        return self.sheet().text()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return mimebundle(self.sheet())


def now() -> float:
    """The time stamp of a snapshot."""
    return time.time()


def _content(snapshot: Snapshot) -> dict[str, Any]:
    return {k: v for k, v in snapshot.to_dict().items() if k != "taken"}


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_short(v) for v in value)
    if isinstance(value, dict):
        return " ".join(f"{k}={_short(v)}" for k, v in value.items())
    return "" if value is None else str(value)


def _name(item: Any) -> Any:
    """What tells one row of a list from another: its first field."""
    if isinstance(item, dict):
        return next(iter(item.values()), None)
    return item[0] if isinstance(item, list) and item else item


def _compare(where: str, before: Any, after: Any, changes: list[Change]) -> None:
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(k for k in after if k not in before)]:
            _compare(f"{where}.{key}".lstrip("."), before.get(key), after.get(key), changes)
        return
    if isinstance(before, list) and isinstance(after, list):
        old, new = _keyed(before), _keyed(after)
        for key in [*old, *(k for k in new if k not in old)]:
            _compare(f"{where}[{key}]", old.get(key), new.get(key), changes)
        return
    changes.append(Change(where, _short(before) if before is not None else None, _short(after) if after is not None else None))


def _keyed(items: list[Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for item in items:
        key, n = str(_name(item)), 1
        while (key if n == 1 else f"{key}#{n}") in out:
            n += 1
        out[key if n == 1 else f"{key}#{n}"] = item
    return out


def mimebundle(sheet: Sheet) -> dict[str, str]:
    """Text, and HTML if the views are there."""
    bundle = {"text/plain": sheet.text(mask=True)}
    draw = renderer("html")
    if draw is not None:
        bundle["text/html"] = draw(sheet)
    return bundle


def renderer(name: str) -> Any:
    """The registered renderer, imported now; None where there is none or what it needs is not installed."""
    dotted = renderers.get(name)
    if dotted is None:
        return None
    from importlib import import_module

    module, _, function = dotted.partition(":")
    try:
        return getattr(import_module(module), function)
    except ModuleNotFoundError:
        return None


class Inspectable:
    """The mixin: an object with ``sheet()`` draws itself and has a live view."""

    __slots__ = ()

    def sheet(self) -> Sheet:
        """The object as a titled table."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.sheet().text()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Mapping[str, str]:
        return mimebundle(self.sheet())

    def widget(self) -> Any:
        """The live view (needs ipywidgets and a running kernel)."""
        for cls in type(self).__mro__:
            make = renderer(f"widget:{cls.__name__}")
            if make is not None:
                return make(self)
        from nsbook.errors import Unsupported

        raise Unsupported(f"{type(self).__name__}.widget()", "there is no live view of it here", "pip install 'nsbook[lab]'")
