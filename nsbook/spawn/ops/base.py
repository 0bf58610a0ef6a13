"""What an op is: one step of building a container, as a value.

An :class:`Op` is frozen. It can be executed (``execute``), shown as a line of shell (``shell``), explained (``what`` and
``man``), sent to another process (``to_json``) and, where it leaves something on the host, undone (``undo``). Ops name
things they can't know beforehand by *slots*: ``"$child"`` is the process that is being built, ``"$stdout"`` a descriptor.
Slots are bound in :class:`Place` when the op runs.

Shell forms are of four kinds, and a test holds every op to one of them:

* ``statement``: a line (or a few) that does the same;
* ``wrapper``: a prefix such as ``unshare --uts``, which runs all that follows inside of what it made;
* ``composite``: one line that does this op and neighbouring ones together;
* ``none``: a shell can't, with the reason. The list of these is closed.
"""

from __future__ import annotations

import os

from nsbook.frozen import Frozen, settled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

vocabulary: dict[str, type[Op]] = {}
"""Every op by its name."""


class Shell(Frozen):
    """An op's shell form: ``kind`` is statement, wrapper, composite or none (then ``text`` is the reason)."""

    kind: str
    text: str


class Place:
    """Where an op runs: the slots that are bound there, and descriptors kept from one op to the next."""

    def __init__(self, slots: dict[str, Any] | None = None) -> None:
        self.slots: dict[str, Any] = dict(slots or {})
        self._roots: dict[str, int] = {}

    def bind(self, value: Any) -> Any:
        """``"$child"`` -> its pid; anything that is no slot is returned as it is."""
        if isinstance(value, str) and value.startswith("$"):
            try:
                return self.slots[value[1:]]
            except KeyError:
                raise LookupError(f"the slot {value} is not bound yet") from None
        return value

    def root_fd(self, path: str) -> int:
        """An O_PATH descriptor of a root directory. It is opened after whatever was mounted there last."""
        fd = self._roots.get(path)
        if fd is None:
            fd = self._roots[path] = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return fd

    def forget_root(self, path: str) -> None:
        """The directory was mounted over: look again."""
        fd = self._roots.pop(path, None)
        if fd is not None:
            os.close(fd)


class Op(Frozen):
    """One step. ``where``: ``host`` (in the process that sets the container up), ``child`` (in the one that becomes
    the container) or ``both``. ``call`` is the system call (or file write) that does it, ``man`` where it is documented.
    """

    where: ClassVar[str] = "child"
    call: ClassVar[str] = ""
    man: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()
    """Modules that executing imports: they are imported before the clone, because after ``pivot_root`` they are gone."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        vocabulary[cls.__name__] = cls

    def execute(self, at: Place) -> None:
        """Do it. Raises OSError."""
        raise NotImplementedError

    def shell(self) -> Shell:
        """The same in a shell."""
        raise NotImplementedError

    def what(self) -> str:
        """In a few words, what this does and why."""
        text = (type(self).__doc__ or "").split("\n", 1)[0].rstrip(".")
        return text[:1].lower() + text[1:]

    def taken(self) -> str:
        """What this op would make and somebody else has made already: then nothing is begun, or undoing would destroy it."""
        return ""

    def undo(self) -> tuple[Op, ...]:
        """The ops that take back what this one leaves on the host; all of them may be run twice, or for nothing."""
        return ()

    def to_json(self) -> dict[str, Any]:
        """``{"op": name, ...}``; fields at their default are left out."""
        return {"op": type(self).__name__, **self.to_dict(defaults=False)}

    @property
    def name(self) -> str:
        """The op's name in the vocabulary."""
        return type(self).__name__


def from_json(data: dict[str, Any]) -> Op:
    """The way back. Raises LookupError for a name that is not in the vocabulary."""
    fields = {key: settled(value) for key, value in data.items() if key != "op"}
    try:
        kind = vocabulary[data["op"]]
    except KeyError:
        raise LookupError(f"no such op: {data.get('op')!r}") from None
    return kind(**fields)


def quote(text: str) -> str:
    """A word for the shell (``shlex.quote`` without its import)."""
    if text and all(c.isalnum() or c in "@%+=:,./-_" for c in text):
        return text
    return "'" + text.replace("'", "'\"'\"'") + "'"
