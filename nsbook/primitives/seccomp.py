"""SeccompFilter: which system calls a container may make, as a value that can be read, asked and compiled.

A filter is rules (which calls, under which conditions on their arguments, get which verdict) and a verdict for all the rest.
It compiles to the classic BPF program that the kernel runs before each system call of the process and its children
(seccomp(2)). ``would`` answers by running that very program, so it can't tell another story than the kernel.

Profiles are read in Docker's format and in the OCI runtime specification's ``linux.seccomp``. :meth:`SeccompFilter.default`
is Docker's default profile (:mod:`nsbook.primitives.seccomp_default`).

One ABI a filter: x86_64's own, or aarch64's own. Calls through another (i386 and x32 programs on x86_64, 32-bit arm on
aarch64) get ENOSYS for every call, so such programs do not run at all. Docker lets them run under the same rules; but there
socketcall(2) hides its arguments from any filter, and refusing the whole ABI is the safe side.
"""

from __future__ import annotations

from errno import errorcode

from nsbook.errors import NotFound
from nsbook.frozen import Frozen
from nsbook.inspectable import Inspectable, Sheet, Snapshot, now
from nsbook.linux import bpf
from nsbook.linux.syscalls import AUDIT_ARCH, X32_BIT, name, names, native, numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from typing import Any

    from nsbook.inspectable import Difference
    from nsbook.primitives.seccomp_listing import Line

ACTIONS: dict[str, int] = {
    "ALLOW": bpf.RET_ALLOW,
    "ERRNO": bpf.RET_ERRNO,
    "KILL_PROCESS": bpf.RET_KILL_PROCESS,
    "KILL_THREAD": bpf.RET_KILL_THREAD,
    "TRAP": bpf.RET_TRAP,
    "LOG": bpf.RET_LOG,
    "TRACE": bpf.RET_TRACE,
}
"""Action -> the upper half of what the program returns (seccomp(2))."""

FLAGS: dict[str, int] = {"SECCOMP_FILTER_FLAG_TSYNC": 1, "SECCOMP_FILTER_FLAG_LOG": 2, "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4}
"""The flags of seccomp(2)'s SECCOMP_SET_MODE_FILTER that a profile may ask for."""


class Verdict(Frozen):
    """What happens to a call: an action of :data:`ACTIONS`; ``errno`` goes with ERRNO (and is the message of TRACE)."""

    action: str
    errno: int = 0

    @property
    def value(self) -> int:
        """As the program returns it: 32 bits."""
        return ACTIONS[self.action] | self.errno

    @property
    def allowed(self) -> bool:
        """Whether the call goes through (LOG writes a line to the audit log first)."""
        return self.action in ("ALLOW", "LOG")

    @classmethod
    def of(cls, value: int) -> Verdict:
        """What a program returned. As the kernel does, an action that is not known kills the process."""
        for action, upper in ACTIONS.items():
            if value & bpf.RET_ACTION_FULL == upper:
                data = value & bpf.RET_DATA
                return cls(action, min(data, bpf.MAX_ERRNO) if action == "ERRNO" else data)
        return cls("KILL_PROCESS")

    def __str__(self) -> str:
        if self.action == "ERRNO":
            return errorcode.get(self.errno, f"errno {self.errno}")
        return {"ALLOW": "allow"}.get(self.action, self.action.lower().replace("_", " "))


ALLOW = Verdict("ALLOW")
ENOSYS = Verdict("ERRNO", 38)


class Arg(Frozen):
    """A condition on one argument (0 to 5), unsigned and 64 bits wide.

    ``op``: NE, LT, LE, EQ, GE, GT, or MASKED_EQ (``argument & value == value_two & value``).
    """

    index: int
    op: str
    value: int
    value_two: int = 0

    def __str__(self) -> str:
        if self.op == "MASKED_EQ":
            return f"arg{self.index} & {self.value:#x} == {self.value_two & self.value:#x}"
        sign = {"NE": "!=", "LT": "<", "LE": "<=", "EQ": "==", "GE": ">=", "GT": ">"}[self.op]
        return f"arg{self.index} {sign} {self.value if self.value < 1000 else hex(self.value)}"


class Rule(Frozen):
    """The calls of ``names`` get ``verdict`` when their arguments meet ``args``: all of them, or, where one argument is named
    twice, any of them (as runc reads it). ``comment`` is the profile's."""

    names: tuple[str, ...]
    verdict: Verdict
    args: tuple[Arg, ...] = ()
    comment: str = ""

    def __str__(self) -> str:
        joint = " and " if len({a.index for a in self.args}) == len(self.args) else " or "
        when = f" if {joint.join(map(str, self.args))}" if self.args else ""
        return f"{self.verdict} {', '.join(self.names[:4])}{f' and {len(self.names) - 4} more' if len(self.names) > 4 else ''}{when}"


class SeccompFilterSnapshot(Snapshot):
    """A filter's content by the name of the call."""

    arch: str
    by_default: str
    instructions: int
    allowed: tuple[str, ...]
    by_argument: tuple[str, ...]
    denied: tuple[str, ...]


compiled: dict[SeccompFilter, bytes] = {}


class SeccompFilter(Frozen, Inspectable):
    """Rules and a default verdict for one ABI. A value: compare it, keep it, diff it; nothing is installed by making one."""

    default_verdict: Verdict
    rules: tuple[Rule, ...] = ()
    arch: str = ""
    flags: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.arch:
            object.__setattr__(self, "arch", native())
        numbers(self.arch)

    @classmethod
    def default(cls, capabilities: Iterable[str] | None = None, arch: str = "", kernel: str = "") -> SeccompFilter:
        """Docker's default profile for a container that may have ``capabilities`` (default: Docker's fourteen).

        What a capability would be useless without is allowed with it: mount and unshare with CAP_SYS_ADMIN, and so on.
        ``kernel`` is a release such as ``"6.1"`` (default: the running one).
        """
        from nsbook.primitives.seccomp_default import default_filter

        return default_filter(capabilities, arch, kernel)

    @classmethod
    def from_profile(
        cls,
        profile: dict[str, Any] | str | os.PathLike[str],
        capabilities: Iterable[str] | None = None,
        arch: str = "",
        kernel: str = "",
    ) -> SeccompFilter:
        """Read Docker's profile format or the runtime specification's ``linux.seccomp``, from a dict or a JSON file.

        InvalidSpec for what is malformed; Unsupported for SCMP_ACT_NOTIFY. What was dropped (rules for other machines'
        calls) is in ``warnings``.
        """
        from nsbook.primitives.seccomp_profile import read_profile

        return read_profile(profile, capabilities, arch, kernel)

    def to_oci(self) -> dict[str, Any]:
        """As the runtime specification's ``linux.seccomp``, for this ABI alone."""
        from nsbook.primitives.seccomp_profile import to_oci

        return to_oci(self)

    @property
    def program(self) -> bytes:
        """The compiled filter, eight bytes an instruction. Compiled once for equal filters."""
        program = compiled.get(self)
        if program is None:
            from nsbook.primitives.seccomp_compile import compile_filter

            program = compiled[self] = bpf.assemble(compile_filter(self))
        return program

    @property
    def flag_bits(self) -> int:
        """The flags for seccomp(2)."""
        return sum(FLAGS[f] for f in self.flags)

    @property
    def newest(self) -> int:
        """The highest number that any rule names on this machine; -1 without rules."""
        table = numbers(self.arch)
        return max((table.get(n, -1) for rule in self.rules for n in rule.names), default=-1)

    @property
    def unknown(self) -> Verdict | None:
        """What calls get that are newer than all that the rules name: ENOSYS, so that programs fall back to older calls, as
        runc does it; None where the default lets calls through anyway."""
        return None if self.default_verdict.action in ("ALLOW", "LOG", "TRACE") or not self.rules else ENOSYS

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names in the rules that this machine has no call for (other machines' calls, misspellings): they have no effect."""
        table = numbers(self.arch)
        return tuple(sorted({n for rule in self.rules for n in rule.names if n not in table}))

    def would(self, syscall: str | int, *args: int, arch: str = "") -> Verdict:
        """What the kernel would do with this call: the compiled program is run over it.

        ``arch`` is the ABI by which it is made: ``i386``, ``x32``, ... (default: the filter's own). NotFound for a name that
        is not in the table.
        """
        arch = arch or self.arch
        nr = self.number(syscall) | (X32_BIT if arch == "x32" else 0)
        data = bpf.seccomp_data(nr, AUDIT_ARCH[arch], args)
        return Verdict.of(bpf.run(bpf.disassemble(self.program), data))

    def number(self, syscall: str | int) -> int:
        """A call's number, given either."""
        if isinstance(syscall, int):
            return syscall
        nr = numbers(self.arch).get(syscall)
        if nr is None:
            raise NotFound(f"{self.arch} has no system call {syscall!r}")
        return nr

    def rule_for(self, syscall: str | int, *args: int) -> Rule | None:
        """The rule that decides, read from the rules and not from the program; None: the default does, or the call is newer
        than the profile."""
        from nsbook.primitives.seccomp_compile import alternatives, holds

        called = name(self.number(syscall), self.arch)
        values = [a & (1 << 64) - 1 for a in (*args, *(0,) * (6 - len(args)))]
        about = [r for r in self.rules if called in r.names and r.verdict != self.default_verdict]
        for rule in about:
            if not rule.args:
                return rule
        for rule in about:
            if any(all(holds(a, values[a.index]) for a in both) for both in alternatives(rule.args)):
                return rule
        return None

    def _sorts(self) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        from nsbook.primitives.seccomp_compile import stretches

        line = stretches(self)
        sorts: tuple[list[str], list[str], list[str]] = ([], [], [])
        at = 0
        for nr, called in sorted(names(self.arch).items()):
            while at + 1 < len(line) and line[at + 1][0] <= nr:
                at += 1
            target = line[at][1]
            sorts[1 if not isinstance(target, int) else 0 if Verdict.of(target).allowed else 2].append(called)
        return tuple(sorts[0]), tuple(sorts[1]), tuple(sorts[2])

    @property
    def allowed(self) -> tuple[str, ...]:
        """The calls that go through whatever their arguments, by number."""
        return self._sorts()[0]

    @property
    def by_argument(self) -> tuple[str, ...]:
        """The calls whose arguments decide."""
        return self._sorts()[1]

    def stops(self) -> tuple[str, ...]:
        """The calls that never go through, by number."""
        return self._sorts()[2]

    def inspect(self) -> SeccompFilterSnapshot:
        """The content by call."""
        allowed, by_argument, denied = self._sorts()
        return SeccompFilterSnapshot(now(), self.arch, str(self.default_verdict), len(self.program) // 8, allowed, by_argument, denied)

    def diff(self, after: SeccompFilter) -> Difference:
        """What another filter does differently, call by call."""
        return self.inspect().diff(after.inspect())

    def listing(self) -> tuple[Line, ...]:
        """The program line by line, in plain words."""
        from nsbook.primitives.seccomp_listing import read_program

        return read_program(bpf.disassemble(self.program), self.arch)

    def listing_sheet(self) -> Sheet:
        """:meth:`listing` as a table."""
        rows = tuple((str(line.index), line.mnemonic, line.comment) for line in self.listing())
        return Sheet(f"seccomp program, {len(rows)} instructions", ("line", "instruction", "meaning"), rows)

    def explain(self, syscall: str | int) -> str:
        """What happens to a call, by which rule, and why a container is denied it."""
        from nsbook.primitives.seccomp_reasons import explain

        return explain(self, syscall)

    def sheet(self) -> Sheet:
        """How much it allows, and what it denies, grouped."""
        from nsbook.primitives.seccomp_reasons import summary

        return summary(self)

    def __repr__(self) -> str:
        return f"<SeccompFilter: {self.arch}, {len(self.rules)} rules, otherwise {self.default_verdict}>"
