"""QEMU, where User Mode Linux is missing: a whole machine, also as an ordinary user, but slower without /dev/kvm.

It takes an ordinary kernel: the host's own (``/boot/vmlinuz-*``, if the user may read it, with ``/lib/modules``), or one
unpacked into ``$NSBOOK_GUEST_KERNEL``. This machine's files come by 9p, which QEMU serves itself, without root (virtiofsd of
Debian 12 wants root). So the kernel needs the modules 9p and 9pnet_virtio: Debian's linux-image-amd64 has them,
linux-image-cloud-amd64 has not. A static busybox loads them from an initramfs; then the same first process takes over as
in User Mode Linux.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from nsbook.errors import Unsupported
from nsbook.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nsbook.guest.session import Session

FEATURE = "a guest by QEMU"
MODULES = ("virtio_pci", "virtio_console", "virtio_blk", "virtio_rng", "9pnet_virtio", "9p", "crc32c_generic", "ext4", "overlay")
MISSING_KERNEL = (
    "install linux-image-amd64 (the cloud kernel has no 9p) and make /boot/vmlinuz-* readable, or unpack the package into a "
    "directory, run depmod -b on it, and name it in NSBOOK_GUEST_KERNEL"
)
FIRST = """#!/bin/busybox sh
cd /
for word in mkdir insmod mount switch_root sleep poweroff; do eval "$word() {{ /bin/busybox $word \\"\\$@\\"; }}"; done
mkdir -p /proc /dev /root
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in {modules}; do insmod /modules/$module || echo "nsbook: insmod $module failed"; done
mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=524288 host /root || echo "nsbook: no 9p"
exec /bin/busybox switch_root -c /dev/console /root {python} -I -S {start}
"""


class Kernel(Frozen):
    """``image`` is what to boot, ``modules`` the directory of the release's modules."""

    image: str
    modules: str
    release: str


class Starter:
    """How this engine is started."""

    engine = "qemu"
    wire = "/dev/vport0p1"
    disk = "/dev/vda"
    spools = False

    def __init__(self) -> None:
        if sys.platform != "linux" or os.uname().machine != "x86_64":
            raise Unsupported(FEATURE, "this engine's set-up is for Linux on x86_64 only.", "use such a machine, or a recording")
        program = shutil.which("qemu-system-x86_64")
        if program is None:
            raise Unsupported(FEATURE, "there is no qemu-system-x86_64.", "apt install qemu-system-x86")
        busybox = shutil.which("busybox")
        if busybox is None or not static(busybox):
            raise Unsupported(FEATURE, "there is no static busybox.", "apt install busybox-static")
        self.program = program
        self.busybox = busybox
        self.kernel = find()
        self.modules = self.kernel.modules

    def command(self, session: Session, *, memory: int, cgroup: str, wire: int) -> list[str]:
        """The command line; ``wire`` is the descriptor of the line's other end."""
        initrd = f"{session.path}/initrd"
        with open(initrd, "wb") as file:
            file.write(self._first_files(session))
        append = ["console=ttyS0", "quiet", "panic=-1", "reboot=t", "random.trust_cpu=on", "mitigations=off", "no_timer_check"]
        if cgroup == "v2":
            append.append("cgroup_no_v1=all")
        words = [self.program, "-M", "q35,smm=off,vmport=off,usb=off,graphics=off", "-cpu", "max", "-m", f"{memory >> 20}M"]
        words += ["-accel", "kvm" if kvm_works(self.program) else "tcg"]
        words += ["-smp", str(min(os.cpu_count() or 1, 4)), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        words += ["-kernel", self.kernel.image, "-initrd", initrd, "-append", " ".join(append), "-serial", "stdio"]
        words += ["-device", "virtio-serial-pci", "-chardev", f"socket,id=wire,fd={wire}"]
        words += ["-device", "virtserialport,chardev=wire,name=nsbook,nr=1", "-device", "virtio-rng-pci"]
        words += ["-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"]
        if session.disk:
            words += ["-drive", f"file={session.disk},format=raw,if=none,id=scratch,cache=unsafe,discard=unmap"]
            words += ["-device", "virtio-blk-pci,drive=scratch"]
        return words

    def _first_files(self, session: Session) -> bytes:
        from nsbook.guest.inside.modules import closure

        paths = closure(self.modules, MODULES)
        names = " ".join(os.path.basename(p) for p in paths)
        files = {f"modules/{os.path.basename(p)}": read(p) for p in paths}
        files["bin/busybox"] = read(self.busybox)
        files["init"] = FIRST.format(modules=names, python=session.python, start=session.start).encode()
        return archive(files)

    def environment(self, session: Session, memory: int) -> dict[str, str]:
        """The engine's own."""
        return {"PATH": os.defpath, "HOME": session.path, "TMPDIR": session.path}

    def why_not(self, console: str) -> tuple[str, str]:
        """What the console's last words mean, and the fix; empty if they say nothing that is known."""
        if "insmod 9p" in console or "no 9p" in console:
            return f"the kernel {self.kernel.release} has no 9p over virtio.", MISSING_KERNEL
        if "annot allocate memory" in console:
            return "there is no room for the guest's memory.", "ask for less memory"
        return "", ""


def kvm_works(program: str) -> bool:
    """Whether /dev/kvm carries a processor: tried, since it may be there and refuse (virtual machines in clouds). Where it
    does, but boots no ordinary kernel, ``NSBOOK_GUEST_KVM=0`` says no."""
    if os.environ.get("NSBOOK_GUEST_KVM") == "0" or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    words = ["-accel", "kvm", "-cpu", "max", "-M", "q35", "-m", "32M", "-nodefaults", "-display", "none", "-S", "-monitor", "stdio"]
    try:
        trial = subprocess.run([program, *words], input=b"quit\n", capture_output=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return False
    return trial.returncode == 0


def find() -> Kernel:
    """The newest kernel that can be read and whose modules include 9p."""
    root = os.environ.get("NSBOOK_GUEST_KERNEL", "").rstrip("/")
    try:
        images = sorted((n for n in os.listdir(f"{root}/boot") if n.startswith("vmlinuz-")), key=age, reverse=True)
    except OSError:
        images = []
    if not images:
        raise Unsupported(FEATURE, f"there is no kernel in {root}/boot.", MISSING_KERNEL)
    reason = ""
    for name in images:
        release = name.removeprefix("vmlinuz-")
        modules = next((m for m in (f"{root}/lib/modules/{release}", f"{root}/usr/lib/modules/{release}") if os.path.isdir(m)), "")
        if not os.access(f"{root}/boot/{name}", os.R_OK):
            reason = reason or f"{root}/boot/{name} can't be read."
        elif not os.path.exists(f"{modules}/modules.dep"):
            reason = reason or f"the kernel {release} has no modules.dep."
        elif not has_9p(modules):
            reason = reason or f"the kernel {release} has no module 9pnet_virtio."
        else:
            return Kernel(f"{root}/boot/{name}", modules, release)
    raise Unsupported(FEATURE, reason, MISSING_KERNEL)


def age(name: str) -> list[int]:
    """For sorting releases: the numbers in the name."""
    return [int(part) for part in "".join(c if c.isdigit() else " " for c in name).split()]


def has_9p(modules: str) -> bool:
    """Whether the release can mount 9p over virtio."""
    for name in ("modules.dep", "modules.builtin"):
        try:
            with open(f"{modules}/{name}") as file:
                if any("/9pnet_virtio.ko" in line.partition(":")[0] for line in file):
                    return True
        except OSError:
            pass
    return False


def static(path: str) -> bool:
    """Whether a program needs no loader."""
    with open(path, "rb") as file:
        return b"/ld-linux" not in file.read(4096)


def read(path: str) -> bytes:
    """All of a file; a compressed module unpacked, since the first busybox can't ask the kernel to do it."""
    with open(path, "rb") as file:
        data = file.read()
    if path.endswith(".xz"):
        import lzma

        return lzma.decompress(data)
    if path.endswith(".gz"):
        import gzip

        return gzip.decompress(data)
    if path.endswith(".zst"):
        raise Unsupported(FEATURE, f"{path} is compressed with zstd, which Python can't read.", "use a kernel with plain modules")
    return data


def archive(files: dict[str, bytes]) -> bytes:
    """An initramfs: cpio's newc format (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    directories = sorted({os.path.dirname(name) for name in files} - {""})
    entries = [(name, 0o40755, b"") for name in directories] + [(name, 0o100755, data) for name, data in files.items()]
    out = bytearray()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        out += b"070701" + "".join(f"{field:08X}" for field in fields).encode() + name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4) + data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)
