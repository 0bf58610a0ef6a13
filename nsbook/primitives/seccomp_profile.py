"""Seccomp profiles as JSON: Docker's format in, the OCI runtime specification's ``linux.seccomp`` in and out.

Docker's format is the specification's with conditions on whole rules (``includes``, ``excludes``: capabilities, machines,
kernel version), which the engine settles before a runtime sees them. So does :func:`read_profile`. See
https://docs.docker.com/engine/security/seccomp/ and config-linux.md#seccomp of the runtime specification.
"""

from __future__ import annotations

import os

from nsbook.errors import InvalidSpec, Unsupported
from nsbook.linux.bpf import MAX_ERRNO
from nsbook.linux.syscalls import native
from nsbook.primitives.capabilities import DEFAULT
from nsbook.primitives.seccomp import FLAGS, Arg, Rule, SeccompFilter, Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_ACTIONS = {
    "SCMP_ACT_ALLOW": "ALLOW",
    "SCMP_ACT_ERRNO": "ERRNO",
    "SCMP_ACT_KILL": "KILL_THREAD",
    "SCMP_ACT_KILL_THREAD": "KILL_THREAD",
    "SCMP_ACT_KILL_PROCESS": "KILL_PROCESS",
    "SCMP_ACT_TRAP": "TRAP",
    "SCMP_ACT_LOG": "LOG",
    "SCMP_ACT_TRACE": "TRACE",
}
_OPS = ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")
_SPEC_ARCH = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_GO_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}
EPERM = 1


def read_profile(
    profile: dict[str, Any] | str | os.PathLike[str],
    capabilities: Iterable[str] | None = None,
    arch: str = "",
    kernel: str = "",
) -> SeccompFilter:
    """See :meth:`SeccompFilter.from_profile`."""
    if not isinstance(profile, dict):
        import json

        with open(profile, encoding="utf-8") as file:
            try:
                profile = json.load(file)
            except ValueError as error:
                raise InvalidSpec(f"{os.fspath(file.name)} is not JSON: {error}") from error
        if not isinstance(profile, dict):
            raise InvalidSpec("a seccomp profile is a JSON object")
    arch = arch or native()
    caps = frozenset(DEFAULT if capabilities is None else capabilities)
    release = kernel_version(kernel or os.uname().release)
    default = _verdict(profile, "defaultAction", "defaultErrnoRet")
    if profile.get("listenerPath"):
        raise _no_notify()
    if profile.get("architectures") and profile.get("archMap"):
        raise InvalidSpec("a seccomp profile has either 'architectures' or 'archMap', not both")
    flags = tuple(profile.get("flags") or ())
    for flag in flags:
        if flag not in FLAGS:
            raise InvalidSpec(f"seccomp flag {flag!r}: known are {', '.join(FLAGS)}")
    rules = []
    for entry in profile.get("syscalls") or ():
        if _applies(entry, caps, _GO_ARCH.get(arch, arch), release):
            rules.append(_rule(entry))
    return SeccompFilter(default, tuple(rules), arch, flags, _warnings(profile, arch))


def to_oci(seccomp: SeccompFilter) -> dict[str, Any]:
    """See :meth:`SeccompFilter.to_oci`."""

    def say(verdict: Verdict, action: str, errno: str) -> dict[str, Any]:
        out: dict[str, Any] = {action: f"SCMP_ACT_{verdict.action}"}
        if verdict.action in ("ERRNO", "TRACE"):
            out[errno] = verdict.errno
        return out

    spec = say(seccomp.default_verdict, "defaultAction", "defaultErrnoRet")
    spec["architectures"] = [_SPEC_ARCH[seccomp.arch]]
    if seccomp.flags:
        spec["flags"] = list(seccomp.flags)
    spec["syscalls"] = [
        {"names": list(rule.names), **say(rule.verdict, "action", "errnoRet"), **({"args": _args(rule)} if rule.args else {})}
        for rule in seccomp.rules
    ]
    return spec


def _args(rule: Rule) -> list[dict[str, Any]]:
    return [{"index": a.index, "value": a.value, "valueTwo": a.value_two, "op": f"SCMP_CMP_{a.op}"} for a in rule.args]


def _no_notify() -> Unsupported:
    return Unsupported(
        "seccomp action SCMP_ACT_NOTIFY",
        "nsbook passes no notification descriptor to an agent, and the calls would wait for ever.",
        "use SCMP_ACT_ERRNO or SCMP_ACT_TRACE",
    )


def _verdict(entry: dict[str, Any], key: str, errno_key: str) -> Verdict:
    action = entry.get(key)
    if action == "SCMP_ACT_NOTIFY":
        raise _no_notify()
    short = _ACTIONS.get(action) if isinstance(action, str) else None
    if short is None:
        raise InvalidSpec(f"seccomp {key} {action!r}: known are {', '.join(_ACTIONS)}")
    if short not in ("ERRNO", "TRACE"):
        return Verdict(short)
    errno = entry.get(errno_key)
    errno = EPERM if errno is None else errno
    if not isinstance(errno, int) or not 0 <= errno <= (MAX_ERRNO if short == "ERRNO" else 0xFFFF):
        raise InvalidSpec(f"seccomp {errno_key} {errno!r}: not an errno")
    return Verdict(short, errno)


def _rule(entry: dict[str, Any]) -> Rule:
    names = entry.get("names") or ([entry["name"]] if entry.get("name") else [])
    if not names or not all(isinstance(n, str) and n for n in names):
        raise InvalidSpec("a seccomp rule without names of system calls")
    if entry.get("name") and entry.get("names"):
        raise InvalidSpec("a seccomp rule has either 'name' or 'names', not both")
    args = []
    for arg in entry.get("args") or ():
        index, op = arg.get("index"), str(arg.get("op", "")).removeprefix("SCMP_CMP_")
        value, two = arg.get("value", 0), arg.get("valueTwo", 0)
        if op not in _OPS:
            raise InvalidSpec(f"seccomp op {arg.get('op')!r}: known are {', '.join(f'SCMP_CMP_{o}' for o in _OPS)}")
        if index not in range(6):
            raise InvalidSpec(f"seccomp argument {index!r}: a system call's are 0 to 5")
        if not all(isinstance(v, int) and 0 <= v < 1 << 64 for v in (value, two)):
            raise InvalidSpec(f"seccomp value {value!r}: not an unsigned 64-bit number")
        args.append(Arg(index, op, value, two))
    return Rule(tuple(names), _verdict(entry, "action", "errnoRet"), tuple(args), entry.get("comment") or "")


def _applies(entry: dict[str, Any], caps: frozenset[str], arch: str, release: tuple[int, int]) -> bool:
    without, needs = entry.get("excludes") or {}, entry.get("includes") or {}
    if arch in (without.get("arches") or ()) or caps.intersection(without.get("caps") or ()):
        return False
    if without.get("minKernel") and release >= kernel_version(without["minKernel"]):
        return False
    if needs.get("arches") and arch not in needs["arches"]:
        return False
    if needs.get("minKernel") and release < kernel_version(needs["minKernel"]):
        return False
    return caps.issuperset(needs.get("caps") or ())


def kernel_version(release: str) -> tuple[int, int]:
    """Kernel and major revision, as Docker compares them: ``6.1.0-9-amd64`` -> (6, 1)."""
    numbers = []
    for part in str(release).split(".")[:2]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            raise InvalidSpec(f"kernel version {release!r}: expected something like 4.8")
        numbers.append(int(digits))
    return (numbers[0], numbers[1] if len(numbers) > 1 else 0)


def _warnings(profile: dict[str, Any], arch: str) -> tuple[str, ...]:
    own = _SPEC_ARCH.get(arch, "")
    others = [a for a in profile.get("architectures") or () if a != own]
    for entry in profile.get("archMap") or ():
        if entry.get("architecture") == own:
            others += entry.get("subArchitectures") or ()
    if not others:
        return ()
    return (f"the profile also speaks of {', '.join(others)}: calls through any other ABI than {arch}'s own get ENOSYS here",)
