"""guest: a small Linux of our own, for those who may do nothing on this one.

A pod without a privilege, or a laptop without sudo, can still boot a kernel: User Mode Linux is an ordinary program. In it
there is root, there are namespaces, overlays and cgroup v2, and this machine's files, with all that is written thrown away
in the end::

    from nsbook.guest import Guest

    with Guest.boot() as guest:
        print(guest.run(["unshare", "--pid", "--fork", "--mount-proc", "ps"]).stdout.decode())

Beside ``engine``; imports the ground and, for what runs inside, :mod:`nsbook.linux`. Subprocesses are allowed here.

* :mod:`.guest` the object; :mod:`.process` one command; :mod:`.command` the command line, :mod:`.terminal` its terminal
* :mod:`.frames` what goes over the line, :mod:`.channel` the host's end of it
* :mod:`.uml` and :mod:`.qemu` the engines, :mod:`.session` the files on the host, :mod:`.keeper` the process that sees to
  the end of it all
* :mod:`.inside` what runs in the guest

Follows Documentation/virt/uml/user_mode_linux_howto_v2.rst, Documentation/filesystems/overlayfs.rst,
Documentation/admin-guide/cgroup-v2.rst of the kernel; ptrace(2), pidfd_open(2), posix_spawn(3).

Limits of User Mode Linux: one CPU, x86_64; no cpuset, hugetlb, pressure files, time namespaces or Landlock; nftables
without the families ip and inet (iptables-legacy and bridge work); a system call takes tens of microseconds.
No network but its own. Files of the host that the calling user may not read, the guest's root may not read either.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nsbook.guest.command import cli_run, cli_shell
    from nsbook.guest.guest import Guest, GuestSnapshot, supported
    from nsbook.guest.process import GuestProcess, GuestResult

_PLACES = {
    "Guest": "guest",
    "GuestProcess": "process",
    "GuestResult": "process",
    "GuestSnapshot": "guest",
    "cli_run": "command",
    "cli_shell": "command",
    "supported": "guest",
}

__all__ = ["Guest", "GuestProcess", "GuestResult", "GuestSnapshot", "cli_run", "cli_shell", "supported"]


def __getattr__(name: str) -> object:
    """Imported when asked for: what runs in the guest imports this package, too, and needs none of it."""
    from importlib import import_module

    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
