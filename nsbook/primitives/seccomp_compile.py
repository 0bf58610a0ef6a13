"""From rules to classic BPF: small, and a handful of comparisons for any call.

The rules are first turned into a map of the whole 32-bit number line: stretches of numbers with one verdict each. A binary
search over the stretches finds the verdict; calls whose arguments matter get a block of their own, in which the 64-bit
arguments are searched the same way, upper word first. The program is written backwards (:class:`nsbook.linux.bpf.Backwards`).

How rules that speak of the same call go together is what runc and libseccomp make of them: a rule that says what the
default says is left out; a rule without conditions beats those with; a rule that names one argument twice is an "or" of its
conditions, otherwise conditions are an "and". Where two rules with conditions and different verdicts both match, the first
of the profile decides (libseccomp has an order of its own there).
"""

from __future__ import annotations

import sys

from nsbook.linux import bpf
from nsbook.linux.syscalls import AUDIT_ARCH, X32_BIT, numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nsbook.primitives.seccomp import Arg, SeccompFilter

    Conditions = tuple[Arg, ...]
    Target = int | tuple[tuple[Conditions, int], ...]

FOREIGN = bpf.RET_ERRNO | 38
"""What every call gets that is not made in the filter's own ABI: ENOSYS, as from a kernel without that ABI."""

_WORD = 0xFFFFFFFF
_END = 1 << 64


def holds(arg: Arg, value: int) -> bool:
    """Whether an argument's value meets the condition, in unsigned 64-bit arithmetic."""
    op, wanted = arg.op, arg.value
    if op == "EQ":
        return value == wanted
    if op == "NE":
        return value != wanted
    if op == "MASKED_EQ":
        return value & wanted == arg.value_two & wanted
    if op == "GE":
        return value >= wanted
    if op == "GT":
        return value > wanted
    return value < wanted if op == "LT" else value <= wanted


def alternatives(args: Conditions) -> tuple[Conditions, ...]:
    """The conditions as an "or" of "and"s."""
    return (args,) if len({a.index for a in args}) == len(args) else tuple((a,) for a in args)


def decide(seccomp: SeccompFilter) -> dict[int, Target]:
    """What the rules say of each number that they name: a verdict, or conditions to try in turn (then the default)."""
    table, default = numbers(seccomp.arch), seccomp.default_verdict.value
    chosen: dict[int, Target] = {}
    for rule in seccomp.rules:
        value = rule.verdict.value
        if value == default:
            continue
        tests = tuple((alternative, value) for alternative in alternatives(rule.args)) if rule.args else ()
        for name in rule.names:
            nr = table.get(name)
            if nr is None:
                continue
            before = chosen.get(nr)
            if not tests:
                if not isinstance(before, int):
                    chosen[nr] = value
            elif before is None:
                chosen[nr] = tests
            elif not isinstance(before, int):
                chosen[nr] = before + tests
    return chosen


def stretches(seccomp: SeccompFilter) -> list[tuple[int, Target]]:
    """The number line: (first number, verdict) in order, up to the next one's first."""
    chosen, default = decide(seccomp), seccomp.default_verdict.value
    line: list[tuple[int, Target]] = []

    def add(first: int, target: Target) -> None:
        if line and line[-1][0] == first:
            line.pop()
        if not line or line[-1][1] != target:
            line.append((first, target))

    add(0, default)
    for nr in sorted(chosen):
        add(nr, chosen[nr])
        add(nr + 1, default)
    unknown = seccomp.unknown
    if unknown is not None:
        add(seccomp.newest + 1, unknown.value)
    if seccomp.arch == "x86_64":
        add(X32_BIT, FOREIGN)
    return line


def compile_filter(seccomp: SeccompFilter) -> list[bpf.Insn]:
    """The program. ValueError if it would be longer than the kernel takes."""
    out = bpf.Backwards()
    default = seccomp.default_verdict.value
    blocks: dict[Target, int] = {}
    line = stretches(seccomp)
    for verdict in (FOREIGN, default, bpf.RET_ALLOW):
        if verdict == FOREIGN or any(t == verdict for _, t in line) or any(not isinstance(t, int) for _, t in line):
            out.ret(verdict)
    for _, target in line:
        if not isinstance(target, int) and target not in blocks:
            blocks[target] = _block(out, target, default)
    start = _search(out, [(first, t if isinstance(t, int) else -1 - blocks[t]) for first, t in line])
    out.go(start)
    native = out.put(bpf.LD_ABS, bpf.NR)
    out.jump(bpf.JEQ, AUDIT_ARCH[seccomp.arch], native, out.ret(FOREIGN))
    out.put(bpf.LD_ABS, bpf.ARCH)
    program = out.program()
    if len(program) > bpf.MAXINSNS:
        raise ValueError(f"the filter needs {len(program)} instructions; the kernel takes {bpf.MAXINSNS}")
    return program


def _search(out: bpf.Backwards, line: list[tuple[int, int]], low: int = 0, high: int = 0) -> int:
    """Binary search for A among the stretches ``line[low:high]``; its place. A target is a verdict to return, or -1 - place."""
    high = high or len(line)
    count = high - low

    def place(target: int) -> int:
        return out.ret(target) if target >= 0 else -1 - target

    if count == 1:
        return place(line[low][1])
    if count == 3 and line[low][1] == line[low + 2][1] and line[low + 1][0] + 1 == line[low + 2][0]:
        return out.jump(bpf.JEQ, line[low + 1][0], place(line[low + 1][1]), place(line[low][1]))
    half = low + count // 2
    if count >= 4 and (half - low) % 2 == 0:
        half += 1  # three stretches can be one comparison, two always need one
    above = _search(out, line, half, high)
    below = _search(out, line, low, half)
    return out.jump(bpf.JGE, line[half][0], above, below)


def _block(out: bpf.Backwards, tests: tuple[tuple[Conditions, int], ...], default: int) -> int:
    """The place of the instructions that try ``tests`` in turn and return."""
    after = out.ret(default)
    end = len(tests)
    while end:
        # Conditions on one and the same argument, each alone in its rule, are searched together.
        start = end - 1
        index = _alone(tests[start][0])
        while index is not None and start and _alone(tests[start - 1][0]) == index:
            start -= 1
        if index is not None:
            points = sorted({p for (arg,), _ in tests[start:end] for p in _points(arg)})
            line = [(p, next((-1 - out.ret(v) for (arg,), v in tests[start:end] if holds(arg, p)), -1 - after)) for p in points]
            after = _argument(out, index, line)
        else:
            conditions, verdict = tests[start]
            yes = out.ret(verdict)
            for arg in reversed(conditions):
                if arg.op == "MASKED_EQ":
                    yes = _masked(out, arg, yes, after)
                else:
                    yes = _argument(out, arg.index, [(p, -1 - (yes if holds(arg, p) else after)) for p in _points(arg)])
            after = yes
        end = start
    return after


def _alone(conditions: Conditions) -> int | None:
    return conditions[0].index if len(conditions) == 1 and conditions[0].op != "MASKED_EQ" else None


def _points(arg: Arg) -> list[int]:
    """Where a condition's truth can change, from 0 on."""
    return sorted({0, arg.value, min(arg.value + 1, _END)} - {_END})


def _offset(index: int, upper: bool) -> int:
    return bpf.ARGS + 8 * index + (4 if upper == (sys.byteorder == "little") else 0)


def _argument(out: bpf.Backwards, index: int, line: list[tuple[int, int]]) -> int:
    """Search a 64-bit argument: the upper word first, then the lower word where the upper one does not decide."""
    upper: list[tuple[int, int]] = []
    at, target, n = 0, line[0][1], len(line)
    while at < n:
        high = line[at][0] >> 32
        lower = [] if line[at][0] & _WORD == 0 else [(0, target)]
        while at < n and line[at][0] >> 32 == high:
            target = line[at][1]
            lower.append((line[at][0] & _WORD, target))
            at += 1
        upper.append((high, -1 - _word(out, _offset(index, False), lower)))
        if high < _WORD:
            upper.append((high + 1, target))
    return _word(out, _offset(index, True), upper)


def _word(out: bpf.Backwards, offset: int, line: list[tuple[int, int]]) -> int:
    merged: list[tuple[int, int]] = []
    for first, target in line:
        if merged and merged[-1][0] == first:
            merged.pop()
        if not merged or merged[-1][1] != target:
            merged.append((first, target))
    found = _search(out, merged)
    if len(merged) == 1:
        return found
    out.go(found)
    return out.put(bpf.LD_ABS, offset)


def _masked(out: bpf.Backwards, arg: Arg, yes: int, no: int) -> int:
    for upper, shift in ((False, 0), (True, 32)):
        mask = arg.value >> shift & _WORD
        wanted = arg.value_two >> shift & mask
        if mask == 0 or yes == no:
            continue
        if wanted == 0:
            out.jump(bpf.JSET, mask, no, yes)
        else:
            out.jump(bpf.JEQ, wanted, yes, no)
            if mask != _WORD:
                out.put(bpf.AND, mask)
        yes = out.put(bpf.LD_ABS, _offset(arg.index, upper))
    return yes
