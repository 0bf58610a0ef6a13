"""User Mode Linux: Linux as an ordinary program of an ordinary user, built on ptrace(2) alone.

Debian's package ``user-mode-linux`` brings the kernel (``/usr/bin/linux.uml``) and its modules (``/usr/lib/uml/modules``).
Where packages can't be installed, ``$NSBOOK_GUEST_KERNEL`` names a directory into which one was unpacked
(``dpkg-deb -x user-mode-linux_*.deb DIR``). See Documentation/virt/uml of the kernel.
"""

from __future__ import annotations

import os
import subprocess
import sys

from nsbook.errors import Unsupported
from nsbook.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nsbook.guest.session import Session

FEATURE = "a guest by User Mode Linux"
FIX = "apt install user-mode-linux (or set NSBOOK_GUEST_KERNEL to a directory with that package unpacked)"
SKIPPED = ("raid6_select_algo", "calibrate_xor_blocks")
"""Initcalls left out: they measure checksums of RAID arrays for most of a second, and a guest has none."""


class Kernel(Frozen):
    """``image`` is what to run, ``modules`` the directory of the release's modules."""

    image: str
    modules: str
    release: str


def find() -> Kernel:
    """The kernel that is installed here. :class:`Unsupported` says what is missing."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise Unsupported(FEATURE, "it is built for Linux on x86_64 only.", "use such a machine, or a recording")
    root = os.environ.get("NSBOOK_GUEST_KERNEL", "").rstrip("/")
    image, modules = f"{root}/usr/bin/linux.uml", f"{root}/usr/lib/uml/modules"
    if not os.access(image, os.X_OK):
        raise Unsupported(FEATURE, f"there is no {image}.", FIX)
    release = subprocess.run([image, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    if not os.path.exists(f"{modules}/{release}/modules.dep"):
        raise Unsupported(FEATURE, f"there are no modules for {release or image} in {modules}.", FIX)
    return Kernel(image, f"{modules}/{release}", release)


class Starter:
    """How this engine is started."""

    engine = "uml"
    wire = "/dev/ttyS0"
    disk = "/dev/ubda"
    spools = True
    """Input by the serial line is slow (a character an interrupt): much of it goes by a file."""

    def __init__(self) -> None:
        self.kernel = find()
        self.modules = self.kernel.modules

    def command(self, session: Session, *, memory: int, cgroup: str, wire: int) -> list[str]:
        """The command line; ``wire`` is the descriptor of the line's other end."""
        words = [
            self.kernel.image,
            f"mem={memory >> 20}M",
            f"uml_dir={session.path}",
            "umid=uml",
            "con=null",
            "con0=null,fd:1",
            "ssl=null",
            f"ssl0=fd:{wire}",
            "root=/dev/root",
            "rootfstype=hostfs",
            "rootflags=/",
            "ro",
            "quiet",
            "pty.legacy_count=0",
            "random.trust_cpu=on",
            "lsm=none",
            "zswap.enabled=0",
            "lpj=30000000",
            f"initcall_blacklist={','.join(SKIPPED)}",
        ]
        if session.disk:
            words.append(f"ubda={session.disk}")
        if cgroup == "v2":
            words.append("cgroup_no_v1=all")
        return [*words, f"init={session.python}", "--", "-I", "-S", session.start]

    def environment(self, session: Session, memory: int) -> dict[str, str]:
        """For the engine: above all, where the file that is the guest's memory shall lie."""
        return {"PATH": os.defpath, "HOME": session.path, "TMPDIR": memory_directory(session, memory)}

    def why_not(self, console: str) -> tuple[str, str]:
        """What the console's last words mean, and the fix; empty if they say nothing that is known."""
        if "ptrace" in console and any(sign in console for sign in ("not permitted", "expected SIG", "ermission denied")):
            return "ptrace(2) is refused here.", "let it through (seccomp profile; kernel.yama.ptrace_scope below 3)"
        if "PROT_EXEC" in console and "not permitted" in console:
            return "the temporary directory is mounted noexec.", "set TMPDIR to a directory on a file system without noexec"
        if "No space left" in console:
            return "there is no room for the guest's memory.", "ask for less memory, or set TMPDIR to a larger file system"
        return "", ""


def memory_directory(session: Session, memory: int) -> str:
    """Where the file that is the guest's memory can lie: in this machine's memory if there is room and it may be executed."""
    try:
        there = os.statvfs("/dev/shm")
    except OSError:
        return session.path
    roomy = there.f_bavail * there.f_frsize > memory + (64 << 20)
    return "/dev/shm" if roomy and not there.f_flag & os.ST_NOEXEC and os.access("/dev/shm", os.W_OK) else session.path
