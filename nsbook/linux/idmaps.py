"""Id maps of user namespaces (user_namespaces(7)) and the sub-ids given to a user (subuid(5))."""

from __future__ import annotations

from nsbook.frozen import Frozen
from nsbook.linux.files import read_file


class IdRange(Frozen):
    """``count`` ids from ``inside`` on are, seen from the reader's user namespace, those from ``outside`` on."""

    inside: int
    outside: int
    count: int


class SubIds(Frozen):
    """``count`` ids from ``start`` on that ``owner`` (a login name or a number, as written) may map."""

    owner: str
    start: int
    count: int


def _map(path: str) -> tuple[IdRange, ...]:
    rows = [line.split() for line in read_file(path).split("\n") if line.strip()]
    return tuple([IdRange(int(inside), int(outside), int(count)) for inside, outside, count in rows])


def uid_map(pid: int | str = "self") -> tuple[IdRange, ...]:
    """/proc/PID/uid_map; empty while none was written."""
    return _map(f"/proc/{pid}/uid_map")


def gid_map(pid: int | str = "self") -> tuple[IdRange, ...]:
    """/proc/PID/gid_map; empty while none was written."""
    return _map(f"/proc/{pid}/gid_map")


def setgroups(pid: int | str = "self") -> str:
    """/proc/PID/setgroups: ``allow`` or ``deny``."""
    return read_file(f"/proc/{pid}/setgroups").strip()


def subids(user: str | int, path: str = "/etc/subuid") -> tuple[SubIds, ...]:
    """The ranges that the file gives to the user, named by login name or by number. Empty without the file."""
    names = {str(user)}
    try:
        from pwd import getpwnam, getpwuid

        known = getpwuid(user) if isinstance(user, int) else getpwnam(user)
        names = {known.pw_name, str(known.pw_uid)}
    except (KeyError, ImportError):
        pass
    try:
        lines = read_file(path).split("\n")
    except FileNotFoundError:
        return ()
    rows = []
    for line in lines:
        parts = line.strip().split(":")
        if len(parts) == 3 and parts[0] in names and parts[1].isdigit() and parts[2].isdigit():
            rows.append(SubIds(parts[0], int(parts[1]), int(parts[2])))
    return tuple(rows)
