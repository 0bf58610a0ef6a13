"""The default profile: Docker's, from what is known of it and from Debian's older copy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nsbook.linux import bpf
from nsbook.linux.syscalls import ARCHES, native, numbers
from nsbook.primitives import seccomp_compiled
from nsbook.primitives.capabilities import DEFAULT
from nsbook.primitives.seccomp import ALLOW, ENOSYS, SeccompFilter, Verdict
from nsbook.primitives.seccomp_compile import compile_filter
from nsbook.primitives.seccomp_default import BY_CAPABILITY, compiled_source, profile

sys.path.insert(0, str(Path(__file__).parent))

from seccomp_kernel import MAGIC, UNASKED, verdicts_of_kernel

EPERM = Verdict("ERRNO", 1)
OLDER = Path("/usr/share/gocode/src/github.com/docker/docker/profiles/seccomp/default.json")

DENIED = """
syslog uselib ustat sysfs vhangup pivot_root _sysctl acct settimeofday mount umount2 swapon swapoff reboot sethostname
setdomainname iopl ioperm create_module init_module delete_module get_kernel_syms query_module quotactl nfsservctl getpmsg
putpmsg afs_syscall tuxcall security lookup_dcookie clock_settime vserver mbind set_mempolicy get_mempolicy kexec_load add_key
request_key keyctl migrate_pages unshare move_pages perf_event_open fanotify_init open_by_handle_at setns kcmp finit_module
kexec_file_load bpf userfaultfd io_uring_setup io_uring_enter io_uring_register open_tree move_mount fsopen fsconfig fsmount
fspick pidfd_getfd process_madvise mount_setattr quotactl_fd set_mempolicy_home_node lsm_get_self_attr lsm_set_self_attr
lsm_list_modules uprobe
"""
"""What a container with the usual capabilities gets EPERM for on x86_64."""


@pytest.mark.parametrize("arch", ARCHES)
def test_the_shipped_program_is_what_is_compiled_now(arch: str) -> None:
    """If this fails: python -m nsbook.primitives.seccomp_default"""
    source = Path(seccomp_compiled.__file__).read_text()
    assert source == compiled_source()
    shipped = SeccompFilter.default(arch=arch)
    assert bpf.disassemble(shipped.program) == compile_filter(shipped)
    bpf.check(bpf.disassemble(shipped.program))
    assert len(shipped.program) // 8 < 110


def test_what_docker_denies() -> None:
    seccomp = SeccompFilter.default(arch="x86_64")
    stopped = {name: seccomp.would(name) for name in seccomp.stops()}
    assert {n for n, v in stopped.items() if v == EPERM} == set(DENIED.split())
    new = {"open_tree_attr", "file_getattr", "file_setattr", "listns", "rseq_slice_yield"}
    assert {n for n, v in stopped.items() if v == ENOSYS} == {"clone3", *new}
    assert seccomp.by_argument == ("socket", "clone", "personality")
    assert set(stopped) | set(seccomp.allowed) | set(seccomp.by_argument) == set(numbers("x86_64"))


def test_arguments() -> None:
    would = SeccompFilter.default(arch="x86_64").would
    assert [would("socket", family).allowed for family in (1, 2, 10, 16, 17)] == [True] * 5
    assert [would("socket", family).allowed for family in (12, 19, 38, 40, 46, 255)] == [False] * 6
    assert not would("socket", 1 << 32 | 40).allowed  # the kernel would look at the lower half alone
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert would("clone", flag | 17) == EPERM
    assert would("clone", 0x1200011) == ALLOW
    assert [would("personality", p).allowed for p in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)] == [True] * 5
    assert [would("personality", p).allowed for p in (1, 0x40000, 0x20009, (1 << 64) - 1)] == [False] * 4


@pytest.mark.parametrize("arch", ARCHES)
def test_each_capability_brings_its_calls(arch: str) -> None:
    plain = SeccompFilter.default([], arch)
    for cap, calls in BY_CAPABILITY.items():
        more = SeccompFilter.default([cap], arch)
        brought = set(more.allowed) - set(plain.allowed)
        assert brought == {c for c in calls.split() if c in numbers(arch)} - {"ptrace", "process_vm_readv", "process_vm_writev"}
    assert SeccompFilter.default(["CAP_SYS_ADMIN"], arch).would("clone3") == ALLOW
    assert SeccompFilter.default(["CAP_CHOWN"], arch) == plain
    assert "chroot" in SeccompFilter.default(arch=arch).allowed


def test_ptrace_needs_a_kernel_without_the_hole() -> None:
    assert SeccompFilter.default(kernel="4.8").would("ptrace") == ALLOW
    assert SeccompFilter.default(kernel="4.7.10").would("ptrace") == EPERM
    assert SeccompFilter.default(["CAP_SYS_PTRACE"], kernel="4.4").would("ptrace") == ALLOW


def test_against_debians_older_copy() -> None:
    """All that changed since Docker 20.10, and nothing else."""
    if not OLDER.exists():
        pytest.skip("needs Docker's older profile: apt install golang-github-docker-docker-dev")
    for arch in ARCHES:
        old = SeccompFilter.from_profile(json.loads(OLDER.read_text()), DEFAULT, arch)
        new = SeccompFilter.default(arch=arch)
        gained = {
            *("cachestat", "fchmodat2", "futex_requeue", "futex_wait", "futex_wake", "getxattrat", "listmount", "listxattrat"),
            *("map_shadow_stack", "mseal", "name_to_handle_at", "pkey_alloc", "pkey_free", "pkey_mprotect"),
            *("process_vm_readv", "process_vm_writev", "removexattrat", "setxattrat", "statmount", "uretprobe"),
        }
        lost = {"io_uring_setup", "io_uring_enter", "io_uring_register", "socket"}
        assert set(new.allowed) - set(old.allowed) == gained & set(numbers(arch))
        assert set(old.allowed) - set(new.allowed) == lost & set(numbers(arch))


def test_the_profile_is_in_dockers_format(tmp_path: Path) -> None:
    path = tmp_path / "default.json"
    path.write_text(json.dumps(profile()))
    again = SeccompFilter.from_profile(path, DEFAULT)
    assert again == SeccompFilter.default()
    assert again.warnings
    assert "SCMP_ARCH" in again.warnings[0]
    assert again.to_oci()["architectures"] == [{"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}[native()]]


def test_the_kernel_agrees_on_every_call() -> None:
    """Every number of the table and around it, with arguments on both sides of each condition; none is carried out."""
    if native() != "x86_64":
        pytest.skip("needs x86_64: the calls are asked by its numbers")
    values = (0, 2, 8, 12, 38, 40, 0x11, 0x20000, 0x20008, 0x10000011, 0xFFFFFFFF, 1 << 32, 1 << 32 | 40, (1 << 64) - 1)
    asked = [nr for nr in (*range(480), 0x40000000, 0x40000101) if nr not in UNASKED]
    calls = [(nr, (value, value, 0, 0, 0)) for nr in asked for value in values]
    filters = [SeccompFilter.default(), SeccompFilter.default(["CAP_SYS_ADMIN", "CAP_BPF"]), SeccompFilter.default([])]
    for seccomp, got in zip(filters, verdicts_of_kernel([f.program for f in filters], [calls] * 3), strict=True):
        wrong = [c for c, v in zip(calls, got, strict=True) if Verdict.of(v) != seccomp.would(c[0], *c[1], MAGIC)]
        assert not wrong


REAL = """
import ctypes, os, socket, struct, sys, base64, threading, subprocess
program = base64.b64decode(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
class P(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(P(len(program) // 8, program)), 0, 0) == 0
def errno(*args):
    return 0 if libc.syscall(*args) >= 0 else ctypes.get_errno()
def refused(*args):
    try:
        socket.socket(*args).close()
    except OSError as error:
        return error.errno
    return 0
thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
print(subprocess.run([sys.executable, "-c", "print('child')"], capture_output=True, text=True).stdout.strip())
print(refused(socket.AF_INET), refused(socket.AF_UNIX), refused(38, socket.SOCK_SEQPACKET), refused(40, socket.SOCK_STREAM))
print(libc.unshare(0x10000000), ctypes.get_errno(), libc.mount(b"t", b"/nowhere", b"tmpfs", 0, 0), ctypes.get_errno())
print(errno(425, 1, 0), errno(435, 0, 0), errno(135, ctypes.c_ulong(0xffffffff)), errno(135, ctypes.c_ulong(0x40000)))
"""


def test_programs_live_with_it() -> None:
    """Threads, children and sockets work under the real filter; namespaces, mounts and io_uring do not."""
    if native() != "x86_64":
        pytest.skip("needs x86_64: the calls are made by its numbers")
    import base64

    code = base64.b64encode(SeccompFilter.default().program).decode()
    done = subprocess.run([sys.executable, "-Ic", REAL, code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == ["thread", "child", "0 0 1 1", "-1 1 -1 1", "1 38 0 1"], done.stderr


def test_a_cold_start_compiles_nothing_and_imports_little() -> None:
    code = (
        "import sys; from nsbook.primitives.seccomp import SeccompFilter as S; p = S.default().program; assert len(p) > 500;"
        "print(*sorted(m for m in sys.modules if m in ('json', 're', 'enum', 'dataclasses', 'ctypes', 'typing')"
        " or m.endswith(('_compile', '_listing', '_reasons'))))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=60, check=True, env=path())
    assert done.stdout.split() == []


def path() -> dict[str, str]:
    import os

    import nsbook

    return {**os.environ, "PYTHONPATH": str(Path(nsbook.__file__).parents[1])}


def test_it_explains_itself() -> None:
    seccomp = SeccompFilter.default(arch="x86_64")
    assert "No rule names it" in seccomp.explain("unshare")
    assert "EPERM" in seccomp.explain("unshare")
    assert "user namespace" in seccomp.explain("unshare")
    assert "allow if arg0 & 0x7e020000 == 0x0; otherwise EPERM" in seccomp.explain("clone")
    assert "A rule without conditions says: ENOSYS." in seccomp.explain("clone3")
    assert "past this filter" in seccomp.explain("io_uring_setup")
    assert seccomp.explain("read") == "read is system call 0 on x86_64. A rule without conditions says: allow."
    assert "newer than all that the profile names" in seccomp.explain("listns")
    text = seccomp.sheet().text()
    assert "95 instructions" in text
    assert "io_uring_setup io_uring_enter io_uring_register" in text
    assert seccomp._repr_mimebundle_()["text/plain"] == text == str(seccomp)
    assert "puts it to no filter" in seccomp.explain("uretprobe")
    for name in numbers("x86_64"):
        assert seccomp.explain(name).startswith(f"{name} is system call")
