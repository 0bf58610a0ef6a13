"""This machine: boot, kernel, and the switches that decide who may make namespaces."""

from __future__ import annotations

import os

from nsbook.linux.constants import NAMESPACES
from nsbook.linux.files import read_file


def boot_id() -> str:
    """A UUID made at each boot (random(4)): what was noted under another one is gone."""
    return read_file("/proc/sys/kernel/random/boot_id").strip()


def kernel_release() -> str:
    """uname(2)'s release."""
    return os.uname().release


def kernel_version(release: str = "") -> tuple[int, int]:
    """The first two numbers of a release: ``(6, 18)``."""
    numbers = [int(part) if part.isdigit() else 0 for part in (release or kernel_release()).split("-")[0].split(".")[:2]]
    return (*numbers, 0, 0)[0], (*numbers, 0, 0)[1]


def machine() -> str:
    """uname(2)'s machine."""
    return os.uname().machine


def apparmor(pid: int | str = "self") -> str:
    """The AppArmor profile that confines the process: ``unconfined``, ``docker-default (enforce)``, or "" without AppArmor."""
    for name in ("attr/apparmor/current", "attr/current"):
        try:
            label = read_file(f"/proc/{pid}/{name}").strip("\0\n ")
        except OSError:
            continue
        # attr/current belongs to whichever security module came first: an SELinux context has colons in it
        if label and (name != "attr/current" or label.count(":") < 3):
            return label
    return ""


def namespace_limits() -> dict[str, int]:
    """How many namespaces of each kind a user may have in this user namespace: /proc/sys/user (namespaces(7))."""
    limits: dict[str, int] = {}
    for kind in NAMESPACES:
        value = _number(f"/proc/sys/user/max_{kind}_namespaces")
        if value is not None:
            limits[kind] = value
    return limits


def unprivileged_userns_clone() -> bool | None:
    """Debian's switch kernel.unprivileged_userns_clone; None where the kernel has no such switch (then it is allowed)."""
    value = _number("/proc/sys/kernel/unprivileged_userns_clone")
    return None if value is None else value != 0


def apparmor_restrict_unprivileged_userns() -> bool | None:
    """Ubuntu's switch (since 23.10): unprivileged user namespaces get no capabilities. None where there is none."""
    value = _number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    return None if value is None else value != 0


def _number(path: str) -> int | None:
    try:
        return int(read_file(path))
    except (OSError, ValueError):
        return None
