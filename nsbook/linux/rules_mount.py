"""The diagnoser's rules for mounting: mount(2), umount2(2), pivot_root(2), fsopen(2) and its kin, mount_setattr(2)."""

from __future__ import annotations

from nsbook.linux import constants as C
from nsbook.linux.rules import (
    EACCES,
    EBUSY,
    EINVAL,
    ELOOP,
    ENODEV,
    ENOENT,
    ENOTBLK,
    ENOTDIR,
    EPERM,
    EROFS,
    Rule,
    always,
    argument,
    flag,
    foreign,
    has,
    lacks,
    place,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from nsbook.linux.rules import Facts

_NEW = ("fsopen", "fsconfig", "fsmount", "move_mount", "open_tree", "mount_setattr")
_PROPAGATION = C.MS_SHARED | C.MS_PRIVATE | C.MS_SLAVE | C.MS_UNBINDABLE
_IN_USERNS = ("proc", "sysfs", "devpts", "tmpfs", "ramfs", "mqueue", "bpf", "overlay", "cgroup2", "fuse", "binder")
_GET_ADMIN = "Be root, or make a user namespace first (unshare with CLONE_NEWUSER|CLONE_NEWNS): in it the process has CAP_SYS_ADMIN."


def _masked(facts: Facts) -> str:
    kind = argument(facts, "filesystemtype") or argument(facts, "fsname")
    if kind not in ("proc", "sysfs", None) or (kind is None and facts.get("call") == "mount"):
        return ""
    if facts.get("initial_userns", True):
        return ""
    key, present = ("sys", "/sys") if kind == "sysfs" else ("proc", "/proc")
    rule = f"in a user namespace a new {kind or 'proc'} may not show more than the present {present} does"
    masked = facts.get(f"{key}_masked", [])
    if masked:
        return f"{rule}, and there {', '.join(masked[:4])} {'are' if len(masked) > 1 else 'is'} covered"
    if kind == "sysfs" and facts.get("sys_read_only") and not flag(facts, C.MS_RDONLY, "mountflags"):
        return f"{rule}, and that is read-only, while the new one is not"
    if not facts.get(f"{key}_mounts"):
        return (
            f"in a user namespace a new {kind or 'proc'} may not show more than what is mounted already, "
            f"and no whole {present} is mounted here"
        )
    return ""


def _proc_owner(facts: Facts) -> str:
    return (
        foreign("pid", "the PID namespace that it is in")(facts)
        if facts.get("call") != "mount" or argument(facts, "filesystemtype") == "proc"
        else ""
    )


def _block(facts: Facts) -> str:
    kind = argument(facts, "filesystemtype")
    if kind is None or facts.get("initial_userns", True) or kind in _IN_USERNS or flag(facts, C.MS_BIND | C.MS_REMOUNT, "mountflags"):
        return ""
    return f"file system type {kind!r} can't be mounted from a user namespace other than the initial one"


def _locked_flags(facts: Facts) -> str:
    if not flag(facts, C.MS_REMOUNT, "mountflags") or not has(facts, "CAP_SYS_ADMIN") or facts.get("initial_userns", True):
        return ""
    options = set(place(facts, "target").get("mount", {}).get("options", ()))
    flags = argument(facts, "mountflags")
    wanted = {"ro": C.MS_RDONLY, "nosuid": C.MS_NOSUID, "nodev": C.MS_NODEV, "noexec": C.MS_NOEXEC}
    dropped = [name for name, bit in wanted.items() if name in options and not flags & bit]
    if dropped:
        return f"the remount would take {', '.join(dropped)} off, which a more privileged mount namespace has set"
    return "an attribute of this mount was set by a more privileged mount namespace"


def _missing(*names: str) -> Callable[[Facts], str]:
    def judge(facts: Facts) -> str:
        bind = flag(facts, C.MS_BIND | C.MS_MOVE, "mountflags")
        for name in names:
            found = place(facts, name)
            if found.get("missing_below") and (name != "source" or bind):
                return f"{name} {found['path']!r} does not exist: the path ends at {found['missing_below']!r}"
        return ""

    return judge


def _overlay_missing(facts: Facts) -> str:
    missing = facts.get("overlay", {}).get("missing")
    return f"of the overlay's directories {', '.join(map(repr, missing))} can't be found" if missing else ""


def _overlay_upper(facts: Facts) -> str:
    overlay = facts.get("overlay", {})
    if overlay.get("same_device") is False:
        return "workdir and upperdir lie on different file systems"
    if overlay.get("nested"):
        return "one of workdir and upperdir lies inside the other"
    if overlay.get("upper_fstype") in ("overlay", "nfs", "nfs4", "vfat", "9p"):
        return f"upperdir lies on {overlay['upper_fstype']}, which can't hold it"
    return ""


def _propagation_mix(facts: Facts) -> str:
    flags = argument(facts, "mountflags") or 0
    kinds = flags & _PROPAGATION
    if kinds.bit_count() > 1:
        return f"the flags are {C.flag_names(flags, 'MS_')}"
    return ""


def _propagation_other(facts: Facts) -> str:
    flags = argument(facts, "mountflags") or 0
    if flags & _PROPAGATION and flags & ~(_PROPAGATION | C.MS_REC | C.MS_SILENT):
        return f"the flags are {C.flag_names(flags, 'MS_')}: propagation is set by a call of its own"
    return ""


def _not_mounted(facts: Facts) -> str:
    found = place(facts, "target", "path")
    if found.get("mountpoint") is not False:
        return ""
    if flag(facts, C.MS_REMOUNT | _PROPAGATION, "mountflags") or facts.get("call") in ("umount2", "mount_setattr"):
        return f"{found['path']!r} is not a mount point; it lies in the mount at {found['mount']['mountpoint']!r}"
    return ""


def _bind_below(facts: Facts) -> str:
    if flag(facts, C.MS_BIND, "mountflags") and not flag(facts, C.MS_REC, "mountflags") and not facts.get("initial_userns", True):
        return "this is a user namespace, and the bind is not recursive: it would show what the mounts inside the directory cover"
    return ""


def _move_shared(facts: Facts) -> str:
    if not flag(facts, C.MS_MOVE, "mountflags") and facts.get("call") != "move_mount":
        return ""
    parent = place(facts, "source", "from_path").get("parent_propagation", [])
    return f"the mount above the source has propagation {' '.join(parent)}" if any(p.startswith("shared") for p in parent) else ""


def _new_root(what: str) -> Callable[[Facts], str]:
    def judge(facts: Facts) -> str:
        found = place(facts, "new_root")
        if what == "mount point" and found.get("mountpoint") is False:
            return f"{found['path']!r} is a plain directory of the mount at {found['mount']['mountpoint']!r}"
        if what == "chroot" and facts.get("chrooted"):
            return "no mount of this namespace has its mount point at the process's root directory"
        if what == "rootfs" and facts.get("root_fstype") == "rootfs":
            return "/ is the initial ramfs"
        if what == "shared":
            if any(p.startswith("shared") for p in found.get("mount", {}).get("propagation", [])):
                return f"the mount at {found['path']!r} is shared"
            if any(p.startswith("shared") for p in found.get("parent_propagation", [])):
                return f"the mount above {found['path']!r} is shared"
        if what == "below":
            old, new = place(facts, "put_old").get("real", ""), found.get("real", "")
            if old and new and not (old + "/").startswith(new.rstrip("/") + "/"):
                return f"{old!r} is not inside {new!r}"
        return ""

    return judge


def _root_mount(facts: Facts) -> str:
    for name in ("new_root", "put_old"):
        found = place(facts, name)
        if found.get("mount", {}).get("mountpoint") == "/":
            return f"{name} {found['path']!r} lies in the mount that is the root"
    return ""


def _no_directory(facts: Facts) -> str:
    for name in ("target", "new_root", "put_old", "source"):
        found = place(facts, name)
        if found.get("kind") not in ("directory", None):
            return f"{name} {found['path']!r} is a {found['kind']}"
    return ""


def _kernel_words(facts: Facts) -> str:
    words = [n for n in facts.get("notes", ()) if n.startswith("the kernel says: ")]
    return "; ".join(words)


def _unsearchable(facts: Facts) -> str:
    for found in facts.get("paths", {}).values():
        if found.get("unsearchable"):
            return f"uid {facts.get('euid')} may not pass through {found['unsearchable']!r}"
    return ""


def _nodev(facts: Facts) -> str:
    found = place(facts, "source")
    return f"{found['path']!r} lies on a file system mounted nodev" if found.get("kind") == "block device" and found.get("nodev") else ""


def _pivot_locked(facts: Facts) -> str:
    found = place(facts, "new_root")
    if found.get("mountpoint") and not facts.get("initial_userns", True):
        return f"the mount at {found['path']!r} came from a more privileged mount namespace"
    return ""


def _umount_locked(facts: Facts) -> str:
    found = place(facts, "target")
    if found.get("mountpoint") and not facts.get("initial_userns", True):
        return f"{found['path']!r} was mounted by a more privileged mount namespace, and is locked to those that came with it"
    return ""


RULES: tuple[Rule, ...] = (
    Rule(("mount", "umount2"), (EPERM,), "capability", "mount(2)",
         "Appropriate privilege (Linux: the CAP_SYS_ADMIN capability) is required to mount filesystems.",
         lacks("CAP_SYS_ADMIN"), _GET_ADMIN),
    Rule(("pivot_root",), (EPERM,), "capability", "pivot_root(2)",
         "The calling process does not have the CAP_SYS_ADMIN capability.", lacks("CAP_SYS_ADMIN"), _GET_ADMIN),
    Rule(_NEW, (EPERM,), "capability", "capabilities(7)",
         "Perform a range of system administration operations including: quotactl(2), mount(2), umount(2), pivot_root(2)",
         lacks("CAP_SYS_ADMIN"), _GET_ADMIN),
    Rule(("mount", "umount2", "pivot_root", *_NEW), (EPERM,), "user namespace", "user_namespaces(7)",
         "Holding CAP_SYS_ADMIN within the user namespace that owns a process's mount namespace allows that process to create "
         "bind mounts and mount the following types of filesystems:",
         foreign("mnt", "the mount namespace"),
         "Unshare the mount namespace too, after or together with the user namespace (CLONE_NEWUSER|CLONE_NEWNS)."),
    Rule(("mount", "fsmount", "fsconfig"), (EPERM,), "user namespace", "user_namespaces(7)",
         "Holding CAP_SYS_ADMIN within the user namespace that owns a process's PID namespace allows (since Linux 3.8) that process to "
         "mount /proc filesystems.", _proc_owner,
         "Unshare the PID namespace together with the user namespace, and mount proc in a child: only it is in the new one."),
    Rule(("mount", "fsmount", "fsconfig"), (EPERM,), "masked /proc", "fs/namespace.c of Linux, mount_too_revealing()",
         "A new proc or sysfs in a user namespace needs a mount of it that is fully visible already.",
         _masked, "Bind the present one instead, or start the outer container without masked paths "
         "(podman: --security-opt unmask=ALL, Docker: --security-opt systempaths=unconfined)."),
    Rule(("mount",), (EPERM,), "user namespace", "mount(2)",
         'An attempt was made to modify (MS_REMOUNT) the MS_RDONLY, MS_NOSUID, or MS_NOEXEC flag, or one of the "atime" flags '
         "(MS_NOATIME, MS_NODIRATIME, MS_RELATIME) of an existing mount, but the mount is locked; see mount_namespaces(7).",
         _locked_flags, "Repeat the flags that the mount already has."),
    Rule(("mount", "fsopen"), (EPERM,), "user namespace", "user_namespaces(7)",
         "Note, however, that mounting block-based filesystems can be done only by a process that holds CAP_SYS_ADMIN in the "
         "initial user namespace.", _block, "Mount it on the host and bind it, or use one of the types that user_namespaces(7) lists."),
    Rule(("mount",), (EACCES,), "file", "mount(2)", "A component of a path was not searchable.", _unsearchable,
         "Give the user search permission (chmod +x) on that directory, or choose a place it can reach."),
    Rule(("mount",), (EACCES,), "file", "mount(2)",
         "The block device source is located on a filesystem mounted with the MS_NODEV option.", _nodev,
         "Use a device node in a mount without nodev."),
    Rule(("mount",), (EINVAL,), "argument", "mount(2)",
         "mountflags includes more than one of MS_SHARED, MS_PRIVATE, MS_SLAVE, or MS_UNBINDABLE.", _propagation_mix, "Choose one."),
    Rule(("mount",), (EINVAL,), "argument", "mount(2)",
         "mountflags includes MS_SHARED, MS_PRIVATE, MS_SLAVE, or MS_UNBINDABLE and also includes a flag other than MS_REC or "
         "MS_SILENT.", _propagation_other, "Make two calls of it."),
    Rule(("mount",), (EINVAL,), "argument", "mount(2)",
         "A remount operation (MS_REMOUNT) was attempted, but source was not already mounted on target.", _not_mounted,
         "Bind the directory onto itself first, then it is a mount point."),
    Rule(("mount",), (EINVAL,), "argument", "Documentation/filesystems/overlayfs.rst",
         'The "workdir" needs to be an empty directory on the same filesystem as upperdir.', _overlay_upper,
         "Put upperdir and workdir side by side on one file system that can hold them (ext4, xfs, btrfs, tmpfs); not on an overlay."),
    Rule(("mount",), (EINVAL,), "user namespace", "mount(2)",
         "In an unprivileged mount namespace (i.e., a mount namespace owned by a user namespace that was created by an unprivileged "
         "user), a bind mount operation (MS_BIND) was attempted without specifying (MS_REC), which would have revealed the "
         "filesystem tree underneath one of the submounts of the directory being bound.", _bind_below, "Add MS_REC."),
    Rule(("mount", "move_mount"), (EINVAL,), "argument", "mount(2)",
         "A move operation (MS_MOVE) was attempted, but the parent mount of source mount has propagation type MS_SHARED.",
         _move_shared, "Make the parent private first: mount(NULL, parent, NULL, MS_PRIVATE, NULL)."),
    Rule(("fsconfig", "fsmount"), (), "argument", "Documentation/filesystems/mount_api.rst",
         "The kernel keeps a log of messages on the descriptor that fsopen gave.", _kernel_words, "Do as the message says."),
    Rule(("mount",), (EINVAL,), "argument", "mount(2)", "source had an invalid superblock.",
         lambda facts: "" if argument(facts, "filesystemtype") is None else
         f"file system {argument(facts, 'filesystemtype')!r} does not accept its source or its options {argument(facts, 'data')!r}",
         "Ask again with fsopen and fsconfig: they tell which option is wrong; `dmesg` may, too."),
    Rule(("mount",), (ENOENT,), "file", "mount(2)", "A pathname was empty or had a nonexistent component.", _overlay_missing,
         "Make the directories first."),
    Rule(("mount", "umount2", "move_mount", "open_tree"), (ENOENT,), "file", "mount(2)",
         "A pathname was empty or had a nonexistent component.", _missing("target", "source", "to_path", "path"),
         "Make the mount point first, or correct the path."),
    Rule(("mount", "fsopen"), (ENODEV,), "kernel", "mount(2)", "filesystemtype not configured in the kernel.",
         lambda facts: f"/proc/filesystems has no {argument(facts, 'filesystemtype') or argument(facts, 'fsname')!r}",
         "Load the module on the host (modprobe), or choose another type."),
    Rule(("mount",), (ENOTBLK,), "argument", "mount(2)", "source is not a block device (and a device was required).",
         lambda facts: f"{argument(facts, 'source')!r} is no block device", "Attach the image to a loop device first."),
    Rule(("mount", "pivot_root", "umount2"), (ENOTDIR,), "argument", "mount(2)", "target, or a prefix of source, is not a directory.",
         _no_directory, "A directory is mounted on a directory, a file on a file."),
    Rule(("mount",), (ELOOP,), "argument", "mount(2)", "Too many links encountered during pathname resolution.",
         always("a symbolic link leads back to itself, or the overlay's layers are stacked too deep"), "Resolve the path."),
    Rule(("mount",), (EROFS, EACCES), "argument", "mount(2)",
         "Mounting a read-only filesystem was attempted without giving the MS_RDONLY flag.",
         lambda facts: "" if flag(facts, C.MS_RDONLY, "mountflags") or facts.get("errno") != EROFS else "MS_RDONLY is not among the flags",
         "Add MS_RDONLY."),
    Rule(("mount",), (EBUSY,), "argument", "mount(2)",
         "An attempt was made to stack a new mount directly on top of an existing mount point that was created in this mount "
         "namespace with the same source and target.",
         lambda facts: f"something is mounted at {argument(facts, 'target')!r} already" if place(facts, "target").get("mountpoint") else "",
         "Unmount it first."),
    Rule(("umount2",), (EINVAL,), "argument", "umount2(2)", "umount2() was called with an invalid flag value in flags.",
         lambda facts: f"flags are {C.flag_names(argument(facts, 'flags') or 0, 'MNT_', 'UMOUNT_')}" if flag(facts, ~0xF) else "", ""),
    Rule(("umount2",), (EINVAL,), "argument", "umount2(2)", "target is not a mount point.", _not_mounted, "Name the mount point itself."),
    Rule(("umount2",), (EINVAL,), "user namespace", "umount2(2)", "target is locked; see mount_namespaces(7).", _umount_locked,
         "Unmount the whole tree that came along (MNT_DETACH on its top), or cover it with another mount."),
    Rule(("umount2",), (EBUSY,), "argument", "umount2(2)", "target could not be unmounted because it is busy.",
         always("a process has a file open, its working directory or its root there, or something is mounted below it"),
         "End those processes (`fuser -m`), unmount what is below, or detach with MNT_DETACH."),
    Rule(("pivot_root",), (EINVAL,), "argument", "pivot_root(2)",
         "The current root directory is not a mount point (because of an earlier chroot(2)).", _new_root("chroot"),
         "Leave the chroot: pivot from a namespace whose root is a mount."),
    Rule(("pivot_root",), (EINVAL,), "kernel", "pivot_root(2)",
         "The current root is on the rootfs (initial ramfs) mount; see NOTES.", _new_root("rootfs"),
         "Move the new root onto / with MS_MOVE and chroot, as switch_root does."),
    Rule(("pivot_root",), (EINVAL,), "argument", "pivot_root(2)", "new_root is not a mount point.", _new_root("mount point"),
         "Bind the directory onto itself first: mount(new_root, new_root, NULL, MS_BIND|MS_REC, NULL)."),
    Rule(("pivot_root",), (EINVAL,), "argument", "pivot_root(2)",
         "Either the mount point at new_root, or the parent mount of that mount point, has propagation type MS_SHARED.",
         _new_root("shared"),
         'Make all mounts private first: mount(NULL, "/", NULL, MS_REC|MS_PRIVATE, NULL).'),
    Rule(("pivot_root",), (EINVAL,), "argument", "pivot_root(2)", "put_old is not at or underneath new_root.", _new_root("below"),
         'Use a directory inside new_root, or chdir there and pivot_root(".", ".").'),
    Rule(("pivot_root",), (EINVAL,), "user namespace", "mount_namespaces(7)",
         "Mounts that come as a single unit from a more privileged mount namespace are locked together and may not be separated in a less "
         "privileged mount namespace.", _pivot_locked, "Bind new_root onto itself (MS_BIND|MS_REC): the new mount is one's own."),
    Rule(("pivot_root",), (EBUSY,), "argument", "pivot_root(2)",
         'new_root or put_old is on the current root mount. (This error covers the pathological case where new_root is "/".)',
         _root_mount, "Bind new_root onto itself, so that it is a mount of its own."),
    Rule(("mount_setattr",), (EINVAL,), "argument", "mount_setattr(2)",
         "The pathname specified via the dirfd and pathname arguments to mount_setattr() isn't a mount point.", _not_mounted,
         "Bind the directory onto itself first."),
    Rule(("mount_setattr",), (EPERM,), "user namespace", "mount_setattr(2)",
         "One of the mounts had at least one of MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC, "
         "MOUNT_ATTR_NOSUID, or MOUNT_ATTR_RDONLY set and the flag is locked.",
         lambda facts: "this is a user namespace, and the flag was set outside of it" if not facts.get("initial_userns", True) else "",
         "Leave the flag as it is."),
)  # fmt: skip
