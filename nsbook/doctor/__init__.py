"""What this machine allows, found out by trying: in a child, with plans of the same ops that containers are made of.

Nothing is concluded from versions or settings: a probe runs, and when it is refused the diagnoser of :mod:`nsbook.linux` says
who refused it. Imports primitives, spawn and linux. ``nsbook.doctor()`` is the whole report, :func:`needs` a part of it.
"""

from __future__ import annotations

import os
import sys

from nsbook.frozen import Frozen
from nsbook.inspectable import Inspectable, Sheet, Volatile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from nsbook.spawn.ops import Op


class Finding(Frozen):
    """``verdict`` is works, partly or refused; ``how`` says what was tried, ``layer`` who refused, ``why``, and the ``fix``."""

    feature: str
    verdict: str
    how: str
    layer: str = ""
    why: str = ""
    fix: str = ""


class Report(Inspectable, Frozen):
    """All findings, and the tier that they make (ARCHITECTURE's word for what kind of place this is)."""

    tier: str
    findings: tuple[Finding, ...]

    def __getitem__(self, feature: str) -> Finding:
        return next(f for f in self.findings if f.feature == feature)

    def can(self, feature: str) -> bool:
        """Does it work, at least partly?"""
        return self[feature].verdict != "refused"

    def sheet(self) -> Sheet:
        """One row a feature."""
        rows = tuple(
            (f.feature, Volatile(f.verdict), f.how, Volatile(f.layer), Volatile(f.why + (f" Fix: {f.fix}" if f.fix else "")))
            for f in self.findings
        )
        return Sheet("What this machine allows", ("feature", "", "tried", "refused by", "why"), rows, (f"tier: {self.tier}",), "doctor")


def _attempt(feature: str, how: str, steps: list[Op]) -> Finding:
    """Run the steps up to a barrier that holds, then take everything back."""
    from nsbook.errors import CleanupError, NsbookError, SetupError
    from nsbook.spawn.client import Session
    from nsbook.spawn.ops import Barrier
    from nsbook.spawn.plan import Plan, new_run_id

    plan = Plan(new_run_id(), (*steps, Barrier("tried", True)), (), f"doctor: {feature}")
    try:
        session = Session(plan, interactive=True, deadline=5)
        try:
            session.hear()
        finally:
            session.close()
    except SetupError as error:
        found = error.diagnosis
        if found is None:
            return Finding(feature, "refused", how, "kernel", str(error))
        return Finding(feature, "refused", how, found.layer, found.why, found.fix)
    except (CleanupError, NsbookError) as error:
        return Finding(feature, "refused", how, "kernel", str(error))
    return Finding(feature, "works", how)


def _begin(*kinds: str) -> list[Op]:
    """A child in new namespaces; for an ordinary user in a user namespace of its own, with a single id."""
    from nsbook.spawn import ops

    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        return [ops.Clone(tuple(k for k in kinds if k == "pid")), *(ops.Unshare((k,)) for k in kinds if k != "pid")]
    return [
        ops.Clone(("user", *(k for k in kinds if k == "pid"))),
        ops.Barrier("the user namespace is there"),
        ops.WriteIdMap("uid", ((0, uid, 1),)),
        ops.WriteIdMap("gid", ((0, gid, 1),)),
        ops.Barrier("its id maps are written"),
        *(ops.Unshare((k,)) for k in kinds if k != "pid"),
    ]


def _namespaces() -> Finding:
    return _attempt("namespaces", "new mnt, uts, ipc, pid, net and cgroup namespaces", _begin("pid", "mnt", "uts", "ipc", "net", "cgroup"))


def _user() -> Finding:
    from nsbook.spawn import ops

    uid, gid = os.geteuid(), os.getegid()
    steps: list[Op] = [
        ops.Clone(("user",)),
        ops.Barrier("the user namespace is there"),
        ops.WriteIdMap("uid", ((0, uid, 1),)),
        ops.WriteIdMap("gid", ((0, gid, 1),)),
        ops.Barrier("its id maps are written"),
    ]
    return _attempt("user namespace", "a new one, with one id mapped", steps)


def _time() -> Finding:
    from nsbook.spawn import ops

    return _attempt("time namespace", "a new one, entered", [*_begin(), ops.Unshare(("time",)), ops.EnterTimeNamespace()])


def _scratch() -> str:
    from nsbook.places import run_root
    from nsbook.spawn.plan import new_run_id

    return os.path.join(run_root(), "doctor", new_run_id())


def _overlay() -> Finding:
    from nsbook.spawn import ops

    base = _scratch()
    places: list[Op] = [ops.MakeDirectory(base, 0o755), *(ops.MakeDirectory(f"{base}/{n}") for n in ("t", "lower"))]
    steps = [*places, *_begin("mnt"), ops.SetPropagation("/", "private"), ops.Mount("tmpfs", "/t", base)]
    user = os.geteuid() != 0
    steps += [ops.MakeLink("/t/up/.x", "x", base), ops.MakeLink("/t/work/.x", "x", base), ops.MakeLink("/t/all/.x", "x", base)]
    steps.append(ops.MountOverlay((f"{base}/lower",), f"{base}/t/all", f"{base}/t/up", f"{base}/t/work", user))
    return _attempt("overlay", "one layer under a writable one" + (" (userxattr)" if user else ""), steps)


def _proc() -> Finding:
    from nsbook.spawn import ops

    base = _scratch()
    steps = [ops.MakeDirectory(base), *_begin("pid", "mnt"), ops.SetPropagation("/", "private"), ops.Mount("proc", "/", base)]
    return _attempt("proc", "a fresh proc for a new pid namespace", steps)


def _pivot() -> Finding:
    from nsbook.spawn import ops

    base = _scratch()
    steps = [
        ops.MakeDirectory(base),
        *_begin("mnt"),
        ops.SetPropagation("/", "private"),
        ops.BindMount(base, "/", base),
        ops.PivotRoot(base),
    ]
    return _attempt("pivot_root", "a new root, and the old one let go of", steps)


def _seccomp() -> Finding:
    from binascii import b2a_base64

    from nsbook.primitives.seccomp import SeccompFilter
    from nsbook.spawn import ops

    chosen = SeccompFilter.default()
    program = b2a_base64(chosen.program, newline=False).decode()
    steps: list[Op] = [ops.Clone(()), ops.NoNewPrivileges(), ops.LoadSeccomp(program, "default", chosen.flag_bits)]
    return _attempt("seccomp", "the default system-call filter", steps)


def _cgroup() -> Finding:
    from nsbook.errors import NsbookError, SetupError, Unsupported
    from nsbook.primitives.cgroup import Cgroup

    how = "a group with limits of memory, CPU time and tasks"
    try:
        with Cgroup.create(memory="32M", cpus=1, pids=50) as made:
            layout = f" (version {made.version})"
        return Finding("cgroup", "works", how + layout)
    except Unsupported as error:
        return Finding("cgroup", "refused", how, "cgroup", error.reason, error.fix)
    except SetupError as error:
        found = error.diagnosis
        return Finding("cgroup", "refused", how, *((found.layer, found.why, found.fix) if found else ("kernel", str(error), "")))
    except NsbookError as error:
        return Finding("cgroup", "refused", how, "kernel", str(error))


def _container() -> Finding:
    """Enough for one: its parts, each of which has been tried."""
    parts = [_one(name) for name in ("namespaces", "overlay", "proc", "pivot_root", "seccomp")]
    broken = [p for p in parts if p.verdict == "refused"]
    how = "namespaces, overlay, proc, pivot_root and seccomp together"
    if broken:
        first = broken[0]
        return Finding("container", "refused", how, first.layer, f"{first.feature}: {first.why}", first.fix)
    if _one("cgroup").verdict == "refused":
        return Finding("container", "partly", how, "cgroup", "without limits: " + _one("cgroup").why, _one("cgroup").fix)
    return Finding("container", "works", how)


PROBES: dict[str, Callable[[], Finding]] = {
    "namespaces": _namespaces,
    "user namespace": _user,
    "time namespace": _time,
    "overlay": _overlay,
    "proc": _proc,
    "pivot_root": _pivot,
    "cgroup": _cgroup,
    "seccomp": _seccomp,
    "container": _container,
}
_known: dict[str, Finding] = {}


def _one(feature: str) -> Finding:
    if feature not in _known:
        _known[feature] = PROBES[feature]()
    return _known[feature]


def needs(*features: str) -> list[Finding]:
    """The findings of these features; only they are tried. Raises InvalidOption for one that there is no probe for."""
    from nsbook.errors import InvalidOption

    unknown = [f for f in features if f not in PROBES]
    if unknown:
        raise InvalidOption(f"no probe for {unknown[0]!r}; there are: {', '.join(PROBES)}")
    if sys.platform != "linux":
        return [Finding(f, "refused", "", "system", f"{sys.platform} is no Linux", "use a Linux machine, or Binder") for f in features]
    return [_one(f) for f in features]


def doctor(*, fresh: bool = False) -> Report:
    """Try everything (what was tried before in this process is remembered, unless ``fresh``). Takes under a second."""
    if fresh:
        _known.clear()
    findings = tuple(needs(*PROBES))
    return Report(_tier(findings), findings)


def _tier(findings: tuple[Finding, ...]) -> str:
    if sys.platform != "linux":
        return "other system"
    by = {f.feature: f.verdict for f in findings}
    if by["container"] == "refused":
        return "unprivileged"
    if os.geteuid() != 0:
        return "rootless"
    from nsbook.linux import cgroups

    layout = cgroups.layout()
    return f"root, cgroup {'v1 / hybrid' if layout in ('v1', 'hybrid') else layout}"
