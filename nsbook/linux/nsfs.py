"""Namespaces as files: /proc/PID/ns (namespaces(7)) and what ioctl_ns(2) says of them.

A namespace is identified by device and inode number of its file, for as long as it exists; numbers are used again.
"""

from __future__ import annotations

import os
from struct import calcsize, unpack

from nsbook.frozen import Frozen
from nsbook.linux import constants
from nsbook.linux.call import syscall

try:  # now, not when it is needed: a child that has pivoted can't import any more
    import fcntl
except ImportError:  # another system
    pass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nsbook.linux.call import Path


class NsIdentity(Frozen):
    """Which namespace: device and inode number, and its kind as in /proc/PID/ns (``mnt``, ``uts`` ...)."""

    dev: int
    ino: int
    kind: str = ""


def namespace_of(pid: int | str, kind: str) -> NsIdentity:
    """The process's namespace of that kind (``pid_for_children`` and ``time_for_children`` too)."""
    found = os.stat(f"/proc/{pid}/ns/{kind}")
    return NsIdentity(found.st_dev, found.st_ino, kind.removesuffix("_for_children"))


def namespace_at(place: Path | int) -> NsIdentity:
    """The namespace behind a descriptor, or a path (/proc/PID/ns/..., or a bind mount of one)."""
    fd = place if isinstance(place, int) else os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        return NsIdentity(found.st_dev, found.st_ino, kind_of(fd))
    finally:
        if fd is not place:
            os.close(fd)


def _ioctl(fd: int, request: int) -> int:
    return fcntl.ioctl(fd, request)


@syscall("ioctl", fd=lambda fd: f"{fd}, NS_GET_NSTYPE", result=lambda value: constants.flag_names(value, "CLONE_"))
def ns_type(fd: int) -> int:
    """The namespace's kind, as its CLONE_NEW* flag."""
    return _ioctl(fd, constants.NS_GET_NSTYPE)


def kind_of(fd: int) -> str:
    """The namespace's kind, as its name in /proc/PID/ns."""
    flag = ns_type(fd)
    return next((kind for kind, value in constants.NAMESPACES.items() if value == flag), hex(flag))


@syscall("ioctl", fd=lambda fd: f"{fd}, NS_GET_PARENT")
def ns_parent(fd: int) -> int:
    """A descriptor for the parent of a pid or user namespace. EPERM when it lies outside of the caller's own."""
    return _ioctl(fd, constants.NS_GET_PARENT)


@syscall("ioctl", fd=lambda fd: f"{fd}, NS_GET_USERNS")
def ns_owner(fd: int) -> int:
    """A descriptor for the user namespace that owns this one. EPERM when it lies outside of the caller's own."""
    return _ioctl(fd, constants.NS_GET_USERNS)


@syscall("ioctl", fd=lambda fd: f"{fd}, NS_GET_OWNER_UID")
def ns_owner_uid(fd: int) -> int:
    """The user that made the user namespace, as the caller's user namespace knows him."""
    return int(unpack("I", fcntl.ioctl(fd, constants.NS_GET_OWNER_UID, bytes(calcsize("I"))))[0])
