"""A seccomp program line by line, in plain words.

The words are found by following the program from its start: which word of ``struct seccomp_data`` the accumulator holds at a
line, and between which bounds it can still be there. So the listing explains the bytes that the kernel gets, whoever made
them; where ways of different meaning meet, it says less.
"""

from __future__ import annotations

import sys

from nsbook.frozen import Frozen
from nsbook.linux import bpf
from nsbook.linux.syscalls import AUDIT_ARCH, name
from nsbook.primitives.seccomp import Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from nsbook.linux.bpf import Insn

    State = tuple[str, int, int]

_TOP = 0xFFFFFFFF


class Line(Frozen):
    """One instruction: its fields, as the kernel's tools write it, and what it means."""

    index: int
    code: int
    jt: int
    jf: int
    k: int
    mnemonic: str
    comment: str


def read_program(insns: Sequence[Insn], arch: str) -> tuple[Line, ...]:
    """The listing of a program for ``arch``."""
    states: dict[int, State] = {0: ("", 0, _TOP)}
    lines = []
    for pc, insn in enumerate(insns):
        code, jt, jf, k = insn
        held, low, high = states.get(pc, ("?", 0, _TOP))
        if code == bpf.RET:
            comment = say_verdict(k)
        elif code == bpf.LD_ABS:
            held = word(k)
            _meet(states, pc + 1, (held, 0, _TOP))
            comment = f"take {held}"
        elif code == bpf.JA:
            _meet(states, pc + 1 + k, (held, low, high))
            comment = f"go to {pc + 1 + k}"
        elif code == bpf.AND:
            _meet(states, pc + 1, (f"{held} & {k:#x}", 0, k))
            comment = f"only the bits {k:#x} of {held}"
        elif code in (bpf.JEQ, bpf.JGE, bpf.JGT, bpf.JSET):
            yes, no = _split(code, k, low, high)
            sides = ((pc + 1 + jt, yes), (pc + 1 + jf, no))
            for place, bounds in sides:
                _meet(states, place, (held, *bounds))
            told = [_side(insns, held, place, bounds, arch) for place, bounds in sides]
            comment = f"if {_condition(code, k, held, arch)}: {told[0]}; else {told[1]}"
        else:
            _meet(states, pc + 1, ("?", 0, _TOP))
            comment = ""
        lines.append(Line(pc, code, jt, jf, k, bpf.mnemonic(insn, pc), comment))
    return tuple(lines)


def say_verdict(value: int) -> str:
    """What a returned value does."""
    verdict = Verdict.of(value)
    return {"ALLOW": "allow", "ERRNO": f"return {verdict}"}.get(verdict.action, str(verdict))


def word(offset: int) -> str:
    """The name of a word of ``struct seccomp_data``."""
    if offset < bpf.ARGS:
        return {bpf.NR: "nr", bpf.ARCH: "arch", bpf.IP: "ip, first word", bpf.IP + 4: "ip, second word"}[offset]
    index, second = divmod(offset - bpf.ARGS, 8)
    upper = (second == 4) == (sys.byteorder == "little")
    return f"arg{index}, {'upper' if upper else 'lower'} half"


def _meet(states: dict[int, State], place: int, state: State) -> None:
    before = states.get(place)
    if before is None:
        states[place] = state
    elif before != state:
        same = before[0] == state[0]
        states[place] = (state[0] if same else "?", min(before[1], state[1]), max(before[2], state[2]))


def _split(code: int, k: int, low: int, high: int) -> tuple[tuple[int, int], tuple[int, int]]:
    if code == bpf.JGE:
        return (max(low, k), high), (low, min(high, k - 1))
    if code == bpf.JGT:
        return (max(low, k + 1), high), (low, min(high, k))
    if code == bpf.JEQ:
        return (k, k), (low + (k == low), high - (k == high))
    return (low, high), (low, high)


def _condition(code: int, k: int, held: str, arch: str) -> str:
    shown = str(k) if k < 1000 else f"{k:#x}"
    if held == "arch":
        shown = next((a for a, token in AUDIT_ARCH.items() if token == k), f"{k:#x}")
    if held == "nr" and code == bpf.JEQ:
        shown = f"{k} ({name(k, arch)})"
    if code == bpf.JSET:
        return f"{held} has any bit of {k:#x}"
    return f"{held} {({bpf.JEQ: '==', bpf.JGE: '>=', bpf.JGT: '>'})[code]} {shown}"


def _side(insns: Sequence[Insn], held: str, place: int, bounds: tuple[int, int], arch: str) -> str:
    code, _, _, k = insns[place]
    if code != bpf.RET:
        return f"go to {place}"
    if held != "nr":
        return say_verdict(k)
    low, high = bounds
    first = name(low, arch)
    if low == high:
        return f"{say_verdict(k)} for {first} ({low})"
    last = "the end" if high == _TOP else f"{name(high, arch)} ({low}-{high})"
    return f"{say_verdict(k)} from {first}{f' ({low})' if high == _TOP else ''} to {last}"
