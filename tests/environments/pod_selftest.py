"""What the sandbox's rules come to, tried from inside: a line for each, ``name<TAB>result``."""

from __future__ import annotations

import ctypes
import errno
import os

from pod_calls import NEWNS, libc

NEWUSER = 0x10000000
CALLS: tuple[tuple[str, int, tuple[object, ...]], ...] = (
    ("unshare(NEWUSER)", 272, (NEWUSER,)),
    ("unshare(NEWNS)", 272, (NEWNS,)),
    ("clone3", 435, (0, 0)),
    ("mount", 165, (b"t", b"/tmp", b"tmpfs", 0, 0)),
    ("umount2", 166, (b"/tmp", 0)),
    ("pivot_root", 155, (b".", b".")),
    ("chroot", 161, (b"/",)),
    ("keyctl", 250, (0, 0, 0)),
    ("bpf", 321, (0, 0, 0)),
    ("personality(ADDR_NO_RANDOMIZE)", 135, (0x40000,)),
    ("personality(query)", 135, (ctypes.c_ulong(0xFFFFFFFF),)),
    ("io_uring_setup", 425, (1, 0)),
    ("userfaultfd", 323, (0,)),
    ("open_tree", 428, (-100, b"/", 1)),
    ("socket(AF_VSOCK)", 41, (40, 1, 0)),
    ("socket(AF_PACKET)", 41, (17, 3, 0)),
    ("ptrace(TRACEME)", 101, (0, 0, 0, 0)),
    ("memfd_create", 319, (b"x", 0)),
)


def call(number: int, *args: object) -> str:
    ctypes.set_errno(0)
    result = libc.syscall(number, *args)
    code = ctypes.get_errno()
    return "ok" if result >= 0 else errno.errorcode.get(code, str(code))


def in_child(number: int, *args: object) -> str:
    """In a process of its own, since what succeeds changes it."""
    hear, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(tell, call(number, *args).encode())
        os._exit(0)
    os.close(tell)
    os.waitpid(pid, 0)
    said = os.read(hear, 100).decode()
    os.close(hear)
    return said


def clone_newuser() -> str:
    ctypes.set_errno(0)
    pid = libc.syscall(56, NEWUSER | 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    if pid < 0:
        return errno.errorcode[ctypes.get_errno()]
    os.waitpid(pid, 0)
    return "ok"


def report() -> None:
    """To standard output."""
    lines: list[tuple[str, object]] = []
    with open("/proc/self/status") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name in ("Uid", "Gid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp"):
                lines.append((name, " ".join(value.split())))
    lines += [(name, in_child(number, *args)) for name, number, args in CALLS]
    lines.append(("clone(NEWUSER)", clone_newuser()))
    with open("/proc/self/ns/mnt") as namespace:
        lines.append(("setns", in_child(308, namespace.fileno(), 0)))
    for path in ("/sys/fs/cgroup", "/proc/sys/kernel/hostname", "/etc/passwd", "/tmp", os.environ["HOME"], "/dev/shm"):
        lines.append((f"writable {path}", os.access(path, os.W_OK)))
    for path in ("/dev/fuse", "/dev/kvm", "/dev/net/tun", "/dev/ptmx"):
        lines.append((f"exists {path}", os.path.exists(path)))
    for name, result in lines:
        print(f"{name}\t{result}", flush=True)
