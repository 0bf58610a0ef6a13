"""The guest's first process: makes the tree, the cgroups and the network's ``lo``, then becomes the agent."""

from __future__ import annotations

import fcntl
import marshal
import os
import struct
import termios
import time

from nsbook.guest import frames
from nsbook.guest.inside.agent import Agent, LineDead
from nsbook.guest.inside.cgroups import Cgroups, write
from nsbook.guest.inside.modules import load
from nsbook.guest.inside.tree import Tree, ensure_mounted
from nsbook.linux.kernel import LINUX_REBOOT_CMD_POWER_OFF, reboot
from nsbook.linux.mount import mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nsbook.guest.inside.tree import Plan

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1  # netdevice(7)
MODPROBE = "/run/nsbook/modprobe"  # its last part tells busybox what to be


def main(session: str) -> None:
    """Never returns: the machine ends with it."""
    wire = -1
    try:
        mount("proc", "/proc", "proc")
        ensure_mounted("/dev", "devtmpfs")
        directory = os.open(session, os.O_PATH | os.O_CLOEXEC)
        with open(f"{session}/plan", "rb") as file:
            plan: Plan = marshal.load(file)
        wire = open_wire(plan["wire"])
        agent = set_up(plan, wire, directory)
        agent.run()
    except LineDead:
        pass
    except BaseException:
        import traceback

        text = traceback.format_exc()
        os.write(2, text.encode())
        if wire >= 0:
            os.write(wire, frames.pack(frames.FAILED, 0, text.encode()))
            fcntl.ioctl(wire, termios.TCSBRK, 1)  # tcdrain(3)
    reboot(LINUX_REBOOT_CMD_POWER_OFF)


def set_up(plan: Plan, wire: int, session: int) -> Agent:
    """All that comes before the first command."""
    load(plan["modules"], "overlay")
    tree = Tree(plan)
    tree.build()
    tree.furnish()
    cgroups = Cgroups(plan["cgroup"])
    cgroups.set_up()
    name_machine(plan["hostname"])
    raise_loopback()
    os.mkdir(os.path.dirname(MODPROBE))
    provide_modprobe(plan)
    for variable in list(os.environ):
        del os.environ[variable]
    return Agent(wire, session, tree, cgroups, plan["reach"])


def open_wire(path: str) -> int:
    """The line to the host, eight bits and nothing else."""
    for _ in range(100):  # QEMU's port appears a moment after its driver
        if os.path.exists(path):
            break
        time.sleep(0.05)
    wire = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if os.isatty(wire):
        attributes = termios.tcgetattr(wire)
        attributes[0] = 0
        attributes[1] = 0
        attributes[2] = termios.CS8 | termios.CREAD | termios.CLOCAL
        attributes[3] = 0
        attributes[6][termios.VMIN] = 1
        attributes[6][termios.VTIME] = 0
        termios.tcsetattr(wire, termios.TCSANOW, attributes)
    return wire


def name_machine(name: str) -> None:
    """Its host name, also where programs look it up."""
    write("/proc/sys/kernel/hostname", name)
    try:
        with open("/etc/hosts", "a") as file:
            file.write(f"127.0.0.1 {name}\n")
    except OSError:
        pass  # a host without one


def raise_loopback() -> None:
    """``ip link set lo up``."""
    import _socket

    control = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    flags = struct.unpack("16sh", fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sh", b"lo", 0)))[1]
    fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | IFF_UP))
    control.close()


def provide_modprobe(plan: Plan) -> None:
    """What the kernel runs when it wants a module: the host's modprobe, else busybox's, else ours (a Python each time)."""
    program = ""
    if os.path.exists(f"/lib/modules/{os.uname().release}/modules.dep.bin"):  # kmod's reads nothing else
        program = next((p for p in ("/sbin/modprobe", "/usr/sbin/modprobe") if os.access(p, os.X_OK)), "")
    if not program:
        program = MODPROBE
        busybox = next((p for p in ("/bin/busybox", "/usr/bin/busybox") if os.access(p, os.X_OK)), "")
        if busybox:
            os.symlink(busybox, MODPROBE)
        else:
            with open(MODPROBE, "w") as file:
                file.write(f"#!{plan['python']} -IS\nimport sys\nsys.path[:0] = {plan['path']!r}\n")
                file.write("from nsbook.guest.inside.modules import modprobe\nsys.exit(modprobe(sys.argv[1:]))\n")
            os.chmod(MODPROBE, 0o755)
        if os.path.isdir("/sbin") and not os.path.lexists("/sbin/modprobe"):
            os.symlink(MODPROBE, "/sbin/modprobe")  # for people and scripts
    write("/proc/sys/kernel/modprobe", program)
