"""The diagnoser's rules for namespaces and credentials.

unshare(2), clone(2), setns(2), sethostname(2), capset(2), prctl(2), seccomp(2) and setresuid(2).
"""

from __future__ import annotations

from nsbook.linux import constants as C
from nsbook.linux import rules_idmaps
from nsbook.linux.rules import (
    EACCES,
    EAGAIN,
    EBADF,
    EBUSY,
    EINVAL,
    ENOENT,
    ENOMEM,
    ENOSPC,
    EOPNOTSUPP,
    EPERM,
    EROFS,
    ESRCH,
    EUSERS,
    Rule,
    always,
    argument,
    flag,
    foreign,
    has,
    lacks,
    place,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from nsbook.linux.rules import Facts

_MAKE = ("unshare", "clone3")
_OTHERS = sum(flag for kind, flag in C.NAMESPACES.items() if kind != "user")
_USERNS_FIRST = "Add CLONE_NEWUSER: since Linux 3.8 a user namespace needs no privilege, and in it the process has all capabilities."


def _user(facts: Facts) -> bool:
    return flag(facts, C.CLONE_NEWUSER)


def _chrooted(facts: Facts) -> str:
    if _user(facts) and facts.get("chrooted"):
        return "the process's root directory is not the root of its mount namespace"
    return ""


def _unmapped(facts: Facts) -> str:
    if not _user(facts) or "uid_map" not in facts:
        return ""
    for number, table in (("euid", "uid_map"), ("egid", "gid_map")):
        value = facts.get(number, 0)
        if not any(row["inside"] <= value < row["inside"] + row["count"] for row in facts.get(table, ())):
            return f"{number} {value} is not in this user namespace's {table} ({'empty' if not facts.get(table) else 'no range has it'})"
    return ""


def _switch(facts: Facts) -> str:
    if _user(facts) and facts.get("userns_clone") is False and not has(facts, "CAP_SYS_ADMIN"):
        return "the sysctl kernel.unprivileged_userns_clone is 0"
    return ""


def _ubuntu(facts: Facts) -> str:
    if facts.get("apparmor_userns") and (_user(facts) or not facts.get("initial_userns", True)):
        return "kernel.apparmor_restrict_unprivileged_userns is 1: only programs with an AppArmor profile that says `userns` may"
    return ""


def _needs_admin(facts: Facts) -> str:
    return "" if _user(facts) or not flag(facts, _OTHERS) else lacks("CAP_SYS_ADMIN")(facts)


def _limit(facts: Facts) -> str:
    flags = argument(facts, "flags") or 0
    for kind, value in facts.get("namespace_limits", {}).items():
        if flags & C.NAMESPACES[kind] and value == 0:
            return f"/proc/sys/user/max_{kind}_namespaces is 0 here"
    return ""


def _limit_above(facts: Facts) -> str:
    flags = argument(facts, "flags") or 0
    kinds = [kind for kind, value in C.NAMESPACES.items() if flags & value]
    limits = ", ".join(f"max_{k}_namespaces = {facts.get('namespace_limits', {}).get(k, '?')}" for k in kinds)
    nested = " (or the nesting, at most 32 deep, is at its end)" if flags & (C.CLONE_NEWUSER | C.CLONE_NEWPID) else ""
    return f"as many as allowed exist already, here ({limits}) or in a user namespace further up{nested}"


def _threads(facts: Facts) -> str:
    threads = facts.get("threads", 1)
    one_only = _user(facts) or flag(facts, C.CLONE_THREAD | C.CLONE_SIGHAND | C.CLONE_VM) or facts.get("call") == "setns"
    return f"the process has {threads} threads" if threads > 1 and one_only else ""


def _invalid_bits(facts: Facts) -> str:
    known = _OTHERS | C.CLONE_NEWUSER | C.CLONE_FS | C.CLONE_FILES | C.CLONE_SYSVSEM | C.CLONE_THREAD | C.CLONE_VM | C.CLONE_SIGHAND
    extra = (argument(facts, "flags") or 0) & ~known
    return f"unshare(2) knows no {C.flag_names(extra, 'CLONE_')}" if extra else ""


def _pid_again(facts: Facts) -> str:
    return "the process has unshared its PID namespace before" if flag(facts, C.CLONE_NEWPID) and facts.get("pid_unshared") else ""


def _init_parent(facts: Facts) -> str:
    return "the caller is process 1 of its PID namespace" if flag(facts, C.CLONE_PARENT) and facts.get("pid") == 1 else ""


def _both(one: int, other: int) -> Callable[[Facts], str]:
    def judge(facts: Facts) -> str:
        return f"the flags are {C.flag_names(argument(facts, 'flags'), 'CLONE_')}" if flag(facts, one) and flag(facts, other) else ""

    return judge


def _into(why: str) -> Callable[[Facts], str]:
    return lambda facts: why if (argument(facts, "cgroup") or 0) > 0 else ""


def _init_gone(facts: Facts) -> str:
    return "the first process of the PID namespace for this one's children has ended" if facts.get("pid_unshared") else ""


def _target(key: str, words: str) -> Callable[[Facts], str]:
    def judge(facts: Facts) -> str:
        target = facts.get("setns", {})
        if key == "closed":
            return words if target and not target.get("open") else ""
        if key == "same":
            return words if target.get("kind") == "user" and target.get("same") else ""
        if key == "type":
            wanted = argument(facts, "nstype") or 0
            kind = target.get("kind")
            if kind in C.NAMESPACES and wanted and not wanted & C.NAMESPACES[kind]:
                return f"the descriptor is a {kind} namespace, and {C.flag_names(wanted, 'CLONE_')} was asked for"
        if key == "pid":
            return words if target.get("kind") == "pid" else ""
        return ""

    return judge


def _setns_admin(facts: Facts) -> str:
    if facts.get("setns", {}).get("kind") == "mnt" and not has(facts, "CAP_SYS_CHROOT") and has(facts, "CAP_SYS_ADMIN"):
        return "entering a mount namespace also needs CAP_SYS_CHROOT"
    return lacks("CAP_SYS_ADMIN")(facts)


def _setns_owner(facts: Facts) -> str:
    kind = facts.get("setns", {}).get("kind", "")
    return f"the {kind or 'target'} namespace belongs to a user namespace in which the process has no CAP_SYS_ADMIN"


def _proc_read_only(facts: Facts) -> str:
    found = place(facts, "path")
    real = found.get("real", "")
    if found.get("read_only") and (real.startswith("/proc/") or found.get("mount", {}).get("fstype") == "proc"):
        return f"{found.get('mount', {}).get('mountpoint', '/proc')!r} is mounted read-only"
    return ""


def _capset(facts: Facts) -> str:
    new, old = argument(facts, "permitted") or 0, facts.get("cap_prm", 0)
    if new & ~old:
        return f"not permitted so far: {_names(new & ~old)}"
    extra = (argument(facts, "effective") or 0) & ~new
    return f"effective but not permitted: {_names(extra)}" if extra else ""


def _capset_inheritable(facts: Facts) -> str:
    extra = (argument(facts, "inheritable") or 0) & ~facts.get("cap_inh", 0)
    outside = extra & ~facts.get("cap_bnd", extra)
    if outside:
        return f"not in the bounding set: {_names(outside)}"
    extra &= ~facts.get("cap_prm", 0)
    return f"not permitted, and CAP_SETPCAP is missing: {_names(extra)}" if extra and not has(facts, "CAP_SETPCAP") else ""


def _names(mask: int) -> str:
    return ", ".join(name for number, name in enumerate(C.CAPABILITIES) if mask >> number & 1)


def _says(facts: Facts, option: str) -> bool:
    """Whether the prctl option stands in the call as it was noted."""
    return any(option in line for line in facts.get("notes", ()))


def _ambient(facts: Facts) -> str:
    cap = argument(facts, "cap")
    if not isinstance(cap, int) or not _says(facts, "PR_CAP_AMBIENT_RAISE"):
        return ""
    missing = [k for k, f in (("permitted", "cap_prm"), ("inheritable", "cap_inh")) if not facts.get(f, 0) >> cap & 1]
    return f"{_names(1 << cap)} is not {' and not '.join(missing)}" if missing else ""


def _filter_right(facts: Facts) -> str:
    if has(facts, "CAP_SYS_ADMIN") or facts.get("no_new_privs"):
        return ""
    return "no_new_privs is 0 and CAP_SYS_ADMIN is missing"


_ADMIN_OR_USER = f"Be root. Or: {_USERNS_FIRST}"
_LIMIT_FIX = "Raise the limit (as root: sysctl -w user.max_user_namespaces=...), or end what holds namespaces open."

RULES: tuple[Rule, ...] = (
    Rule(_MAKE, (EPERM,), "user namespace", "unshare(2)",
         "CLONE_NEWUSER was specified in flags and the caller is in a chroot environment (i.e., the caller's root directory does not "
         "match the root directory of the mount namespace in which it resides).", _chrooted,
         "Use pivot_root instead of chroot, or make the user namespace before the chroot."),
    Rule(_MAKE, (EPERM,), "user namespace", "unshare(2)",
         "CLONE_NEWUSER was specified in flags, but either the effective user ID or the effective group ID of the caller does not have "
         "a mapping in the parent namespace (see user_namespaces(7)).", _unmapped,
         "Write uid_map and gid_map of this user namespace first."),
    Rule(_MAKE, (EPERM,), "user-namespace limit", "Debian's kernel, kernel.unprivileged_userns_clone",
         "With 0 only a process with CAP_SYS_ADMIN makes user namespaces.", _switch,
         "As root: sysctl -w kernel.unprivileged_userns_clone=1"),
    Rule((*_MAKE, "mount", "write", "sethostname", "setgroups"), (EPERM, EACCES), "apparmor",
         "Ubuntu's kernel, kernel.apparmor_restrict_unprivileged_userns",
         "With 1 an unconfined program gets no capabilities in a user namespace that it makes.", _ubuntu,
         "Give the program a profile with `userns,`, or as root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
    Rule(_MAKE, (EPERM,), "capability", "clone(2)",
         "CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, or CLONE_NEWUTS was specified by an unprivileged "
         "process (process without CAP_SYS_ADMIN).", _needs_admin, _ADMIN_OR_USER),
    Rule(_MAKE, (ENOSPC, EUSERS), "user-namespace limit", "unshare(2)",
         "One of the values in flags specified the creation of a new user namespace, but doing so would have caused the limit defined by "
         "the corresponding file in /proc/sys/user to be exceeded.", _limit, _LIMIT_FIX),
    Rule(_MAKE, (ENOSPC, EUSERS), "user-namespace limit", "namespaces(7)",
         "Upon encountering these limits, clone(2) and unshare(2) fail with the error ENOSPC.", _limit_above, _LIMIT_FIX),
    Rule(("unshare",), (EINVAL,), "argument", "unshare(2)",
         "CLONE_THREAD, CLONE_SIGHAND, or CLONE_VM was specified in flags, and the caller is multithreaded.", _threads,
         "A user namespace (CLONE_NEWUSER implies CLONE_THREAD) is made by a process with one thread: fork, or use nsbook's launcher."),
    Rule(("unshare",), (EINVAL, ENOMEM), "argument", "unshare(2)",
         "CLONE_NEWPID was specified in flags, but the process has previously called unshare() with the CLONE_NEWPID flag.", _pid_again,
         "Fork, and let the child do it."),
    Rule(("unshare",), (EINVAL,), "argument", "unshare(2)", "An invalid bit was specified in flags.", _invalid_bits, "Leave it out."),
    Rule(("clone3",), (EINVAL,), "argument", "clone(2)",
         "CLONE_PARENT was specified, and the caller is an init process.", _init_parent, "Leave CLONE_PARENT out."),
    Rule(("clone3",), (EINVAL,), "argument", "clone(2)", "Both CLONE_FS and CLONE_NEWNS were specified in the flags mask.",
         _both(C.CLONE_FS, C.CLONE_NEWNS), "Leave CLONE_FS out."),
    Rule(("clone3",), (EINVAL,), "argument", "clone(2)", "Both CLONE_NEWUSER and CLONE_FS were specified in the flags mask.",
         _both(C.CLONE_FS, C.CLONE_NEWUSER), "Leave CLONE_FS out."),
    Rule(("clone3",), (ENOMEM,), "argument", "pid_namespaces(7)",
         'If the "init" process of a PID namespace terminates, the kernel terminates all of the processes in the namespace via a SIGKILL '
         "signal.", _init_gone, "Unshare the PID namespace in a new process, and keep its first child alive."),
    Rule(("clone3",), (EAGAIN,), "resource limit", "clone(2)", "Too many processes are already running; see fork(2).",
         always("RLIMIT_NPROC, the cgroup's pids.max, or the kernel's pid_max is reached"),
         "Raise pids.max or RLIMIT_NPROC, or end processes."),
    Rule(("clone3",), (EBUSY,), "cgroup", "clone(2)",
         "CLONE_INTO_CGROUP was specified in cl_args.flags, but the file descriptor specified in cl_args.cgroup refers to a version 2 "
         "cgroup in which a domain controller is enabled.", always("its cgroup.subtree_control is not empty"),
         "Use a leaf cgroup below it."),
    Rule(("clone3",), (EOPNOTSUPP,), "cgroup", "clone(2)",
         "CLONE_INTO_CGROUP was specified in cl_args.flags, but the file descriptor specified in cl_args.cgroup refers to a version 2 "
         "cgroup that is in the domain invalid state.", always("its cgroup.type says `domain invalid`"),
         "Write `threaded` to its cgroup.type."),
    Rule(("clone3",), (EACCES,), "cgroup", "clone(2)",
         "CLONE_INTO_CGROUP was specified in cl_args.flags, but the restrictions (described in cgroups(7)) on placing the child process "
         "into the version 2 cgroup referred to by cl_args.cgroup are not met.",
         _into("the process may not write cgroup.procs of that cgroup, or of the common ancestor"),
         "Let root delegate the cgroup: chown its directory, cgroup.procs and cgroup.subtree_control."),
    Rule(("clone3",), (EBADF, EINVAL), "argument", "clone(2)",
         "This file descriptor can be obtained by opening a cgroup v2 directory using either the O_RDONLY or the O_PATH flag.",
         _into("cgroup is not a descriptor of a cgroup v2 directory"),
         "Open a directory of the cgroup2 mount; a v1 cgroup is joined by writing to its cgroup.procs."),
    Rule(("setns",), (EBADF,), "argument", "setns(2)", "fd is not a valid file descriptor.",
         _target("closed", "the descriptor is not open"), ""),
    Rule(("setns",), (EINVAL,), "argument", "setns(2)",
         "The caller attempted to join the user namespace in which it is already a member.", _target("same", "it is the caller's own"),
         "Nothing is to do."),
    Rule(("setns",), (EINVAL,), "argument", "setns(2)",
         "fd refers to a namespace whose type does not match that specified in nstype.", _target("type", ""), "Correct nstype, or give 0."),
    Rule(("setns",), (EINVAL,), "argument", "setns(2)",
         "The caller is multithreaded and tried to join a new user namespace.",
         lambda facts: _threads(facts) if facts.get("setns", {}).get("kind") in ("user", "mnt", "time") else "",
         "Enter from a process with one thread: nsbook's launcher does."),
    Rule(("setns",), (EINVAL,), "argument", "setns(2)",
         "The caller tried to join an ancestor (parent, grandparent, and so on) PID namespace.",
         _target("pid", "only the own PID namespace and those below it can be entered"), "Start from a process outside."),
    Rule(("setns",), (EINVAL,), "argument", "setns(2)", "There is problem with reassociating the thread with the specified namespace.",
         always("the descriptor is no namespace that can be entered"), "Open /proc/PID/ns/KIND."),
    Rule(("setns",), (ESRCH,), "argument", "setns(2)",
         "fd is a PID file descriptor but the process it refers to no longer exists (i.e., it has terminated and been waited on).",
         always("the process has ended"), "Pin the namespace while it lives (open or bind-mount its /proc/PID/ns file)."),
    Rule(("setns",), (EPERM,), "capability", "setns(2)", "The calling thread did not have the required capability for this operation.",
         _setns_admin, "Be root, or enter the user namespace that owns it first."),
    Rule(("setns",), (EPERM,), "user namespace", "setns(2)", "The calling thread did not have the required capability for this operation.",
         _setns_owner, "Enter the user namespace that owns it first."),
    Rule(("sethostname", "setdomainname"), (EPERM,), "capability", "sethostname(2)",
         "For sethostname(), the caller did not have the CAP_SYS_ADMIN capability in the user namespace associated with its UTS namespace "
         "(see namespaces(7)).", lacks("CAP_SYS_ADMIN"), _ADMIN_OR_USER),
    Rule(("sethostname", "setdomainname"), (EPERM,), "user namespace", "sethostname(2)",
         "For sethostname(), the caller did not have the CAP_SYS_ADMIN capability in the user namespace associated with its UTS namespace "
         "(see namespaces(7)).", foreign("uts", "the UTS namespace"), "Unshare CLONE_NEWUTS too."),
    Rule(("sethostname", "setdomainname"), (EINVAL,), "argument", "sethostname(2)",
         "len is negative or, for sethostname(), len is larger than the maximum allowed size.",
         always("a host name has at most 64 bytes"), "Shorten it."),
    Rule(("write",), (EROFS, EACCES), "masked /proc", "open(2)",
         "pathname refers to a file on a read-only filesystem and write access was requested.", _proc_read_only,
         "Container runtimes mount /proc/sys read-only: start the outer container without that "
         "(Docker: --security-opt systempaths=unconfined)."),
    *rules_idmaps.RULES,
    Rule(("capset",), (EPERM,), "capability", "capset(2)",
         "An attempt was made to add a capability to the permitted set, or to set a capability in the effective set that is not in the "
         "permitted set.", _capset, "Capabilities can only be given up."),
    Rule(("capset",), (EPERM,), "capability", "capset(2)", "An attempt was made to add a capability to the inheritable set, and either:",
         _capset_inheritable, "Leave them out of the inheritable set."),
    Rule(("prctl",), (EPERM,), "capability", "prctl(2)",
         "option is PR_CAP_AMBIENT and arg2 is PR_CAP_AMBIENT_RAISE, but either the capability specified in arg3 is not present in the "
         "process's permitted and inheritable capability sets, or the PR_CAP_AMBIENT_LOWER securebit has been set.",
         _ambient, "Make it permitted and inheritable first (capset)."),
    Rule(("prctl",), (EPERM,), "capability", "prctl(2)",
         "option is PR_CAPBSET_DROP, and the caller does not have the CAP_SETPCAP capability.",
         lambda facts: lacks("CAP_SETPCAP")(facts) if _says(facts, "PR_CAPBSET_DROP") else "",
         "Drop from the bounding set before giving up CAP_SETPCAP."),
    Rule(("prctl",), (EPERM,), "capability", "prctl(2)",
         'option is PR_SET_SECUREBITS, and the caller does not have the CAP_SETPCAP capability, or tried to unset a "locked" flag, or '
         "tried to set a flag whose corresponding locked flag was set (see capabilities(7)).",
         lambda facts: "a bit is locked, or CAP_SETPCAP is missing" if _says(facts, "PR_SET_SECUREBITS") else "", ""),
    Rule(("prctl",), (EINVAL,), "argument", "prctl(2)", "The value of option is not recognized, or not supported on this system.",
         always("the option, or the capability number, is unknown to this kernel"), ""),
    Rule(("seccomp",), (EACCES,), "no_new_privs", "seccomp(2)",
         "The caller did not have the CAP_SYS_ADMIN capability in its user namespace, or had not set no_new_privs before using "
         "SECCOMP_SET_MODE_FILTER.", _filter_right, "prctl(PR_SET_NO_NEW_PRIVS, 1) first."),
    Rule(("seccomp",), (EINVAL,), "argument", "seccomp(2)",
         "operation specified SECCOMP_SET_MODE_FILTER, but the filter program pointed to by args was not valid or the length of the filter "
         "program was zero or exceeded BPF_MAXINSNS (4096) instructions.", always("the kernel's checker refused the program"),
         "Every path must end in a return, jumps go forward only, loads lie within struct seccomp_data."),
    Rule(("seccomp",), (EOPNOTSUPP,), "kernel", "seccomp(2)",
         "operation specified SECCOMP_GET_ACTION_AVAIL, but the kernel does not support the filter return action specified by args.",
         always("this kernel does not know the action"), ""),
    Rule(("setgroups",), (EPERM,), "user namespace", "setgroups(2)",
         "The use of setgroups() is denied in this user namespace.",
         lambda facts: "/proc/self/setgroups says 'deny'" if facts.get("setgroups") == "deny" else
         "gid_map is not written yet" if not facts.get("gid_map", True) else "",
         "Keep the groups; a map written by newgidmap leaves setgroups allowed."),
    Rule(("setgroups",), (EPERM,), "capability", "setgroups(2)",
         "The calling process has insufficient privilege (the caller does not have the CAP_SETGID capability in the user namespace in "
         "which it resides).", lacks("CAP_SETGID"), ""),
    Rule(("setresuid", "setresgid"), (EPERM,), "capability", "setresuid(2)",
         "The calling process is not privileged (did not have the necessary capability in its user namespace) and tried to change the IDs "
         "to values that are not permitted.",
         lambda facts: lacks("CAP_SETUID" if facts.get("call") == "setresuid" else "CAP_SETGID")(facts),
         "Change ids before giving up the capability."),
    Rule(("setresuid", "setresgid", "setgroups"), (EINVAL,), "user namespace", "setresuid(2)",
         "One or more of the target user or group IDs is not valid in this user namespace.",
         lambda facts: f"no range of the map has the id; the maps are {facts.get('uid_map')} and {facts.get('gid_map')}", "Map it."),
    Rule(("kill", "pidfd_send_signal"), (ESRCH,), "argument", "kill(2)", "The target process or process group does not exist.",
         always("it has ended"), ""),
    Rule(("kill", "pidfd_send_signal"), (EPERM,), "capability", "kill(2)",
         "The calling process does not have permission to send the signal to any of the target processes.",
         lacks("CAP_KILL", "the target runs as another user, and the process has no CAP_KILL"), ""),
    Rule(("pidfd_open",), (ESRCH, ENOENT), "argument", "pidfd_open(2)", "The process specified by pid does not exist.",
         always("it has ended"), ""),
)  # fmt: skip
