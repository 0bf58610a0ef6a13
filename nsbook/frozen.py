"""Frozen values: what every op, call, snapshot and row in nsbook is made of.

A :class:`Frozen` is declared like a dataclass and behaves like one with ``frozen=True, slots=True``: fields by
annotation, defaults by assignment, equality and hash by value, ``replace`` for a changed copy. It is written here,
in a page, because the standard library's costs too much at the wrong place: importing ``dataclasses`` pulls in
``inspect`` and ``re`` and each class is compiled at import, together more than the whole run of the OCI runtime's
command line may take. Type checkers see an ordinary dataclass (:pep:`681`).

This module is the ground's ground: it imports nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, Self, dataclass_transform

else:

    def dataclass_transform(**_):
        return lambda cls: cls


@dataclass_transform(frozen_default=True, eq_default=True)
class FrozenType(type):
    """The metaclass: turns annotations into ``__slots__`` before the class exists (afterwards would be too late)."""

    def __new__(mcs, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> FrozenType:
        inherited: dict[str, Any] = {}
        fields: list[str] = []
        for base in reversed(bases):
            for field in getattr(base, "fields", ()):
                if field not in fields:
                    fields.append(field)
            inherited.update(getattr(base, "_defaults", {}))
        own = [
            n
            for n, kind in space.get("__annotations__", {}).items()
            if not (isinstance(kind, str) and "ClassVar" in kind) and n not in fields
        ]
        defaults = dict(inherited)
        for field in fields + own:
            if field in space:
                defaults[field] = space.pop(field)
        space["__slots__"] = tuple(own)
        space["fields"] = tuple(fields + own)
        space["_defaults"] = defaults
        return super().__new__(mcs, name, bases, space)


class Frozen(metaclass=FrozenType):
    """A value: fields set once, at its making. ``to_dict`` gives plain JSON-able data."""

    fields: ClassVar[tuple[str, ...]]
    _defaults: ClassVar[dict[str, Any]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        fields = self.fields
        if len(args) > len(fields):
            raise TypeError(f"{type(self).__name__} takes {len(fields)} values, not {len(args)}")
        put = object.__setattr__
        for name, value in zip(fields, args, strict=False):
            put(self, name, value)
        for name in fields[len(args) :]:
            if name in kwargs:
                put(self, name, kwargs.pop(name))
            elif name in self._defaults:
                put(self, name, self._defaults[name])
            else:
                raise TypeError(f"{type(self).__name__} needs a value for {name!r}")
        if kwargs:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(map(repr, kwargs))} (or it was given twice)")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: use replace({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def _values(self) -> tuple[Any, ...]:
        return tuple([getattr(self, name) for name in self.fields])

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._values()))

    def __repr__(self) -> str:
        shown = [
            f"{name}={getattr(self, name)!r}"
            for name in self.fields
            if name not in self._defaults or getattr(self, name) != self._defaults[name]
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._values()

    def replace(self, **changes: Any) -> Self:
        """A copy with the named fields changed."""
        values = {name: getattr(self, name) for name in self.fields}
        values.update(changes)
        return type(self)(**values)

    def to_dict(self, *, defaults: bool = True) -> dict[str, Any]:
        """Plain data (dicts, lists, strings, numbers), deeply. ``defaults=False`` leaves out what was not set."""
        return {
            name: plain(getattr(self, name))
            for name in self.fields
            if defaults or name not in self._defaults or getattr(self, name) != self._defaults[name]
        }


def plain(value: Any) -> Any:
    """``value`` as JSON has it: tuples and sets become lists, frozen values become dicts."""
    if isinstance(value, Frozen):
        return value.to_dict()
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(v) for v in value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return value


def settled(value: Any) -> Any:
    """The way back from JSON: lists become tuples, deeply, so that the value can be hashed and compared."""
    if isinstance(value, list):
        return tuple([settled(v) for v in value])
    return value
