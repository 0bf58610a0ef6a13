"""How a system call is made, recorded and refused: the one place that every wrapper goes through.

:func:`entry` gives the raw function; :func:`syscall` decorates the wrapper. The wrapper itself then says only which
arguments go where::

    _umount2 = entry("umount2", string, integer)

    @syscall(flags=flags("MNT_", "UMOUNT_"))
    def umount2(target: Path, flags: int = 0) -> None:
        if _umount2(encode(target), flags) < 0:
            raise failed(target)

Without a recorder the decorator costs one look at a context variable. With one it adds a row whose text is written as
strace(1) would write it. A failure gets a note with the same text, and the call's name and arguments stay with the error
(:func:`refused`), for the diagnoser.
"""

from __future__ import annotations

import ctypes
import os
from time import perf_counter
from types import MethodType

from nsbook.linux import constants
from nsbook.linux.numbers import NUMBERS
from nsbook.trace import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ParamSpec, TypeAlias, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")
    Show: TypeAlias = Callable[[Any], str | None]
    Path: TypeAlias = str | bytes | os.PathLike[str]

integer = ctypes.c_long
"""A register: any flag, number or descriptor (signed or not: ctypes only keeps the bits)."""
string = ctypes.c_char_p
"""A C string, or NULL for None."""
pointer = ctypes.c_void_p
"""An address: of a ctypes object, of bytes, or a number; NULL for None."""

ENOSYS = 38
_recorder = current.get


def _library(kind: Callable[..., ctypes.CDLL]) -> ctypes.CDLL | None:
    try:
        library = kind(None, use_errno=True)
        library["syscall"]
    except (OSError, TypeError, AttributeError):  # another system: the wrappers say ENOSYS there
        return None
    return library


_released = _library(ctypes.CDLL)
_held = _library(ctypes.PyDLL)


def _absent(*_: object) -> int:
    ctypes.set_errno(ENOSYS)
    return -1


def entry(name: str, *kinds: Any, hold_gil: bool = False) -> Callable[..., int]:
    """syscall(2) bound to the number of ``name``; returns -1 and sets errno. ``hold_gil``: for what forks."""
    library = _held if hold_gil else _released
    if library is None or name not in NUMBERS:
        return _absent
    function = library["syscall"]  # indexing makes a new object each time, so the argument types are its own
    function.restype = ctypes.c_long
    function.argtypes = (ctypes.c_long, *kinds)
    return MethodType(function, NUMBERS[name])


def encode(value: Path | None) -> bytes | None:
    """A path or a word as the kernel takes it; None stays None (NULL). ValueError for one with a NUL inside."""
    if value is None:
        return None
    raw = value.encode("utf-8", "surrogateescape") if type(value) is str else os.fsencode(value)
    if b"\0" in raw:
        raise ValueError("embedded null byte")
    return raw


def failed(filename: Path | None = None, *, errno: int = 0) -> OSError:
    """The OSError (of the right subclass) for the errno of the call just made, or for the one given."""
    code = errno or ctypes.get_errno()
    return OSError(code, os.strerror(code)) if filename is None else OSError(code, os.strerror(code), os.fspath(filename))


def text(value: Any) -> str:
    """An argument as strace(1) shows it: strings quoted and escaped, None as NULL."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(text(v) for v in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{text(k)}: {text(v)}' for k, v in value.items())}}}"
    return '"' + repr(os.fsdecode(value))[1:-1].replace('"', '\\"') + '"'


def flags(*prefixes: str) -> Show:
    """Shows a bit mask by the names in :mod:`.constants` that start so."""
    return lambda value: constants.flag_names(value, *prefixes)


def name(*prefixes: str) -> Show:
    """Shows a number by the one name that it has."""
    return lambda value: constants.name_of(value, *prefixes)


def directory(value: int) -> str:
    """Shows a directory descriptor."""
    return "AT_FDCWD" if value == constants.AT_FDCWD else str(value)


def octal(value: int) -> str:
    """Shows a mode as C writes it."""
    return f"0{value:o}" if value else "0"


def _returned(value: Any) -> str:
    return "0" if value is None else text(value)


def note(error: OSError, call: str, section: int, shown: str, arguments: dict[str, Any]) -> None:
    """Put the call on the error, once: the innermost wrapper is the one that knows."""
    if "refused_call" not in error.__dict__:
        error.__dict__["refused_call"] = (call, arguments)
        error.add_note(f"{call}({section}): {shown}")


def refused(error: OSError) -> tuple[str, dict[str, Any]]:
    """The name and the arguments (by the wrapper's parameter names) of the call that failed; ``("", {})`` if unknown."""
    call: tuple[str, dict[str, Any]] = error.__dict__.get("refused_call", ("", {}))
    return call


def syscall(call: str = "", /, *, section: int = 2, result: Show = _returned, **shows: Show) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorates a wrapper. ``call`` names it otherwise than the function; ``shows`` gives arguments their text.

    ``result`` turns what the wrapper returned into text, or into None for no row (in the child that clone3 made: the
    row is the parent's). An argument whose ``shows`` gives None is left out.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        code = function.__code__
        title = call or code.co_name
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        preset = dict(zip(names[: code.co_argcount][::-1], (function.__defaults__ or ())[::-1], strict=False))
        preset.update(function.__kwdefaults__ or {})

        def bound(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
            given = dict(zip(names, args, strict=False)) | kwargs
            return {n: given[n] if n in given else preset[n] for n in names if n in given or n in preset}

        def shown(arguments: dict[str, Any]) -> str:
            parts = [shows[n](v) if n in shows else text(v) for n, v in arguments.items()]
            return ", ".join([p for p in parts if p is not None])

        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            transcript = _recorder()
            if transcript is None:
                try:
                    return function(*args, **kwargs)
                except OSError as error:
                    arguments = bound(args, kwargs)
                    note(error, title, section, f"{title}({shown(arguments)})", arguments)
                    raise
            start = perf_counter()
            try:
                value = function(*args, **kwargs)
            except OSError as error:
                usec = (perf_counter() - start) * 1e6
                arguments = bound(args, kwargs)
                line = shown(arguments)
                transcript.add("syscall", title, line, "-1", error.errno or 0, usec, os.getpid())
                note(error, title, section, f"{title}({line})", arguments)
                raise
            usec = (perf_counter() - start) * 1e6
            came = result(value)
            if came is not None:
                transcript.add("syscall", title, shown(bound(args, kwargs)), came, 0, usec, os.getpid())
            return value

        for attribute in ("__name__", "__qualname__", "__doc__", "__module__", "__annotations__"):
            setattr(wrapper, attribute, getattr(function, attribute))
        wrapper.__wrapped__ = function  # type: ignore[attr-defined]
        return wrapper

    return decorate
