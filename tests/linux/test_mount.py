"""Mounting, for real, in mount namespaces of the tests' own."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

from needs import requires

pytestmark = requires("userns")
Inside = Callable[..., dict[str, Any]]


def test_mount_bind_remount_and_umount(inside: Inside) -> None:
    out = inside(
        """
        there = tempfile.mkdtemp()
        with record() as t:
            mount.mount("tmpfs", there, "tmpfs", C.MS_NOSUID | C.MS_NODEV, "size=1m,mode=711")
            os.mkdir(f"{there}/a"); os.mkdir(f"{there}/b")
            mount.mount(f"{there}/a", f"{there}/b", None, C.MS_BIND)
            mount.mount(None, f"{there}/b", None, C.MS_BIND | C.MS_REMOUNT | C.MS_RDONLY | C.MS_NOSUID | C.MS_NODEV)
            mount.mount(None, f"{there}/b", None, C.MS_SHARED)
        find = lambda p: next(m for m in mountinfo.mountinfo() if m.mountpoint == p)
        out["tmpfs"] = find(there).to_dict()
        out["bound"] = find(f"{there}/b").to_dict()
        out["mode"] = oct(os.stat(there).st_mode & 0o777)
        out["busy"] = error_of(lambda: mount.umount2(there))
        mount.umount2(f"{there}/b")
        mount.umount2(there, C.MNT_DETACH)
        out["left"] = [m.mountpoint for m in mountinfo.mountinfo() if m.mountpoint.startswith(there)]
        out["rows"] = [r[2].replace(there, "T") for r in rows(t)]
        os.rmdir(there)
        """,
        unshare=("--mount", "--propagation", "private"),
    )
    assert out["tmpfs"]["fstype"] == "tmpfs"
    assert {"nosuid", "nodev"} <= set(out["tmpfs"]["options"])
    assert "size=1024k" in out["tmpfs"]["super_options"]
    assert out["mode"] == "0o711"
    assert out["bound"]["root"] == "/a"
    assert "ro" in out["bound"]["options"]
    assert out["bound"]["optional"][0].startswith("shared:")
    assert out["busy"]["errno"] == errno.EBUSY
    assert out["left"] == []
    assert out["rows"][0] == '"tmpfs", "T", "tmpfs", MS_NOSUID|MS_NODEV, "size=1m,mode=711"'
    assert out["rows"][1] == '"T/a", "T/b", NULL, MS_BIND, NULL'


def test_the_new_calls(inside: Inside) -> None:
    out = inside(
        """
        there = tempfile.mkdtemp()
        with record() as t:
            fs = mount.fsopen("tmpfs", C.FSOPEN_CLOEXEC)
            mount.fsconfig(fs, C.FSCONFIG_SET_STRING, "size", "1m")
            mount.fsconfig(fs, C.FSCONFIG_CMD_CREATE)
            fd = mount.fsmount(fs, C.FSMOUNT_CLOEXEC, C.MOUNT_ATTR_NOEXEC)
            mount.move_mount(fd, "", C.AT_FDCWD, there, C.MOVE_MOUNT_F_EMPTY_PATH)
            mount.mount_setattr(C.AT_FDCWD, there, C.AT_RECURSIVE, attr_set=C.MOUNT_ATTR_RDONLY, propagation=C.MS_PRIVATE)
            tree = mount.open_tree(C.AT_FDCWD, there, C.OPEN_TREE_CLONE | C.OPEN_TREE_CLOEXEC | C.AT_RECURSIVE)
        out["options"] = next(m for m in mountinfo.mountinfo() if m.mountpoint == there).options
        out["inheritable"] = [os.get_inheritable(n) for n in (fs, fd, tree)]
        out["rows"] = [[r[1], r[2].replace(there, "T")] for r in rows(t)]
        for n in (fs, fd, tree): os.close(n)
        mount.umount2(there); os.rmdir(there)
        """,
        unshare=("--mount", "--propagation", "private"),
    )
    assert {"ro", "noexec"} <= set(out["options"])
    assert out["inheritable"] == [False, False, False]
    assert [name for name, _ in out["rows"]] == ["fsopen", "fsconfig", "fsconfig", "fsmount", "move_mount", "mount_setattr", "open_tree"]
    assert out["rows"][4][1].endswith('"", AT_FDCWD, "T", MOVE_MOUNT_F_EMPTY_PATH')
    assert out["rows"][5][1] == 'AT_FDCWD, "T", AT_RECURSIVE, MOUNT_ATTR_RDONLY, 0, MS_PRIVATE, 0'
    assert out["rows"][6][1] == 'AT_FDCWD, "T", OPEN_TREE_CLONE|AT_RECURSIVE|OPEN_TREE_CLOEXEC'


def test_fsconfig_hands_on_the_kernels_words(inside: Inside) -> None:
    out = inside(
        """
        fs = mount.fsopen("tmpfs", C.FSOPEN_CLOEXEC)
        out["value"] = error_of(lambda: mount.fsconfig(fs, C.FSCONFIG_SET_STRING, "size", "lots"))
        out["again"] = error_of(lambda: mount.fsconfig(fs, C.FSCONFIG_SET_STRING, "nr_inodes", "many"))
        out["none"] = mount.fs_messages(fs)
        out["no_fd"] = error_of(lambda: mount.fsconfig(99, C.FSCONFIG_SET_STRING, "size", "1"))
        """,
        unshare=("--mount",),
    )
    assert out["value"]["errno"] == errno.EINVAL
    assert any("size" in note and note.startswith("the kernel says: e ") for note in out["value"]["notes"])
    assert len([n for n in out["again"]["notes"] if n.startswith("the kernel says")]) == 1
    assert out["none"] == []
    assert out["no_fd"]["errno"] == errno.EBADF


@requires("overlay")
def test_overlay_and_pivot_root(inside: Inside, tmp_path: Path) -> None:
    out = inside(
        """
        there = sys.argv[1]
        mount.mount("tmpfs", there, "tmpfs", 0, None)
        for name in ("lower", "upper", "work", "merged"): os.mkdir(f"{there}/{name}")
        open(f"{there}/lower/file", "w").close()
        mount.mount("overlay", f"{there}/merged", "overlay", 0,
                    f"lowerdir={there}/lower,upperdir={there}/upper,workdir={there}/work")
        os.chdir(f"{there}/merged")
        os.mkdir("new"); os.mkdir("proc")
        mount.mount("/proc", "proc", None, C.MS_BIND | C.MS_REC)
        mount.pivot_root(".", ".")
        mount.umount2(".", C.MNT_DETACH)
        os.chdir("/")
        out["root"] = sorted(os.listdir("/"))
        out["mounts"] = [m.fstype for m in mountinfo.mountinfo() if m.mountpoint == "/"]
        """,
        args=(str(tmp_path),),
        unshare=("--mount", "--propagation", "private"),
    )
    assert out["root"] == ["file", "new", "proc"]
    assert out["mounts"] == ["overlay"]
