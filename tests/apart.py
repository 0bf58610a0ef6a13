"""Run a command apart from this machine: ``python tests/apart.py COMMAND...``.

As root the command gets mount and network namespaces of its own, the mounts private and ``lo`` up. So a test can mount
and make links as it likes, whatever it leaves behind ends with the worker, and two workers do not see each other's. Each
pytest process is started this way (see ``conftest.py``). An ordinary user can't have that without a user namespace, in
which other rules hold than those to be tested: for a user the command is simply run.

``NSBOOK_TESTS_OUTSIDE`` is set to the pid of a process that has stayed outside; :func:`outside` is the way back for the
few tests that need the machine's own network.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1  # netdevice(7)


def command(*words: str) -> list[str]:
    """``words``, to be run apart."""
    return [sys.executable, "-S", "-E", __file__, *words]


def is_apart() -> bool:
    """Whether this process has been started apart."""
    return "NSBOOK_TESTS_OUTSIDE" in os.environ


def outside(*words: str) -> list[str]:
    """``words``, to be run in the network namespace of the machine itself."""
    pid = os.environ.get("NSBOOK_TESTS_OUTSIDE")
    return ["nsenter", f"--net=/proc/{pid}/ns/net", *words] if pid and os.geteuid() == 0 else list(words)


def raise_loopback() -> None:
    """``ip link set lo up``, on a machine that may have no iproute2."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        flags = struct.unpack("16sh", fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sh", b"lo", 0)))[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | IFF_UP))


def main(words: list[str]) -> None:
    """Become the command."""
    if words[0] == "--inside":
        raise_loopback()
        os.execvp(words[1], words[1:])
    os.environ["NSBOOK_TESTS_OUTSIDE"] = str(os.getppid())
    if os.geteuid() == 0 and may_unshare():
        os.execvp("unshare", ["unshare", "--mount", "--net", "--propagation", "private", *command("--inside", *words)])
    os.execvp(words[0], words)


def may_unshare() -> bool:
    """Whether this root is one who may (it may not, for example, in a container without CAP_SYS_ADMIN)."""
    child = os.fork()
    if child == 0:
        os.execvp("unshare", ["unshare", "--mount", "--net", "true"])
    return os.waitpid(child, 0)[1] == 0


if __name__ == "__main__":
    main(sys.argv[1:])
