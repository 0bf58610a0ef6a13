"""What an executable needs: the few fields of an ELF file that the loader goes by.

Read for :meth:`nsbook.Image.base`, which takes along a tool of this host together with the shared libraries that its
headers name. 64-bit little-endian files of x86_64 and aarch64; anything else is no ELF file to this module.

Sources: ``elf(5)``; ``ld.so(8)`` for the order of the search; glibc's ``dl-cache.h`` for ``/etc/ld.so.cache``.
"""

from __future__ import annotations

import os
from struct import Struct, error, unpack_from

from nsbook.frozen import Frozen

MACHINES = {62: "x86_64", 183: "aarch64"}
_HEADER = Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = Struct("<IIQQQQQQ")
_LOAD, _DYNAMIC, _INTERP = 1, 2, 3
_NEEDED, _STRTAB, _SONAME, _RPATH, _RUNPATH = 1, 5, 14, 15, 29
CACHE = "/etc/ld.so.cache"
_CACHE_MAGIC = b"glibc-ld.so.cache1.1"
_CACHE_FLAGS = {"x86_64": 0x0303, "aarch64": 0x0A03}


class Elf(Frozen):
    """``interpreter`` is PT_INTERP (the loader's path), ``needed`` DT_NEEDED in order, ``rpath`` and ``runpath`` their
    directories as written (``$ORIGIN`` and all)."""

    machine: str
    interpreter: str = ""
    needed: tuple[str, ...] = ()
    rpath: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()
    soname: str = ""

    @property
    def static(self) -> bool:
        """Whether it runs without a loader and without libraries (a static PIE is static, too)."""
        return not self.interpreter and not self.needed


def read(path: str | os.PathLike[str]) -> Elf | None:
    """The file's headers; None if it is no ELF file of a machine known here. OSError if it can't be read."""
    with open(path, "rb") as file:
        head = file.read(64)
        if head[:6] != b"\x7fELF\x02\x01":
            return None
        content = head + file.read()
    try:
        return _parse(content)
    except (error, IndexError, ValueError):
        return None  # cut off, or its headers point outside


def _parse(content: bytes) -> Elf | None:
    _, kind, machine, _, _, programs, _, _, _, size, count, *_ = _HEADER.unpack_from(content)
    name = MACHINES.get(machine)
    if name is None or kind not in (2, 3):  # ET_EXEC, ET_DYN
        return None
    loads: list[tuple[int, int, int]] = []
    interpreter, dynamic = "", b""
    for i in range(count):
        ptype, _, offset, address, _, length, _, _ = _PROGRAM.unpack_from(content, programs + i * size)
        if ptype == _LOAD:
            loads.append((address, offset, length))
        elif ptype == _INTERP:
            interpreter = os.fsdecode(content[offset : offset + length].rstrip(b"\0"))
        elif ptype == _DYNAMIC:
            dynamic = content[offset : offset + length]
    tags = [unpack_from("<qQ", dynamic, at) for at in range(0, len(dynamic) - 15, 16)]
    strings = next((value for tag, value in tags if tag == _STRTAB), 0)
    base = next((offset + strings - address for address, offset, length in loads if 0 <= strings - address < length), 0)

    def text(at: int) -> str:
        start = base + at
        return os.fsdecode(content[start : content.index(b"\0", start)])

    def paths(wanted: int) -> tuple[str, ...]:
        return tuple(part for tag, value in tags if tag == wanted for part in text(value).split(":") if part)

    return Elf(
        name,
        interpreter,
        tuple(text(value) for tag, value in tags if tag == _NEEDED),
        paths(_RPATH),
        paths(_RUNPATH),
        next((text(value) for tag, value in tags if tag == _SONAME), ""),
    )


def cache(machine: str, path: str = CACHE) -> dict[str, str]:
    """``/etc/ld.so.cache`` as {soname: path}, for one machine, without the variants for particular processors.

    Empty where there is none (musl has none) or its format is older than glibc 2.2.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError:
        return {}
    start = content.find(_CACHE_MAGIC)  # behind the old format, if the file has both
    found: dict[str, str] = {}
    if start < 0:
        return found
    try:
        (count,) = unpack_from("<I", content, start + len(_CACHE_MAGIC))
        for i in range(count):
            flags, key, value, _, hardware = unpack_from("<iIIIQ", content, start + 48 + 24 * i)
            if flags == _CACHE_FLAGS.get(machine) and not hardware:
                name = os.fsdecode(content[start + key : content.index(b"\0", start + key)])
                found.setdefault(name, os.fsdecode(content[start + value : content.index(b"\0", start + value)]))
    except (error, ValueError):
        pass  # cut off: what was read is right
    return found


class Library(Frozen):
    """A shared library that was found. ``known`` says whether the loader finds it without ``/etc/ld.so.cache``."""

    name: str
    path: str
    known: bool


class Loader:
    """The loader's search for shared libraries, on this host. It remembers what it has read: tools share theirs."""

    def __init__(self) -> None:
        self._caches: dict[str, dict[str, str]] = {}
        self._read: dict[str, Elf | None] = {}

    def read(self, path: str) -> Elf | None:
        """:func:`read`, once a file."""
        if path not in self._read:
            self._read[path] = read(path)
        return self._read[path]

    def libraries(self, path: str) -> tuple[tuple[Library, ...], tuple[str, ...]]:
        """(every shared library that ``path`` needs, the libraries' own included; the names that were not found).

        The order of ld.so(8): RPATH of the object and of those that loaded it (unless it has a RUNPATH), RUNPATH, the
        cache, the loader's own directories. LD_LIBRARY_PATH is left out: an image has its own environment.
        """
        first = self.read(path)
        if first is None:
            return (), ()
        machine = first.machine
        if machine not in self._caches:
            self._caches[machine] = cache(machine)
        known, defaults = self._caches[machine], _defaults(first)
        found: dict[str, Library] = {}
        missing: list[str] = []
        waiting: list[tuple[str, Elf, tuple[str, ...]]] = [(path, first, ())]
        while waiting:
            here, elf, inherited = waiting.pop(0)
            # An object's RUNPATH silences every RPATH for what it needs; only RPATHs are handed down.
            chain = (*(_expanded(elf.rpath, here) if not elf.runpath else ()), *inherited)
            search = _expanded(elf.runpath, here) if elf.runpath else chain
            for name in elf.needed:
                if name in found or name in missing:
                    continue
                if "/" in name:
                    library = Library(name, name, True) if _is(name, machine) else None
                else:
                    library = _find(name, machine, search, known, defaults)
                if library is None:
                    missing.append(name)
                    continue
                found[name] = library
                inner = self.read(library.path)
                if inner is not None:
                    waiting.append((library.path, inner, chain))
        return tuple(found.values()), tuple(missing)


def _find(name: str, machine: str, search: tuple[str, ...], known: dict[str, str], defaults: tuple[str, ...]) -> Library | None:
    for directory in search:
        path = os.path.join(directory, name)
        if _is(path, machine):
            return Library(name, path, True)
    listed = known.get(name)
    if listed is not None and _is(listed, machine):
        return Library(name, listed, os.path.dirname(listed) in defaults)
    for directory in defaults:
        path = os.path.join(directory, name)
        if _is(path, machine):
            return Library(name, path, True)
    return None


def _is(path: str, machine: str) -> bool:
    """The loader passes over files of other machines; so must the search."""
    try:
        with open(path, "rb") as file:
            head = file.read(20)
    except OSError:
        return False
    return head[:6] == b"\x7fELF\x02\x01" and len(head) == 20 and MACHINES.get(head[18] | head[19] << 8) == machine


def _expanded(directories: tuple[str, ...], path: str) -> tuple[str, ...]:
    origin = os.path.dirname(os.path.realpath(path))
    out = []
    for directory in directories:
        for word in ("$ORIGIN", "${ORIGIN}"):
            directory = directory.replace(word, origin)
        for word in ("$LIB", "${LIB}"):
            directory = directory.replace(word, "lib64" if os.path.isdir("/lib64") else "lib")
        if os.path.isabs(directory):
            out.append(os.path.normpath(directory))
    return tuple(out)


def _defaults(elf: Elf) -> tuple[str, ...]:
    """The directories that are built into the loader. musl has others, or reads them from a file beside it."""
    loader = os.path.basename(elf.interpreter)
    if loader.startswith("ld-musl-"):
        try:
            with open(f"/etc/{loader.removesuffix('.so.1')}.path", encoding="utf-8") as file:
                return tuple(file.read().replace("\n", ":").strip(":").split(":"))
        except OSError:
            return ("/lib", "/usr/local/lib", "/usr/lib")
    debian = f"{elf.machine}-linux-gnu"
    beside = os.path.dirname(os.path.realpath(elf.interpreter)) if elf.interpreter else ""
    places = (f"/lib/{debian}", f"/usr/lib/{debian}", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
    # A loader from elsewhere (Nix, Guix) has the directory that it lies in built in, not these.
    return places if not beside or beside.startswith(("/lib", "/usr/lib")) else (beside, *places)
