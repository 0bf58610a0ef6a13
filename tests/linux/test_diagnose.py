"""Each refusal provoked for real, and named rightly."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import station
from needs import requires
from nsbook.linux import diagnose

Inside = Callable[..., dict[str, Any]]
APART = ("--mount", "--propagation", "private")


def named(found: dict[str, Any], layer: str, page: str, *words: str) -> None:
    assert (found["layer"], found["page"]) == (layer, page), found
    for word in words:
        assert word in found["why"], found
    assert found["missed"] == [], found


@requires("root")
def test_an_ordinary_user(inside: Inside, tmp_path: Path) -> None:
    out = inside(
        """
        place = sys.argv[1]
        become(1000)
        out["mount"] = why(lambda: mount.mount("tmpfs", "/mnt", "tmpfs"))
        out["umount"] = why(lambda: mount.umount2("/proc"))
        out["pivot"] = why(lambda: mount.pivot_root("/", "/"))
        out["fsopen"] = why(lambda: mount.fsopen("tmpfs"))
        out["unshare"] = why(lambda: process.unshare(C.CLONE_NEWNET | C.CLONE_NEWUTS))
        out["clone3"] = why(lambda: process.clone3(C.CLONE_NEWPID))
        out["setns"] = why(lambda: process.setns(os.open("/proc/self/ns/uts", os.O_RDONLY)))
        out["hostname"] = why(lambda: process.sethostname("x"))
        out["mknod"] = why(lambda: files.mknod("/tmp/nsbook-none", 0o020600, os.makedev(1, 3)))
        out["chroot"] = why(lambda: files.chroot("/"))
        out["groups"] = why(lambda: credentials.setgroups([0]))
        out["uid"] = why(lambda: credentials.setresuid(0, 0, 0))
        out["bset"] = why(lambda: credentials.cap_bset_drop(0))
        out["seccomp"] = why(lambda: seccomp.seccomp_set_mode_filter(bytes(8)))
        out["kill"] = why(lambda: process.kill(1, 0))
        out["lo"] = why(lambda: network.link_up("lo"))
        out["file"] = why(lambda: files.write_file("/etc/passwd", "x"))
        out["search"] = why(lambda: process.execve(place + "/closed/x", ["x"], {}))
        """,
        args=(_closed(tmp_path),),
    )
    named(out["mount"], "capability", "mount(2)", "uid 1000", "CAP_SYS_ADMIN")
    named(out["umount"], "capability", "mount(2)")
    named(out["pivot"], "capability", "pivot_root(2)")
    named(out["fsopen"], "capability", "capabilities(7)")
    named(out["unshare"], "capability", "clone(2)", "CAP_SYS_ADMIN")
    assert "CLONE_NEWUSER" in out["unshare"]["fix"]
    named(out["clone3"], "capability", "clone(2)")
    named(out["setns"], "capability", "setns(2)")
    named(out["hostname"], "capability", "sethostname(2)")
    named(out["mknod"], "capability", "mknod(2)", "CAP_MKNOD")
    named(out["chroot"], "capability", "chroot(2)", "CAP_SYS_CHROOT")
    named(out["groups"], "capability", "setgroups(2)", "CAP_SETGID")
    named(out["uid"], "capability", "setresuid(2)", "CAP_SETUID")
    named(out["bset"], "capability", "prctl(2)", "CAP_SETPCAP")
    named(out["seccomp"], "no_new_privs", "seccomp(2)")
    named(out["kill"], "capability", "kill(2)")
    named(out["lo"], "capability", "netdevice(7)", "CAP_NET_ADMIN")
    named(out["file"], "file", "open(2)", "mode 644")
    named(out["search"], "file", "execve(2)", "/closed")


def _closed(tmp_path: Path) -> str:
    station.let_others_in(tmp_path)
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "closed/x").write_text("#!/bin/sh\n")
    return str(tmp_path)


@requires("userns")
def test_mount_arguments(inside: Inside, tmp_path: Path) -> None:
    out = inside(
        """
        os.chdir(sys.argv[1])
        mount.mount("tmpfs", ".", "tmpfs"); os.chdir(sys.argv[1])
        for name in ("dir", "lower", "work", "upper/inner", "merged"): os.makedirs(name)
        open("file", "w").close()
        out["target"] = why(lambda: mount.mount("tmpfs", "none/x", "tmpfs"))
        out["source"] = why(lambda: mount.mount("none", "dir", None, C.MS_BIND))
        out["type"] = why(lambda: mount.mount("x", "dir", "nosuchfs"))
        out["kinds"] = why(lambda: mount.mount(None, ".", None, C.MS_SHARED | C.MS_PRIVATE))
        out["mixed"] = why(lambda: mount.mount(None, ".", None, C.MS_PRIVATE | C.MS_NOSUID))
        out["remount"] = why(lambda: mount.mount(None, "dir", None, C.MS_REMOUNT | C.MS_BIND | C.MS_RDONLY))
        out["private"] = why(lambda: mount.mount(None, "dir", None, C.MS_PRIVATE))
        out["option"] = why(lambda: mount.mount("tmpfs", "dir", "tmpfs", 0, "size=lots"))
        out["nodir"] = why(lambda: mount.mount("tmpfs", "file", "tmpfs"))
        fs = mount.fsopen("tmpfs")
        out["words"] = why(lambda: mount.fsconfig(fs, C.FSCONFIG_SET_STRING, "size", "lots"))
        over = lambda text: why(lambda: mount.mount("overlay", "merged", "overlay", 0, text))
        out["lost"] = over("lowerdir=lower:gone,upperdir=upper,workdir=work")
        out["nested"] = over("lowerdir=lower,upperdir=upper,workdir=upper/inner")
        out["unmount"] = why(lambda: mount.umount2("dir"))
        out["unflag"] = why(lambda: mount.umount2(".", 64))
        out["busy"] = why(lambda: mount.umount2("."))
        out["setattr"] = why(lambda: mount.mount_setattr(C.AT_FDCWD, "dir", 0, attr_set=C.MOUNT_ATTR_RDONLY))
        mount.mount(None, ".", None, C.MS_SHARED)
        mount.mount("tmpfs", "dir", "tmpfs")
        out["move"] = why(lambda: mount.mount("dir", "lower", None, C.MS_MOVE))
        """,
        unshare=APART,
        args=(str(tmp_path),),
    )
    named(out["target"], "file", "mount(2)", "none/x")
    named(out["source"], "file", "mount(2)", "source 'none'")
    named(out["type"], "kernel", "mount(2)", "nosuchfs")
    named(out["kinds"], "argument", "mount(2)", "MS_PRIVATE|MS_SHARED")
    named(out["mixed"], "argument", "mount(2)", "call of its own")
    named(out["remount"], "argument", "mount(2)", "not a mount point")
    named(out["private"], "argument", "mount(2)", "not a mount point")
    named(out["option"], "argument", "mount(2)", "size=lots")
    named(out["nodir"], "argument", "mount(2)", "is a file")
    named(out["words"], "argument", "Documentation/filesystems/mount_api.rst", "the kernel says: e tmpfs")
    named(out["lost"], "file", "mount(2)", "'gone'")
    named(out["nested"], "argument", "Documentation/filesystems/overlayfs.rst", "inside the other")
    named(out["unmount"], "argument", "umount2(2)", "not a mount point")
    named(out["unflag"], "argument", "umount2(2)", "0x40")
    named(out["busy"], "argument", "umount2(2)")
    named(out["setattr"], "argument", "mount_setattr(2)", "not a mount point")
    named(out["move"], "argument", "mount(2)", "shared:")


@requires("userns")
def test_pivot_root(inside: Inside, tmp_path: Path) -> None:
    out = inside(
        """
        os.chdir(sys.argv[1])
        os.makedirs("new/old")
        out["root"] = why(lambda: mount.pivot_root("/", "/"))
        mount.mount("new", "new", None, C.MS_BIND)
        os.makedirs("new/sub/old")
        out["plain"] = why(lambda: mount.pivot_root("new/sub", "new/sub/old"))
        out["below"] = why(lambda: mount.pivot_root("new", "/proc"))
        mount.mount(None, "new", None, C.MS_SHARED)
        out["shared"] = why(lambda: mount.pivot_root("new", "new/old"))
        def chrooted():
            os.makedirs("jail/proc"); os.makedirs("jail/new")
            mount.mount("/proc", "jail/proc", None, C.MS_BIND | C.MS_REC)
            os.chroot("jail"); os.chdir("/")
            mount.mount("new", "new", "tmpfs"); os.mkdir("new/old")
            return why(lambda: mount.pivot_root("new", "new/old"))
        out["chroot"] = in_child(chrooted)
        """,
        unshare=APART,
        args=(str(tmp_path),),
    )
    named(out["plain"], "argument", "pivot_root(2)", "plain directory")
    if os.geteuid() == 0:
        named(out["root"], "argument", "pivot_root(2)", "the mount that is the root")
    else:  # in a user namespace the root mount is a locked one, and that is looked at first
        named(out["root"], "user namespace", "mount_namespaces(7)", "more privileged")
    named(out["below"], "argument", "pivot_root(2)", "not inside")
    named(out["shared"], "argument", "pivot_root(2)", "shared")
    named(out["chroot"], "argument", "pivot_root(2)", "root directory")
    assert "chroot(2)" in out["chroot"]["rule"]


@requires("userns")
def test_unshare_and_clone(inside: Inside) -> None:
    out = inside(
        """
        out["nothing"] = why(lambda: process.unshare(C.CLONE_PIDFD))
        def init():
            process.unshare(C.CLONE_NEWPID)
            return in_child(lambda: why(lambda: process.clone3(C.CLONE_PARENT)))
        out["parent"] = in_child(init)
        out["fs"] = why(lambda: process.clone3(C.CLONE_FS | C.CLONE_NEWNS))
        out["cgroup"] = why(lambda: process.clone3(0, cgroup=os.open("/", os.O_RDONLY)))
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait); thread.start()
        out["threads"] = why(lambda: process.unshare(C.CLONE_NEWUSER))
        stop.set(); thread.join()
        def unmapped():
            process.unshare(C.CLONE_NEWUSER)
            return why(lambda: process.unshare(C.CLONE_NEWUSER))
        out["unmapped"] = in_child(unmapped)
        def limited():
            files.write_file("/proc/sys/user/max_net_namespaces", "0")
            return why(lambda: process.unshare(C.CLONE_NEWNET))
        out["limited"] = in_child(limited)
        def limited_above():
            files.write_file("/proc/sys/user/max_uts_namespaces", "0")
            process.unshare(C.CLONE_NEWUSER)
            return why(lambda: process.unshare(C.CLONE_NEWUTS))
        out["above"] = in_child(limited_above)
        def chrooted():
            there = tempfile.mkdtemp()
            mount.mount("tmpfs", there, "tmpfs"); os.makedirs(there + "/jail/proc")
            mount.mount("/proc", there + "/jail/proc", None, C.MS_BIND | C.MS_REC)
            root = os.open("/", os.O_RDONLY)
            os.chroot(there + "/jail"); os.chdir("/")
            found = why(lambda: process.unshare(C.CLONE_NEWUSER))
            os.fchdir(root); os.chroot("."); mount.umount2(there, C.MNT_DETACH); os.rmdir(there)
            return found
        out["chroot"] = in_child(chrooted)
        def no_init():
            process.unshare(C.CLONE_NEWPID)
            first = os.fork()
            if first == 0: os._exit(0)
            os.waitpid(first, 0)
            return why(lambda: process.clone3(0))
        out["no_init"] = in_child(no_init)
        """,
        unshare=("--user", "--map-root-user", *APART),
    )
    named(out["nothing"], "argument", "unshare(2)", "CLONE_PIDFD")
    named(out["parent"], "argument", "clone(2)", "process 1")
    named(out["fs"], "argument", "clone(2)", "CLONE_FS")
    named(out["cgroup"], "argument", "clone(2)", "cgroup v2")
    named(out["threads"], "argument", "unshare(2)", "2 threads")
    named(out["unmapped"], "user namespace", "unshare(2)", "empty")
    named(out["limited"], "user-namespace limit", "unshare(2)", "max_net_namespaces is 0")
    named(out["above"], "user-namespace limit", "namespaces(7)", "further up")
    named(out["chroot"], "user namespace", "unshare(2)", "root directory")
    named(out["no_init"], "argument", "pid_namespaces(7)", "has ended")


@requires("userns")
def test_setns(inside: Inside) -> None:
    out = inside(
        """
        of = lambda kind: os.open(f"/proc/self/ns/{kind}", os.O_RDONLY)
        out["same"] = why(lambda: process.setns(of("user")))
        out["type"] = why(lambda: process.setns(of("uts"), C.CLONE_NEWNET))
        out["closed"] = why(lambda: process.setns(97))
        outer_user, outer_uts, outer_pid = of("user"), of("uts"), of("pid")
        def inner():
            process.unshare(C.CLONE_NEWUSER)
            return [why(lambda: process.setns(outer_uts)), why(lambda: process.sethostname("x")),
                    why(lambda: process.setns(outer_user))]
        out["owner"], out["hostname"], out["parent"] = in_child(inner)
        child, fd = process.clone3(0)
        if child == 0: os._exit(0)
        os.waitid(os.P_PIDFD, fd, os.WEXITED)
        out["gone"] = why(lambda: process.setns(fd, C.CLONE_NEWUTS))
        """,
        unshare=("--user", "--map-root-user"),
    )
    named(out["same"], "argument", "setns(2)", "own")
    named(out["type"], "argument", "setns(2)", "uts namespace")
    named(out["closed"], "argument", "setns(2)", "not open")
    named(out["owner"], "user namespace", "setns(2)", "uts namespace")
    named(out["parent"], "user namespace", "setns(2)", "user namespace")
    named(out["hostname"], "user namespace", "sethostname(2)", "UTS namespace belongs to another")
    named(out["gone"], "argument", "setns(2)", "ended")


@requires("userns")
def test_inside_a_user_namespace(inside: Inside, tmp_path: Path) -> None:
    out = inside(
        """
        place = sys.argv[1]
        mount.mount("tmpfs", place, "tmpfs", C.MS_NODEV | C.MS_NOSUID)
        os.mkdir(place + "/sub")
        mount.mount("tmpfs", place + "/sub", "tmpfs")
        def foreign():
            process.unshare(C.CLONE_NEWUSER)
            return why(lambda: mount.mount("tmpfs", place, "tmpfs"))
        out["foreign"] = in_child(foreign)
        def own():
            process.unshare(C.CLONE_NEWUSER | C.CLONE_NEWNS)
            files.write_file("/proc/self/setgroups", "deny")
            files.write_file("/proc/self/uid_map", "0 0 1")
            files.write_file("/proc/self/gid_map", "0 0 1")
            os.mkdir("/tmp/nsbook-b") if not os.path.isdir("/tmp/nsbook-b") else None
            return [
                why(lambda: mount.mount("proc", "/proc", "proc")),
                why(lambda: mount.mount("/dev/null", place, "ext4")),
                why(lambda: mount.mount(None, place, None, C.MS_REMOUNT | C.MS_BIND | C.MS_NODEV)),
                why(lambda: mount.umount2(place + "/sub")),
                why(lambda: mount.mount(place, "/tmp/nsbook-b", None, C.MS_BIND)),
                why(lambda: mount.mount_setattr(C.AT_FDCWD, place, 0, attr_clr=C.MOUNT_ATTR_NODEV)),
                why(lambda: files.mknod(place + "/null", 0o020600, os.makedev(1, 3))),
                why(lambda: credentials.setgroups([0])),
                why(lambda: credentials.setresuid(5, 5, 5)),
            ]
        names = ("proc", "ext4", "locked_flags", "locked", "bind", "attr", "mknod", "groups", "uid")
        for name, found in zip(names, in_child(own)): out[name] = found
        os.rmdir("/tmp/nsbook-b")
        """,
        unshare=("--user", "--map-root-user", *APART),
        args=(str(tmp_path),),
    )
    named(out["foreign"], "user namespace", "user_namespaces(7)", "belongs to another one")
    named(out["proc"], "user namespace", "user_namespaces(7)", "PID namespace")
    named(out["ext4"], "user namespace", "user_namespaces(7)", "ext4")
    named(out["locked_flags"], "user namespace", "mount(2)", "nosuid")
    named(out["locked"], "user namespace", "umount2(2)", "more privileged")
    named(out["bind"], "user namespace", "mount(2)", "not recursive")
    named(out["attr"], "user namespace", "mount_setattr(2)")
    named(out["mknod"], "user namespace", "mknod(2)", "CAP_MKNOD")
    named(out["groups"], "user namespace", "setgroups(2)", "deny")
    named(out["uid"], "user namespace", "setresuid(2)", "map")


@requires("userns")
def test_a_masked_proc(inside: Inside) -> None:
    out = inside(
        """
        mount.mount("/dev/null", "/proc/keys" if os.path.exists("/proc/keys") else "/proc/timer_list", None, C.MS_BIND)
        mount.mount("tmpfs", "/proc/scsi" if os.path.isdir("/proc/scsi") else "/proc/fs", "tmpfs", C.MS_RDONLY)
        mount.mount("/proc/sys", "/proc/sys", None, C.MS_BIND)
        mount.mount(None, "/proc/sys", None, C.MS_BIND | C.MS_REMOUNT | C.MS_RDONLY | C.MS_NOSUID | C.MS_NODEV | C.MS_NOEXEC)
        out["sysctl"] = why(lambda: files.write_file("/proc/sys/kernel/hostname", "x"))
        def child():
            process.unshare(C.CLONE_NEWUSER | C.CLONE_NEWNS | C.CLONE_NEWPID)
            return in_child(lambda: why(lambda: mount.mount("proc", "/proc", "proc")))
        out["proc"] = in_child(child)
        """,
        unshare=("--user", "--map-root-user", "--pid", "--fork", "--mount-proc", *APART),
    )
    named(out["proc"], "masked /proc", "fs/namespace.c of Linux, mount_too_revealing()", "/proc/sys", "covered")
    named(out["sysctl"], "masked /proc", "open(2)", "/proc/sys")


@requires("userns")
def test_a_masked_sysfs(inside: Inside) -> None:
    """Covered where it hides something; not where the kernel keeps an empty directory for a mount; and read-only."""
    out = inside(
        """
        flags = C.MS_NOSUID | C.MS_NODEV | C.MS_NOEXEC
        def again(more=0):
            process.unshare(C.CLONE_NEWUSER | C.CLONE_NEWNS | C.CLONE_NEWNET)
            return why(lambda: mount.mount("sysfs", "/sys", "sysfs", flags | more))
        mount.mount("sysfs", "/sys", "sysfs", flags)
        mount.mount("tmpfs", "/sys/fs/cgroup", "tmpfs", 0)
        process.unshare(C.CLONE_NEWNS)
        mount.mount("/sys/firmware", "/sys/firmware", None, C.MS_BIND)
        out["covered"] = in_child(again)
        mount.umount2("/sys/firmware", 0)
        mount.mount(None, "/sys", None, C.MS_BIND | C.MS_REMOUNT | C.MS_RDONLY | flags)
        out["read_only"] = in_child(again)
        """,
        unshare=("--user", "--map-root-user", "--net", *APART),
    )
    named(out["covered"], "masked /proc", "fs/namespace.c of Linux, mount_too_revealing()", "/sys/firmware is covered")
    named(out["read_only"], "masked /proc", "fs/namespace.c of Linux, mount_too_revealing()", "read-only")


@requires("root", "cgroup-v1")
def test_device_rules_in_a_user_namespace(inside: Inside) -> None:
    out = inside(
        """
        there = cgroups.own_directory("devices") + "/nsbook-devices"
        os.mkdir(there)
        try:
            def child():
                ready, go = os.pipe(), os.pipe()
                process.unshare(C.CLONE_NEWUSER)
                return why(lambda: files.write_file(there + "/devices.deny", "a"))
            out["rule"] = in_child(child)
        finally:
            os.rmdir(there)
        """
    )
    named(out["rule"], "cgroup", "security/device_cgroup.c of Linux", "this user namespace")


MAPS = """
def child(file, text, before=(), drop=0):
    ready, go = os.pipe(), os.pipe()
    pid, fd = process.clone3(C.CLONE_NEWUSER)
    if pid == 0:
        os.close(go[1]); os.write(ready[1], b"x"); os.read(go[0], 1); os._exit(0)
    os.read(ready[0], 1)
    for name, content in before:
        files.write_file(f"/proc/{pid}/{name}", content)
    if drop:
        e, p, i = credentials.capget(); credentials.capset(e & ~drop, p, i)
    found = why(lambda: files.write_file(f"/proc/{pid}/{file}", text))
    if drop:
        e, p, i = credentials.capget(); credentials.capset(p, p, i)
    os.write(go[1], b"x"); process.waitid_pidfd(fd, C.WEXITED)
    for n in (fd, *ready, *go): os.close(n)
    return found
bit = lambda name: 1 << C.CAPABILITIES.index(name)
"""


@requires("userns")
def test_id_maps(inside: Inside) -> None:
    out = inside(
        MAPS
        + textwrap.dedent("""
        out["again"] = child("uid_map", "0 0 1", before=[("uid_map", "0 0 1")])
        out["form"] = child("uid_map", "0 0")
        out["zero"] = child("uid_map", "0 0 0")
        out["overlap"] = child("uid_map", "0 0 1\\n0 1 1\\n")
        out["others"] = child("uid_map", "0 7 1", drop=bit("CAP_SETUID"))
        out["fcap"] = child("uid_map", "0 0 1", drop=bit("CAP_SETFCAP"))
        out["bare"] = child("uid_map", "0 0 1", drop=bit("CAP_SETFCAP") | bit("CAP_SETUID"))
        out["late"] = child("setgroups", "deny", before=[("setgroups", "deny"), ("gid_map", "0 0 1")])
        out["unmapped"] = child("uid_map", "0 4000000000 1")
        def self_map():
            process.unshare(C.CLONE_NEWUSER)
            return why(lambda: files.write_file("/proc/self/uid_map", "0 0 65536"))
        out["many"] = in_child(self_map)
        """),
        unshare=("--user", "--map-root-user"),
    )
    for name in ("again", "form", "zero", "overlap", "others", "fcap", "bare", "late", "unmapped", "many"):
        assert out[name]["page"] == "user_namespaces(7)", (name, out[name])
        assert out[name]["missed"] == []
    assert "already" in out["again"]["why"]
    assert out["form"]["layer"] == out["zero"]["layer"] == out["overlap"]["layer"] == "argument"
    assert "overlap" in out["overlap"]["why"]
    assert "CAP_SETUID" in out["others"]["why"]
    assert "CAP_SETFCAP" in out["fcap"]["why"]
    assert "CAP_SETFCAP" in out["bare"]["why"]  # the writer's own id needs no CAP_SETUID
    assert "already" in out["late"]["why"]
    assert "no mapping" in out["unmapped"]["why"]
    assert "65536" in out["many"]["why"]


@requires("root")
def test_a_group_map_while_setgroups_is_allowed(inside: Inside) -> None:
    out = inside(MAPS + 'out["found"] = child("gid_map", "0 0 1", drop=bit("CAP_SETGID"))')
    named(out["found"], "user namespace", "user_namespaces(7)", "'allow'")


def test_programs(inside: Inside, tmp_path: Path) -> None:
    out = inside(
        r"""
        os.chdir(sys.argv[1])
        def program(name, content, mode=0o755):
            with open(name, "wb") as file: file.write(content)
            os.chmod(name, mode)
            return why(lambda: process.execve(name, [name], {}))
        out["absent"] = why(lambda: process.execve("bin/none", ["x"], {}))
        out["shebang"] = program("script", b"#!/no/shell -e\n")
        out["crlf"] = program("dos", b"#!/bin/sh\r\necho\r\n")
        out["mode"] = program("plain", b"#!/bin/sh\n", 0o644)
        out["text"] = program("text", b"hello\n")
        out["empty"] = program("empty", b"")
        out["directory"] = why(lambda: process.execve(".", ["."], {}))
        real = open(os.path.realpath(sys.executable), "rb").read()
        out["loader"] = program("elf", real.replace(b"/ld-linux", b"/ld-nolux"))
        out["machine"] = program("foreign", real[:18] + b"\x16\x00" + real[20:4096])
        with open("busy", "wb") as file:
            file.write(real); file.flush(); os.chmod("busy", 0o755)
            out["busy"] = why(lambda: process.execve("busy", ["busy"], {}))
        out["long"] = why(lambda: process.execve("script", ["x" * 200_000], {}))
        out["through"] = why(lambda: process.execve("script/x", ["x"], {}))
        """,
        args=(str(tmp_path),),
    )
    named(out["absent"], "file", "execve(2)", "bin/none")
    named(out["shebang"], "file", "execve(2)", "/no/shell")
    named(out["crlf"], "file", "execve(2)", "carriage return")
    named(out["mode"], "file", "execve(2)", "mode 644")
    named(out["text"], "argument", "execve(2)", "neither #! nor ELF")
    named(out["empty"], "argument", "execve(2)", "empty")
    named(out["directory"], "file", "execve(2)", "directory")
    named(out["loader"], "file", "execve(2)", "ld-nolux")
    named(out["machine"], "argument", "execve(2)", "S390")
    named(out["busy"], "file", "execve(2)")
    named(out["long"], "argument", "execve(2)")
    named(out["through"], "file", "execve(2)")


@requires("userns")
def test_mounts_that_forbid(inside: Inside, tmp_path: Path) -> None:
    out = inside(
        """
        place = sys.argv[1]
        mount.mount("tmpfs", place, "tmpfs", C.MS_NOEXEC)
        os.chdir(place)
        with open("x", "w") as file: file.write("#!/bin/sh\\n")
        os.chmod("x", 0o755)
        out["noexec"] = why(lambda: process.execve(place + "/x", ["x"], {}))
        os.chdir("/")
        mount.mount(None, place, None, C.MS_REMOUNT | C.MS_BIND | C.MS_RDONLY)
        out["mkdir"] = why(lambda: files.mkdir(place + "/d"))
        out["write"] = why(lambda: files.write_file(place + "/x", "1"))
        out["mountpoint"] = why(lambda: files.rmdir(place))
        """,
        unshare=APART,
        args=(str(tmp_path),),
    )
    named(out["noexec"], "file", "execve(2)", str(tmp_path))
    named(out["mkdir"], "file", "mkdir(2)", "read-only")
    named(out["write"], "file", "mkdir(2)", "read-only")
    named(out["mountpoint"], "file", "rmdir(2)", "mount point")


def test_openat2_and_plain_files(inside: Inside, tmp_path: Path) -> None:
    out = inside(
        """
        os.chdir(sys.argv[1])
        os.symlink("/", "link"); os.mkdir("full"); open("full/x", "w").close()
        here = os.open(".", os.O_PATH)
        out["out"] = why(lambda: files.openat2(here, "../x", os.O_RDONLY, resolve=C.RESOLVE_BENEATH))
        out["link"] = why(lambda: files.openat2(here, "link", os.O_RDONLY, resolve=C.RESOLVE_NO_SYMLINKS))
        out["magic"] = why(lambda: files.openat2(here, "/proc/self/cwd/x", os.O_RDONLY, resolve=C.RESOLVE_NO_MAGICLINKS))
        out["mode"] = why(lambda: files.openat2(here, "x", os.O_RDONLY, 0o600))
        out["xdev"] = why(lambda: files.openat2(C.AT_FDCWD, "/proc/self/status", os.O_RDONLY, resolve=C.RESOLVE_NO_XDEV))
        out["none"] = why(lambda: files.openat2(here, "no/x", os.O_RDONLY))
        out["exists"] = why(lambda: files.mkdir("full"))
        """,
        args=(str(tmp_path),),
    )
    named(out["out"], "argument", "openat2(2)", "leads out")
    named(out["link"], "argument", "openat2(2)", "symbolic link")
    named(out["magic"], "argument", "openat2(2)", "/proc/PID/fd")
    named(out["mode"], "argument", "openat2(2)", "600")
    named(out["xdev"], "argument", "openat2(2)", "mount")
    named(out["none"], "file", "mknod(2)", "no/x")
    named(out["exists"], "file", "mknod(2)")


def test_capabilities_that_are_not_there(inside: Inside) -> None:
    out = inside(
        """
        credentials.capset(0, 0, 0)
        out["permitted"] = why(lambda: credentials.capset(0, 1, 0))
        out["effective"] = why(lambda: credentials.capset(1, 0, 0))
        out["inheritable"] = why(lambda: credentials.capset(0, 0, 1 << 21))
        out["ambient"] = why(lambda: credentials.cap_ambient_raise(21))
        """
    )
    named(out["permitted"], "capability", "capset(2)", "not permitted so far: CAP_CHOWN")
    named(out["effective"], "capability", "capset(2)", "CAP_CHOWN")
    named(out["inheritable"], "capability", "capset(2)", "CAP_SETPCAP")
    named(out["ambient"], "capability", "prctl(2)", "CAP_SYS_ADMIN is not permitted and not inheritable")


FILTER = """
from struct import pack
from nsbook.linux.syscalls import numbers
def install(code, *names):
    rows = [(0x20, 0, 0, 0)]
    for name in names:
        rows += [(0x15, 0, 1, numbers()[name]), (0x06, 0, 0, 0x50000 | code)]
    seccomp.seccomp_set_mode_filter(b"".join(pack("=HBBI", *row) for row in [*rows, (0x06, 0, 0, 0x7FFF0000)]))
def all_of_them():
    return [
        why(lambda: mount.mount("x", "/mnt", "tmpfs")), why(lambda: process.unshare(C.CLONE_NEWUTS)),
        why(lambda: process.setns(0)), why(lambda: mount.umount2("/none")), why(lambda: mount.open_tree(-100, "/", 0)),
    ]
CALLS = ("mount", "unshare", "setns", "umount2", "open_tree")
"""


@requires("userns")
def test_a_filter_is_told_from_a_missing_capability(inside: Inside) -> None:
    """The same calls, the same errno: with the filter and without, with capabilities and without."""
    out = inside(
        FILTER
        + """
def filtered(capable):
    credentials.set_no_new_privs()
    install(1, *CALLS)
    if not capable: credentials.capset(0, 0, 0)
    return all_of_them()
def plain():
    credentials.set_no_new_privs()
    install(1, "vhangup")  # a filter that has nothing to do with it
    credentials.capset(0, 0, 0)
    return [why(lambda: mount.mount("x", "/mnt", "tmpfs")), why(lambda: process.unshare(C.CLONE_NEWUTS)),
            why(lambda: process.sethostname("x")), why(lambda: mount.pivot_root("/", "/"))]
out["root"] = in_child(lambda: filtered(True))
out["nobody"] = in_child(lambda: filtered(False))
out["plain"] = in_child(plain)
""",
        unshare=(*APART, "--uts"),
    )
    for found in out["root"] + out["nobody"]:
        named(found, "seccomp", "seccomp(2)", "Seccomp: 2")
    assert all("missing as well" in found["why"] for found in out["nobody"])
    assert not any("missing as well" in found["why"] for found in out["root"])
    assert [found["layer"] for found in out["plain"]] == ["capability"] * 4


@requires("userns")
def test_calls_that_a_filter_hides(inside: Inside) -> None:
    out = inside(
        FILTER
        + """
credentials.set_no_new_privs()
install(38, "clone3", "openat2", "fsopen", "pidfd_open")
install(1, "clone", "pivot_root", "sethostname")
out["clone3"] = why(lambda: process.clone3(C.CLONE_NEWUTS))
out["into"] = why(lambda: process.clone3(0, cgroup=0))
out["openat2"] = why(lambda: files.openat2(-100, "/", 0))
out["fsopen"] = why(lambda: mount.fsopen("tmpfs"))
out["pidfd"] = why(lambda: process.pidfd_open(1))
out["pivot"] = why(lambda: mount.pivot_root("/", "/"))
out["hostname"] = why(lambda: process.sethostname("x"))
""",
        unshare=(*APART, "--uts"),
    )
    for name, found in out.items():
        assert found["layer"] == "seccomp", (name, found)


def test_apparmor_from_its_facts() -> None:
    """This needs a kernel with AppArmor to be provoked; the facts are as such a kernel's process captures them."""
    facts = {
        "call": "mount",
        "errno": 13,
        "args": {"target": "/mnt", "filesystemtype": "tmpfs", "mountflags": 0},
        "seccomp": 2,
        "apparmor": "docker-default (enforce)",
        "cap_eff": 1 << 21,
        "probes": [{"call": "mount", "errno": 2, "expected": 2, "asks_first": False}],
    }
    found = diagnose.explain(facts)
    assert found.layer == "apparmor"
    assert "docker-default" in found.why
    assert diagnose.explain(facts | {"apparmor": "unconfined"}).layer == "kernel"
    ubuntu = {"call": "unshare", "errno": 13, "args": {"flags": 0x10000000}, "apparmor_userns": True, "probes": []}
    assert diagnose.explain(ubuntu).layer == "apparmor"


def test_what_nobody_knows_says_so() -> None:
    found = diagnose.explain({"call": "mount", "errno": 99, "error": "Odd", "args": {}, "notes": ["mount(2): mount()"]})
    assert found.layer == "kernel"
    assert "no rule" in found.why
    assert diagnose.explain({}).layer == "kernel"
    assert json.dumps(found.to_dict())


def test_a_diagnosis_reads_well() -> None:
    facts = {"call": "mount", "errno": 1, "args": {}, "cap_eff": 0, "euid": 7}
    lines = str(diagnose.explain(facts)).splitlines()
    assert lines[0] == "mount: EPERM, refused by capability: the process (uid 7) does not have CAP_SYS_ADMIN in its effective set"
    assert lines[1].startswith("mount(2): Appropriate privilege")
    assert lines[2].startswith("Fix: ")


@requires("cgroup-v1", "root")
def test_cgroups_v1(inside: Inside) -> None:
    out = inside(
        """
        at = lambda name: next(h for h in cgroups.hierarchies() if name in h.controllers)
        made = []
        try:
            for name in ("cpuset", "pids", "memory"):
                os.mkdir(at(name).directory + "/nsbook-diagnose"); made.append(at(name).directory + "/nsbook-diagnose")
            cpuset, pids, memory = made
            out["cpuset"] = why(lambda: files.write_file(cpuset + "/cgroup.procs", str(os.getpid())))
            out["nobody"] = why(lambda: files.write_file(pids + "/cgroup.procs", "4194305"))
            out["value"] = why(lambda: files.write_file(pids + "/pids.max", "few"))
            os.mkdir(pids + "/child"); made.append(pids + "/child")
            out["busy"] = why(lambda: files.rmdir(pids))
            def user():
                become(1000)
                return [why(lambda: files.write_file(pids + "/pids.max", "5")), why(lambda: files.mkdir(pids + "/mine"))]
            out["write"], out["mkdir"] = in_child(user)
            def read_only():
                process.unshare(C.CLONE_NEWNS)
                mount.mount(None, "/", None, C.MS_REC | C.MS_PRIVATE)
                point = at("pids").mountpoint
                mount.mount(point, point, None, C.MS_BIND)
                mount.mount(None, point, None, C.MS_BIND | C.MS_REMOUNT | C.MS_RDONLY)
                return [why(lambda: files.mkdir(pids + "/x")), why(lambda: files.write_file(pids + "/pids.max", "5"))]
            out["ro_mkdir"], out["ro_write"] = in_child(read_only)
            def limited():
                files.write_file(pids + "/pids.max", "1")
                files.write_file(pids + "/cgroup.procs", "0")
                found = why(lambda: process.clone3(0))
                files.write_file(os.path.dirname(pids) + "/cgroup.procs", "0")
                return found
            out["limit"] = in_child(limited)
        finally:
            for there in reversed(made): os.rmdir(there)
        """
    )
    named(out["cpuset"], "cgroup", "cpuset(7)", "cpuset.cpus and cpuset.mems")
    named(out["nobody"], "argument", "cgroups(7)", "4194305")
    named(out["value"], "argument", "Documentation/admin-guide/cgroup-v2.rst", "few")
    named(out["busy"], "cgroup", "cgroups(7)", "1 child cgroups")
    named(out["write"], "cgroup", "cgroups(7)", "uid 1000")
    named(out["mkdir"], "cgroup", "cgroups(7)", "uid 1000")
    named(out["ro_mkdir"], "read-only cgroup", "mkdir(2)", "read-only")
    named(out["ro_write"], "read-only cgroup", "mkdir(2)", "read-only")
    named(out["limit"], "resource limit", "clone(2)", "pids.max")


@requires("root")
def test_cgroup2_rules(inside: Inside) -> None:
    """Of version 2 also where it has no controller of use, beside version 1."""
    if "cgroup2" not in Path("/proc/self/mountinfo").read_text():
        pytest.skip("needs cgroup2: it is not mounted")
    out = inside(
        """
        own = next(h for h in cgroups.hierarchies() if h.version == 2)
        there = own.directory.rstrip("/") + "/nsbook-two"
        os.mkdir(there)
        try:
            out["missing"] = why(lambda: files.write_file(there + "/cgroup.subtree_control", "+nosuch"))
            have = open(there + "/cgroup.controllers").read().split()
            absent = next(c for c in ("memory", "pids", "cpu", "io", "rdma", "misc") if c not in have)
            known = absent in cgroups.controllers()
            out["absent"] = why(lambda: files.write_file(there + "/cgroup.subtree_control", "+" + absent)) if known else None
            out["offered"] = why(lambda: files.write_file(f"{there}/{absent}.max", "1"))
            os.mkdir(there + "/leaf")
            files.write_file(there + "/leaf/cgroup.type", "threaded")
            out["threaded"] = why(lambda: files.write_file(there + "/leaf/cgroup.type", "domain"))
            out["depth"] = None
            files.write_file(there + "/cgroup.max.depth", "0")
            os.rmdir(there + "/leaf")
            out["depth"] = why(lambda: files.mkdir(there + "/leaf"))
            def internal():
                files.write_file(there + "/cgroup.procs", "0")
                if not have: return None
                try:
                    return why(lambda: files.write_file(there + "/cgroup.subtree_control", "+" + have[0]))
                finally:
                    files.write_file(own.directory + "/cgroup.procs", "0")
            domain = open(there + "/cgroup.type").read().strip() == "domain"
            out["internal"] = in_child(internal) if domain and have else None
        finally:
            if os.path.isdir(there + "/leaf"): os.rmdir(there + "/leaf")
            os.rmdir(there)
        """
    )
    named(out["missing"], "argument", "Documentation/admin-guide/cgroup-v2.rst", "+nosuch")
    if out["absent"]:
        named(out["absent"], "cgroup", "cgroups(7)", "not among")
    named(out["offered"], "cgroup", "cgroups(7)", "is not there")
    named(out["threaded"], "argument", "Documentation/admin-guide/cgroup-v2.rst", "domain")
    named(out["depth"], "cgroup", "cgroups(7)", "max.depth is 0")
    if out["internal"]:
        named(out["internal"], "cgroup", "cgroups(7)", "processes are in")
