"""Who a container's user is: names looked up in the image's own ``/etc/passwd`` and ``/etc/group``.

The files belong to the image, which is foreign: they are opened inside its root (openat2 with RESOLVE_IN_ROOT), read up
to a limit, and a broken line is passed over.
"""

from __future__ import annotations

import os
import stat

from nsbook.errors import InvalidOption
from nsbook.linux import files

LIMIT = 1 << 20


def look_up(user: str, lowerdirs: tuple[str, ...]) -> tuple[int, int, tuple[int, ...], str]:
    """``"uid[:gid]"`` or names -> uid, gid, supplementary groups, home. ``lowerdirs``: the root's layers, top first.

    Raises InvalidOption for a name that the image doesn't know.
    """
    name, colon, group = (user or "0").partition(":")
    passwd = [line.split(":") for line in _lines(lowerdirs, "etc/passwd") if line.count(":") >= 6]
    uid, gid, home, login = -1, 0, "/", name
    for row in passwd:
        if row[0] == name or (name.isdigit() and row[2] == name):
            try:
                uid, gid, home, login = int(row[2]), int(row[3]), row[5] or "/", row[0]
                break
            except ValueError:
                continue
    if uid < 0:
        if not name.isdigit():
            known = ", ".join(row[0] for row in passwd[:8]) or "nobody at all"
            raise InvalidOption(f"user {name!r}: this image's /etc/passwd doesn't know that name (it knows {known}); a number always works")
        uid = int(name)
    groups: list[int] = []
    table = [line.split(":") for line in _lines(lowerdirs, "etc/group") if line.count(":") >= 3]
    if colon:
        found = [row[2] for row in table if row[0] == group]
        if not found and not group.isdigit():
            raise InvalidOption(f"group {group!r}: this image's /etc/group doesn't know that name; a number always works")
        gid = int(found[0] if found else group)
    else:
        groups = [int(row[2]) for row in table if login in row[3].split(",") and row[2].isdigit() and int(row[2]) != gid]
    return uid, gid, tuple(groups), home


def _lines(lowerdirs: tuple[str, ...], path: str) -> list[str]:
    for lower in lowerdirs:
        root = os.open(lower, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = files.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        finally:
            os.close(root)
        with open(fd, "rb") as stream:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return []
            return stream.read(LIMIT).decode("utf-8", "replace").splitlines()
    return []
