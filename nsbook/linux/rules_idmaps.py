"""The diagnoser's rules for id maps: the files uid_map, gid_map and setgroups of user_namespaces(7)."""

from __future__ import annotations

from nsbook.linux.rules import EINVAL, EPERM, Rule, has, written

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nsbook.linux.rules import Facts


def _map(facts: Facts) -> dict[str, str]:
    found: dict[str, str] = facts.get("id_map", {})
    return found


def _map_again(facts: Facts) -> str:
    file = _map(facts).get("file", "")
    return f"it says {_map(facts)[file]!r} already" if file.endswith("_map") and _map(facts).get(file) else ""


def _map_rows(facts: Facts) -> list[list[int]]:
    try:
        return [[int(word) for word in line.split()] for line in written(facts, "content").split("\n") if line.strip()]
    except ValueError:
        return []


def _map_form(facts: Facts) -> str:
    if not _map(facts).get("file", "").endswith("_map"):
        return ""
    rows = _map_rows(facts)
    if not rows or any(len(row) != 3 or row[2] < 1 for row in rows):
        return f"{written(facts, 'content')!r} is not lines of three numbers, the last above 0"
    for number, row in enumerate(rows):
        for other in rows[number + 1 :]:
            if any(row[i] < other[i] + other[2] and other[i] < row[i] + row[2] for i in (0, 1)):
                return f"the ranges {row} and {other} overlap"
    return ""


def _map_setgroups(facts: Facts) -> str:
    if _map(facts).get("file") == "gid_map" and _map(facts).get("setgroups") == "allow" and not has(facts, "CAP_SETGID"):
        return "its setgroups file still says 'allow', and the process has no CAP_SETGID in the parent user namespace"
    if _map(facts).get("file") == "gid_map" and _map(facts).get("setgroups") == "allow" and _map(facts).get("same_userns"):
        return "its setgroups file still says 'allow', and the process is inside, so that its CAP_SETGID is not the parent's"
    return ""


def _map_others(facts: Facts) -> str:
    file = _map(facts).get("file", "")
    if not file.endswith("_map"):
        return ""
    capability = "CAP_SETUID" if file == "uid_map" else "CAP_SETGID"
    if has(facts, capability) and not _map(facts).get("same_userns"):
        return ""
    rows = _map_rows(facts)
    own = facts.get("euid" if file == "uid_map" else "egid")
    if not _map(facts).get("same_userns") and len(rows) == 1 and tuple(rows[0][1:]) == (own, 1):
        return ""  # that would be allowed
    if len(rows) > 1 or (rows and rows[0][2] > 1):
        count = sum(row[2] for row in rows)
        return f"without {capability} in the parent user namespace only one id, the writer's own, can be mapped; this maps {count}"
    text = written(facts, "content")
    return f"without {capability} in the parent user namespace only the writer's own id can be mapped, and the text was {text!r}"


def _map_fcap(facts: Facts) -> str:
    if _map(facts).get("file") == "uid_map" and any(r[1] == 0 for r in _map_rows(facts)) and not has(facts, "CAP_SETFCAP"):
        return "the map contains uid 0 of the parent user namespace, and the process has no CAP_SETFCAP"
    return ""


def _setgroups_late(facts: Facts) -> str:
    if _map(facts).get("file") != "setgroups":
        return ""
    if written(facts, "content").strip() == "allow" and _map(facts).get("setgroups") == "deny":
        return "it says 'deny', for good"
    return f"gid_map says {_map(facts)['gid_map']!r} already" if _map(facts).get("gid_map") else ""


_MAP_FIX = "Map a single id (the own one), or let newuidmap and newgidmap write the map: they know /etc/subuid and /etc/subgid."

RULES: tuple[Rule, ...] = (
    Rule(("write",), (EPERM,), "user namespace", "user_namespaces(7)",
         "An attempt to write more than once to a uid_map file in a user namespace fails with the error EPERM. Similar rules apply for "
         "gid_map files.", _map_again, "Make a new user namespace."),
    Rule(("write",), (EINVAL,), "argument", "user_namespaces(7)",
         "The three fields must be valid numbers, and the last field must be greater than 0.", _map_form,
         "One range a line: INSIDE OUTSIDE COUNT."),
    Rule(("write",), (EPERM,), "user namespace", "user_namespaces(7)",
         'In the case of gid_map, use of the setgroups(2) system call must first be denied by writing "deny" to the /proc/pid/setgroups '
         "file (see below) before writing to gid_map.", _map_setgroups, "Write deny to /proc/PID/setgroups first."),
    Rule(("write",), (EPERM,), "user namespace", "user_namespaces(7)",
         "The data written to uid_map (gid_map) must consist of a single line that maps the writing process's effective user ID (group "
         "ID) in the parent user namespace to a user ID (group ID) in the user namespace.", _map_others, _MAP_FIX),
    Rule(("write",), (EPERM,), "user namespace", "user_namespaces(7)",
         "if writing process is in the parent user namespace, then it must have the CAP_SETFCAP capability in that user namespace",
         _map_fcap, "Keep CAP_SETFCAP until the map is written, or leave uid 0 out."),
    Rule(("write",), (EPERM,), "user namespace", "user_namespaces(7)",
         "Once /proc/pid/gid_map has been written to (which has the effect of enabling setgroups(2) in the user namespace), it is no "
         'longer possible to disallow setgroups(2) by writing "deny" to /proc/pid/setgroups (the write fails with the error EPERM).',
         _setgroups_late, "Write setgroups before gid_map."),
    Rule(("write",), (EPERM,), "user namespace", "user_namespaces(7)",
         "The mapped user IDs (group IDs) must in turn have a mapping in the parent user namespace.",
         lambda facts: "an id on the outer side has no mapping where the writer is" if "map" in _map(facts).get("file", "") else "",
         _MAP_FIX),
)  # fmt: skip
