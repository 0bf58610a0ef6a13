"""The guest's ordinary users: made when first named, with what a login would give them. passwd(5), subuid(5)."""

from __future__ import annotations

import grp
import os
import pwd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

SUB_IDS = 65536


class User:
    """Who a command runs as. ``runtime`` is the directory that ``XDG_RUNTIME_DIR`` names."""

    def __init__(self, name: str, uid: int, gid: int, groups: list[int], home: str) -> None:
        self.name = name
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.home = home
        self.runtime = f"/run/user/{uid}"


def find(name: str) -> User:
    """The user of that name or number, made if there is none: home, sub-ids, runtime directory."""
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        _add(name)
        return find(name)
    home = entry.pw_dir if entry.pw_uid == 0 or os.path.isdir(entry.pw_dir) else f"/home/{entry.pw_name}"
    groups = sorted({entry.pw_gid, *(g.gr_gid for g in grp.getgrall() if entry.pw_name in g.gr_mem)})
    user = User(entry.pw_name, entry.pw_uid, entry.pw_gid, groups, home)
    if user.uid:
        _give_place(user)
        _give_sub_ids(user)
    return user


def _add(name: str) -> None:
    taken = {e.pw_uid for e in pwd.getpwall()} | {g.gr_gid for g in grp.getgrall()}
    if name.isdecimal():
        uid, name = int(name), f"user{name}"
    else:
        uid = next(n for n in range(2000, 60000) if n not in taken)
    _append("/etc/passwd", f"{name}:x:{uid}:{uid}::/home/{name}:/bin/sh")
    if uid not in {g.gr_gid for g in grp.getgrall()}:
        _append("/etc/group", f"{name}:x:{uid}:")


def _give_place(user: User) -> None:
    for path in (user.home, user.runtime):
        if not os.path.isdir(path):
            os.makedirs(path)
            os.chown(path, user.uid, user.gid)
            os.chmod(path, 0o700)


def _give_sub_ids(user: User) -> None:
    for path in ("/etc/subuid", "/etc/subgid"):
        lines: list[str] = []
        if os.path.exists(path):
            with open(path) as file:
                lines = file.read().split()
        if any(line.startswith((f"{user.name}:", f"{user.uid}:")) for line in lines):
            continue
        ends = [int(start) + int(count) for _, start, count in (line.split(":") for line in lines)]
        _append(path, f"{user.name}:{max([400000, *ends])}:{SUB_IDS}")


def _append(path: str, line: str) -> None:
    last = b"\n"
    if os.path.exists(path) and os.path.getsize(path):
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read()
    with open(path, "a") as file:
        file.write(("" if last == b"\n" else "\n") + line + "\n")


def open_way(directories: Iterable[str]) -> None:
    """Let everybody pass through the parents of these directories (in the guest's layer; the host's stay as they are)."""
    for path in directories:
        directory = os.path.dirname(os.path.abspath(path))
        while directory.strip("/"):
            try:
                mode = os.stat(directory).st_mode
                if not mode & 1:
                    os.chmod(directory, mode & 0o7777 | 1)
            except OSError:
                pass  # not there, or unreadable for the user who booted the guest
            directory = os.path.dirname(directory)
