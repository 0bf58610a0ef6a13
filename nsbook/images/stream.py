"""The bytes of a layer on their way: inflated, hashed.

gzip by the standard library; zstd and other compressions are told by their first bytes and refused by name.
"""

from __future__ import annotations

import zlib

from nsbook.errors import UnknownMediaType, UnsafeArchive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Readable(Protocol):
        """A binary stream, as far as it is needed here."""

        def read(self, size: int, /) -> bytes: ...


CHUNK = 1 << 18
"""Bytes that are read at a time."""


class Inflated:
    """A gzip stream (:rfc:`1952`), inflated: several members in a row, zero padding behind them."""

    def __init__(self, source: Readable, head: bytes = b"") -> None:
        self._source = source
        self._input = head
        self._inflate = zlib.decompressobj(31)
        self._fresh = True

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, none at the end. UnsafeArchive for a broken or cut-off stream."""
        while True:
            if not self._input:
                self._input = self._source.read(CHUNK)
                if not self._input and self._fresh:
                    return b""
            if self._fresh and not self._input.strip(b"\0"):
                self._input = b""
                continue
            at_end = not self._input
            try:
                out = self._inflate.decompress(self._input, size)
            except zlib.error as error:
                raise UnsafeArchive(f"the gzip stream is broken: {error}") from error
            self._fresh = False
            self._input = self._inflate.unconsumed_tail
            if self._inflate.eof:
                self._input = self._inflate.unused_data
                self._inflate = zlib.decompressobj(31)
                self._fresh = True
            elif at_end and not out:
                raise UnsafeArchive("the gzip stream is cut off")
            if out:
                return out


def plain_stream(source: Readable) -> tuple[Callable[[int], bytes], str]:
    """(how to read the uncompressed stream, the compression's name: ``""`` or ``"gzip"``), told by the first bytes."""
    head = source.read(6)
    if head[:2] == b"\x1f\x8b":
        return Inflated(source, head).read, "gzip"
    for magic, name in ((b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ\0", "xz"), (b"BZh", "bzip2")):
        if head.startswith(magic):
            raise UnknownMediaType(f"a layer compressed by {name} can't be read here: gzip or plain tar")
    first = [head]

    def read(size: int) -> bytes:
        return first.pop() or source.read(size) if first else source.read(size)

    return read, ""


def hashing(read: Callable[[int], bytes]) -> tuple[Callable[[int], bytes], Callable[[], str]]:
    """(the same reader with all that it reads hashed, the digest so far: ``sha256:…``)."""
    import hashlib

    sha = hashlib.sha256()

    def hashed(size: int) -> bytes:
        piece = read(size)
        sha.update(piece)
        return piece

    return hashed, lambda: "sha256:" + sha.hexdigest()
