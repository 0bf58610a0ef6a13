"""Capabilities: root's power in pieces, as a value.

A thread has five sets (capabilities(7)): *effective* is what the kernel checks, *permitted* what may be made effective,
*inheritable* and *ambient* what can be kept over execve(2), and *bounding* the limit of what execve can give. In a container
they are root's power cut down to Docker's fourteen, or to what was asked for.

The names are the kernel's (``CAP_CHOWN``); the order is by number.
"""

from __future__ import annotations

from nsbook.errors import InvalidOption
from nsbook.frozen import Frozen
from nsbook.inspectable import Inspectable, Sheet, Snapshot, now
from nsbook.linux.constants import CAPABILITIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from nsbook.inspectable import Difference

DEFAULT: tuple[str, ...] = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
)
"""What Docker gives a container that asks for nothing (moby, daemon/pkg/oci/caps/defaults.go)."""

SETS = ("effective", "permitted", "inheritable", "bounding", "ambient")

MEANING: dict[str, str] = {
    "CAP_CHOWN": "give files to any user or group",
    "CAP_DAC_OVERRIDE": "read, write and execute whatever the permission bits say",
    "CAP_DAC_READ_SEARCH": "read files and search directories whatever the bits say; open files by handle",
    "CAP_FOWNER": "act on any file as its owner does: chmod, utime, sticky directories",
    "CAP_FSETID": "keep set-user-ID and set-group-ID bits when a file is changed",
    "CAP_KILL": "send signals to anyone's processes",
    "CAP_SETGID": "take any group ID; write gid maps",
    "CAP_SETUID": "take any user ID; write uid maps",
    "CAP_SETPCAP": "drop from the bounding set, add to inheritable, set securebits",
    "CAP_LINUX_IMMUTABLE": "set the append-only and immutable flags of files",
    "CAP_NET_BIND_SERVICE": "listen on ports below 1024",
    "CAP_NET_BROADCAST": "(unused) broadcast and listen to multicasts",
    "CAP_NET_ADMIN": "set up interfaces, addresses, routes, firewalls",
    "CAP_NET_RAW": "open raw and packet sockets, as ping does",
    "CAP_IPC_LOCK": "lock memory; allocate huge pages",
    "CAP_IPC_OWNER": "use anyone's System V IPC objects",
    "CAP_SYS_MODULE": "load and unload kernel modules",
    "CAP_SYS_RAWIO": "reach I/O ports, /dev/mem and raw devices",
    "CAP_SYS_CHROOT": "chroot; enter mount namespaces",
    "CAP_SYS_PTRACE": "trace and look into any process",
    "CAP_SYS_PACCT": "switch process accounting on and off",
    "CAP_SYS_ADMIN": "mount, unshare, setns, sethostname, quotas and much else: nearly root",
    "CAP_SYS_BOOT": "reboot; load another kernel",
    "CAP_SYS_NICE": "raise priorities, set real-time scheduling, CPU and memory placement of others",
    "CAP_SYS_RESOURCE": "go beyond resource limits, quotas and reserved space; lower oom_score_adj",
    "CAP_SYS_TIME": "set the system and hardware clocks",
    "CAP_SYS_TTY_CONFIG": "hang up and configure terminals",
    "CAP_MKNOD": "make device files",
    "CAP_LEASE": "take leases on any file",
    "CAP_AUDIT_WRITE": "write to the kernel's audit log",
    "CAP_AUDIT_CONTROL": "switch auditing and change its rules",
    "CAP_SETFCAP": "set capabilities on files; map ID 0 of the parent into a user namespace",
    "CAP_MAC_OVERRIDE": "override the Smack security module",
    "CAP_MAC_ADMIN": "configure the Smack security module",
    "CAP_SYSLOG": "read the kernel's log and its addresses",
    "CAP_WAKE_ALARM": "set timers that wake the machine up",
    "CAP_BLOCK_SUSPEND": "keep the machine from suspending",
    "CAP_AUDIT_READ": "read the audit log by a multicast socket",
    "CAP_PERFMON": "use performance monitoring",
    "CAP_BPF": "use the privileged bpf(2) operations",
    "CAP_CHECKPOINT_RESTORE": "choose PIDs, write ns_last_pid, read map_files (checkpoint and restore)",
}
"""What each one permits, in a line (capabilities(7))."""


def mask(names: Iterable[str]) -> int:
    """The names as a bit mask, as /proc and capset(2) have it. InvalidOption for a name that is none."""
    return sum({1 << _number(name) for name in names})


def names(mask: int) -> tuple[str, ...]:
    """The way back, by number. A bit without a name is ``CAP_n`` (a kernel newer than this table)."""
    return tuple([CAPABILITIES[n] if n < len(CAPABILITIES) else f"CAP_{n}" for n in range(mask.bit_length()) if mask >> n & 1])


def _number(name: str) -> int:
    word = name.upper()
    word = word if word.startswith("CAP_") else f"CAP_{word}"
    if word in CAPABILITIES:
        return CAPABILITIES.index(word)
    digits = word[4:]
    if digits.isdecimal() and int(digits) < 64:
        return int(digits)
    raise InvalidOption(f"{name!r} is no capability; see capabilities(7)")


def intersect_bounding(wanted: Iterable[str], bounding: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(kept, dropped): what of ``wanted`` lies within the bounding set, and what can't be had."""
    want, limit = mask(wanted), mask(bounding)
    return names(want & limit), names(want & ~limit)


class CapabilitiesSnapshot(Snapshot):
    """The five sets, by number."""

    effective: tuple[str, ...]
    permitted: tuple[str, ...]
    inheritable: tuple[str, ...]
    bounding: tuple[str, ...]
    ambient: tuple[str, ...]


class Capabilities(Frozen, Inspectable):
    """The five sets of one thread. A value: nothing changes when one is made."""

    effective: frozenset[str] = frozenset()
    permitted: frozenset[str] = frozenset()
    inheritable: frozenset[str] = frozenset()
    bounding: frozenset[str] = frozenset()
    ambient: frozenset[str] = frozenset()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in SETS:
            object.__setattr__(self, name, frozenset(names(mask(getattr(self, name)))))

    @classmethod
    def of(cls, pid: int | str = "self") -> Capabilities:
        """What a process has now (/proc/PID/status). FileNotFoundError or ProcessLookupError if it is gone."""
        from nsbook.linux.status import status

        found = status(pid)
        sets = (found.cap_eff, found.cap_prm, found.cap_inh, found.cap_bnd, found.cap_amb)
        return cls(*(frozenset(names(bits)) for bits in sets))

    @classmethod
    def granted(cls, wanted: Iterable[str] = DEFAULT, *, ambient: bool = False) -> Capabilities:
        """What a container is started with: effective, permitted and bounding are ``wanted``; with ``ambient`` also
        inheritable and ambient, so that a user other than root keeps them over execve."""
        caps = frozenset(cls.parse(wanted))
        kept = caps if ambient else frozenset()
        return cls(caps, caps, kept, caps, kept)

    @staticmethod
    def parse(wanted: Iterable[str]) -> tuple[str, ...]:
        """Names as people write them (``chown``, ``CAP_CHOWN``, ``ALL``), normalised, by number, each once.

        InvalidOption for a name that is none.
        """
        bits = 0
        for name in wanted:
            bits |= (1 << len(CAPABILITIES)) - 1 if name.upper() in ("ALL", "CAP_ALL") else 1 << _number(name)
        return names(bits)

    def after_exec(self, uid: int, *, real_uid: int | None = None, no_new_privs: bool = False, noroot: bool = False) -> Capabilities:
        """What the sets would be after execve(2) of a program without set-user-ID bits or file capabilities.

        ``uid`` is the effective user ID (within the user namespace) and ``real_uid`` the real one (default: the same).
        For root, all files count as having all capabilities, unless ``noroot`` (SECBIT_NOROOT) is set; with ``no_new_privs``
        nothing is gained that was not permitted before. For others, only the ambient set remains. From capabilities(7),
        "Transformation of capabilities during execve()" and "Capabilities and execution of programs by root".
        """
        real = uid if real_uid is None else real_uid
        permitted: frozenset[str] = frozenset()
        effective_bit = False
        if not noroot and 0 in (uid, real):
            permitted = self.inheritable | self.bounding
            effective_bit = uid == 0
            if no_new_privs and not permitted <= self.permitted:
                permitted &= self.permitted
        permitted |= self.ambient
        return self.replace(permitted=permitted, effective=permitted if effective_bit else self.ambient)

    def after_setuid(self, before: int, after: int, *, keep_caps: bool = False) -> Capabilities:
        """What the sets would be after all three user IDs went from ``before`` to ``after`` (setresuid(2)).

        Leaving root empties permitted, effective and ambient (``keep_caps``, PR_SET_KEEPCAPS, saves permitted alone); coming
        back to root makes effective what is permitted. From capabilities(7), "Effect of user ID changes on capabilities".
        """
        none: frozenset[str] = frozenset()
        if before == 0 and after != 0:
            return self.replace(effective=none, ambient=none, permitted=self.permitted if keep_caps else none)
        if before != 0 and after == 0:
            return self.replace(effective=self.permitted)
        return self

    def masks(self) -> dict[str, int]:
        """Set -> bit mask."""
        return {name: mask(getattr(self, name)) for name in SETS}

    def inspect(self) -> CapabilitiesSnapshot:
        """The sets by number."""
        return CapabilitiesSnapshot(now(), *(names(mask(getattr(self, name))) for name in SETS))

    def diff(self, after: Capabilities) -> Difference:
        """What another value has more and less."""
        return self.inspect().diff(after.inspect())

    def sheet(self) -> Sheet:
        """A row for each capability that is in any set."""
        rows = []
        masks = self.masks()
        for number, name in enumerate(CAPABILITIES):
            marks = [masks[s] >> number & 1 for s in SETS]
            if any(marks):
                rows.append((name, *("●" if m else "·" for m in marks), MEANING.get(name, "")))
        held = len(self.effective)
        title = f"Capabilities: {held or 'none'} effective of {len(CAPABILITIES)}"
        return Sheet(title, ("capability", *SETS, "permits"), tuple(rows), (), "capabilities")

    def __repr__(self) -> str:
        return f"<Capabilities: {' '.join(f'{name}={bits:#x}' for name, bits in self.masks().items())}>"
