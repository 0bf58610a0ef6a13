"""The diagnoser's rules for programs, files and control groups: execve(2), mknod(2), openat2(2), cgroups(7)."""

from __future__ import annotations

import os

from nsbook.linux import constants as C
from nsbook.linux.rules import (
    E2BIG,
    EACCES,
    EAGAIN,
    EBUSY,
    EEXIST,
    EINVAL,
    ELOOP,
    ENODEV,
    ENOENT,
    ENOEXEC,
    ENOSPC,
    ENOTDIR,
    ENOTEMPTY,
    EOPNOTSUPP,
    EPERM,
    EROFS,
    ESRCH,
    ETXTBSY,
    EXDEV,
    Rule,
    always,
    argument,
    flag,
    lacks,
    place,
    written,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nsbook.linux.rules import Facts

_MACHINES = {3: "i386", 8: "MIPS", 20: "PowerPC", 21: "PowerPC64", 22: "S390", 40: "ARM", 62: "x86_64", 183: "aarch64", 243: "RISC-V"}
_MAKES = ("mkdir", "rmdir", "mknod", "symlink", "unlink", "openat2", "chmod", "chown", "write")


def _program(facts: Facts) -> str:
    return str(place(facts, "pathname", "path").get("path") or argument(facts, "pathname") or facts.get("filename"))


def _absent(facts: Facts) -> str:
    found = place(facts, "pathname", "path")
    return f"{found['path']!r} does not exist: the path ends at {found['missing_below']!r}" if found.get("missing_below") else ""


def _interpreter(facts: Facts) -> str:
    program = facts.get("program", {})
    if program.get("interpreter") and program.get("interpreter_exists") is False:
        what = (
            "its first line ends in a carriage return, so the interpreter is called"
            if program.get("crlf")
            else "the file is there, but it wants"
        )
        return f"{_program(facts)!r}: {what} {program['interpreter']!r}, which does not exist here"
    return ""


def _noexec(facts: Facts) -> str:
    found = place(facts, "pathname", "path")
    return f"{found['path']!r} lies in the mount at {found.get('mount', {}).get('mountpoint', '?')!r}" if found.get("noexec") else ""


def _not_executable(facts: Facts) -> str:
    found = place(facts, "pathname", "path")
    if found.get("kind") == "file" and not found.get("mode", 0o111) & 0o111:
        return f"{found['path']!r} has mode {found['mode']:o}: nobody may execute it"
    program = facts.get("program", {})
    if program.get("interpreter_exists") and program.get("interpreter_executable") is False:
        return f"its interpreter {program['interpreter']!r} may not be executed"
    if found.get("kind") == "file":
        owner = f"has mode {found['mode']:o} and belongs to {found['uid']}:{found['gid']}"
        return f"{found['path']!r} {owner}; the process is {facts.get('euid')}:{facts.get('egid')}"
    return ""


def _not_regular(facts: Facts) -> str:
    found = place(facts, "pathname", "path")
    return f"{found['path']!r} is a {found['kind']}" if found.get("kind") not in ("file", None) else ""


def _format(facts: Facts) -> str:
    program = facts.get("program", {})
    if "elf_machine" in program:
        name = _MACHINES.get(program["elf_machine"], f"machine {program['elf_machine']}")
        return f"{_program(facts)!r} is a {program['elf_class']}-bit ELF file for {name}"
    head = bytes.fromhex(program.get("head", ""))
    return f"{_program(facts)!r} is empty" if not head else f"{_program(facts)!r} begins with {head[:8]!r}: neither #! nor ELF"


def _unsearchable(facts: Facts) -> str:
    for found in facts.get("paths", {}).values():
        if found.get("unsearchable"):
            return f"uid {facts.get('euid')} may not pass through {found['unsearchable']!r}"
    return ""


def _read_only(facts: Facts) -> str:
    for found in facts.get("paths", {}).values():
        if found.get("read_only"):
            return f"{found['path']!r} lies in the mount at {found.get('mount', {}).get('mountpoint', '?')!r}, which is read-only"
    return ""


def _missing(facts: Facts) -> str:
    for name, found in facts.get("paths", {}).items():
        if found.get("missing_below"):
            return f"{name} {found['path']!r}: the path ends at {found['missing_below']!r}"
    return ""


def _may_not_write(facts: Facts) -> str:
    for found in facts.get("paths", {}).values():
        if found.get("writable") is False:
            return f"uid {facts.get('euid')} may not write there (mode {found.get('mode', 0):o}, owner {found.get('uid', '?')})"
    return ""


def _device(facts: Facts) -> bool:
    return (argument(facts, "mode") or 0) & 0o170000 in (0o020000, 0o060000)


def _mknod_userns(facts: Facts) -> str:
    if _device(facts) and not facts.get("initial_userns", True):
        return "CAP_MKNOD counts only in the initial user namespace, and this is another"
    return ""


def _group(facts: Facts) -> dict[str, Any]:
    found: dict[str, Any] = facts.get("cgroup", {})
    return found


def _cgroup(judge: Callable[[Facts, dict[str, Any], str], str]) -> Callable[[Facts], str]:
    """Of cgroup files only: the judge gets the facts, those of the cgroup, and the file's name."""
    return lambda facts: judge(facts, _group(facts), os.path.basename(place(facts, "path").get("real", ""))) if _group(facts) else ""


def _is(leaf: str, why: str, *, version: int = 0) -> Callable[[Facts], str]:
    return _cgroup(lambda facts, group, file: why if file == leaf and version in (0, group["version"]) else "")


def _not_offered(facts: Facts, group: dict[str, Any], file: str) -> str:
    controller = file.partition(".")[0]
    if group["version"] != 2 or controller in ("cgroup", "") or not place(facts, "path").get("missing_below"):
        return ""
    have = group.get("controllers", "").split()
    return "" if controller in have else f"the cgroup's cgroup.controllers says {' '.join(have) or 'nothing'!r}: {controller} is not there"


def _not_available(facts: Facts, group: dict[str, Any], file: str) -> str:
    if file != "cgroup.subtree_control":
        return ""
    have = group.get("controllers", "").split()
    wanted = [w[1:] for w in written(facts, "content").split() if w[:1] == "+" and w[1:] not in have]
    return f"{', '.join(wanted)} not among {' '.join(have) or '(none)'!r}" if wanted else ""


def _internal(facts: Facts, group: dict[str, Any], file: str) -> str:
    if group["version"] != 2:
        return ""
    if file == "cgroup.subtree_control" and group.get("processes"):
        return f"{group['processes']} processes are in {group['directory']!r} itself"
    if file == "cgroup.procs" and group.get("subtree_control"):
        return f"{group['directory']!r} gives {group['subtree_control']!r} to its children, so that no process may be in it"
    return ""


def _cpuset_empty(facts: Facts, group: dict[str, Any], file: str) -> str:
    empty = [name for name in ("cpuset.cpus", "cpuset.mems") if group.get(name) == ""]
    return f"{' and '.join(empty)} of {group['directory']!r} are empty" if empty and file in _JOIN else ""


def _in_use(facts: Facts, group: dict[str, Any], file: str) -> str:
    parts = [f"{group.get(key)} {word}" for key, word in (("processes", "processes"), ("children", "child cgroups")) if group.get(key)]
    return f"it has {' and '.join(parts)}" if parts else "a process is about to leave it, or has left it as a zombie"


def _cgroup_read_only(facts: Facts, group: dict[str, Any], file: str) -> str:
    return f"{place(facts, 'path').get('mount', {}).get('mountpoint')!r} is mounted read-only" if group.get("read_only") else ""


def _cgroup_owner(facts: Facts, group: dict[str, Any], file: str) -> str:
    found = place(facts, "path")
    if found.get("writable") is not False:
        return ""
    return f"{found['path']!r} belongs to uid {found.get('uid', group.get('uid'))}, the process is uid {facts.get('euid')}"


def _device_rule(facts: Facts, group: dict[str, Any], file: str) -> str:
    if group["version"] != 1 or file not in ("devices.allow", "devices.deny"):
        return ""
    return lacks("CAP_SYS_ADMIN")(facts) or ("" if facts.get("initial_userns", True) else "CAP_SYS_ADMIN of this user namespace is not it")


_JOIN = ("cgroup.procs", "tasks")
_RO_FIX = (
    "A container's cgroup file system is read-only unless it is privileged; use the guest (`nsbook guest run`), or have one delegated."
)
_DELEGATE = "Have a cgroup delegated (systemd-run --user --scope -p Delegate=yes, or root: chown its directory and cgroup.procs)."

RULES: tuple[Rule, ...] = (
    # execve
    Rule(("execve",), (ENOENT,), "file", "execve(2)", "The file pathname or a script or ELF interpreter does not exist.", _absent,
         "Install the program in the root file system, or correct the path."),
    Rule(("execve",), (ENOENT,), "file", "execve(2)", "The file pathname or a script or ELF interpreter does not exist.", _interpreter,
         "Put the interpreter (a shell, or the dynamic loader with its libraries) into the root file system, or use a static program."),
    Rule(("execve",), (EACCES,), "file", "execve(2)", "The filesystem is mounted noexec.", _noexec,
         "Run it from another mount, or mount without noexec."),
    Rule(("execve",), (EACCES,), "file", "execve(2)", "The file or a script interpreter is not a regular file.", _not_regular,
         "Name a program."),
    Rule(("execve",), (EACCES,), "file", "execve(2)",
         "Search permission is denied on a component of the path prefix of pathname or the name of a script interpreter.", _unsearchable,
         "chmod +x the directory."),
    Rule(("execve",), (EACCES,), "file", "execve(2)", "Execute permission is denied for the file or a script or ELF interpreter.",
         _not_executable,
         "chmod +x it."),
    Rule(("execve",), (ENOEXEC,), "argument", "execve(2)",
         "An executable is not in a recognized format, is for the wrong architecture, or has some other format error that means it cannot "
         "be executed.", _format, "Use a program for this machine, or give a script its #! line."),
    Rule(("execve",), (ETXTBSY,), "file", "execve(2)", "The specified executable was open for writing by one or more processes.",
         always("somebody still writes to it"), "Close it first."),
    Rule(("execve",), (E2BIG,), "argument", "execve(2)",
         "The total number of bytes in the environment (envp) and argument list (argv) is too large.",
         always("arguments and environment share a quarter of the stack limit; one string has at most 128 KiB"),
         "Pass the data by a file."),
    Rule(("execve",), (ENOTDIR,), "file", "execve(2)",
         "A component of the path prefix of pathname or a script or ELF interpreter is not a directory.",
         always("a file stands where the path has a directory"), "Correct the path."),
    # mknod
    Rule(("mknod",), (EPERM,), "capability", "mknod(2)",
         "mode requested creation of something other than a regular file, FIFO (named pipe), or UNIX domain socket, and the caller is not "
         "privileged (Linux: does not have the CAP_MKNOD capability); also returned if the filesystem containing pathname does not support "
         "the type of node requested.",
         lambda facts: lacks("CAP_MKNOD")(facts) if _device(facts) else "", "Bind the host's device node over an empty file instead."),
    Rule(("mknod",), (EPERM,), "user namespace", "mknod(2)",
         "mode requested creation of something other than a regular file, FIFO (named pipe), or UNIX domain socket, and the caller is not "
         "privileged (Linux: does not have the CAP_MKNOD capability)", _mknod_userns,
         "Bind the host's device node over an empty file instead."),
    Rule(("mknod",), (EPERM,), "cgroup", "cgroups(7)",
         "This supports controlling which processes may create (mknod) devices as well as open them for reading or writing.",
         lambda facts: "the process has CAP_MKNOD, so the cgroup's device rules are what is left" if _device(facts) else "",
         "Allow the device in the cgroup (v1: devices.allow; v2: a BPF program)."),
    Rule(("mknod", "mkdir", "symlink"), (EEXIST,), "file", "mknod(2)",
         "pathname already exists. This includes the case where pathname is a symbolic link, dangling or not.",
         always("something of that name is there"), "Remove it first."),
    # openat2
    Rule(("openat2",), (EXDEV,), "argument", "openat2(2)",
         "how.resolve contains either RESOLVE_IN_ROOT or RESOLVE_BENEATH, and an escape from the root during path resolution was detected.",
         lambda facts: "the path leads out of its root" if flag(facts, C.RESOLVE_IN_ROOT | C.RESOLVE_BENEATH, "resolve") else "",
         "Whoever made the path wanted out: do not follow it."),
    Rule(("openat2",), (EXDEV,), "argument", "openat2(2)",
         "how.resolve contains RESOLVE_NO_XDEV, and a path component crosses a mount point.",
         always("a mount lies on the way"), "Leave RESOLVE_NO_XDEV out, if that is meant."),
    Rule(("openat2",), (ELOOP,), "argument", "openat2(2)",
         "how.resolve contains RESOLVE_NO_SYMLINKS, and one of the path components was a symbolic link (or magic link).",
         lambda facts: "the path contains a symbolic link" if flag(facts, C.RESOLVE_NO_SYMLINKS, "resolve") else "", ""),
    Rule(("openat2",), (ELOOP,), "argument", "openat2(2)",
         "how.resolve contains RESOLVE_NO_MAGICLINKS, and one of the path components was a magic link.",
         lambda facts: "the path goes through a link of /proc/PID/fd and its like, or through more than 40 links"
         if flag(facts, C.RESOLVE_NO_MAGICLINKS, "resolve") else "", ""),
    Rule(("openat2",), (EAGAIN,), "kernel", "openat2(2)",
         'how.resolve contains either RESOLVE_IN_ROOT or RESOLVE_BENEATH, and the kernel could not ensure that a ".." component didn\'t '
         "escape (due to a race condition or potential attack).", always("something was renamed meanwhile"), "Try again."),
    Rule(("openat2",), (EINVAL,), "argument", "openat2(2)", "mode is nonzero, but how.flags does not contain O_CREAT or O_TMPFILE.",
         lambda facts: "" if not argument(facts, "mode") or flag(facts, os.O_CREAT) else f"mode is {argument(facts, 'mode'):o}",
         "Leave mode at 0."),
    Rule(("openat2",), (EINVAL,), "argument", "openat2(2)", "An unknown flag or invalid value was specified in how.",
         always("openat2 refuses what openat ignores"), ""),
    # cgroups
    Rule(("write", "mkdir", "rmdir"), (EROFS,), "read-only cgroup", "mkdir(2)", "pathname refers to a file on a read-only filesystem.",
         _cgroup(_cgroup_read_only), _RO_FIX),
    Rule(("write", "mkdir", "rmdir"), (EACCES,), "read-only cgroup", "mkdir(2)", "pathname refers to a file on a read-only filesystem.",
         _cgroup(_cgroup_read_only), _RO_FIX),
    Rule(("write",), (ENOENT, EACCES, EPERM), "cgroup", "cgroups(7)",
         "A cgroup's cgroup.subtree_control file determines the set of controllers that are exercised in the child cgroups.",
         _cgroup(_not_offered), "Write +CONTROLLER to cgroup.subtree_control of the parent first."),
    Rule(("write", "mkdir", "rmdir"), (EACCES, EPERM), "cgroup", "cgroups(7)",
         "In the context of cgroups, delegation means passing management of some subtree of the cgroup hierarchy to a nonprivileged user.",
         _cgroup(_cgroup_owner), _DELEGATE),
    Rule(("write",), (EPERM,), "cgroup", "security/device_cgroup.c of Linux",
         "Which devices a version 1 group may use is changed with CAP_SYS_ADMIN in the initial user namespace alone.",
         _cgroup(_device_rule), "Leave the device rules out: in a user namespace nobody can make a device node anyway."),
    Rule(("write",), (EACCES,), "cgroup", "cgroups(7)",
         "The writer has write permission on the cgroup.procs file in the nearest common ancestor of the source and destination cgroups.",
         _is("cgroup.procs", "the process to be moved comes from a cgroup outside of what was delegated"),
         "Let root place the first process, "
         "or start inside a delegated cgroup (systemd-run --user --scope -p Delegate=yes)."),
    Rule(("write",), (ENOENT,), "cgroup", "cgroups(7)",
         "An attempt to enable a controller that is not present in cgroup.controllers leads to an ENOENT error when writing to the "
         "cgroup.subtree_control file.", _cgroup(_not_available),
         "Enable it in the parent first; a controller that a v1 hierarchy has is not there for v2."),
    Rule(("write",), (EBUSY,), "cgroup", "cgroups(7)",
         "this rule means that, with the exception of the root cgroup, processes may reside only in leaf nodes (cgroups that do not "
         "themselves contain child cgroups).", _cgroup(_internal), "Move the processes into a leaf cgroup below."),
    Rule(("write",), (ENOSPC,), "cgroup", "cpuset(7)",
         "Attempted to write(2) the process ID (PID) of a process to a cpuset tasks file when the cpuset had an empty cpuset.cpus or empty "
         "cpuset.mems setting.", _cgroup(_cpuset_empty), "Copy cpuset.cpus and cpuset.mems from the parent first."),
    Rule(("write",), (EOPNOTSUPP,), "cgroup", "cgroups(7)",
         'If any of the above constraints is violated, then an attempt to write "threaded" to a cgroup.type file fails with the error '
         "ENOTSUP.",
         _cgroup(lambda facts, group, file: f"the cgroup's type is {group.get('type', '?')!r}"), "See cgroups(7), thread mode."),
    Rule(("write",), (ESRCH,), "argument", "cgroups(7)",
         "A process may be moved to this cgroup by writing its PID into the cgroup's cgroup.procs file:",
         _cgroup(lambda facts, group, file: f"there is no process {written(facts, 'content').strip()!r}" if file in _JOIN else ""),
         "It has ended, or its number is one of another PID namespace."),
    Rule(("write",), (EBUSY,), "cgroup", "Documentation/admin-guide/cgroup-v1/memory.rst",
         "A limit can't be set below what is in use and can't be reclaimed.",
         _cgroup(lambda facts, group, file: f"{group.get('memory.usage_in_bytes', '?')} bytes are used" if file[:7] == "memory." else ""),
         "Free memory first, or raise the limit."),
    Rule(("write",), (EINVAL,), "argument", "Documentation/admin-guide/cgroup-v2.rst",
         "The value does not have the form that the file takes.",
         _cgroup(lambda facts, group, file: f"{file} does not take {written(facts, 'content')!r}"), "Read the file: it shows the form."),
    Rule(("mkdir",), (EAGAIN,), "cgroup", "cgroups(7)",
         "An attempt to create a descendant whose nesting level exceeds the limit fails (mkdir(2) fails with the error EAGAIN).",
         _cgroup(lambda facts, group, file: f"max.depth is {group.get('max.depth')}, max.descendants {group.get('max.descendants')}"),
         "Raise them in the ancestor."),
    Rule(("rmdir",), (EBUSY, ENOTEMPTY), "cgroup", "cgroups(7)",
         "To remove a cgroup, it must first have no child cgroups and contain no (nonzombie) processes.", _cgroup(_in_use),
         "Kill or move its processes (v2: write 1 to cgroup.kill), and remove its children first."),
    # any path
    Rule(_MAKES, (EROFS,), "file", "mkdir(2)", "pathname refers to a file on a read-only filesystem.", _read_only,
         "Write elsewhere: a volume, a tmpfs."),
    Rule(_MAKES, (ENOENT,), "file", "mknod(2)", "A directory component in pathname does not exist or is a dangling symbolic link.",
         _missing,
         "Make it first."),
    Rule(_MAKES, (EACCES,), "file", "open(2)",
         "search permission is denied for one of the directories in the path prefix of pathname", _unsearchable, "chmod +x the directory."),
    Rule(_MAKES, (EACCES, EPERM), "file", "open(2)", "The requested access to the file is not allowed", _may_not_write,
         "Act as its owner, or have its mode changed."),
    Rule(("rmdir",), (EBUSY,), "file", "rmdir(2)",
         "pathname is currently in use by the system or some process that prevents its removal.",
         lambda facts: f"{place(facts, 'path').get('path')!r} is a mount point" if place(facts, "path").get("mountpoint") else "",
         "Unmount it first."),
    Rule(("chroot",), (EPERM,), "capability", "chroot(2)", "The caller has insufficient privilege.", lacks("CAP_SYS_CHROOT"),
         "Make a user namespace first."),
    Rule(("setxattr",), (EPERM,), "capability", "xattr(7)",
         "Trusted extended attributes are visible and accessible only to processes that have the CAP_SYS_ADMIN capability.",
         lambda facts: lacks("CAP_SYS_ADMIN")(facts) if str(argument(facts, "name")).startswith("trusted.") else "",
         "Use user.overlay.* and mount the overlay with userxattr."),
    Rule(("ioctl",), (EPERM,), "capability", "netdevice(7)",
         "Setting the active flag word is a privileged operation", lacks("CAP_NET_ADMIN"), "Do it in a network namespace of one's own."),
    Rule(("ioctl",), (ENODEV,), "argument", "netdevice(7)",
         "Normally, the user specifies which device to affect by setting ifr_name to the name of the interface",
         lambda facts: f"this network namespace has no interface {argument(facts, 'interface')!r}", ""),
)  # fmt: skip
