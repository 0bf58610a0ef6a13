"""The plans of namespaces: how each of the eight kinds is made and held, and how one is entered.

Only a pid and a user namespace are made with the child itself: a process never changes its own pid namespace, and a user
namespace's maps are written from outside before anybody does anything in it. A time namespace is for children until it
is entered by its file, when its clocks can't be shifted any more. The rest are unshared by the child.
"""

from __future__ import annotations

import os

from nsbook.errors import InvalidOption
from nsbook.linux.status import status
from nsbook.spawn import ops
from nsbook.spawn.plan import Plan, new_run_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    Ranges = tuple[tuple[int, int, int], ...]

CAP_SYS_ADMIN = 21
CLOCKS = ("monotonic", "boottime")


def may_administer() -> bool:
    """Has this process CAP_SYS_ADMIN in effect, in its own user namespace?"""
    return bool(status().cap_eff >> CAP_SYS_ADMIN & 1)


def create_plan(kind: str, *, uid_map: Ranges | None, gid_map: Ranges | None, offsets: dict[str, int]) -> Plan:
    """Make one, in a child that then waits until it is let go. Raises InvalidOption."""
    wrong = [clock for clock in offsets if clock not in CLOCKS]
    if wrong or (offsets and kind != "time"):
        raise InvalidOption(f"offsets={offsets!r}: a time namespace has {' and '.join(CLOCKS)} (time_namespaces(7))")
    user = kind == "user" or not may_administer()
    if not user and (uid_map is not None or gid_map is not None):
        raise InvalidOption(f"a {kind} namespace has no id maps: user namespaces have")
    made: list[ops.Op] = [ops.Clone(tuple([k for k in ("user", "pid") if k == kind or (k == "user" and user)]))]
    if user:
        made += _maps(uid_map, gid_map)
    if kind == "time":
        made.append(ops.Unshare(("time",)))
        made += [ops.SetTimeOffset(clock, seconds) for clock, seconds in offsets.items()]
        made.append(ops.EnterTimeNamespace())
    elif kind not in ("user", "pid"):
        made.append(ops.Unshare((kind,)))
        if kind == "mnt":
            made.append(ops.SetPropagation())
    made.append(ops.Barrier("kept", True))
    warnings = (
        (f"we may not make a {kind} namespace on its own: a user namespace comes along and owns it",) if user and kind != "user" else ()
    )
    return Plan(new_run_id(), tuple(made), warnings, f"Namespace {kind}")


def _maps(uid_map: Ranges | None, gid_map: Ranges | None) -> list[ops.Op]:
    """The ops by which a new user namespace gets its maps."""
    users = ((0, os.geteuid(), 1),) if uid_map is None else _rows(uid_map)
    groups = ((0, os.getegid(), 1),) if gid_map is None and users else _rows(gid_map or ())
    if not users and not groups:
        return []
    out: list[ops.Op] = [ops.Barrier("the user namespace is there")]
    if users:
        out.append(ops.WriteIdMap("uid", users, _tool("newuidmap", users, os.geteuid())))
    if groups:
        out.append(ops.WriteIdMap("gid", groups, _tool("newgidmap", groups, os.getegid())))
    return [*out, ops.Barrier("its id maps are written")]


def _rows(given: Ranges) -> Ranges:
    rows = tuple([tuple(row) for row in given])
    if not all(len(row) == 3 and all(isinstance(n, int) and n >= 0 for n in row) and row[2] for row in rows):
        raise InvalidOption(f"id map {given!r}: rows of (inside, outside, how many), as in user_namespaces(7)")
    return rows  # type: ignore[return-value]


def _tool(name: str, rows: Ranges, own: int) -> str:
    """An ordinary user writes a map of their own id alone; for sub-ids there is a set-uid tool."""
    return "" if os.geteuid() == 0 or (len(rows) == 1 and rows[0][1:] == (own, 1)) else name


def enter_plan(kind: str, argv: tuple[str, ...], env: dict[str, str], *, owner: bool) -> Plan:
    """Run a command in a namespace: ``$target`` is a descriptor of it, ``$owner`` one of the user namespace to enter first."""
    run = new_run_id()
    variables = {**os.environ, **env, "NSBOOK_RUN": run}
    made: list[ops.Op] = [ops.Clone()]
    if owner:
        made.append(ops.Setns("$owner", ("user",)))
    made.append(ops.Setns("$target", (kind,)))
    if kind == "pid":
        made.append(ops.Fork())
    made += [ops.ConnectStreams(), ops.Exec(argv, tuple([f"{k}={v}" for k, v in variables.items()]))]
    return Plan(run, tuple(made), (), f"run in a {kind} namespace")
