"""What a first process asks of its kernel: modules and the end. finit_module(2), reboot(2)."""

from __future__ import annotations

from nsbook.linux.call import encode, entry, failed, integer, string, syscall

LINUX_REBOOT_MAGIC1 = 0xFEE1DEAD
LINUX_REBOOT_MAGIC2 = 672274793
LINUX_REBOOT_CMD_RESTART = 0x01234567
LINUX_REBOOT_CMD_POWER_OFF = 0x4321FEDC

_finit_module = entry("finit_module", integer, string, integer)
_reboot = entry("reboot", integer, integer, integer, string)


@syscall()
def finit_module(fd: int, param_values: str = "", flags: int = 0) -> None:
    """Load the kernel module in the open file ``fd``. FileExistsError: it is loaded already."""
    if _finit_module(fd, encode(param_values), flags) < 0:
        raise failed()


@syscall()
def reboot(op: int, magic: int = LINUX_REBOOT_MAGIC1, magic2: int = LINUX_REBOOT_MAGIC2, arg: str | None = None) -> None:
    """End this machine (or, in a pid namespace, its first process) at once; nothing is synced first.

    ``op`` comes first, since the magic numbers are always the same.
    """
    if _reboot(magic, magic2, op, encode(arg)) < 0:
        raise failed()
