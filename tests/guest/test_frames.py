"""Frames survive any splitting, and nonsense is noticed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbook.guest import frames

FRAMES = st.lists(st.tuples(st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=300)), max_size=8)


@given(FRAMES, st.lists(st.integers(1, 40), min_size=1, max_size=50))
def test_what_is_packed_comes_out_however_it_is_cut(sent: list[tuple[int, int, bytes]], cuts: list[int]) -> None:
    data = b"".join(frames.pack(*frame) for frame in sent)
    parser = frames.Parser()
    came = []
    turn = 0
    while data:
        size = cuts[turn % len(cuts)]
        came += list(parser.feed(data[:size]))
        data = data[size:]
        turn += 1
    assert came == sent


def test_an_unfinished_frame_waits() -> None:
    parser = frames.Parser()
    whole = frames.pack(frames.OUT, 7, b"abc")
    assert list(parser.feed(whole[:-1])) == []
    assert list(parser.feed(whole[-1:])) == [(frames.OUT, 7, b"abc")]


def test_a_line_out_of_step_is_noticed() -> None:
    with pytest.raises(frames.OutOfStep):
        list(frames.Parser().feed(b"\xff" * frames.HEADER.size))


def test_the_kinds_are_different() -> None:
    kinds = [v for k, v in vars(frames).items() if k.isupper() and type(v) is int and v < 256]
    assert len(kinds) == len(set(kinds)) == 16
