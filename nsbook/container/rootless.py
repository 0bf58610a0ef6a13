"""Id maps for whoever runs this: none for root, sub-ids or a single id for an ordinary user. user_namespaces(7), subuid(5)."""

from __future__ import annotations

import os
import shutil

from nsbook.frozen import Frozen
from nsbook.linux import idmaps

TYPE_CHECKING = False
if TYPE_CHECKING:
    Ranges = tuple[tuple[int, int, int], ...]


class Maps(Frozen):
    """(inside, outside, how many) ranges of users and of groups; ``note`` says what is reduced."""

    uid: tuple[tuple[int, int, int], ...]
    gid: tuple[tuple[int, int, int], ...]
    note: str = ""

    @property
    def single(self) -> bool:
        """One id alone: nobody but root is inside."""
        return sum(r[2] for r in self.uid) == 1


def maps_for(*, wanted: bool | None = None) -> Maps | None:
    """The maps of a new container's user namespace; None: no user namespace.

    An ordinary user always needs one: user 0 inside is the caller outside, and the ids from 1 on are the caller's sub-ids
    (/etc/subuid) where there are some and newuidmap can write them. Root gets one when asked (``wanted``): an identity
    map, which changes nothing but what a user namespace itself does.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        if not wanted:
            return None
        return Maps(_same(idmaps.uid_map()), _same(idmaps.gid_map()))
    own = Maps(((0, uid, 1),), ((0, gid, 1),), "")
    missing = [tool for tool in ("newuidmap", "newgidmap") if shutil.which(tool) is None]
    users, groups = idmaps.subids(uid), idmaps.subids(uid, "/etc/subgid")
    if _no_new_privileges():
        return own.replace(note="a single id: set-uid programs such as newuidmap give nothing here (no_new_privs)")
    if missing:
        return own.replace(note=f"a single id: {missing[0]} is missing (apt install uidmap)")
    if users and groups and not _has_name(uid):
        return own.replace(note=f"a single id: user {uid} has no name in /etc/passwd, and newuidmap wants one")
    if not users or not groups:
        return own.replace(note="a single id: /etc/subuid gives this user no others (usermod --add-subuids 100000-165535)")
    first_user, first_group = users[0], groups[0]
    return Maps(((0, uid, 1), (1, first_user.start, first_user.count)), ((0, gid, 1), (1, first_group.start, first_group.count)))


def _same(rows: tuple[idmaps.IdRange, ...]) -> Ranges:
    return tuple([(r.inside, r.inside, r.count) for r in rows])


def _has_name(uid: int) -> bool:
    from pwd import getpwuid

    try:
        getpwuid(uid)
    except KeyError:
        return False
    return True


def _no_new_privileges() -> bool:
    from nsbook.linux import status

    return bool(status.status().no_new_privs)
