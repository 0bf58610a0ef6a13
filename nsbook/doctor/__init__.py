"""What this machine allows, found out by trying: in a child, with plans of the same ops that containers are made of.

Nothing is concluded from versions or settings: a trial runs and is taken back, and when it is refused the diagnoser of
:mod:`nsbook.linux` says who refused it. ``nsbook.doctor()`` is the whole report, :func:`needs` a part of it; what was tried
in this process is remembered, and ``fresh`` tries again.

Imports primitives, spawn and linux. Follows namespaces(7), user_namespaces(7), cgroups(7), capabilities(7), mount(2),
pivot_root(2), seccomp(2), and whatever page the diagnoser quotes. Where Linux's floor is missing (another system), it says
so of everything.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

from nsbook.doctor.report import Finding as Finding
from nsbook.doctor.report import Report as Report
from nsbook.doctor.trial import forget

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FEATURES = (
    "root",
    "namespaces",
    *(f"{kind} namespace" for kind in ("mnt", "uts", "ipc", "pid", "net", "cgroup")),
    "user namespace",
    "sub-ids",
    "time namespace",
    "network",
    "mount",
    "overlay",
    "overlay in a user namespace",
    "proc",
    "proc in a user namespace",
    "sysfs",
    "pivot_root",
    "mknod",
    "cgroup",
    "memory limit",
    "cpu limit",
    "pids limit",
    "seccomp",
    "capabilities",
    "clone3",
    "pidfd",
    "openat2",
    "container",
    "guest kernel",
)
"""All that can be asked for, in the order of the report."""
HANDS = 3
"""Trials at the same time. Each keeps a processor busy half of the time, and waits for the kernel the other half."""

_known: dict[str, Finding] = {}


def needs(*features: str, fresh: bool = False) -> list[Finding]:
    """The findings of these features; only they are tried. Raises InvalidOption for one that there is no trial of."""
    from nsbook.errors import InvalidOption

    unknown = [f for f in features if f not in FEATURES]
    if unknown:
        raise InvalidOption(f"no trial of {unknown[0]!r}; there are: {', '.join(FEATURES)}")
    if fresh:
        forget()
        for feature in features:
            _known.pop(feature, None)
    try:
        probes = _probes()
    except ImportError as error:
        why = f"{sys.platform} is no Linux" if sys.platform != "linux" else f"the floor that speaks to the kernel is missing ({error})"
        fix = "use a Linux machine, a virtual one, or the book on Binder"
        return [Finding(f, "refused", "nothing: there is no Linux to ask", "system", why, fix) for f in features]
    _try_all([f for f in dict.fromkeys(features) if f not in _known], probes)
    return [_known[f] for f in features]


def examine(*, fresh: bool = False, deep: bool = False) -> Report:
    """Try everything: this is what ``nsbook.doctor()`` calls. It takes about half a second; ``deep`` boots the guest's kernel
    as well, which takes a few more."""
    findings = needs(*FEATURES, fresh=fresh)
    if findings[0].layer == "system":
        return Report("other system", tuple(findings))
    if deep:
        from nsbook.doctor.whole import guest

        _known["guest kernel"] = guest(deep=True)
        findings[FEATURES.index("guest kernel")] = _known["guest kernel"]
    return Report(_tier(findings), tuple(findings), os.uname().release, os.geteuid())


def _probes() -> dict[str, Callable[[], Finding]]:
    """Every trial by its feature. Raises ImportError on another system."""
    if sys.platform != "linux":
        raise ImportError("not Linux")
    import nsbook.linux  # noqa: F401 - the floor itself, before what stands on it
    from nsbook.doctor import calls, limits, mounts, namespaces, whole

    own: dict[str, Callable[[], Finding]] = {"container": whole.container, "guest kernel": whole.guest}
    return namespaces.PROBES | mounts.PROBES | limits.PROBES | calls.PROBES | own


def _try_all(features: list[str], probes: dict[str, Callable[[], Finding]]) -> None:
    """Side by side, each thread with the caller's context: a recorder sees what they do."""
    from contextvars import copy_context
    from threading import Thread

    waiting, failed = features[::-1], list[BaseException]()

    def work() -> None:
        while waiting and not failed:
            try:
                feature = waiting.pop()
            except IndexError:  # another took the last
                return
            try:
                _known[feature] = probes[feature]()
            except BaseException as error:
                failed.append(error)

    if len(features) == 1:
        work()
    else:
        threads = [Thread(target=copy_context().run, args=(work,), name="nsbook doctor") for _ in range(min(HANDS, len(features)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]


def _tier(findings: list[Finding]) -> str:
    by = {f.feature: f for f in findings}
    if not by["container"]:
        return "unprivileged"
    if os.geteuid() != 0 or not by["root"]:
        return "rootless"
    from nsbook.linux import cgroups

    layout = cgroups.layout()
    return {"v1": "root, cgroup v1/hybrid", "hybrid": "root, cgroup v1/hybrid", "v2": "root, cgroup v2"}.get(layout, "root, no cgroup")


class _Called(ModuleType):
    """``nsbook.doctor`` is this package, and ``nsbook.doctor()`` the report: one name, whichever was imported first."""

    __call__ = staticmethod(examine)


if TYPE_CHECKING:
    doctor = examine
else:
    doctor = sys.modules[__name__]
    doctor.__class__ = _Called
