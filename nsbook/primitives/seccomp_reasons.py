"""Why a container is denied a system call, in a sentence each, after the table "Significant syscalls blocked by the default
profile" of https://docs.docker.com/engine/security/seccomp/ and the calls' man pages; and the summary of a filter.
"""

from __future__ import annotations

from nsbook.inspectable import Sheet
from nsbook.linux.syscalls import name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nsbook.primitives.seccomp import SeccompFilter

GROUPS: dict[str, tuple[str, str]] = {
    "namespaces": (
        "unshare setns clone clone3",
        (
            "It makes or enters namespaces. A new user namespace hands its maker every capability inside it, and with them all the"
            " kernel code that only root reached before. (Processes and threads without new namespaces are made as ever.)"
        ),
    ),
    "mounts": (
        "mount umount umount2 pivot_root open_tree open_tree_attr move_mount fsopen fsconfig fsmount fspick mount_setattr",
        ("It changes what is mounted, which is how a container's view of the file system is held together. It needs CAP_SYS_ADMIN."),
    ),
    "io_uring": (
        "io_uring_setup io_uring_enter io_uring_register",
        "io_uring carries out other system calls from a queue, past this filter, and has had a long row of holes.",
    ),
    "kernel modules": (
        "create_module delete_module init_module finit_module get_kernel_syms query_module",
        "It puts code into the kernel that all containers share. It needs CAP_SYS_MODULE.",
    ),
    "the running kernel": (
        "kexec_load kexec_file_load reboot bpf perf_event_open userfaultfd acct swapon swapoff",
        "It acts on the whole machine, or reaches deep into its kernel, and the kernel is shared.",
    ),
    "the clock": (
        "settimeofday stime clock_settime clock_settime64",
        "The time of day is not kept apart by any namespace: setting it sets it for the whole machine. It needs CAP_SYS_TIME.",
    ),
    "keys": (
        "add_key request_key keyctl",
        "The kernel's keyrings are not kept apart by any namespace but the user's.",
    ),
    "other processes": (
        "ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise lookup_dcookie",
        (
            "It looks into other processes. ptrace and the process_vm pair are allowed from kernel 4.8 on (before, ptrace could be"
            " used to get around this filter); the others need CAP_SYS_PTRACE."
        ),
    ),
    "memory placement": (
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node migrate_pages move_pages",
        "It moves memory between the machine's nodes, which can slow others down. Most need CAP_SYS_NICE.",
    ),
    "hardware ports": ("iopl ioperm", "It opens the machine's I/O ports to the process. It needs CAP_SYS_RAWIO."),
    "names and limits": (
        "sethostname setdomainname quotactl quotactl_fd syslog vhangup fanotify_init open_by_handle_at",
        (
            "It administers what root administers: host and domain name, quotas, the kernel's log, terminals, watches on whole"
            " file systems; or opens files by handle, past the paths (a known way out of a container). A capability is needed."
        ),
    ),
    "security modules": (
        "lsm_get_self_attr lsm_set_self_attr lsm_list_modules security",
        "It asks or changes the labels of security modules. It needs CAP_SYS_ADMIN in Docker's profile.",
    ),
    "obsolete": (
        "uselib ustat sysfs _sysctl nfsservctl getpmsg putpmsg afs_syscall tuxcall vserver epoll_ctl_old epoll_wait_old",
        "Obsolete, or never in the kernel: nothing needs it, so nothing may try it.",
    ),
    "arguments": (
        "socket personality",
        (
            "Its first argument decides. socket: only address families of a list, without AF_ALG (the kernel's cryptography) and"
            " AF_VSOCK (past the network namespaces to the hypervisor). personality: only the usual ones; others switch off address"
            " randomisation or reach old code."
        ),
    ),
}
"""Group -> (calls, why)."""


def reason(syscall: str) -> tuple[str, str]:
    """The group of a call and why a container is denied it; two empty strings if nothing is known."""
    for group, (calls, why) in GROUPS.items():
        if syscall in calls.split():
            return group, why
    return "", ""


def explain(seccomp: SeccompFilter, syscall: str | int) -> str:
    """See :meth:`SeccompFilter.explain`."""
    nr = seccomp.number(syscall)
    called = name(nr, seccomp.arch)
    about = [r for r in seccomp.rules if called in r.names and r.verdict != seccomp.default_verdict]
    parts = [f"{called} is system call {nr} on {seccomp.arch}."]
    if not about and nr > seccomp.newest and seccomp.unknown is not None:
        parts.append(f"It is newer than all that the profile names, so it gets {seccomp.unknown}: as if this kernel did not have it.")
        return " ".join(parts)
    free = next((r for r in about if not r.args), None)
    if free is not None:
        parts.append(f"A rule without conditions says: {free.verdict}.")
    elif about:
        shown = "; ".join(f"{r.verdict} if {_when(r.args)}" for r in about[:6])
        more = f"; and {len(about) - 6} more" if len(about) > 6 else ""
        parts.append(f"Its arguments decide: {shown}{more}; otherwise {seccomp.default_verdict}.")
    else:
        parts.append(f"No rule names it, so it gets what the profile says by default: {seccomp.default_verdict}.")
    if called in ("uretprobe", "uprobe"):
        parts.append("But since Linux 6.14 the kernel puts it to no filter: it is made by the kernel's own probes, and kills others.")
    if free is None or not free.verdict.allowed:
        why = reason(called)[1]
        if why:
            parts.append(why)
        if called == "clone3":
            parts.append("Its flags lie in memory, where a filter can't look; ENOSYS makes the C library fall back to clone.")
    return " ".join(parts)


def _when(args: tuple[object, ...]) -> str:
    return " and ".join(map(str, args))


def summary(seccomp: SeccompFilter) -> Sheet:
    """See :meth:`SeccompFilter.sheet`."""
    found = seccomp.inspect()
    denied = set(found.denied)
    rows = [
        ("machine", seccomp.arch),
        ("otherwise", found.by_default),
        ("program", f"{found.instructions} instructions, {found.instructions * 8} bytes"),
        ("allowed", f"{len(found.allowed)} calls"),
        ("by argument", ", ".join(found.by_argument) or "none"),
        ("denied", f"{len(found.denied)} calls"),
    ]
    for group, (calls, _) in GROUPS.items():
        hit = [c for c in calls.split() if c in denied]
        denied.difference_update(hit)
        if hit:
            rows.append((f"  {group}", " ".join(hit)))
    rest = [c for c in found.denied if c in denied]
    if rest:
        rows.append(("  others", " ".join(rest[:16]) + (f" and {len(rest) - 16} more" if len(rest) > 16 else "")))
    ignored = seccomp.ignored
    notes = list(seccomp.warnings)
    if ignored:
        notes.append(f"{len(ignored)} names in the rules are no calls of {seccomp.arch}, and have no effect here")
    return Sheet("Seccomp filter", ("", ""), tuple(rows), tuple(notes), "seccomp")
