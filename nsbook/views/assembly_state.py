"""What the view of an Assembly shows, as plain data: its plan, what the kernel says, and who refused an op.

No widget is imported here; :mod:`nsbook.views.assembly` sends what these functions return.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from nsbook.errors import NsbookError, SetupError, Unsupported
from nsbook.linux import cgroups

if TYPE_CHECKING:
    from nsbook.container import Assembly
    from nsbook.container.assembly import AssemblySnapshot

SECCOMP = ("no filter", "strict", "filtered")
"""``Seccomp:`` in /proc/PID/status (proc_pid_status(5))."""
OWN, SHARED = "its own", "the host's"
WHO = {
    "argument": "the system call: an argument that it does not take here",
    "capability": "the kernel: a capability is missing",
    "file": "the file system: a path or its permissions",
    "kernel": "the kernel",
    "no_new_privs": "no_new_privs, a promise that can't be taken back",
    "seccomp": "a seccomp filter",
    "apparmor": "AppArmor",
    "resource limit": "a resource limit",
}
"""The diagnoser's layers (:data:`nsbook.linux.rules.LAYERS`) in a few words, where their names alone say too little."""


def plan(assembly: Assembly) -> list[dict[str, Any]]:
    """Every op of the plan."""
    rows = []
    for op in assembly.plan.ops:
        shell = op.shell()
        rows.append(
            {
                "name": op.name,
                "where": op.where,
                "what": op.what(),
                "call": op.call,
                "man": op.man,
                "shell": shell.text,
                "form": shell.kind,
            }
        )
    return rows


def look(assembly: Assembly) -> dict[str, Any]:
    """Where the assembly is, and what the kernel says of the child now, from outside and from inside."""
    seen = assembly.inspect()
    done = assembly.done
    took = {str(call.op): call.usec for call in assembly.transcript.ops if call.op in done and not call.errno}
    return {
        "phase": seen.state,
        "position": seen.position,
        "done": list(done),
        "took": took,
        "outside": _outside(seen) if seen.pid else None,
        "inside": _inside(assembly) if seen.pid and seen.state == "building" else None,
        "output": _output(assembly) if seen.state in ("running", "exited") else None,
    }


def _outside(seen: AssemblySnapshot) -> dict[str, Any]:
    if seen.uid_map == seen.gid_map:
        ids = [_fact("user and group ids", *_ids(seen.uid_map))]
    else:
        ids = [_fact("user ids", *_ids(seen.uid_map)), _fact("group ids", *_ids(seen.gid_map))]
    facts = [
        _fact("process", f"pid {seen.pid} on the host"),
        _fact("control group", *_groups(seen.cgroups)),
        *ids,
        _fact("mounts", *seen.mounts, count="mount"),
        _fact("capabilities", *seen.capabilities, count="in effect"),
        _fact("bounding set", *seen.bounding, count="can ever be had"),
        _fact("no_new_privs", "set" if seen.no_new_privs else "not set"),
        _fact("seccomp", SECCOMP[seen.seccomp] if seen.seccomp < len(SECCOMP) else str(seen.seccomp)),
    ]
    spaces = [{"kind": kind, "inode": inode, "own": own} for kind, inode, own in seen.namespaces]
    return {"namespaces": spaces, "facts": facts}


def _inside(assembly: Assembly) -> list[dict[str, Any]]:
    """What the child answers when it is asked. A refusal is an answer, too."""

    def ids() -> list[str]:
        mine = assembly.inside("ids")
        return [f"process {mine['pid']}, user {mine['uid']}, group {mine['gid']}, in {mine['cwd']}"]

    def mounts() -> list[str]:
        lines = assembly.inside("file", "/proc/self/mounts").splitlines()
        return [f"{kind} on {place}" for _, place, kind in (line.split(" ")[:3] for line in lines)]

    return [
        _answer("host name", lambda: [assembly.inside("hostname")]),
        _answer("I am", ids),
        _answer("ls /", lambda: assembly.inside("list", "/"), count="entry"),
        _answer("/proc/self/mounts", mounts, count="mount"),
    ]


def _output(assembly: Assembly) -> dict[str, Any]:
    code = assembly.wait() if assembly.state == "exited" else None
    return {"exit_code": code, "stdout": assembly.stdout, "stderr": assembly.stderr}


def _fact(name: str, *values: str, count: str = "") -> dict[str, Any]:
    """``values`` are lines; with ``count`` they are many, and the display begins with their number."""
    return {"name": name, "values": list(values), "count": count, "refused": ""}


def _answer(name: str, ask: Any, count: str = "") -> dict[str, Any]:
    try:
        return _fact(name, *ask(), count=count)
    except SetupError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError):
            raise
        return {**_fact(name), "refused": _os_error(cause)}


def _os_error(error: OSError) -> str:
    return f"{errno.errorcode.get(error.errno or 0, str(error.errno))}: {error.strerror}"


def _groups(lines: tuple[str, ...]) -> list[str]:
    """The child's control groups, seen from this process's own, hierarchies with the same answer on one line."""
    ours = {_name(row.controllers): row.path for row in cgroups.cgroup("self")}
    by_path: dict[str, list[str]] = {}
    for line in lines:
        name, _, path = line.partition(":")
        own = ours.get(name, "")
        if path == own:
            said = "ours"
        elif path.startswith(own.rstrip("/") + "/"):
            said = path[len(own.rstrip("/")) + 1 :]  # below ours
        else:
            said = path
        by_path.setdefault(said, []).append(name.removeprefix("name="))
    return [f"{path} ({', '.join(sorted(names))})" for path, names in by_path.items()]


def _name(controllers: tuple[str, ...]) -> str:
    """As the snapshot names a hierarchy."""
    return ",".join(controllers) or "v2"


def _ids(lines: tuple[str, ...]) -> list[str]:
    """An id map in words (user_namespaces(7))."""
    said = []
    for line in lines:
        inside, outside, count = (int(n) for n in line.split())
        if (inside, outside, count) == (0, 0, 2**32 - 1):
            said.append("those of the host")
        elif count == 1:
            said.append(f"{inside} is {outside} outside")
        else:
            said.append(f"{inside} to {inside + count - 1} are {outside} to {outside + count - 1} outside")
    return said or ["none yet: nobody outside is mapped"]


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, str]]:
    """What the kernel says otherwise than before: ``where`` (the name on the display), ``was`` and ``now``."""
    old, new = _said(before), _said(after)
    out = []
    for where, now in new.items():
        was = old.get(where)
        if was is None:
            if not before.get("outside") and where.endswith(" namespace") and now["values"] == [OWN]:
                out.append({"where": where, "was": SHARED, "now": OWN})  # a new child: all else is the host's
        elif was["refused"] or now["refused"] or not now["count"]:
            if _line(was) != _line(now):
                out.append({"where": where, "was": _line(was), "now": _line(now)})
        elif was["values"] != now["values"]:
            out.append({"where": where, **_many(was["values"], now["values"])})
    return out


def _said(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All that is displayed, by its name."""
    outside, inside = state.get("outside"), state.get("inside")
    facts = list(outside["facts"]) if outside else []
    spaces = [_fact(f"{s['kind']} namespace", OWN if s["own"] else SHARED) for s in outside["namespaces"]] if outside else []
    said = {fact["name"]: fact for fact in [*spaces, *facts]}
    return {**said, **{f"inside: {fact['name']}": fact for fact in inside or ()}}


def _line(fact: dict[str, Any]) -> str:
    return fact["refused"] or (str(len(fact["values"])) if fact["count"] else "; ".join(fact["values"]))


def _many(was: list[str], now: list[str]) -> dict[str, str]:
    """Two long lists: their numbers, and one or two lines that came or else went."""
    came = [f"+ {line}" for line in now if line not in was]
    some = came or [f"− {line}" for line in was if line not in now]
    more = f" and {len(some) - 2} more" if len(some) > 2 else ""
    return {"was": str(len(was)), "now": str(len(now)) + (f" ({', '.join(some[:2])}{more})" if some else "")}


def refusal(error: Exception) -> dict[str, str]:
    """An error as the panel shows it: what, who refused, why, what helps, and the sentence of the man page."""
    said = {"title": "", "who": "", "why": "", "fix": "", "rule": "", "page": ""}
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error if isinstance(error, OSError) else None
    if isinstance(error, SetupError):
        name = error.op.name if error.op is not None else "Building the container"
        said["title"] = f"{name} was refused" + (f" with {_os_error(cause)}" if cause is not None else "")
        found = error.diagnosis
        if found is not None:
            said.update(who=WHO.get(found.layer, found.layer), why=found.why, fix=found.fix, rule=found.rule, page=found.page)
        elif cause is None:
            said["why"] = str(error)
    elif isinstance(error, Unsupported):
        said.update(title=f"Unsupported here: {error.feature}", why=error.reason, fix=error.fix)
    elif isinstance(error, NsbookError):
        said.update(title=type(error).__name__, why=str(error))
    else:
        said.update(title=f"{type(error).__name__}: {error}")
        if isinstance(error, OSError) and error.filename:
            said["why"] = os.fsdecode(error.filename)
    return said
