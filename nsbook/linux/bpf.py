"""Classic BPF as seccomp uses it: assemble, take apart, check and run a filter, as pure data (no system call here).

An instruction is a tuple ``(code, jt, jf, k)``, eight bytes as the kernel reads it (``struct sock_filter``). The machine
has an accumulator A, an index register X, sixteen 32-bit words of scratch memory and no loops: jumps go forward only. Its
input under seccomp is ``struct seccomp_data``: the number of the system call, the architecture's token, the instruction
pointer and six 64-bit arguments. See bpf(4) of the BSDs, linux/filter.h, linux/seccomp.h and seccomp(2).
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Insn = tuple[int, int, int, int]

MAXINSNS = 4096
"""BPF_MAXINSNS: the longest program that the kernel takes."""

# Instruction classes and modes (linux/bpf_common.h); only the sums that seccomp's checker lets through are named.
LD_ABS, LD_IMM, LD_MEM, LD_LEN = 0x20, 0x00, 0x60, 0x80
LDX_IMM, LDX_MEM, LDX_LEN = 0x01, 0x61, 0x81
ST, STX, TAX, TXA = 0x02, 0x03, 0x07, 0x87
JA, JEQ, JGT, JGE, JSET = 0x05, 0x15, 0x25, 0x35, 0x45
RET, RET_A = 0x06, 0x16
ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, NEG, XOR = 0x04, 0x14, 0x24, 0x34, 0x44, 0x54, 0x64, 0x74, 0x84, 0xA4
X = 0x08
"""Added to an arithmetic or jump code: compare or reckon with X instead of the constant."""

_ALU = {ADD: "add", SUB: "sub", MUL: "mul", DIV: "div", OR: "or", AND: "and", LSH: "lsh", RSH: "rsh", XOR: "xor"}
_JUMP = {JEQ: "jeq", JGT: "jgt", JGE: "jge", JSET: "jset"}
_PLAIN = {LD_LEN: "ld len", LDX_LEN: "ldx len", TAX: "tax", TXA: "txa", RET_A: "ret a", NEG: "neg"}
_CODES = {
    *(LD_ABS, LD_IMM, LD_MEM, LD_LEN, LDX_IMM, LDX_MEM, LDX_LEN, ST, STX, TAX, TXA, JA, RET, RET_A, NEG),
    *(c | x for c in [*_ALU, *_JUMP] for x in (0, X)),
}

# Where things lie in struct seccomp_data, in bytes.
NR, ARCH, IP, ARGS, DATA_SIZE = 0, 4, 8, 16, 64

# What a filter answers (linux/seccomp.h): the action in the upper half, its data (an errno) in the lower.
RET_KILL_PROCESS, RET_KILL_THREAD, RET_TRAP, RET_ERRNO = 0x80000000, 0x00000000, 0x00030000, 0x00050000
RET_USER_NOTIF, RET_TRACE, RET_LOG, RET_ALLOW = 0x7FC00000, 0x7FF00000, 0x7FFC0000, 0x7FFF0000
RET_ACTION_FULL, RET_DATA = 0xFFFF0000, 0x0000FFFF
MAX_ERRNO = 4095
"""The largest errno that the kernel hands out: a filter's larger one is cut to it."""


def assemble(insns: Iterable[Insn]) -> bytes:
    """The program as the kernel wants it, in this machine's byte order."""
    pack = struct.Struct("=HBBI").pack
    return b"".join([pack(*i) for i in insns])


def disassemble(program: bytes) -> list[Insn]:
    """The way back. ValueError if it is no whole number of instructions."""
    if len(program) % 8:
        raise ValueError(f"a BPF program has 8 bytes an instruction; {len(program)} is no multiple of it")
    return list(struct.iter_unpack("=HBBI", program))


def check(insns: Sequence[Insn]) -> None:
    """What the kernel checks before it takes a filter (``bpf_check_classic``, ``seccomp_check_filter``): ValueError, with the
    line, where it would say EINVAL."""
    n = len(insns)
    if not 0 < n <= MAXINSNS:
        raise ValueError(f"a program has 1 to {MAXINSNS} instructions, not {n}")
    for pc, (code, jt, jf, k) in enumerate(insns):
        if code not in _CODES:
            raise ValueError(f"line {pc}: seccomp has no instruction {code:#x}")
        if code == LD_ABS and (k >= DATA_SIZE or k & 3):
            raise ValueError(f"line {pc}: offset {k} is not a word of struct seccomp_data")
        if code in (LD_MEM, LDX_MEM, ST, STX) and k > 15:
            raise ValueError(f"line {pc}: there are 16 words of memory, no word {k}")
        if (code == DIV and k == 0) or (code in (LSH, RSH) and k > 31):
            raise ValueError(f"line {pc}: {mnemonic((code, jt, jf, k))} can't be reckoned")
        if code == JA and pc + 1 + k >= n:
            raise ValueError(f"line {pc}: the jump goes beyond the end")
        if code & ~X in _JUMP and pc + 1 + max(jt, jf) >= n:
            raise ValueError(f"line {pc}: the jump goes beyond the end")
    if insns[-1][0] not in (RET, RET_A):
        raise ValueError("the last instruction does not return")


def seccomp_data(nr: int, arch: int, args: Sequence[int] = (), ip: int = 0) -> bytes:
    """``struct seccomp_data``: what the filter sees of a call. Arguments and ``ip`` are taken modulo 2**64 (-1 is all ones)."""
    full = [a & (1 << 64) - 1 for a in (ip, *args, *(0,) * (6 - len(args)))]
    if len(full) != 7:
        raise ValueError(f"a system call has at most six arguments, not {len(args)}")
    return struct.pack("=II7Q", nr & 0xFFFFFFFF, arch, *full)


def run(insns: Sequence[Insn], data: bytes, visit: Callable[[int], object] | None = None) -> int:
    """Interpret the program over ``data`` (see :func:`seccomp_data`) and return what it returns.

    ``visit`` is called with the number of each line that is run. The program is taken to be :func:`check`-ed.
    """
    words = struct.unpack(f"={len(data) // 4}I", data)
    a = x = pc = 0
    mem = [0] * 16
    while True:
        if visit is not None:
            visit(pc)
        code, jt, jf, k = insns[pc]
        pc += 1
        kind = code & 7
        if kind == 5:  # jump
            if code == JA:
                pc += k
                continue
            with_ = x if code & X else k
            base = code & ~X
            yes = a == with_ if base == JEQ else a >= with_ if base == JGE else a > with_ if base == JGT else bool(a & with_)
            pc += jt if yes else jf
        elif code == LD_ABS:
            a = words[k >> 2]
        elif kind == 6:
            return a if code == RET_A else k
        elif kind == 4:
            if code == NEG:
                a = -a & 0xFFFFFFFF
            else:
                with_ = x if code & X else k
                if code & ~X == DIV and with_ == 0:
                    return 0  # as the kernel does: division by X == 0 ends the program
                a = _reckon(code & ~X, a, with_)
        elif code == ST:
            mem[k] = a
        elif code == STX:
            mem[k] = x
        elif code == TAX:
            x = a
        elif code == TXA:
            a = x
        elif kind == 0:
            a = k if code == LD_IMM else mem[k] if code == LD_MEM else len(data)
        else:
            x = k if code == LDX_IMM else mem[k] if code == LDX_MEM else len(data)


def _reckon(code: int, a: int, b: int) -> int:
    if code == AND:
        return a & b
    if code == OR:
        return a | b
    if code == XOR:
        return a ^ b
    if code == DIV:
        return a // b
    # The kernel masks a shift by X to 31, as its 32-bit registers do.
    value = {ADD: a + b, SUB: a - b, MUL: a * b, LSH: a << (b & 31), RSH: a >> (b & 31)}[code]
    return value & 0xFFFFFFFF


def mnemonic(insn: Insn, pc: int | None = None) -> str:
    """One instruction in the words of the kernel's ``bpf_dbg``: ``jeq #0x3b, 12, 13``.

    With ``pc``, its own line, jump targets are line numbers; without, the distances that the instruction holds.
    """
    code, jt, jf, k = insn
    start = 0 if pc is None else pc + 1
    if code in _PLAIN:
        return _PLAIN[code]
    if code == JA:
        return f"ja {start + k}"
    if code & ~X in _JUMP:
        return f"{_JUMP[code & ~X]} {'x' if code & X else f'#{k:#x}'}, {start + jt}, {start + jf}"
    if code & ~X in _ALU:
        return f"{_ALU[code & ~X]} {'x' if code & X else f'#{k:#x}'}"
    if code in (LD_ABS, LD_IMM, LD_MEM, LDX_IMM, LDX_MEM, ST, STX):
        name = {LD_ABS: "ld", LD_IMM: "ld", LD_MEM: "ld", ST: "st", STX: "stx"}.get(code, "ldx")
        where = f"[{k}]" if code == LD_ABS else f"#{k:#x}" if code in (LD_IMM, LDX_IMM) else f"M[{k}]"
        return f"{name} {where}"
    if code == RET:
        return f"ret #{k:#x}"
    return f"? {code:#x} #{k:#x}"


class Backwards:
    """Writes a program from its end to its start, so that the target of a jump is always known before the jump.

    A place is a number that stays valid while more is written in front of it. A conditional jump reaches 255 lines: where its
    target is further away, a copy of the target (if it returns) or a long jump is put within reach.
    """

    __slots__ = ("_returns", "_written")

    def __init__(self) -> None:
        self._written: list[Insn] = []
        self._returns: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._written)

    def ret(self, value: int) -> int:
        """The place of a ``ret #value``: one that is there, or a new one."""
        place = self._returns.get(value)
        if place is None:
            place = self.put(RET, value)
            self._returns[value] = place
        return place

    def put(self, code: int, k: int) -> int:
        """An instruction that goes on to the one written before it (or returns); its place."""
        self._written.append((code, 0, 0, k))
        return len(self._written) - 1

    def jump(self, code: int, k: int, yes: int, no: int) -> int:
        """A conditional jump to the places ``yes`` and ``no``; its own place."""
        if yes == no:
            return yes
        yes, no = self._near(yes), self._near(no)
        n = len(self._written)
        self._written.append((code, n - 1 - yes, n - 1 - no, k))
        return n

    def go(self, place: int) -> None:
        """See to it that what is written next is followed by ``place``."""
        n = len(self._written)
        if place != n - 1:
            code, _, _, k = self._written[place]
            if code == RET:
                self._returns[k] = self.put(RET, k)
            else:
                self.put(JA, n - 1 - place)

    def _near(self, place: int) -> int:
        n = len(self._written)
        if n - 1 - place <= 254:  # one below the reach: the other target may have to be copied as well
            return place
        code, _, _, k = self._written[place]
        if code == RET:
            near = self._returns[k]
            if n - 1 - near <= 254:
                return near
            self._returns[k] = self.put(RET, k)
            return self._returns[k]
        return self.put(JA, n - 1 - place)

    def program(self) -> list[Insn]:
        """All that was written, first line first."""
        return self._written[::-1]
