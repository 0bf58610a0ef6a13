"""SeccompFilter: what it says, what it compiles to, and that the kernel agrees."""

from __future__ import annotations

import base64
import json
import pickle
import sys
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from nsbook.errors import InvalidSpec, NotFound, Unsupported
from nsbook.linux import bpf
from nsbook.linux.syscalls import AUDIT_ARCH, names, native, numbers
from nsbook.primitives.seccomp import ALLOW, ENOSYS, Arg, Rule, SeccompFilter, Verdict
from nsbook.primitives.seccomp_compile import compile_filter
from nsbook.primitives.seccomp_listing import say_verdict

sys.path.insert(0, str(Path(__file__).parent))

from seccomp_kernel import MAGIC, UNASKED, child, verdicts_of_kernel

U64 = 1 << 64
EPERM = Verdict("ERRNO", 1)

VALUES = st.sampled_from([0, 1, 2, 5, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 32, (1 << 32) + 1, 5 << 32, U64 - 1])
ARGS = st.builds(
    Arg,
    st.integers(0, 3),
    st.sampled_from(["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]),
    VALUES | st.integers(0, U64 - 1),
    VALUES | st.integers(0, U64 - 1),
)
VERDICTS = st.sampled_from(
    [ALLOW, ENOSYS, *(Verdict("ERRNO", n) for n in (0, 1, 4095)), Verdict("TRACE", 7)]
    + [Verdict(action) for action in ("KILL_PROCESS", "KILL_THREAD", "TRAP", "LOG")]
)
KNOWN = sorted(numbers("x86_64"))
NAMES = st.lists(st.sampled_from(KNOWN[::5]) | st.sampled_from(["read", "write", "open"]), min_size=1, max_size=30, unique=True)
RULES = st.builds(Rule, NAMES.map(tuple), VERDICTS, st.lists(ARGS, max_size=3).map(tuple))
FILTERS = st.builds(SeccompFilter, VERDICTS, st.lists(RULES, max_size=25).map(tuple), st.just("x86_64"))
CALLS = st.tuples(
    st.sampled_from([nr for nr in (*numbers("x86_64").values(), 400, 5000, 0x40000001, 0x7FFFFFFF) if nr not in UNASKED]),
    st.tuples(*[VALUES | st.integers(0, U64 - 1)] * 5),
)


def evaluated(seccomp: SeccompFilter, nr: int, args: tuple[int, ...]) -> Verdict:
    """The rules read one after the other, as slowly and plainly as can be."""
    if seccomp.arch == "x86_64" and nr & 0x40000000:
        return ENOSYS
    table = numbers(seccomp.arch)
    mentioned = [table[n] for r in seccomp.rules for n in r.names if n in table]
    lets_through = seccomp.default_verdict.action in ("ALLOW", "LOG", "TRACE")
    if seccomp.rules and not lets_through and nr > max(mentioned, default=-1):
        return ENOSYS
    name = names(seccomp.arch).get(nr)
    mine = [r for r in seccomp.rules if name in r.names and r.verdict != seccomp.default_verdict]
    for rule in [r for r in mine if not r.args] + [r for r in mine if r.args]:
        met = []
        for arg in rule.args:
            value = args[arg.index]
            met.append(
                {
                    "NE": value != arg.value,
                    "LT": value < arg.value,
                    "LE": value <= arg.value,
                    "EQ": value == arg.value,
                    "GE": value >= arg.value,
                    "GT": value > arg.value,
                    "MASKED_EQ": value & arg.value == arg.value_two & arg.value,
                }[arg.op]
            )
        repeated = len({a.index for a in rule.args}) < len(rule.args)
        if any(met) if repeated else all(met):
            return rule.verdict
    return seccomp.default_verdict


@settings(deadline=None, max_examples=150)
@given(FILTERS, st.lists(CALLS, min_size=10, max_size=40))
def test_the_program_says_what_the_rules_say(seccomp: SeccompFilter, calls: list[tuple[int, tuple[int, ...]]]) -> None:
    insns = bpf.disassemble(seccomp.program)
    bpf.check(insns)
    edges = [(nr, tuple(a.value for a in r.args)[:5]) for r in seccomp.rules for nr in (numbers("x86_64")[r.names[0]],)]
    for nr, args in [*calls, *edges]:
        full = args + (0,) * (6 - len(args))
        assert seccomp.would(nr, *args) == evaluated(seccomp, nr, full)
        rule = seccomp.rule_for(nr, *args)
        if rule is not None and nr < 0x40000000:
            assert rule.verdict == evaluated(seccomp, nr, full)


@settings(deadline=None, max_examples=6, phases=[Phase.generate])  # each example starts processes
@given(st.lists(st.tuples(FILTERS, st.lists(CALLS, min_size=5, max_size=30)), min_size=8, max_size=20))
def test_the_kernel_says_what_would_says(batch: list[tuple[SeccompFilter, list[tuple[int, tuple[int, ...]]]]]) -> None:
    need_x86_64()
    answers = verdicts_of_kernel([f.program for f, _ in batch], [c for _, c in batch])
    for (seccomp, calls), got in zip(batch, answers, strict=True):
        for (nr, args), value in zip(calls, got, strict=True):
            assert Verdict.of(value) == seccomp.would(nr, *args, MAGIC), (seccomp.rules, nr, args)


def need_x86_64() -> None:
    if native() != "x86_64":
        pytest.skip("needs x86_64: the calls are asked by its numbers")


def test_every_action_does_in_the_kernel_what_it_says() -> None:
    """Real verdicts on getppid(2), not made into errnos."""
    nr = numbers()["getppid"]
    filters = []
    for verdict in ("ERRNO", "KILL_PROCESS", "KILL_THREAD", "TRAP", "LOG", "TRACE", "ALLOW"):
        seccomp = SeccompFilter(ALLOW, (Rule(("getppid",), Verdict(verdict, 77 if verdict == "ERRNO" else 0)),))
        program = base64.b64encode(seccomp.program).decode()
        filters.append({"program": program, "calls": [[nr, 0, 0, 0, 0, 0, MAGIC]], "guarded": False})
    assert child(filters) == [[77], "signal 31", "signal 31", "signal 31", [0], [38], [0]]


def test_a_thousand_rules_with_far_jumps() -> None:
    """More blocks than a conditional jump reaches over."""
    rules = tuple(
        Rule((name,), Verdict("ERRNO", 100 + n), (Arg(0, "GT", n << 32 | n), Arg(1, "MASKED_EQ", 0xFF000000FF, n)))
        for n, name in enumerate(KNOWN[:150])
    )
    seccomp = SeccompFilter(ALLOW, rules, "x86_64")
    insns = bpf.disassemble(seccomp.program)
    bpf.check(insns)
    assert len(insns) > 1000
    assert any(code == bpf.JA for code, *_ in insns)
    for n, name in enumerate(KNOWN[:150]):
        assert seccomp.would(name, U64 - 1, n & 0xFF) == Verdict("ERRNO", 100 + n)
        assert seccomp.would(name, n << 32 | n, n & 0xFF) == ALLOW


def test_too_many_rules_are_refused() -> None:
    rules = tuple(Rule((name,), EPERM, tuple(Arg(i, "EQ", n << 32 | i + n) for i in range(6))) for n, name in enumerate(KNOWN))
    with pytest.raises(ValueError, match="the kernel takes 4096"):
        compile_filter(SeccompFilter(ALLOW, rules, "x86_64"))


def test_stretches_of_numbers_are_one_comparison() -> None:
    seccomp = SeccompFilter(ALLOW, (Rule(tuple(n for n, nr in numbers("x86_64").items() if 10 <= nr <= 99), EPERM),), "x86_64")
    assert len(seccomp.program) // 8 <= 9
    assert seccomp.stops() == tuple(n for n, nr in numbers("x86_64").items() if 10 <= nr <= 99)


def test_foreign_abis_get_enosys() -> None:
    for seccomp in (SeccompFilter(ALLOW, (), "x86_64"), SeccompFilter.default(arch="x86_64")):
        assert seccomp.would("read") == ALLOW
        for arch in ("i386", "x32", "aarch64", "arm"):
            assert seccomp.would("read", arch=arch) == ENOSYS
    assert SeccompFilter.default(arch="aarch64").would("read") == ALLOW
    assert SeccompFilter.default(arch="aarch64").would(0, arch="arm") == ENOSYS


def test_a_profile_that_lets_through_lets_new_calls_through() -> None:
    assert SeccompFilter(ALLOW, (Rule(("mount",), EPERM),), "x86_64").would(900) == ALLOW
    assert SeccompFilter(EPERM, (Rule(("mount",), ALLOW),), "x86_64").would(900) == ENOSYS
    assert SeccompFilter(EPERM, (), "x86_64").would(900) == EPERM


def test_rules_that_runc_and_libseccomp_join_in_their_own_way() -> None:
    twice = SeccompFilter(EPERM, (Rule(("read",), ALLOW, (Arg(0, "LT", 3), Arg(0, "GT", 9))),), "x86_64")
    assert [twice.would("read", n).allowed for n in (2, 5, 10)] == [True, False, True]
    wins = SeccompFilter(EPERM, (Rule(("read",), ALLOW, (Arg(0, "EQ", 3),)), Rule(("read",), Verdict("ERRNO", 7))), "x86_64")
    assert wins.would("read", 3) == Verdict("ERRNO", 7)
    first = SeccompFilter(EPERM, (Rule(("read",), EPERM, (Arg(0, "EQ", 3),)), Rule(("read",), ALLOW, (Arg(0, "GT", 1),))), "x86_64")
    assert first.would("read", 3) == ALLOW


def test_it_is_a_value() -> None:
    one, two = (SeccompFilter(EPERM, (Rule(("read",), ALLOW),), "x86_64") for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert one.program is two.program
    assert pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(AttributeError, match="frozen"):
        one.arch = "aarch64"  # type: ignore[misc]
    assert SeccompFilter(ALLOW).arch == native()
    with pytest.raises(ValueError, match="no table of system calls"):
        SeccompFilter(ALLOW, (), "vax")


def test_snapshots_say_what_changed() -> None:
    plain, admin = SeccompFilter.default(arch="x86_64"), SeccompFilter.default(["CAP_SYS_ADMIN"], "x86_64")
    changes = plain.diff(admin)
    where = {c.where for c in changes.changes}
    assert {"denied[mount]", "allowed[mount]", "allowed[clone]", "by_argument[clone]", "denied[chroot]"} <= where
    assert not plain.diff(plain)
    assert json.loads(json.dumps(plain.inspect().to_dict()))["by_default"] == "EPERM"


@given(FILTERS)
@settings(deadline=None, max_examples=40)
def test_the_specification_and_back(seccomp: SeccompFilter) -> None:
    again = SeccompFilter.from_profile(json.loads(json.dumps(seccomp.to_oci())), arch="x86_64")
    assert again == seccomp
    assert again.program == seccomp.program


def test_the_listing_explains_each_line() -> None:
    seccomp = SeccompFilter.default(arch="x86_64")
    lines = seccomp.listing()
    assert [line.index for line in lines] == list(range(len(seccomp.program) // 8))
    assert [(line.code, line.jt, line.jf, line.k) for line in lines] == bpf.disassemble(seccomp.program)
    assert all(line.comment for line in lines)
    told = "\n".join(line.comment for line in lines)
    assert "if arch == x86_64: go to 2; else return ENOSYS" in told
    assert "allow from read to getsockopt (0-55)" in told
    assert "return ENOSYS from open_tree_attr (467) to the end" in told
    assert "return EPERM for unshare (272)" in told
    assert "arg0, lower half has any bit of 0x7e020000: return EPERM; else allow" in told
    assert seccomp.listing_sheet().text().count("\n") == len(lines) + 2


@settings(deadline=None, max_examples=60)
@given(FILTERS, st.lists(CALLS, min_size=5, max_size=20))
def test_the_listing_is_true(seccomp: SeccompFilter, calls: list[tuple[int, tuple[int, ...]]]) -> None:
    """The line before the last one says what is returned, wherever a call ends up."""
    lines = seccomp.listing()
    insns = bpf.disassemble(seccomp.program)
    for nr, args in calls:
        way: list[int] = []
        value = bpf.run(insns, bpf.seccomp_data(nr, AUDIT_ARCH["x86_64"], args), way.append)
        assert lines[way[-1]].comment == say_verdict(value)
        before = lines[way[-2]]
        assert say_verdict(value) in before.comment or before.code in (bpf.LD_ABS, bpf.JA)


def test_asking_for_what_is_not_there() -> None:
    seccomp = SeccompFilter.default(arch="x86_64")
    with pytest.raises(NotFound, match="x86_64 has no system call 'frobnicate'"):
        seccomp.would("frobnicate")
    assert SeccompFilter(EPERM, (Rule(("frobnicate", "chown32", "read"), ALLOW),), "x86_64").ignored == ("chown32", "frobnicate")


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        ({}, "defaultAction None"),
        ({"defaultAction": "SCMP_ACT_PANIC"}, "SCMP_ACT_PANIC"),
        ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5000}, "defaultErrnoRet 5000"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_ERRNO"}]}, "without names"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"]}, "FLAG_NEW_LISTENER"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "archMap": [{}], "architectures": ["SCMP_ARCH_X86"]}, "not both"),
        *(
            ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [arg]}]}, says)
            for arg, says in [
                ({"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}, "argument 6"),
                ({"index": 0, "value": 0, "op": "SCMP_CMP_LIKE"}, "SCMP_CMP_LIKE"),
                ({"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}, "unsigned 64-bit"),
            ]
        ),
    ],
)
def test_malformed_profiles_are_named(profile: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidSpec, match=says):
        SeccompFilter.from_profile(profile)


def test_notify_is_refused_by_name(tmp_path: Path) -> None:
    for profile in (
        {"defaultAction": "SCMP_ACT_NOTIFY"},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_NOTIFY"}]},
        {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent"},
    ):
        (tmp_path / "p.json").write_text(json.dumps(profile))
        with pytest.raises(Unsupported, match="SCMP_ACT_NOTIFY"):
            SeccompFilter.from_profile(tmp_path / "p.json")
    (tmp_path / "p.json").write_text("{")
    with pytest.raises(InvalidSpec, match="is not JSON"):
        SeccompFilter.from_profile(tmp_path / "p.json")


def test_conditions_on_capabilities_machines_and_kernels() -> None:
    def rule(name: str, **more: object) -> dict[str, object]:
        return {"names": [name], "action": "SCMP_ACT_ALLOW", **more}

    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [
            rule("read", includes={"caps": ["CAP_A", "CAP_B"]}),
            rule("write", excludes={"caps": ["CAP_A", "CAP_B"]}),
            rule("open", includes={"arches": ["arm64"]}),
            rule("close", excludes={"arches": ["arm64"]}),
            rule("stat", includes={"minKernel": "5.10"}),
            rule("fstat", excludes={"minKernel": "5.10"}),
            {"name": "lstat", "action": "SCMP_ACT_TRACE", "errnoRet": 9},
        ],
    }

    def read(caps: list[str], kernel: str) -> tuple[str, ...]:
        seccomp = SeccompFilter.from_profile(profile, caps, "x86_64", kernel)
        assert seccomp.flag_bits == 2
        assert seccomp.would("lstat") == Verdict("TRACE", 9)
        return seccomp.allowed

    assert read(["CAP_A"], "5.9.1-arch") == ("close", "fstat")
    assert read(["CAP_A", "CAP_B"], "5.10.0") == ("read", "close", "stat")
    assert read([], "6.1") == ("write", "close", "stat")
