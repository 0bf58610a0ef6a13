"""A plan as one shell script: every op's shell form, in the plan's order, so that all of it can be read, kept and run.

A shell can't enter a namespace itself: ``unshare`` and its kin start a program inside of one. So the script starts
itself again, as often as a *wrapper* op comes, and ``NSBOOK_STAGE`` says how far it has got. Stage 0 is the host's side:
it makes what lies on the host, starts stage 1 (the container), waits for its end and takes everything back, also after
an error or a signal. Where the host has something to do while the container waits (id maps), the two meet by fifos; each
learns of the other's end by the end of file.

After ``pivot_root`` there are only the image's own programs. What these can't do is said on standard error, by the op's
number, and left out; the last wrappers (``setpriv``) become words before the command. Follows unshare(1), nsenter(1),
setpriv(1), pivot_root(8), and for the shell POSIX.1-2024 XCU 2; ``env --default-signal`` is GNU's, since a shell hands
on its background commands with SIGINT ignored.
"""

from __future__ import annotations

from nsbook.spawn.ops import (
    Barrier,
    ChangeDirectory,
    Clone,
    EnterForChildren,
    Exec,
    Fork,
    LoopbackUp,
    Op,
    PivotRoot,
    RemountRoot,
    RemoveCgroup,
    SetDomainname,
    SetHostname,
    Setns,
    SetRlimit,
    SetTimeOffset,
    SetUmask,
    SetUser,
    Unshare,
)
from nsbook.spawn.ops.base import quote
from nsbook.spawn.ops.namespaces import LONG_OPTION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nsbook.spawn.plan import Plan

LIMIT_LETTERS: dict[str, tuple[str, int]] = {
    "RLIMIT_CPU": ("t", 1),
    "RLIMIT_NOFILE": ("n", 1),
    "RLIMIT_STACK": ("s", 1024),
    "RLIMIT_DATA": ("d", 1024),
    "RLIMIT_AS": ("v", 1024),
    "RLIMIT_MEMLOCK": ("l", 1024),
    "RLIMIT_CORE": ("c", 512),
    "RLIMIT_FSIZE": ("f", 512),
}
"""``ulimit``'s letter and unit in bytes, where dash, busybox and bash agree."""
PROGRAMS: dict[type[Op], str] = {LoopbackUp: "ip", SetHostname: "hostname", SetDomainname: "domainname", RemountRoot: "mount"}
"""What the image must have for the statements that come after ``pivot_root``."""


def script(plan: Plan) -> str:
    """The script's text."""
    return _Writer(plan).text()


class _Writer:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.stages: list[list[str]] = [[]]
        self.in_image = False
        self.by_words = False
        """The namespaces of a running container were entered: all that follows is words before its command."""
        self.user_changes = False
        """Words that are waiting make the command another user's: a statement must wait with them."""
        clone = next((i for i, op in enumerate(plan.ops) if isinstance(op, Clone)), len(plan.ops))
        hosts = [i for i, op in enumerate(plan.ops) if i > clone and op.where == "host"]
        meeting = [i for i, op in enumerate(plan.ops) if i > clone and isinstance(op, Barrier)]
        last = next((i for i in meeting if hosts and i > hosts[-1]), -1)
        self.meetings = tuple(i for i in meeting if i <= last)
        """The barriers at which somebody really waits."""
        self.clone = clone
        root = next((op.root for op in plan.ops if isinstance(op, PivotRoot)), "")
        self.root = root if quote(root) == root else ""
        """It stands in every other line: there it is written ``$root``, if that needs no quotes."""

    # ---- putting it together

    def text(self) -> str:
        self._host()
        self._child()
        out = self._header()
        out += ["case ${NSBOOK_STAGE:-0} in"]
        for number, lines in enumerate(self.stages):
            out += [f"{number})", *[f"    {self._short(line)}" for line in lines], "    ;;"]
        out += ["esac", ""]
        return "\n".join(out)

    def _header(self) -> list[str]:
        plan = self.plan
        root = not any(isinstance(op, Clone) and "user" in op.namespaces for op in plan.ops)
        out = ["#!/bin/sh", f"# {_line(plan.title)}: its {len(plan.ops)} ops as one shell script, written by nsbook."]
        out.append(
            "# It needs root" + (", " if root else " (or an ordinary user, as far as the id maps are theirs to write), ") + "util-linux and"
        )
        out.append("# coreutils. It takes everything back when the command ends, and ends with the command's status.")
        missing = {f"{op.name}: {op.shell().text}" for op in plan.ops if op.shell().kind == "none"}
        if missing:
            out += ["# Ops that have no shell form:", *[f"#   {_line(m)}" for m in sorted(missing)]]
        out += [f"# Note: {_line(w)}" for w in plan.warnings]
        out += [
            "set -eu",
            'self=$(readlink -f -- "$0")',
            *([f"root={self.root}"] if self.root else []),
            'not_done() { echo "not done: op $*" >&2; }',
            'have() { command -v "$1" > /dev/null 2>&1; }',
            "",
        ]
        return out

    def _short(self, line: str) -> str:
        return line.replace(self.root, "$root") if self.root and "'" not in line and not line.startswith("#") else line

    def _host(self) -> None:
        plan, out = self.plan, self.stages[0]
        prefix = ""
        slots = {getattr(op, "fd", "") for op in plan.ops if isinstance(op, Setns)} - {""}
        if slots:
            out += [': "${target:?set it to the process id of the first process of the container that is to be entered}"', "export target"]
        out += self._undo()
        for index, op in enumerate(plan.ops[: self.clone]):
            if op.where == "host":
                if isinstance(op, EnterForChildren):
                    out.append(_comment(index, op) + " (with the next)")
                    prefix += f"{op.shell().text} --no-fork "
                else:
                    out += self._statement(index, op)
        if self.clone == len(plan.ops):
            return
        clone = plan.ops[self.clone]
        assert isinstance(clone, Clone)
        if self.meetings:
            out += [
                "# Two fifos for the barriers: up (the container writes) and down.",
                'mkfifo "$there/up" "$there/down"',
                'exec 4<> "$there/up"; exec 5< "$there/up" 6> "$there/up" 4>&-',
                'exec 4<> "$there/down"; exec 7< "$there/down" 8> "$there/down" 4>&-',
            ]
        out.append(_comment(self.clone, clone))
        made = " ".join(f"--{LONG_OPTION[kind]}" for kind in clone.namespaces)
        unshare = f"unshare {made} --fork --kill-child " if made else ""
        ends = " 5<&- 8>&-" if self.meetings else ""
        out += [
            f'exec 3<&0; NSBOOK_STAGE=1 env --default-signal=INT,QUIT {prefix}{unshare}sh "$self" <&3 3<&-{ends} &',
            "child=$!",
        ]
        if self.meetings:
            out.append("exec 6>&- 7<&-")
        for index, op in enumerate(plan.ops):
            if index in self.meetings:
                if index != self.meetings[0]:
                    out.append("echo go >&8")
                if index != self.meetings[-1]:
                    out += [_comment(index, op), 'read at <&5 || { wait "$child"; exit; }']
            elif index > self.clone and op.where == "host":
                out += self._statement(index, op)
        out += ['status=0; wait "$child" || status=$?', "exit $status"]

    def _undo(self) -> list[str]:
        forks = any(isinstance(op, Clone) and op.namespaces for op in self.plan.ops)
        out = [
            'again() { n=0; until "$@"; do n=$((n + 1)); [ $n -lt 200 ] || return 1; sleep 0.05; done; }',
            "child= there=$(mktemp -d)",
            "undo() {",
            "    trap '' INT TERM HUP; set +e",
            # unshare(1) ends with its child. Its --kill-child would not reach one that has changed its user since.
            '    [ -z "$child" ] || first=$(cat "/proc/$child/task/$child/children" 2> /dev/null)',
            '    [ -z "$child" ] || { kill -9 ' + ('${first:-"$child"}' if forks else '"$child"') + '; wait "$child"; } 2> /dev/null',
            '    rm -rf "$there"',
        ]
        for op in self.plan.undo():
            if isinstance(op, RemoveCgroup):
                out += [f"    [ ! -d {quote(p)} ] || again rmdir {quote(p)} 2> /dev/null" for p in op.paths]
            else:
                out.append(f"    {op.shell().text}")
        return [*out, "}", "trap undo EXIT", "trap 'exit 129' HUP; trap 'exit 130' INT; trap 'exit 143' TERM"]

    # ---- the container's side

    def _child(self) -> None:
        ops = self.plan.ops
        if self.clone == len(ops):
            return
        self.stages.append([])
        clone = ops[self.clone]
        assert isinstance(clone, Clone)
        if clone.cgroup:
            self.stages[-1] += ["# be in the control group from the beginning", f"echo 0 > {quote(clone.cgroup + '/cgroup.procs')}"]
        index = self.clone + 1
        while index < len(ops):
            op = ops[index]
            if op.where != "host":
                index = self._op(index, op)
            index += 1

    def _op(self, index: int, op: Op) -> int:
        """Write one op, or several that go together; the index of the last one comes back."""
        ops, out = self.plan.ops, self.stages[-1]
        if isinstance(op, Barrier):
            self._barrier(index, op)
        elif isinstance(op, Unshare):
            return self._unshare(index, op)
        elif isinstance(op, Setns):
            out += [_comment(index, op), f"set -- {op.shell().text}"]
            self.in_image = self.by_words = "mnt" in op.namespaces
            if index + 1 < len(ops) and isinstance(ops[index + 1], Fork):
                out.append(_comment(index + 1, ops[index + 1]) + " (nsenter does)")
                return index + 1
        elif isinstance(op, Exec):
            self._exec(index, op)
        elif op.shell().kind == "none":
            out.append(f"{_comment(index, op)} (no shell form)")
        elif op.shell().kind == "wrapper":
            return self._wrapper(index, op)
        else:
            out += self._statement(index, op)
            if isinstance(op, PivotRoot):
                self.in_image = True
                out += ["hash -r", "set --"]
        return index

    def _barrier(self, index: int, op: Barrier) -> None:
        out = self.stages[-1]
        if index not in self.meetings:
            out.append(f"{_comment(index, op)} (a script has nothing to wait for here)")
            return
        out += [_comment(index, op)]
        if index != self.meetings[-1]:
            out.append("echo at >&6")
        if index != self.meetings[0]:
            out += ["read go <&7 || exit 125"]
        if index == self.meetings[-1]:
            out.append("exec 6>&- 7<&-")
            if any(isinstance(o, Clone) and "user" in o.namespaces for o in self.plan.ops):
                out.append(
                    '[ "$(id -u)" = 0 ] || { echo "user $(id -u) inside: this script can only map the caller to user 0" >&2; exit 125; }'
                )

    def _unshare(self, index: int, op: Unshare) -> int:
        """Neighbours are one call of unshare(1), and so are the offsets of a new time namespace's clocks."""
        ops, out = self.plan.ops, self.stages[-1]
        words, last = op.shell().text.removeprefix("unshare "), index
        out.append(_comment(index, op))
        while last + 1 < len(ops):
            following = ops[last + 1]
            if isinstance(following, Unshare):
                words += " " + following.shell().text.removeprefix("unshare ")
            elif isinstance(following, SetTimeOffset):
                words += f" {following.option()}"
            else:
                break
            last += 1
            out.append(_comment(last, following))
        self._next_stage(f"unshare {words}")
        return last

    def _next_stage(self, prefix: str) -> None:
        number = len(self.stages)
        self.stages[-1].append(f'NSBOOK_STAGE={number} exec {prefix} sh "$self"')
        self.stages.append([])

    def _wrapper(self, index: int, op: Op) -> int:
        out = self.stages[-1]
        if not self.in_image:
            text = op.shell().text
            out.append(_comment(index, op))
            self._next_stage(f"{text} --kill-child" if isinstance(op, Fork) else text)
            return index
        last, text, labels = self._joined(index, op)
        for number in range(index, last + 1):
            following = self.plan.ops[number]
            out.append(_comment(number, following) + ("" if following.shell().kind == "wrapper" else " (no shell form)"))
            if isinstance(following, SetUser) and following.uid:
                self.user_changes = True
        # "true" is the trial: a busybox's setpriv knows fewer options than util-linux's. Another user is no small thing.
        otherwise = "; ".join(f"not_done {label}" for label in labels)
        if self.user_changes and any(label.endswith(" SetUser") for label in labels):
            otherwise += "; exit 125"
        out.append(f'if "$@" {text} true 2> /dev/null; then set -- "$@" {text}; else {otherwise}; fi')
        return last

    def _joined(self, index: int, op: Op) -> tuple[int, str, list[str]]:
        """Neighbouring words of setpriv(1) are one call: the first exec after the bounding set was dropped has no more than
        that, and could not change ids. The last op's number, the words, and what they stand for."""
        text, labels, last = op.shell().text, [_label(index, op)], index
        number = index + 1
        while text.startswith("setpriv ") and number < len(self.plan.ops):
            following = self.plan.ops[number]
            form = following.shell()
            if form.kind == "wrapper" and form.text.startswith("setpriv "):
                text += form.text.removeprefix("setpriv")
                labels.append(_label(number, following))
                last = number
            elif form.kind != "none" or isinstance(following, Barrier):
                break
            number += 1
        return last, text, labels

    def _statement(self, index: int, op: Op) -> list[str]:
        text = op.shell().text
        if isinstance(op, SetRlimit):
            text = self._limit(index, op)
        elif self.in_image and not self.by_words and type(op) in PROGRAMS:
            text = f"if have {PROGRAMS[type(op)]}; then {text}; else not_done {_label(index, op)}; fi"
        if self.by_words or (self.user_changes and isinstance(op, ChangeDirectory | SetUmask)):
            text = f'set -- "$@" sh -c {quote(text + "; " + EXEC_REST)} sh'
        return [_comment(index, op), text]

    def _limit(self, index: int, op: SetRlimit) -> str:
        letter, unit = LIMIT_LETTERS.get(op.resource, ("", 1))
        if not letter:
            return f"if have prlimit; then {op.shell().text}; else not_done {_label(index, op)}; fi"
        soft, hard = [("unlimited" if v < 0 or v >= 2**63 else str(v // unit)) for v in (op.soft, op.hard)]
        return f"ulimit -S -{letter} {soft}; ulimit -H -{letter} {hard}"

    def _exec(self, index: int, op: Exec) -> None:
        out = self.stages[-1]
        out.append(_comment(index, op))
        command = " ".join(map(quote, op.argv))
        env = " ".join(map(quote, op.env))
        words = '"$@" ' if self.in_image else ""
        out.append(f"exec {words}env -i {env} {command}")


EXEC_REST = 'exec "$@"'


def _line(text: str) -> str:
    return " ".join(text.split())


def _label(index: int, op: Op) -> str:
    return f"{index} {op.name}"


def _comment(index: int, op: Op) -> str:
    return f"# {index} {op.name}: {_line(op.what())}"
