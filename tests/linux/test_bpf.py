from __future__ import annotations

import base64
import sys
from pathlib import Path

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from nsbook.linux import bpf

sys.path.insert(0, str(Path(__file__).parents[1] / "primitives"))

from seccomp_kernel import MAGIC, child

U32 = st.integers(0, 0xFFFFFFFF)
EDGES = st.sampled_from([0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF])
WORDS = U32 | EDGES


def test_assembles_as_the_kernel_reads_it() -> None:
    program = bpf.assemble([(bpf.LD_ABS, 0, 0, 4), (bpf.JEQ, 1, 0, 0xC000003E), (bpf.RET, 0, 0, bpf.RET_ALLOW)])
    assert program.hex() == "2000000004000000" + "150001003e0000c0" + "060000000000ff7f"
    assert bpf.disassemble(program)[1] == (0x15, 1, 0, 0xC000003E)
    with pytest.raises(ValueError, match="8 bytes"):
        bpf.disassemble(program[:-1])


@pytest.mark.parametrize(
    ("insns", "says"),
    [
        ([], "1 to 4096"),
        ([(bpf.RET, 0, 0, 0)] * 4097, "1 to 4096"),
        ([(bpf.LD_ABS, 0, 0, 3), (bpf.RET, 0, 0, 0)], "offset 3"),
        ([(bpf.LD_ABS, 0, 0, 64), (bpf.RET, 0, 0, 0)], "offset 64"),
        ([(0x28, 0, 0, 0), (bpf.RET, 0, 0, 0)], "no instruction 0x28"),
        ([(bpf.LD_MEM, 0, 0, 16), (bpf.RET, 0, 0, 0)], "no word 16"),
        ([(bpf.DIV, 0, 0, 0), (bpf.RET, 0, 0, 0)], "can't be reckoned"),
        ([(bpf.LSH, 0, 0, 32), (bpf.RET, 0, 0, 0)], "can't be reckoned"),
        ([(bpf.JEQ, 0, 1, 0), (bpf.RET, 0, 0, 0)], "beyond the end"),
        ([(bpf.JA, 0, 0, 1), (bpf.RET, 0, 0, 0)], "beyond the end"),
        ([(bpf.LD_IMM, 0, 0, 1)], "does not return"),
    ],
)
def test_refuses_what_the_kernel_refuses(insns: list[bpf.Insn], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        bpf.check(insns)
    if insns:
        (answer,) = child([{"program": base64.b64encode(bpf.assemble(insns)).decode(), "calls": [], "guarded": False}])
        assert answer == "filter refused: Invalid argument"


def test_sees_a_call_as_the_kernel_does() -> None:
    data = bpf.seccomp_data(-1, bpf.RET_LOG, (1, -1, 1 << 63))
    assert len(data) == bpf.DATA_SIZE
    assert bpf.run([(bpf.LD_ABS, 0, 0, bpf.NR), (bpf.RET_A, 0, 0, 0)], data) == 0xFFFFFFFF
    assert bpf.run([(bpf.LD_ABS, 0, 0, bpf.ARGS + 8 + 4), (bpf.RET_A, 0, 0, 0)], data) == 0xFFFFFFFF
    with pytest.raises(ValueError, match="at most six"):
        bpf.seccomp_data(0, 0, range(7))


ALU = st.sampled_from([bpf.ADD, bpf.SUB, bpf.MUL, bpf.OR, bpf.AND, bpf.XOR])


@st.composite
def programs(draw: st.DrawFn) -> list[bpf.Insn]:
    """Straight lines and forward jumps over all that seccomp knows; A's lower bits are handed out as an errno."""
    insns: list[bpf.Insn] = []
    length = draw(st.integers(3, 24))
    for at in range(length):
        kind = draw(st.integers(0, 9))
        if kind == 0:
            insn = (bpf.LD_ABS, 0, 0, 4 * draw(st.sampled_from([0, 4, 5, 6, 7, 8, 9])))
        elif kind == 1:
            insn = (draw(st.sampled_from([bpf.LD_IMM, bpf.LDX_IMM])), 0, 0, draw(WORDS))
        elif kind == 2:
            insn = (draw(st.sampled_from([bpf.LD_LEN, bpf.LDX_LEN, bpf.TAX, bpf.TXA, bpf.NEG])), 0, 0, 0)
        elif kind == 3:
            insn = (draw(st.sampled_from([bpf.ST, bpf.STX])), 0, 0, draw(st.integers(0, 3)))
        elif kind == 4:
            written = [k for code, _, _, k in insns if code in (bpf.ST, bpf.STX)]
            # The kernel refuses to read memory that some way to the line has not written.
            insn = (bpf.LD_LEN, 0, 0, 0)
            if written and not any(i[0] & 7 == 5 for i in insns):
                insn = (draw(st.sampled_from([bpf.LD_MEM, bpf.LDX_MEM])), 0, 0, draw(st.sampled_from(written)))
        elif kind == 5:
            insn = (draw(ALU) | bpf.X, 0, 0, 0)
        elif kind == 6:
            insn = (draw(st.sampled_from([bpf.LSH, bpf.RSH])), 0, 0, draw(st.integers(0, 31)))
        elif kind == 7:
            insn = (bpf.DIV, 0, 0, draw(WORDS.filter(bool)))
        elif kind == 8:
            code = draw(st.sampled_from([bpf.JEQ, bpf.JGT, bpf.JGE, bpf.JSET])) | draw(st.sampled_from([0, bpf.X]))
            insn = (code, draw(st.integers(0, length - at - 1)), draw(st.integers(0, length - at - 1)), draw(WORDS))
        else:
            insn = (draw(ALU), 0, 0, draw(WORDS))
        insns.append(insn)
    return [*insns, (bpf.AND, 0, 0, 0x7FF), (bpf.ADD, 0, 0, 1), (bpf.OR, 0, 0, bpf.RET_ERRNO), (bpf.RET_A, 0, 0, 0)]


@settings(max_examples=10, deadline=None, phases=[Phase.explicit, Phase.generate])  # each example starts processes
@given(st.lists(st.tuples(programs(), st.lists(st.tuples(*[WORDS] * 3), min_size=1, max_size=4)), min_size=8, max_size=24))
def test_runs_as_the_kernel_does(batch: list[tuple[list[bpf.Insn], list[tuple[int, int, int]]]]) -> None:
    from nsbook.linux.syscalls import AUDIT_ARCH, native, numbers

    nr, arch = numbers()["getpid"], AUDIT_ARCH[native()]
    asked = []
    expected = []
    for insns, calls in batch:
        bpf.check(insns)
        full = [[nr, a, b << 32 | c, 0, 0, 0, MAGIC] for a, b, c in calls]
        asked.append({"program": base64.b64encode(bpf.assemble(insns)).decode(), "calls": full})
        expected.append([bpf.run(insns, bpf.seccomp_data(nr, arch, args)) & bpf.RET_DATA for _, *args in full])
    assert child(asked) == expected


@settings(deadline=None)
@example(list(range(1, 5000, 6)), [0, 5000])
@given(st.lists(WORDS, min_size=1, max_size=200, unique=True), st.lists(WORDS, max_size=20))
def test_backwards_reaches_far_targets(keys: list[int], others: list[int]) -> None:
    """A ladder of comparisons, each with a return of its own: most are more than 255 lines away."""
    out = bpf.Backwards()
    for key in keys:
        out.ret(bpf.RET_ERRNO | key % 4096)
    place = out.ret(bpf.RET_ALLOW)
    for key in keys:
        place = out.jump(bpf.JEQ, key, out.ret(bpf.RET_ERRNO | key % 4096), place)
    out.go(place)
    out.put(bpf.LD_ABS, bpf.NR)
    insns = out.program()
    bpf.check(insns)
    for asked in [*keys, *others]:
        answer = bpf.run(insns, bpf.seccomp_data(asked, 0))
        assert answer == (bpf.RET_ERRNO | asked % 4096 if asked in keys else bpf.RET_ALLOW)


def test_mnemonics() -> None:
    assert bpf.mnemonic((bpf.JEQ, 3, 0, 0x3B), 10) == "jeq #0x3b, 14, 11"
    assert bpf.mnemonic((bpf.JSET | bpf.X, 1, 0, 0)) == "jset x, 1, 0"
    assert bpf.mnemonic((bpf.LD_ABS, 0, 0, 16)) == "ld [16]"
    assert bpf.mnemonic((bpf.LDX_MEM, 0, 0, 2)) == "ldx M[2]"
    assert bpf.mnemonic((bpf.AND, 0, 0, 255)) == "and #0xff"
    assert bpf.mnemonic((bpf.RET, 0, 0, bpf.RET_ALLOW)) == "ret #0x7fff0000"
    assert bpf.mnemonic((bpf.JA, 0, 0, 5), 1) == "ja 7"
    assert bpf.mnemonic((0xFF, 0, 0, 1)) == "? 0xff #0x1"
