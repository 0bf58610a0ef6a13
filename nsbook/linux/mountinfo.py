"""/proc/PID/mountinfo, as proc(5) (proc_pid_mountinfo(5)) describes it."""

from __future__ import annotations

from nsbook.frozen import Frozen
from nsbook.linux.files import read_file


class MountEntry(Frozen):
    """One mount. ``id`` and ``parent`` are mount ids, ``device`` is "major:minor", ``root`` the directory of the file
    system that is shown at ``mountpoint``. ``options`` are the mount's own, ``super_options`` the file system's;
    ``optional`` holds what propagation(mount_namespaces(7)) it has: ``shared:N``, ``master:N``, ``propagate_from:N``,
    ``unbindable``; nothing for a private mount. Text is unescaped, bytes that are no UTF-8 are surrogates.
    """

    id: int
    parent: int
    device: str
    root: str
    mountpoint: str
    options: tuple[str, ...]
    optional: tuple[str, ...]
    fstype: str
    source: str
    super_options: tuple[str, ...]


def mountinfo(pid: int | str = "self") -> tuple[MountEntry, ...]:
    """The mounts that the process sees, in the kernel's order (a later one may cover an earlier one)."""
    return parse(read_file(f"/proc/{pid}/mountinfo"))


def parse(text: str) -> tuple[MountEntry, ...]:
    """The rows of a mountinfo file's text. ValueError for a line that is none."""
    # Not splitlines(): a mount point may contain a form feed or any other "line end" but \n, which the kernel escapes.
    return tuple([_entry(line) for line in text.split("\n") if line])


def _entry(line: str) -> MountEntry:
    head = line.split(" ")
    try:
        dash = head.index("-", 6)
        fstype, source, super_options = head[dash + 1 : dash + 4]
        return MountEntry(
            int(head[0]),
            int(head[1]),
            head[2],
            unescape(head[3]),
            unescape(head[4]),
            tuple([unescape(o) for o in head[5].split(",")]),
            tuple(head[6:dash]),
            unescape(fstype),
            unescape(source),
            tuple([unescape(o) for o in super_options.split(",")]),
        )
    except ValueError:
        raise ValueError(f"not a line of mountinfo: {line!r}") from None


def unescape(text: str) -> str:
    r"""The kernel's octal escapes undone: ``a\040b`` is ``a b``. Anything else, also a lone backslash, stays."""
    if "\\" not in text:
        return text
    raw = text.encode("utf-8", "surrogateescape")
    out = bytearray()
    at = 0
    while at < len(raw):
        digits = raw[at + 1 : at + 4]
        if raw[at] == 0x5C and len(digits) == 3 and all(0x30 <= d <= 0x37 for d in digits) and digits[0] <= 0x33:
            out.append(int(digits, 8))
            at += 4
        else:
            out.append(raw[at])
            at += 1
    return out.decode("utf-8", "surrogateescape")


def covering(entries: tuple[MountEntry, ...], path: str) -> MountEntry | None:
    """The mount that a lookup of the absolute, resolved ``path`` ends in; None in a chroot that hides all mounts."""
    found: MountEntry | None = None
    for entry in entries:
        point = entry.mountpoint.rstrip("/")
        inside = path == entry.mountpoint or path.startswith(point + "/")
        if inside and (found is None or len(entry.mountpoint) >= len(found.mountpoint)):
            found = entry
    return found
