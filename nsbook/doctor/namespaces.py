"""Trials of namespaces: each kind, all at once, user namespaces with one id and with many, time, network."""

from __future__ import annotations

import os
import shutil

from nsbook.doctor.report import Finding
from nsbook.doctor.trial import Refusal, attempt, begin, finding, in_userns, once, ours
from nsbook.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from nsbook.spawn.ops import Op

KINDS = ("mnt", "uts", "ipc", "pid", "net", "cgroup")
"""Those that every container gets; user and time have trials of their own."""
TOOLS = ("newuidmap", "newgidmap")


def root() -> Finding:
    """Root over this machine's namespaces: one more is made without a user namespace first."""
    from nsbook.spawn import ops

    refused = attempt("root", [ops.Clone(()), ops.Unshare(("mnt",))])
    return finding("root", "a mount namespace without a user namespace first", refused)


def together() -> Finding:
    """All that a container gets."""
    return finding("namespaces", f"new {', '.join(KINDS)}, {ours()}", _all_kinds())


def _all_kinds() -> Refusal | None:
    return once("namespaces", lambda: attempt("namespaces", begin(*KINDS)))


def one(kind: str) -> Callable[[], Finding]:
    """One kind: with the others if all work, else alone."""

    def probe() -> Finding:
        feature = f"{kind} namespace"
        if _all_kinds() is None:
            return finding(feature, f"a new one, with the others, {ours()}", None)
        return finding(feature, f"a new one, {ours()}", attempt(feature, begin(kind)))

    return probe


def user() -> Finding:
    """A user namespace with a single id."""
    return finding("user namespace", "a new one, one id mapped", attempt("user namespace", in_userns()))


class Maps(Frozen):
    """(inside, outside, how many) ranges, and the programs that write them ("": we do)."""

    uid: tuple[tuple[int, int, int], ...]
    gid: tuple[tuple[int, int, int], ...]
    tools: tuple[str, str] = ("", "")


def single() -> Maps:
    """An ordinary user's own id, as root."""
    return Maps(((0, os.geteuid(), 1),), ((0, os.getegid(), 1),))


def widest() -> Maps | None:
    """All the ids that an ordinary user's container gets, if it gets more than one: then newuidmap has to write them."""
    from nsbook.linux import idmaps, status

    users, groups = idmaps.subids(os.geteuid()), idmaps.subids(os.geteuid(), "/etc/subgid")
    if not users or not groups or status.status().no_new_privs or not _name():
        return None
    if any(shutil.which(tool) is None for tool in TOOLS):
        return None
    one = single()
    return Maps((*one.uid, (1, users[0].start, users[0].count)), (*one.gid, (1, groups[0].start, groups[0].count)), TOOLS)


def sub_ids() -> Finding:
    """A user namespace with many ids: root writes the maps, an ordinary user has newuidmap write them."""
    from nsbook.linux import idmaps, status

    if os.geteuid() == 0:
        most = max(idmaps.uid_map(), key=lambda r: r.count)
        if most.count == 1:
            why = "root's own user namespace has one id alone, so there are no others to map"
            return Finding("sub-ids", "refused", "looked for ids to map", "user namespace", why, "map more ids into that one first")
        ranges = ((0, most.inside, min(65536, most.count)),)
        how = f"a user namespace, {ranges[0][2]} ids mapped by root"
        return finding("sub-ids", how, attempt("sub-ids", _mapped(Maps(ranges, ranges))))
    maps = widest()
    if maps is not None:
        how = f"a user namespace, {maps.uid[1][2] + 1} ids mapped by newuidmap"
        return finding("sub-ids", how, attempt("sub-ids", _mapped(maps)))
    name = _name()
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    fix = f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name or 'NAME'}"
    if status.status().no_new_privs:
        why = "no_new_privs is set, so the set-uid program newuidmap has no more rights than the caller"
        refused = Refusal("no_new_privs", why, "start it from a session without no_new_privs; a single id does without")
    elif missing:
        refused = Refusal("file", f"{missing[0]} is not installed", "apt install uidmap")
    elif not name:
        refused = Refusal("file", f"user {os.geteuid()} has no name in /etc/passwd, and newuidmap wants one", "give the user a name")
    else:
        refused = Refusal("file", "/etc/subuid and /etc/subgid give this user no ids", fix)
    return finding("sub-ids", "looked for what newuidmap needs", refused)


def _mapped(maps: Maps) -> list[Op]:
    from nsbook.spawn import ops

    return [
        ops.Clone(("user",)),
        ops.Barrier("the user namespace is there"),
        ops.WriteIdMap("uid", maps.uid, maps.tools[0]),
        ops.WriteIdMap("gid", maps.gid, maps.tools[1]),
        ops.Barrier("its id maps are written"),
        ops.SetUser(0, 0, ()),
    ]


def _name() -> str:
    """Our login name; "" where nobody gave us one."""
    from pwd import getpwuid

    try:
        return getpwuid(os.geteuid()).pw_name
    except KeyError:
        return ""


def time() -> Finding:
    """A clock is shifted, and the shifted clock entered."""
    from nsbook.spawn import ops

    steps = [*begin(), ops.Unshare(("time",)), ops.SetTimeOffset("boottime", 3600), ops.EnterTimeNamespace()]
    return finding("time namespace", f"a new one an hour ahead, {ours()}", attempt("time namespace", steps))


def network() -> Finding:
    """A network of its own, at least to talk to oneself."""
    from nsbook.spawn import ops

    return finding("network", f"a new network, its loopback switched on, {ours()}", attempt("network", [*begin("net"), ops.LoopbackUp()]))


PROBES: dict[str, Callable[[], Finding]] = {
    "root": root,
    "namespaces": together,
    **{f"{kind} namespace": one(kind) for kind in KINDS},
    "user namespace": user,
    "sub-ids": sub_ids,
    "time namespace": time,
    "network": network,
}
