"""Docker's default seccomp profile, as of August 2026, in Docker's own format but written shorter.

The rules are those of the Moby project's ``seccomp/default.json`` (github.com/moby/profiles, Apache-2.0): a list of what is
allowed, EPERM for the rest. Left out are only the rules for machines that nsbook has no table for (s390x, ppc64le, riscv64).
Against older copies of it (Debian's package of Docker 20.10 has one): io_uring is denied; socket(2) is allowed by a list of
address families, so that AF_ALG and AF_VSOCK are not in it; ptrace and its kin are allowed from kernel 4.8 on.

``python -m nsbook.primitives.seccomp_default`` writes ``seccomp_compiled.py``: the program for Docker's default capabilities,
compiled beforehand, so that a runtime that starts one container has nothing to compile.
"""

from __future__ import annotations

import os

from nsbook.linux.syscalls import ARCHES, native
from nsbook.primitives.capabilities import DEFAULT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from nsbook.primitives.seccomp import SeccompFilter

ALLOWED = """
accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 clock_adjtime clock_adjtime64
clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range
connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2
epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64
fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr
flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue
futex_time64 futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64
getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid
getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid
gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel
io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill
landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount
listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier
memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr
mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget
msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause
pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv
preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv
recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2
restart_syscall riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity
sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity
sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64
send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid
setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32
setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt
shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64
statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete
timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64
timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime
utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
"""
"""Allowed to everyone, whatever the arguments. Many are other machines' names for the same call."""

SOCKET_BELOW = 12
"""Address families 1 to 11 (AF_UNIX, AF_INET, ... AF_ROSE) are allowed, AF_UNSPEC can't be made."""

SOCKET_FAMILIES = (13, 14, 15, 16, 17, 18, 21, 22, 24, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 39, 41, 42, 43, 44, 45)
"""And these. Missing are the ones that the kernel has dropped (DECnet, Econet, ATMSVC, IrDA, WANPIPE, ISDN, CAIF), AF_ALG
(38: the kernel's cryptography; a hole in it led from any container to root in 2026) and AF_VSOCK (40: talks to hypervisor
and virtual machines past all network namespaces)."""

PERSONALITIES = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)
"""PER_LINUX, PER_LINUX32, UNAME26 with either, and "only tell me"."""

CLONE_NAMESPACES = 0x7E020000
"""The seven CLONE_NEW* flags that clone(2) takes: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""

BY_CAPABILITY = {
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_ADMIN": "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr"
    " lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd"
    " setdomainname sethostname setns syslog umount umount2 unshare",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module init_module finit_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday stime clock_settime clock_settime64",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
}
"""What is allowed only to a container that has the capability in its bounding set."""


def profile() -> dict[str, Any]:
    """The profile in Docker's JSON format."""

    def allow(names: str, **more: Any) -> dict[str, Any]:
        return {"names": names.split(), "action": "SCMP_ACT_ALLOW", **more}

    def where(value: int, op: str) -> list[dict[str, Any]]:
        return [{"index": 0, "value": value, "op": f"SCMP_CMP_{op}"}]

    unprivileged = {"caps": ["CAP_SYS_ADMIN"]}
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        ],
        "syscalls": [
            allow(ALLOWED),
            allow("process_vm_readv process_vm_writev ptrace", includes={"minKernel": "4.8"}),
            allow("socket", args=where(SOCKET_BELOW, "LT")),
            *(allow("socket", args=where(family, "EQ")) for family in SOCKET_FAMILIES),
            *(allow("personality", args=where(value, "EQ")) for value in PERSONALITIES),
            allow(
                "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
                includes={"arches": ["arm", "arm64"]},
            ),
            allow("arch_prctl", includes={"arches": ["amd64", "x32"]}),
            allow("modify_ldt", includes={"arches": ["amd64", "x32", "x86"]}),
            *(allow(names, includes={"caps": [cap]}) for cap, names in BY_CAPABILITY.items()),
            allow("clone", args=where(CLONE_NAMESPACES, "MASKED_EQ"), excludes=unprivileged),
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": unprivileged},
        ],
    }


_made: dict[tuple[frozenset[str], str, bool], SeccompFilter] = {}


def default_filter(capabilities: Iterable[str] | None = None, arch: str = "", kernel: str = "") -> SeccompFilter:
    """See :meth:`SeccompFilter.default`. The same object for the same answer."""
    from nsbook.primitives import seccomp, seccomp_profile

    arch = arch or native()
    caps = frozenset(DEFAULT if capabilities is None else capabilities).intersection(BY_CAPABILITY)
    modern = seccomp_profile.kernel_version(kernel or os.uname().release) >= (4, 8)
    made = _made.get((caps, arch, modern))
    if made is None:
        made = _made[caps, arch, modern] = seccomp_profile.read_profile(profile(), caps, arch, "4.8" if modern else "4.7")
        if modern and caps == frozenset(DEFAULT).intersection(BY_CAPABILITY):
            from binascii import a2b_base64

            from nsbook.primitives.seccomp_compiled import PROGRAMS

            if arch in PROGRAMS:
                seccomp.compiled[made] = a2b_base64(PROGRAMS[arch])
    return made


def compiled_source() -> str:
    """What ``seccomp_compiled.py`` has to hold, compiled now."""
    from binascii import b2a_base64

    from nsbook.linux.bpf import assemble
    from nsbook.primitives.seccomp_compile import compile_filter
    from nsbook.primitives.seccomp_profile import read_profile

    out = ['"""Docker\'s default filter, compiled. Written by ``python -m nsbook.primitives.seccomp_default``: don\'t edit."""\n\n']
    out.append("PROGRAMS = {\n")
    for arch in ARCHES:
        insns = compile_filter(read_profile(profile(), DEFAULT, arch, "4.8"))
        text = b2a_base64(assemble(insns), newline=False).decode()
        out.append(f'    "{arch}": (  # {len(insns)} instructions\n')
        out += [f'        "{text[i : i + 112]}"\n' for i in range(0, len(text), 112)]
        out.append("    ),\n")
    return "".join([*out, "}\n", '"""Machine -> program, base64."""\n'])


if __name__ == "__main__":
    target = os.path.join(os.path.dirname(os.path.abspath(__file__)), "seccomp_compiled.py")
    with open(target, "w", encoding="utf-8") as file:
        file.write(compiled_source())
    print(target)
