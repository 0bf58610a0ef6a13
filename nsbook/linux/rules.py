"""What a rule of the diagnoser is, and the rules that hold for any call.

A rule quotes the man page's sentence; its ``judge`` looks at the facts and returns why the sentence applies, or "" when it
does not. The first rule that applies is the diagnosis, so the certain ones come first.
"""

from __future__ import annotations

from nsbook.frozen import Frozen
from nsbook.linux import constants, host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    Facts: TypeAlias = dict[str, Any]

LAYERS = (
    "seccomp",
    "apparmor",
    "capability",
    "no_new_privs",
    "user namespace",
    "user-namespace limit",
    "masked /proc",
    "read-only cgroup",
    "cgroup",
    "file",
    "resource limit",
    "argument",
    "kernel",
)
"""Who may have refused. ``file``: a path or its permissions; ``kernel``: what this kernel can't or has not."""

EPERM, ENOENT, ESRCH, E2BIG, ENOEXEC, EBADF, EAGAIN, ENOMEM, EACCES, EFAULT = 1, 2, 3, 7, 8, 9, 11, 12, 13, 14
ENOTBLK, EBUSY, EEXIST, EXDEV, ENODEV, ENOTDIR, EINVAL, ENOSPC, EROFS, ENOSYS = 15, 16, 17, 18, 19, 20, 22, 28, 30, 38
ENOTEMPTY, ELOOP, ETXTBSY, EUSERS, EOPNOTSUPP = 39, 40, 26, 87, 95


class Rule(Frozen):
    """One sentence of a man page. ``calls`` empty: of any call. ``page`` is ``name(section)``, or where else it is written."""

    calls: tuple[str, ...]
    errnos: tuple[int, ...]
    layer: str
    page: str
    rule: str
    judge: Callable[[Facts], str]
    fix: str = ""


def has(facts: Facts, capability: str) -> bool:
    """Whether the effective set contained it."""
    return bool(facts.get("cap_eff", 0) >> constants.CAPABILITIES.index(capability) & 1)


def lacks(capability: str, why: str = "") -> Callable[[Facts], str]:
    """Applies when the capability was not effective."""

    def judge(facts: Facts) -> str:
        if "cap_eff" not in facts or has(facts, capability):
            return ""
        bounded = "cap_bnd" in facts and not facts["cap_bnd"] >> constants.CAPABILITIES.index(capability) & 1
        text = why or f"the process (uid {facts.get('euid', '?')}) does not have {capability} in its effective set"
        return text + (", nor in its bounding set: it can't get it from any program" if bounded else "")

    return judge


def foreign(kind: str, words: str) -> Callable[[Facts], str]:
    """Applies when the capability is there, but the namespace belongs to another user namespace."""

    def judge(facts: Facts) -> str:
        if facts.get("owned", {}).get(kind, True):
            return ""
        return f"the process has its capabilities in its own user namespace, but {words} belongs to another one"

    return judge


def always(why: str) -> Callable[[Facts], str]:
    """Applies whenever call and errno do."""
    return lambda facts: why


def argument(facts: Facts, name: str) -> Any:
    """An argument of the call, by its name in the man page."""
    return facts.get("args", {}).get(name)


def flag(facts: Facts, bits: int, name: str = "flags") -> bool:
    """Whether any of the bits was set in the argument."""
    value = argument(facts, name)
    return isinstance(value, int) and bool(value & bits)


def place(facts: Facts, *names: str) -> dict[str, Any]:
    """What was found at the first of the paths that the call named."""
    paths = facts.get("paths", {})
    for name in names or tuple(paths):
        if name in paths:
            found: dict[str, Any] = paths[name]
            return found
    return {}


def written(facts: Facts, name: str) -> str:
    """The text that a write(2) tried to write, or the path that it tried to write to."""
    return str(argument(facts, name) or "")


SECCOMP_RULE = (
    "This value results in the SECCOMP_RET_DATA portion of the filter's return value being passed to user space as the errno "
    "value without executing the system call."
)


def filtered(facts: Facts) -> str:
    """Applies when a probe shows, or the facts imply, that a seccomp filter answered in the kernel's stead."""
    errno, call = facts.get("errno"), facts.get("call", "")
    if facts.get("seccomp") == 0:
        return ""
    kind = "uts" if call in ("sethostname", "setdomainname") else "mnt"
    privileged = has(facts, "CAP_SYS_ADMIN") and facts.get("owned", {}).get(kind, False)
    for probe in facts.get("probes", ()):
        telling = not probe["asks_first"] or privileged or errno != EPERM
        if probe["errno"] == errno and errno != probe["expected"] and telling:
            return _filter_text(facts, probe)
    if facts.get("seccomp") == 2 and errno == ENOSYS and host.kernel_version(facts.get("release", "")) >= _SINCE.get(call, (99, 0)):
        return f'{call} is older than this kernel ({facts["release"]}), so the answer "no such call" is a filter\'s'
    return ""


_SINCE = {"clone3": (5, 3), "openat2": (5, 6), "pidfd_open": (5, 3), "fsopen": (5, 2), "mount_setattr": (5, 12)}
_SINCE |= dict.fromkeys(("fsconfig", "fsmount", "move_mount", "open_tree"), (5, 2)) | {"close_range": (5, 9)}


def _filter_text(facts: Facts, probe: dict[str, Any]) -> str:
    from os import strerror

    own = f"to which Linux itself answers {strerror(probe['expected'])!r}," if probe["expected"] else "which Linux itself grants to all,"
    text = f"{probe['call']} with arguments that ask for nothing, {own} was answered {strerror(probe['errno'])!r} too"
    if probe["call"] != facts.get("call") and (facts.get("call"), probe["call"]) != ("clone3", "clone"):
        text += f"; {facts.get('call')} is refused likewise"
    text += f" (Seccomp: {facts.get('seccomp', '?')} in /proc/self/status)"
    if "cap_eff" in facts and not has(facts, "CAP_SYS_ADMIN"):
        text += "; CAP_SYS_ADMIN is missing as well"
    return text


def confined(facts: Facts) -> str:
    """Applies when an AppArmor profile confines the process and the kernel had no reason of its own."""
    label = facts.get("apparmor", "")
    if not label or label.startswith("unconfined"):
        return ""
    return f"the process is confined by the AppArmor profile {label!r}, and the kernel's own conditions for {facts.get('call')} were met"


FILTER = Rule(
    (),
    (EPERM, EACCES, ENOSYS),
    "seccomp",
    "seccomp(2)",
    SECCOMP_RULE,
    filtered,
    "A filter can't be taken off. Start the container with another one (Docker: --security-opt seccomp=..., Kubernetes: "
    "seccompProfile), or run inside the guest: `nsbook guest run`.",
)

APPARMOR = Rule(
    (),
    (EACCES, EPERM),
    "apparmor",
    "apparmor(7)",
    "AppArmor is a kernel enhancement to confine programs to a limited set of resources.",
    confined,
    "Docker: --security-opt apparmor=unconfined; Kubernetes: appArmorProfile type Unconfined; "
    "else run inside the guest: `nsbook guest run`.",
)


def _absent(kind: str) -> Callable[[Facts], str]:
    def judge(facts: Facts) -> str:
        if not flag(facts, constants.NAMESPACES[kind]) or kind in facts.get("kinds", (kind,)):
            return ""
        return f"Linux {facts.get('release', '')} was built without {kind} namespaces: /proc/self/ns has no {kind!r}"

    return judge


_CONFIGURED = "CLONE_NEW{} was specified in flags, but the kernel was not configured with the CONFIG_{} option{}."
_WORDS = {
    "ipc": ("unshare(2)", _CONFIGURED.format("IPC", "SYSVIPC and CONFIG_IPC_NS", "s")),
    **{kind: ("unshare(2)", _CONFIGURED.format(kind.upper(), f"{kind.upper()}_NS", "")) for kind in ("net", "pid", "user", "uts")},
    "cgroup": ("cgroup_namespaces(7)", "Use of cgroup namespaces requires a kernel that is configured with the CONFIG_CGROUPS option."),
    "time": ("time_namespaces(7)", "Use of time namespaces requires a kernel that is configured with the CONFIG_TIME_NS option."),
}
NO_NAMESPACES = tuple(
    Rule(("unshare", "clone3"), (EINVAL,), "kernel", page, words, _absent(kind), "Use a kernel that has them: most distributions' do.")
    for kind, (page, words) in _WORDS.items()
)
"""The kernel was built without a kind of namespace."""

UNKNOWN_CALL = Rule(
    (),
    (ENOSYS,),
    "kernel",
    "errno(3)",
    "Function not implemented",
    lambda facts: (
        f"Linux {facts.get('release', '')} has no {facts.get('call') or 'such call'} (or what stands for it, such as gVisor, has not)"
    ),
    "A newer kernel, or the guest: `nsbook guest run`.",
)
