"""What a pod's process may not do: its privileges, and the system-call filter of its runtime. seccomp(2), capabilities(7)."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from pod_calls import (
    PR_CAP_AMBIENT,
    PR_CAPBSET_DROP,
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_SECCOMP,
    SYS_CAPSET,
    check,
    libc,
)

MODES = ("docker", "apparmor", "none")
Instruction = tuple[int, int, int, int]

# The system calls that Docker's default profile (August 2026) does not allow on x86_64 to a container with the default
# capabilities. `clone`, `clone3`, `personality` and `socket` are allowed in part: see below.
DENIED = {
    name: int(number)
    for name, _, number in (
        word.partition("=")
        for word in """
syslog=103 uselib=134 ustat=136 sysfs=139 vhangup=153 pivot_root=155 _sysctl=156 acct=163
settimeofday=164 mount=165 umount2=166 swapon=167 swapoff=168 reboot=169 sethostname=170
setdomainname=171 iopl=172 ioperm=173 create_module=174 init_module=175 delete_module=176
get_kernel_syms=177 query_module=178 quotactl=179 nfsservctl=180 getpmsg=181 putpmsg=182
afs_syscall=183 tuxcall=184 security=185 lookup_dcookie=212 clock_settime=227 vserver=236
mbind=237 set_mempolicy=238 get_mempolicy=239 kexec_load=246 add_key=248 request_key=249
keyctl=250 migrate_pages=256 unshare=272 move_pages=279 perf_event_open=298 fanotify_init=300
open_by_handle_at=304 setns=308 kcmp=312 finit_module=313 kexec_file_load=320 bpf=321
userfaultfd=323 io_uring_setup=425 io_uring_enter=426 io_uring_register=427 open_tree=428
move_mount=429 fsopen=430 fsconfig=431 fsmount=432 fspick=433 pidfd_getfd=438
process_madvise=440 mount_setattr=442 quotactl_fd=443 set_mempolicy_home_node=450
lsm_get_self_attr=459 lsm_set_self_attr=460 lsm_list_modules=461 open_tree_attr=467
file_getattr=468 file_setattr=469
""".split()  # noqa: SIM905
    )
}
PTRACE = {"ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311}
UNKNOWN = 470  # numbers from here on are unknown to the profile: ENOSYS
CLONE, CLONE3, SOCKET, PERSONALITY = 56, 435, 41, 135
CLONE_NAMESPACES = 0x7E020000
AF_ALG, AF_VSOCK = 38, 40
PERSONALITIES = (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)
APPARMOR = (165, 155, 429)  # mount, pivot_root, move_mount

LD, JEQ, JGE, JSET, RET = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW = 0x7FFF0000
X86_64, X32_BIT = 0xC000003E, 0x40000000


def refuse(number: int) -> Instruction:
    return RET, 0, 0, 0x50000 | number


def program(mode: str, *, ptrace: bool = True) -> list[Instruction]:
    """The filter; empty for none."""
    if mode == "none":
        return []
    out: list[Instruction] = [(LD, 0, 0, 4), (JEQ, 1, 0, X86_64), refuse(errno.ENOSYS)]
    out += [(LD, 0, 0, 0), (JGE, 0, 1, X32_BIT), refuse(errno.ENOSYS)]
    if mode == "apparmor":
        for number in APPARMOR:
            out += [(JEQ, 0, 1, number), refuse(errno.EACCES)]
        return [*out, (RET, 0, 0, ALLOW)]
    out += [(JGE, 0, 1, UNKNOWN), refuse(errno.ENOSYS)]
    out += [(JEQ, 0, 1, CLONE3), refuse(errno.ENOSYS)]
    # clone: refused if a namespace flag is set in the first argument
    out += [(JEQ, 0, 4, CLONE), (LD, 0, 0, 16), (JSET, 0, 1, CLONE_NAMESPACES), refuse(errno.EPERM), (RET, 0, 0, ALLOW)]
    # socket: all but two families
    out += [(JEQ, 0, 5, SOCKET), (LD, 0, 0, 16), (JEQ, 1, 0, AF_ALG), (JEQ, 0, 1, AF_VSOCK), refuse(errno.EPERM)]
    out += [(RET, 0, 0, ALLOW)]
    # personality: five values only (the upper half of the argument must be zero)
    count = len(PERSONALITIES)
    out += [(JEQ, 0, count + 5, PERSONALITY), (LD, 0, 0, 20), (JEQ, 0, count + 1, 0), (LD, 0, 0, 16)]
    out += [(JEQ, count - n, 0, value) for n, value in enumerate(PERSONALITIES)]
    out += [refuse(errno.EPERM), (RET, 0, 0, ALLOW)]
    for number in sorted({*DENIED.values(), *(() if ptrace else PTRACE.values())}):
        out += [(JEQ, 0, 1, number), refuse(errno.EPERM)]
    return [*out, (RET, 0, 0, ALLOW)]


def load(instructions: list[Instruction]) -> None:
    """seccomp(2), by prctl(2)."""

    class Fprog(ctypes.Structure):
        _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    code = b"".join(struct.pack("<HBBI", *one) for one in instructions)
    buffer = ctypes.create_string_buffer(code, len(code))
    prog = Fprog(len(instructions), ctypes.addressof(buffer))
    check(libc.prctl(PR_SET_SECCOMP, 2, ctypes.addressof(prog), 0, 0), "seccomp")


def drop_privileges(user: int, mode: str, *, ptrace: bool) -> None:
    """Become that user, without any capability in any set, and under the filter."""
    for capability in range(64):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break
    libc.prctl(PR_CAP_AMBIENT, 4, 0, 0, 0)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    header = struct.pack("<II", 0x20080522, 0)
    check(libc.syscall(SYS_CAPSET, header, struct.pack("<6I", 0, 0, 0, 0, 0, 0)), "capset")
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    os.umask(0o22)
    instructions = program(mode, ptrace=ptrace)
    if instructions:
        load(instructions)
