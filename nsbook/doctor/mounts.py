"""Trials of mounts: tmpfs and bind mounts, overlay, proc, sysfs, device nodes, pivot_root. Each in a mount namespace of its own."""

from __future__ import annotations

import os

from nsbook.doctor.report import Finding
from nsbook.doctor.trial import Refusal, attempt, begin, begin_in_userns, finding, once, ours, scratch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from nsbook.spawn.ops import Op

SAFE = ("nosuid", "nodev", "noexec")
"""With what containers mount the kernel's own file systems."""


def _inside(base: str, first: list[Op], *steps: Op) -> list[Op]:
    """A directory of the host's, then in the child a mount namespace that the host does not see, then the steps."""
    from nsbook.spawn import ops

    return [ops.MakeDirectory(base), *first, ops.SetPropagation("/", "private"), *steps]


def mount() -> Finding:
    """The two mounts that everything else stands on."""
    from nsbook.spawn import ops

    base = scratch()
    steps = _inside(base, begin("mnt"), ops.Mount("tmpfs", "/t", base), ops.BindMount("/dev/null", "/t/null", base))
    return finding("mount", f"a tmpfs and a bind mount, {ours()}", attempt("mount", steps))


def _overlay(base: str, first: list[Op], *, user: bool) -> list[Op]:
    from nsbook.spawn import ops

    links = [ops.MakeLink(f"/t/{name}/.made", "x", base) for name in ("lower", "up", "work", "all")]  # so are their directories
    there = f"{base}/t"
    steps = [ops.Mount("tmpfs", "/t", base), *links]
    return _inside(base, first, *steps, ops.MountOverlay((f"{there}/lower",), f"{there}/all", f"{there}/up", f"{there}/work", user))


def overlay() -> Finding:
    """As containers mount it."""
    how = f"a layer under a writable one, {ours()}"
    if os.geteuid() != 0:
        return finding("overlay", how + " (userxattr)", _users_overlay())
    return finding("overlay", how, attempt("overlay", _overlay(scratch(), begin("mnt"), user=False)))


def overlay_in_userns() -> Finding:
    """As rootless containers mount it."""
    return finding("overlay in a user namespace", "a layer under a writable one (userxattr)", _users_overlay())


def _users_overlay() -> Refusal | None:
    steps = _overlay(scratch(), begin_in_userns("mnt"), user=True)
    return once("overlay", lambda: attempt("overlay in a user namespace", steps))


def proc() -> Finding:
    """A container's own /proc."""
    refused = _users_proc() if os.geteuid() != 0 else attempt("proc", _proc(begin("pid", "mnt")))
    return finding("proc", f"a fresh proc in a new pid namespace, {ours()}", refused)


def proc_in_userns() -> Finding:
    """A rootless container's own /proc: the kernel refuses it where the present one is masked."""
    return finding("proc in a user namespace", "a fresh proc in a new pid namespace", _users_proc())


def _users_proc() -> Refusal | None:
    return once("proc", lambda: attempt("proc in a user namespace", _proc(begin_in_userns("pid", "mnt"))))


def _proc(first: list[Op]) -> list[Op]:
    from nsbook.spawn import ops

    base = scratch()
    return _inside(base, first, ops.Mount("proc", "/", base, flags=SAFE))


def sysfs() -> Finding:
    """A container's own /sys: it shows the devices of the network namespace that it is mounted in."""
    from nsbook.spawn import ops

    base = scratch()
    refused = attempt("sysfs", _inside(base, begin("net", "mnt"), ops.Mount("sysfs", "/", base, flags=(*SAFE, "ro"))))
    return finding("sysfs", f"a fresh sysfs in a new net namespace, {ours()}", refused)


def pivot() -> Finding:
    """The root changes, and the old one is let go of."""
    from nsbook.spawn import ops

    base = scratch()
    steps = _inside(base, begin("mnt"), ops.BindMount(base, "/", base), ops.PivotRoot(base))
    return finding("pivot_root", f"a directory as /, and the old / let go of, {ours()}", attempt("pivot_root", steps))


def mknod() -> Finding:
    """/dev/null made; or where nobody may, the host's bound in its place, as containers do."""
    from nsbook.spawn import ops

    base = scratch()
    how = f"/dev/null made in a tmpfs, {ours()}"
    refused = attempt("mknod", _inside(base, begin("mnt"), ops.Mount("tmpfs", "/t", base), ops.MakeDevice("/t/null", base, 1, 3)))
    if refused is None or refused.op != "MakeDevice":
        return finding("mknod", how, refused)
    base = scratch()
    instead = ops.MakeDevice("/t/null", base, 1, 3, bind="/dev/null")
    bound = attempt("mknod", _inside(base, begin("mnt"), ops.Mount("tmpfs", "/t", base), instead))
    return finding("mknod", how + ("; the host's bound there instead" if bound is None else ""), refused, partly=bound is None)


PROBES: dict[str, Callable[[], Finding]] = {
    "mount": mount,
    "overlay": overlay,
    "overlay in a user namespace": overlay_in_userns,
    "proc": proc,
    "proc in a user namespace": proc_in_userns,
    "sysfs": sysfs,
    "pivot_root": pivot,
    "mknod": mknod,
}
