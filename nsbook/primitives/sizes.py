"""Sizes as people write them."""

from __future__ import annotations

from nsbook.errors import InvalidOption


def parse_size(value: int | str) -> int:
    """Bytes from a number or from ``"64M"``, ``"1.5g"``, ``"512KiB"`` (powers of 1024). Raises InvalidOption."""
    if isinstance(value, int):
        return value
    text = value.strip().lower().removesuffix("b").removesuffix("i")
    factor = {"k": 1, "m": 2, "g": 3, "t": 4}.get(text[-1:], 0)
    try:
        return int(float(text[:-1] if factor else text) * 1024**factor)
    except (ValueError, OverflowError):
        raise InvalidOption(f"{value!r} is not a size: write bytes, or a number with K, M or G") from None
