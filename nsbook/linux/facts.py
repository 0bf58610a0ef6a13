"""What may explain a refusal, gathered in the process that was refused, right after it.

:func:`capture` must be called there and then: the credentials, the mounts and the filter are those of that process, and it
may have no /proc, or end a moment later. It makes plain data, to be sent to where :mod:`.diagnose` judges it. It never
raises, changes nothing, and takes about a millisecond.

Whether a seccomp filter answered, and not the kernel, is found by a *probe*: the refused call once more, with arguments
that can do nothing and that the kernel itself would answer otherwise (``unshare(0)`` succeeds, ``mount(NULL, "", ...)`` is
ENOENT). Where the kernel looks at the privilege before it looks at the arguments, the probe tells something only if
the caller has the privilege; a sibling's answer is then asked for as well.
"""

from __future__ import annotations

import ctypes
import os

from nsbook.linux import cgroups, constants, host, idmaps, nsfs, status
from nsbook.linux.call import ENOSYS, entry, pointer, refused
from nsbook.linux.credentials import cap_bset_read, capget, last_cap
from nsbook.linux.files import read_bytes, read_file
from nsbook.linux.mountinfo import MountEntry, covering, mountinfo
from nsbook.linux.process import prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

EPERM, ENOENT, EBADF, EACCES, EFAULT, EINVAL = 1, 2, 9, 13, 14, 22
_ODD = 1 << 30  # a flag that no call has

# call: (arguments, the kernel's own answer, whether the kernel asks for the privilege first)
_PROBES: dict[str, tuple[tuple[Any, ...], int, bool]] = {
    "mount": ((None, b"", None, 0, None), ENOENT, False),
    "umount2": ((b"", _ODD), EINVAL, False),
    "pivot_root": ((b"", b""), ENOENT, True),
    "unshare": ((0,), 0, False),
    "setns": ((-1, 0), EBADF, False),
    "clone": ((constants.CLONE_NEWUSER | constants.CLONE_FS, 0, 0, 0, 0), EINVAL, False),
    "clone3": ((None, 0), EINVAL, False),
    "open_tree": ((-1, b"", _ODD), EINVAL, False),
    "move_mount": ((-1, b"", -1, b"", _ODD), EINVAL, True),
    "fsopen": ((None, _ODD), EINVAL, True),
    "fsconfig": ((-1, 0, None, None, 0), EINVAL, False),
    "fsmount": ((-1, _ODD, 0), EINVAL, True),
    "mount_setattr": ((-1, b"", _ODD, None, 0), EINVAL, False),
    "openat2": ((-1, b"", None, 0), EINVAL, False),
    "seccomp": ((0xFFFF, 0, None), EINVAL, False),
    "capset": ((None, None), EFAULT, False),
    "sethostname": ((None, -1), EINVAL, True),
    "setdomainname": ((None, -1), EINVAL, True),
    "pidfd_open": ((-1, _ODD), EINVAL, False),
    "pidfd_getfd": ((-1, -1, 1), EINVAL, False),
    "pidfd_send_signal": ((-1, 0, None, _ODD), EINVAL, False),
}


def capture(error: OSError) -> dict[str, Any]:
    """The facts, JSON-able. Missing ones are left out: the reader must expect that."""
    call, arguments = refused(error)
    facts: dict[str, Any] = {
        "call": call,
        "args": {name: _plain(value) for name, value in arguments.items()},
        "errno": error.errno or 0,
        "error": error.strerror or str(error),
        "filename": _plain(error.filename),
        "notes": list(getattr(error, "__notes__", ())),
    }
    for part in (_credentials, _host, _namespaces, _mounts, _paths, _overlay, _setns, _id_maps, _cgroup, _program, _probe):
        try:
            part(facts)
        except Exception as missed:  # a half-built child may lack anything; whoever judges sees what could not be read
            facts.setdefault("missed", []).append(f"{part.__name__.strip('_')}: {missed}")
    return facts


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()} if len(value) < 8 else f"{len(value)} entries"
    return value


def _credentials(facts: dict[str, Any]) -> None:
    """By system calls, which work without /proc; the rest from /proc/self/status."""
    facts["pid"] = os.getpid()
    facts["uid"], facts["euid"], _ = os.getresuid()
    facts["gid"], facts["egid"], _ = os.getresgid()
    facts["groups"] = os.getgroups()
    facts["cap_eff"], facts["cap_prm"], facts["cap_inh"] = capget()
    facts["no_new_privs"] = prctl(constants.PR_GET_NO_NEW_PRIVS)
    facts["seccomp"] = prctl(constants.PR_GET_SECCOMP)
    try:
        row = status.status()
        facts["cap_bnd"], facts["threads"] = row.cap_bnd, row.threads
    except OSError:
        facts["cap_bnd"] = sum(1 << n for n in range(last_cap() + 1) if cap_bset_read(n))


def _host(facts: dict[str, Any]) -> None:
    facts["release"] = host.kernel_release()
    facts["apparmor"] = host.apparmor()
    facts["namespace_limits"] = host.namespace_limits()
    facts["userns_clone"] = host.unprivileged_userns_clone()
    facts["apparmor_userns"] = host.apparmor_restrict_unprivileged_userns()


def _namespaces(facts: dict[str, Any]) -> None:
    """Of each kind: does the user namespace that the caller is in own it? (Its capabilities count only then.)"""
    facts["kinds"] = [kind for kind in constants.NAMESPACES if os.path.lexists(f"/proc/self/ns/{kind}")]
    own = os.stat("/proc/self/ns/user")
    facts["uid_map"] = [row.to_dict() for row in idmaps.uid_map()]
    facts["gid_map"] = [row.to_dict() for row in idmaps.gid_map()]
    facts["setgroups"] = idmaps.setgroups()
    try:
        facts["pid_unshared"] = nsfs.namespace_of("self", "pid") != nsfs.namespace_of("self", "pid_for_children")
    except FileNotFoundError:  # unshared, and no process is in the new one yet
        facts["pid_unshared"] = True
    facts["initial_userns"] = facts["uid_map"] == [{"inside": 0, "outside": 0, "count": 4294967295}]
    owned: dict[str, bool] = {}
    for kind in ("mnt", "uts", "ipc", "pid", "net", "cgroup"):
        try:
            fd = os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            owner = nsfs.ns_owner(fd)
            owned[kind] = os.fstat(owner).st_ino == own.st_ino
            os.close(owner)
        except PermissionError:  # the owner is a user namespace outside of the caller's
            owned[kind] = False
        finally:
            os.close(fd)
    facts["owned"] = owned


def _mounts(facts: dict[str, Any]) -> None:
    entries = mountinfo()
    root = next((e for e in reversed(entries) if e.mountpoint == "/"), None)
    facts["chrooted"] = root is None  # the root directory is no mount of this namespace: somebody called chroot(2)
    facts["root_fstype"] = root.fstype if root else ""
    proc = [e for e in entries if e.fstype == "proc" and e.root == "/"]
    points = [e.mountpoint.rstrip("/") + "/" for e in proc]
    facts["proc_mounts"] = [e.mountpoint for e in proc]
    facts["proc_masked"] = [e.mountpoint for e in entries if e.mountpoint.startswith(tuple(points))] if points else []
    over = {(e.parent, e.mountpoint) for e in entries}
    sysfs = {e.id: e for e in entries if e.fstype == "sysfs" and e.root == "/" and (e.id, e.mountpoint) not in over}
    facts["sys_mounts"] = [e.mountpoint for e in sysfs.values()]
    facts["sys_masked"] = [
        e.mountpoint
        for e in entries
        if e.parent in sysfs and e.mountpoint.removeprefix(sysfs[e.parent].mountpoint.rstrip("/")) not in _EMPTY_IN_SYS
    ]
    facts["sys_read_only"] = bool(sysfs) and all("ro" in e.options for e in sysfs.values())
    facts["cgroup_read_only"] = [e.mountpoint for e in entries if e.fstype in ("cgroup", "cgroup2") and "ro" in e.options]


_EMPTY_IN_SYS = {
    *("/fs/cgroup", "/fs/bpf", "/fs/fuse/connections", "/fs/pstore", "/fs/selinux", "/fs/smackfs", "/firmware/efi/efivars"),
    *("/kernel/config", "/kernel/debug", "/kernel/security", "/kernel/tracing"),
}
"""Directories of sysfs that the kernel keeps empty for a mount: to cover one hides nothing (fs/namespace.c)."""
_PATHS = ("target", "source", "new_root", "put_old", "path", "pathname", "from_path", "to_path", "linkpath")


def _paths(facts: dict[str, Any]) -> None:
    """What lies at the paths among the arguments."""
    try:
        entries = mountinfo()
    except OSError:
        entries = ()
    arguments = facts["args"]
    found = {name: arguments[name] for name in _PATHS if isinstance(arguments.get(name), str)}
    if not found and isinstance(facts["filename"], str):
        found["path"] = facts["filename"]
    dirfd = arguments.get("dir_fd", arguments.get("dirfd"))
    base = os.readlink(f"/proc/self/fd/{dirfd}") if isinstance(dirfd, int) and dirfd >= 0 else ""
    facts["paths"] = {name: _path(os.path.join(base, path) if base else path, entries) for name, path in found.items()}


def _path(path: str, entries: tuple[MountEntry, ...]) -> dict[str, Any]:
    real = os.path.realpath(path)
    facts: dict[str, Any] = {"path": path, "real": real}
    mount = covering(entries, real)
    if mount is not None:
        facts["mount"] = {
            "mountpoint": mount.mountpoint,
            "fstype": mount.fstype,
            "options": list(mount.options),
            "propagation": list(mount.optional),
        }
        facts["mountpoint"] = mount.mountpoint == real
        parent = next((e for e in entries if e.id == mount.parent), None)
        facts["parent_propagation"] = list(parent.optional) if parent else []
    existing = real
    while existing != "/" and not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    facts["missing_below"] = existing if existing != real else ""
    facts["read_only"] = bool(os.statvfs(existing).f_flag & constants.ST_RDONLY)
    facts["writable"] = os.access(existing, os.W_OK, effective_ids=True)
    facts["unsearchable"] = _unsearchable(os.path.dirname(real))
    if existing == real:
        found = os.stat(real)
        kind = found.st_mode & 0o170000
        facts["kind"] = {0o040000: "directory", 0o100000: "file", 0o060000: "block device", 0o020000: "device"}.get(kind, "other")
        facts["mode"], facts["uid"], facts["gid"] = found.st_mode & 0o7777, found.st_uid, found.st_gid
        flags = os.statvfs(real).f_flag
        facts["nodev"], facts["noexec"] = bool(flags & constants.ST_NODEV), bool(flags & constants.ST_NOEXEC)
    return facts


def _unsearchable(directory: str) -> str:
    """The first directory on the way down that may not be passed (path_resolution(7)); "" if all may."""
    at = "/"
    for part in ["", *directory.strip("/").split("/")]:
        at = os.path.join(at, part)
        if os.path.isdir(at) and not os.access(at, os.X_OK, effective_ids=True):
            return at
    return ""


def _overlay(facts: dict[str, Any]) -> None:
    """Of an overlay's options: which directories are missing, and on what the upper one lies."""
    data = facts["args"].get("data")
    if facts["call"] != "mount" or facts["args"].get("filesystemtype") != "overlay" or not isinstance(data, str):
        return
    options = dict(word.partition("=")[::2] for word in data.split(","))
    named = [options[key] for key in ("upperdir", "workdir") if key in options] + options.get("lowerdir", "").split(":")
    overlay: dict[str, Any] = {"missing": [path for path in named if path and not os.path.isdir(path)][:8]}
    facts["overlay"] = overlay
    upper, work = options.get("upperdir"), options.get("workdir")
    if upper and work and not overlay["missing"]:
        overlay["same_device"] = os.stat(upper).st_dev == os.stat(work).st_dev
        overlay["nested"] = os.path.commonpath([os.path.realpath(upper), os.path.realpath(work)]) in (
            os.path.realpath(upper),
            os.path.realpath(work),
        )
        mount = covering(mountinfo(), os.path.realpath(upper))
        overlay["upper_fstype"] = mount.fstype if mount else ""


def _setns(facts: dict[str, Any]) -> None:
    """What the descriptor given to setns(2) is."""
    fd = facts["args"].get("fd")
    if facts["call"] != "setns" or not isinstance(fd, int):
        return
    found: dict[str, Any] = {"open": False}
    facts["setns"] = found
    try:
        os.fstat(fd)
        found["open"] = True
        found["kind"] = nsfs.kind_of(fd)
        found["same"] = os.fstat(fd).st_ino == os.stat(f"/proc/self/ns/{found['kind']}").st_ino
    except OSError:  # closed, or no namespace (a pidfd)
        return


def _id_maps(facts: dict[str, Any]) -> None:
    path = str(facts["args"].get("path") or facts["filename"] or "")
    leaf = os.path.basename(path)
    if facts["call"] != "write" or leaf not in ("uid_map", "gid_map", "setgroups"):
        return
    there = os.path.dirname(path)
    target: dict[str, Any] = {"file": leaf}
    for name in ("uid_map", "gid_map", "setgroups"):
        target[name] = read_file(f"{there}/{name}").strip()
    target["same_userns"] = os.stat(f"{there}/ns/user").st_ino == os.stat("/proc/self/ns/user").st_ino
    row = status.parse(read_file(f"{there}/status"))
    target["uid"], target["gid"] = row.uids[1], row.gids[1]
    facts["id_map"] = target


def _cgroup(facts: dict[str, Any]) -> None:
    facts["cgroup_layout"] = cgroups.layout()
    if facts["call"] not in ("write", "mkdir", "rmdir"):
        return
    place = facts.get("paths", {}).get("path", {})
    if place.get("mount", {}).get("fstype") not in ("cgroup", "cgroup2"):
        return
    there = place["real"] if facts["call"] == "rmdir" else os.path.dirname(place["real"])
    group: dict[str, Any] = {"directory": there, "version": 2 if place["mount"]["fstype"] == "cgroup2" else 1}
    group["read_only"] = place["read_only"]
    for name in ("controllers", "subtree_control", "type", "max.depth", "max.descendants"):
        try:
            group[name] = read_file(f"{there}/cgroup.{name}").strip()
        except OSError:
            continue
    try:
        group["processes"] = len(read_bytes(f"{there}/cgroup.procs").split())
    except OSError:
        pass
    for name in ("cpuset.cpus", "cpuset.mems", "memory.usage_in_bytes"):
        if os.path.exists(f"{there}/{name}"):
            group[name] = read_file(f"{there}/{name}").strip()
    group["children"] = sum(1 for e in os.scandir(there) if e.is_dir(follow_symlinks=False))
    group["uid"] = os.stat(there).st_uid
    facts["cgroup"] = group


def _program(facts: dict[str, Any]) -> None:
    """What execve(2) would have read of the file: the ``#!`` line, or the ELF header's machine and interpreter."""
    if facts["call"] != "execve":
        return
    program: dict[str, Any] = {}
    facts["program"] = program
    path = str(facts["args"].get("pathname") or facts["filename"])
    if not os.path.isfile(path) or not os.access(path, os.R_OK, effective_ids=True):
        return
    with open(path, "rb") as file:
        head = file.read(4096)
        program["head"] = head[:16].hex()
        if head.startswith(b"#!"):
            first = head[2:].split(b"\n")[0].replace(b"\t", b" ").strip(b" ")
            program["interpreter"] = os.fsdecode(first.split(b" ")[0])
            program["crlf"] = head.split(b"\n")[0].endswith(b"\r")
        elif head.startswith(b"\x7fELF"):
            program["elf_class"], program["elf_machine"] = head[4] * 32, int.from_bytes(head[18:20], "little")
            program["interpreter"] = _elf_interpreter(file.fileno(), head)
    interpreter = program.get("interpreter")
    if interpreter:
        program["interpreter_exists"] = os.path.exists(interpreter)
        program["interpreter_executable"] = os.access(interpreter, os.X_OK)


def _elf_interpreter(fd: int, head: bytes) -> str:
    """The PT_INTERP of a little-endian ELF file (elf(5)); "" for a static one."""
    if head[5] != 1:
        return ""
    wide = head[4] == 2
    at = int.from_bytes(head[32:40] if wide else head[28:32], "little")
    size, count = (int.from_bytes(head[i : i + 2], "little") for i in ((54, 56) if wide else (42, 44)))
    for n in range(min(count, 64)):
        row = os.pread(fd, size, at + n * size)
        if int.from_bytes(row[:4], "little") == 3:
            offset = int.from_bytes(row[8:16] if wide else row[4:8], "little")
            length = int.from_bytes(row[32:40] if wide else row[16:20], "little")
            return os.fsdecode(os.pread(fd, min(length, 4096), offset).rstrip(b"\0"))
    return ""


def probe(call: str) -> dict[str, Any] | None:
    """Make the harmless form of a call: what it answered, and what Linux itself answers. None for a call without one.

    ``asks_first``: without the privilege the kernel's own answer is EPERM, so that the probe decides nothing.
    """
    known = _PROBES.get(call)
    if known is None:
        return None
    arguments, expected, asks_first = known
    value = entry(call, *(pointer for _ in arguments))(*arguments)
    if call == "clone" and value == 0:  # never: EINVAL since Linux 3.9
        os._exit(0)
    errno = ctypes.get_errno() if value < 0 else 0
    return {"call": call, "errno": errno, "expected": expected, "asks_first": asks_first}


def _probe(facts: dict[str, Any]) -> None:
    if facts["errno"] not in (EPERM, EACCES, ENOSYS):
        return
    calls = [facts["call"]]
    if facts["call"] == "clone3" and facts["errno"] != ENOSYS:
        calls = ["clone"]  # clone3 was not there and clone was refused
    if facts["call"] in _PROBES and _PROBES[calls[0]][2]:
        calls += ["mount", "unshare"]
    facts["probes"] = [row for call in calls if (row := probe(call)) is not None]
