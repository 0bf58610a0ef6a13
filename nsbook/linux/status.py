"""A process as /proc/PID/status and /proc/PID/stat tell it: proc(5) (proc_pid_status(5), proc_pid_stat(5))."""

from __future__ import annotations

import os

from nsbook.frozen import Frozen
from nsbook.linux.files import read_bytes, read_file


class Status(Frozen):
    """Ids are real, effective, saved, file system. ``nspid`` is the process's number in each PID namespace, from the
    reader's down to its own. ``cap_*`` are bit masks. ``seccomp`` is the mode: 0 none, 1 strict, 2 filter.
    ``state`` is the letter (``R``, ``S``, ``D``, ``T``, ``Z`` ...). -1 where the kernel does not tell.
    """

    name: str
    pid: int
    ppid: int
    tgid: int
    nspid: tuple[int, ...]
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    cap_inh: int
    cap_prm: int
    cap_eff: int
    cap_bnd: int
    cap_amb: int
    no_new_privs: int
    seccomp: int
    seccomp_filters: int
    threads: int
    state: str


def status(pid: int | str = "self") -> Status:
    """The row of one process. FileNotFoundError or ProcessLookupError when it is gone."""
    return parse(read_file(f"/proc/{pid}/status"))


def parse(text: str) -> Status:
    """The row of a status file's text."""
    fields: dict[str, str] = {}
    for line in text.split("\n"):
        key, colon, value = line.partition(":")
        if colon:
            fields[key] = value[1:] if value[:1] == "\t" else value

    def number(key: str, base: int = 10) -> int:
        return int(fields[key], base) if key in fields else -1

    def numbers(key: str) -> tuple[int, ...]:
        return tuple([int(word) for word in fields.get(key, "").split()])

    return Status(
        name=_name(fields.get("Name", "")),
        pid=number("Pid"),
        ppid=number("PPid"),
        tgid=number("Tgid"),
        nspid=numbers("NSpid"),
        uids=numbers("Uid"),
        gids=numbers("Gid"),
        groups=numbers("Groups"),
        cap_inh=number("CapInh", 16),
        cap_prm=number("CapPrm", 16),
        cap_eff=number("CapEff", 16),
        cap_bnd=number("CapBnd", 16),
        cap_amb=number("CapAmb", 16),
        no_new_privs=number("NoNewPrivs"),
        seccomp=number("Seccomp"),
        seccomp_filters=number("Seccomp_filters"),
        threads=number("Threads"),
        state=fields.get("State", "")[:1],
    )


def _name(escaped: str) -> str:
    """The kernel writes a backslash as two and a newline as ``\\n``."""
    if "\\" not in escaped:
        return escaped
    return "\\".join(part.replace("\\n", "\n") for part in escaped.split("\\\\"))


def start_time(pid: int | str) -> int:
    """When the process started, in clock ticks since boot (field 22 of stat): with the pid it names a process for good.

    The name in field 2 may contain spaces and parentheses: what counts comes after the last one.
    """
    return int(read_bytes(f"/proc/{pid}/stat").rpartition(b")")[2].split()[19])


def children(pid: int | str) -> tuple[int, ...]:
    """The pids of the process's children, ascending. Read from /proc/PID/task/TID/children, or, in a kernel without
    those, from every process's status. An instant's picture: children come and go.
    """
    found: set[int] = set()
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            found.update(int(word) for word in read_bytes(f"/proc/{pid}/task/{task}/children").split())
        return tuple(sorted(found))
    except FileNotFoundError:
        parent = status(pid).pid  # raises when it is the process that is missing
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if int(read_bytes(f"/proc/{entry}/stat").rpartition(b")")[2].split()[1]) == parent:
                    found.add(int(entry))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return tuple(sorted(found))
