"""Every option of a container, observed in the kernel from inside, or from outside while it runs."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from needs import requires
from nsbook.container.container import Container
from nsbook.errors import InvalidOption, Unsupported
from nsbook.linux import credentials
from nsbook.primitives.capabilities import DEFAULT, Capabilities
from nsbook.spawn.result import Result

pytestmark = requires("root", "overlay")
Run = Callable[..., Result]


def status(result: Result) -> dict[str, str]:
    """/proc/PID/status that a command printed."""
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in result.stdout.splitlines()}


def mounts(text: str) -> dict[str, list[str]]:
    """Mount point -> [options, file system type, super options], of a mountinfo that a command printed."""
    rows = [line.split() for line in text.splitlines()]
    return {row[4]: [row[5], row[row.index("-") + 1], row[-1]] for row in rows}


# ---- control groups


def test_memory_limit(sh: Run) -> None:
    result = sh("cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null", memory="64M")
    assert result.stdout.split() == ["67108864"]


@requires("cgroup-v1")
def test_out_of_memory_is_told_apart_from_a_kill(sh: Run) -> None:
    eater = "head -c 60000000 /dev/zero | tail | wc -c"  # tail keeps a line that never ends
    result = Container.run("base", ["tail", "/dev/zero"], memory="8M")
    assert (result.exit_code, result.oom_killed) == (137, True)
    result = sh("kill -9 $$", init=True, memory="8M")
    assert (result.exit_code, result.oom_killed) == (137, False)
    assert sh(eater, memory="200M").stdout.strip() != "0"


def test_pids_limit(sh: Run) -> None:
    result = sh("for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; echo all", pids=5)
    assert "all" not in result.stdout
    assert "fork" in result.stderr
    assert sh("for i in 1 2 3 4 5 6 7 8 9; do true & done; echo all", pids=20).stdout == "all\n"


@requires("cgroup-v1")
def test_cpu_quota() -> None:
    with Container.create("base", ["sleep", "5"], cpus=1.5) as made:
        directory = made._prepared.cgroup.path_of("cpu")
        assert Path(directory, "cpu.cfs_quota_us").read_text() == "150000\n"
        assert Path(directory, "cpu.cfs_period_us").read_text() == "100000\n"
        assert str(made.pid) in Path(directory, "tasks").read_text().split()


@requires("cgroup-v1")
def test_devices_that_are_not_allowed_cannot_be_opened(sh: Run) -> None:
    """mknod is allowed (CAP_MKNOD is kept), use is not: the devices controller says no."""
    result = sh("mknod /mem c 1 1 && head -c 1 /mem; head -c 4 /dev/zero | wc -c")
    assert "Operation not permitted" in result.stderr
    assert result.stdout.strip() == "4"


def test_no_control_group(sh: Run) -> None:
    mine = Path("/proc/self/cgroup").read_text()
    assert sorted(sh("cat /proc/self/cgroup", cgroup=False).stdout.splitlines()) != []
    with Container.create("base", ["sleep", "5"], cgroup=False) as made:
        assert Path(f"/proc/{made.pid}/cgroup").read_text() == mine
    with pytest.raises(InvalidOption, match="memory"):
        sh("true", cgroup=False, memory="64M")


# ---- file systems


def test_read_only(sh: Run) -> None:
    result = sh("touch /x; touch /etc/x; touch /dev/shm/ok && echo ok", read_only=True)
    assert result.stdout == "ok\n"
    assert result.stderr.count("Read-only file system") == 2


def test_the_root_is_written_to_a_layer_of_its_own(sh: Run) -> None:
    assert sh("echo 1 > /etc/new; cat /etc/new").stdout == "1\n"
    assert sh("cat /etc/new").exit_code == 1


def test_binds(sh: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    result = sh(
        "cat /rw/file /one; echo new > /rw/made; echo no > /ro/made",
        binds=[f"{tmp_path}:/rw", f"{tmp_path}:/ro:ro", f"{tmp_path}/file:/one:ro"],
    )
    assert result.stdout == "hellohello"
    assert "Read-only file system" in result.stderr
    assert (tmp_path / "made").read_text() == "new\n"


def test_a_read_only_bind_is_read_only_to_the_bottom(sh: Run, tmp_path: Path) -> None:
    """What is mounted below the source comes along, and must not be writable either."""
    from nsbook.linux import mount as m

    (tmp_path / "below").mkdir()
    m.mount("tmpfs", str(tmp_path / "below"), "tmpfs", 0, "size=64k")
    try:
        result = sh("touch /ro/below/x", binds=[f"{tmp_path}:/ro:ro"])
        assert "Read-only file system" in result.stderr
        assert sh("touch /rw/below/x", binds=[f"{tmp_path}:/rw"]).exit_code == 0
    finally:
        m.umount2(str(tmp_path / "below"), 0)


def test_nothing_spreads_from_a_bind_to_the_host(sh: Run, tmp_path: Path) -> None:
    from nsbook.linux import constants as C
    from nsbook.linux import mount as m

    m.mount(str(tmp_path), str(tmp_path), None, C.MS_BIND)
    m.mount(None, str(tmp_path), None, C.MS_SHARED)
    (tmp_path / "d").mkdir()
    before = Path("/proc/self/mountinfo").read_text()
    try:
        result = sh(
            "mount -t tmpfs tmpfs /b/d && echo mounted",
            binds=[f"{tmp_path}:/b"],
            capabilities=[*DEFAULT, "SYS_ADMIN"],
            seccomp="unconfined",
        )
        assert result.stdout == "mounted\n", result.stderr
        assert Path("/proc/self/mountinfo").read_text() == before
    finally:
        m.umount2(str(tmp_path), C.MNT_DETACH)


def test_a_bind_of_what_is_not_there_is_refused(sh: Run) -> None:
    with pytest.raises(ValueError, match="/nowhere"):
        sh("true", binds=["/nowhere:/x"])
    with pytest.raises(InvalidOption, match="bind"):
        sh("true", binds=["relative:/x"])


def test_tmpfs(sh: Run) -> None:
    found = mounts(sh("cat /proc/self/mountinfo", tmpfs={"/scratch": "size=1m,mode=700", "/other": ""}).stdout)
    options, kind, more = found["/scratch"]
    assert kind == "tmpfs"
    assert {"nosuid", "nodev", "noexec"} <= set(options.split(","))
    assert {"size=1024k", "mode=700"} <= set(more.split(","))
    assert found["/other"][1] == "tmpfs"


def test_the_usual_mounts(sh: Run) -> None:
    found = mounts(sh("cat /proc/self/mountinfo").stdout)
    kinds = {place: kind for place, (_, kind, _) in found.items()}
    usual = {"/": "overlay", "/proc": "proc", "/dev": "tmpfs", "/dev/pts": "devpts", "/dev/shm": "tmpfs", "/sys": "sysfs"}
    assert usual.items() <= kinds.items()
    assert found["/sys"][0].startswith("ro")
    assert found["/proc/sys"][0].startswith("ro")


def test_masked_paths_tell_nothing(sh: Run) -> None:
    result = sh("wc -c < /proc/keys; ls /sys/firmware | wc -l; echo 1 > /proc/sys/kernel/panic; chmod 777 /proc/irq")
    assert result.stdout.split() == ["0", "0"]
    assert result.stderr.count("Read-only file system") == 2


def test_devices(sh: Run) -> None:
    result = sh(
        "stat -c '%n %F %t:%T %a' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty;"
        " for f in fd stdin stdout stderr ptmx; do readlink /dev/$f; done;"
        " echo gone > /dev/null; head -c 3 /dev/zero | od -An -tx1; head -c 8 /dev/urandom | wc -c; echo x > /dev/full; ls /dev"
    )
    lines = result.stdout.splitlines()
    numbers = ["null 1:3", "zero 1:5", "full 1:7", "random 1:8", "urandom 1:9", "tty 5:0"]
    assert lines[:6] == [f"/dev/{n.split()[0]} character special file {n.split()[1]} 666" for n in numbers]
    assert lines[6:11] == ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx"]
    assert lines[11].split() == ["00"] * 3
    assert lines[12].strip() == "8"
    assert "No space left" in result.stderr
    assert set(lines[13:]) == {
        "core",
        "fd",
        "full",
        "mqueue",
        "null",
        "ptmx",
        "pts",
        "random",
        "shm",
        "stderr",
        "stdin",
        "stdout",
        "tty",
        "urandom",
        "zero",
    }


def test_dev_stdout_works(sh: Run) -> None:
    """It is a link to a link to a pipe that the container's user must be able to open again."""
    assert sh("echo out > /dev/stdout; echo err > /dev/stderr").stdout == "out\n"


# ---- namespaces


def test_six_namespaces_and_a_name() -> None:
    kinds = ["cgroup", "ipc", "mnt", "net", "pid", "uts"]
    with Container.create("base", ["sleep", "5"], hostname="box") as made:
        for kind in [k for k in (*kinds, "user", "time") if os.path.exists(f"/proc/self/ns/{k}")]:
            same = os.stat(f"/proc/{made.pid}/ns/{kind}").st_ino == os.stat(f"/proc/self/ns/{kind}").st_ino
            assert same is (kind not in kinds), kind
        made.start()
        assert made.exec(["hostname"]).stdout == "box\n"
    assert os.uname().nodename != "box"


def test_process_1_and_nothing_else(sh: Run) -> None:
    assert sh("echo $$; ls /proc | grep -c '^[0-9]'").stdout.split()[0] == "1"


def test_network_none_is_a_loopback_that_is_up(sh: Run) -> None:
    assert sh("ls /sys/class/net; cat /sys/class/net/lo/flags; ping -c 1 -W 2 127.0.0.1 > /dev/null; echo $?").stdout.split() == [
        "lo",
        "0x9",
        "0",
    ]


def test_network_host(sh: Run) -> None:
    result = sh("readlink /proc/self/ns/net", network="host")
    assert result.stdout.strip() == os.readlink("/proc/self/ns/net")
    with pytest.raises(InvalidOption, match="network"):
        sh("true", network="nnone")


def test_userns(sh: Run) -> None:
    result = sh("cat /proc/self/uid_map; readlink /proc/self/ns/user; id -u; touch /x && stat -c %u /x", userns=True)
    lines = result.stdout.splitlines()
    assert lines[0].split() == Path("/proc/self/uid_map").read_text().split()
    assert lines[1] != os.readlink("/proc/self/ns/user")
    assert lines[2:] == ["0", "0"]


def test_userns_cannot_write_the_hosts_control_groups(sh: Run) -> None:
    """In a user namespace version 1 can only be shown, not mounted anew: then as read-only as all else."""
    result = sh("for f in $(find /sys/fs/cgroup -name tasks | head -5); do echo 0 > $f; done", userns=True)
    assert result.stderr.count("Read-only file system") == len(result.stderr.splitlines())


@requires("time-namespaces")
def test_time_namespace(sh: Run) -> None:
    result = sh("readlink /proc/self/ns/time; echo $$", time=True)
    assert result.stdout.split()[0] != os.readlink("/proc/self/ns/time")
    assert result.stdout.split()[1] == "1"


def test_sysctls(sh: Run) -> None:
    assert sh("cat /proc/sys/net/ipv4/ip_forward", sysctls={"net.ipv4.ip_forward": "1"}).stdout == "1\n"
    with pytest.raises(ValueError, match="would change the host"):
        sh("true", sysctls={"vm.swappiness": "1"})
    with pytest.raises(ValueError, match="shares with the host"):
        sh("true", sysctls={"net.ipv4.ip_forward": "1"}, network="host")


# ---- the process


def test_user_by_number_and_by_name(sh: Run) -> None:
    assert sh("id -u; id -g; echo $HOME; pwd", user="1234:56").stdout.split() == ["1234", "56", "/", "/"]
    assert sh("id -un; id -gn; echo $HOME; touch /x", user="reader").stdout.split() == ["reader", "reader", "/home/reader"]
    assert sh("touch /x", user="reader").stderr.strip().endswith("Permission denied")
    with pytest.raises(InvalidOption, match="somebody"):
        sh("true", user="somebody")


def test_supplementary_groups(rootfs: Path) -> None:
    with open(rootfs / "etc/group", "a") as file:
        file.write("extra:x:77:reader\n")
    assert Container.run(str(rootfs), ["id", "-G"], user="reader").stdout.split() == ["1000", "77"]


def test_env_and_workdir(sh: Run) -> None:
    result = sh('env | sort; pwd; echo "$A"', env={"A": "b c=d", "PATH": "/bin"}, workdir="/made/for/it")
    lines = result.stdout.splitlines()
    assert [line for line in lines if not line.startswith(("PWD=", "SHLVL=", "OLDPWD="))] == [
        "A=b c=d",
        "HOME=/root",
        "PATH=/bin",
        "/made/for/it",
        "b c=d",
    ]
    with pytest.raises(InvalidOption, match="workdir"):
        sh("true", workdir="relative")


def capability_sets(result: Result) -> list[tuple[str, ...]]:
    found = status(result)
    return [credentials.capability_names(int(found[key], 16)) for key in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")]


def test_capabilities_by_default(sh: Run) -> None:
    able = set(credentials.capability_names(int(status(sh("cat /proc/self/status"))["CapBnd"], 16)))
    assert able <= set(DEFAULT)
    missing = set(DEFAULT) - able  # what this machine's own bounding set lacks is told
    result = sh("cat /proc/self/status")
    assert all(any(name in w for w in result.warnings) for name in missing)
    effective, permitted, bounding, inheritable, ambient = capability_sets(result)
    assert set(effective) == set(permitted) == set(bounding) == able
    assert inheritable == ambient == ()


def test_capabilities_chosen(sh: Run) -> None:
    result = sh("cat /proc/self/status", capabilities=["CHOWN", "cap_kill"])
    assert [set(s) for s in capability_sets(result)[:3]] == [{"CAP_CHOWN", "CAP_KILL"}] * 3
    assert capability_sets(sh("cat /proc/self/status", capabilities=[])) == [()] * 5
    assert sh("chown 1 /etc/passwd", capabilities=[]).exit_code == 1
    assert len(Capabilities.parse(["CHOWN", "cap_kill"])) == 2


def test_another_user_has_none(sh: Run) -> None:
    effective, permitted, bounding, _, ambient = capability_sets(sh("cat /proc/self/status", user="1000"))
    assert effective == permitted == ambient == ()
    assert bounding != ()


def test_seccomp(sh: Run) -> None:
    found = status(sh("cat /proc/self/status"))
    assert (found["Seccomp"], found["NoNewPrivs"]) == ("2", "1")
    refused = sh("unshare -U true")
    assert refused.exit_code != 0
    assert "Operation not permitted" in refused.stderr
    open_ = sh("unshare -U true && grep -w Seccomp /proc/self/status", seccomp="unconfined")
    assert open_.stdout.split() == ["Seccomp:", "0"]


def test_new_privileges(sh: Run) -> None:
    """The filter can be loaded without no_new_privs too: before the capability for it goes."""
    found = status(sh("cat /proc/self/status", no_new_privileges=False, user="1000"))
    assert (found["Seccomp"], found["NoNewPrivs"], found["CapEff"].strip("0")) == ("2", "0", "")


def test_rlimits(sh: Run) -> None:
    result = sh("ulimit -Sn; ulimit -Hn; ulimit -c", rlimits={"nofile": (100, 200), "core": 0})
    assert result.stdout.split() == ["100", "200", "0"]


def test_oom_score(sh: Run) -> None:
    assert sh("cat /proc/self/oom_score_adj", oom_score=500).stdout == "500\n"


def test_init_reaps_and_forwards(sh: Run) -> None:
    result = sh("(sleep 0.05 &) ; sleep 0.3; ps -o pid,ppid,stat,comm | grep -c ' Z '; cat /proc/1/comm; echo $$", init=True)
    assert result.stdout.split() == ["0", "nsbook-init", "2"]
    result = sh("trap 'echo got; exit 5' TERM; kill -TERM 1; sleep 5 & wait", init=True)
    assert (result.stdout, result.exit_code) == ("got\n", 5)


def test_the_session_is_its_own(sh: Run) -> None:
    """A Ctrl-C at the caller's terminal is not the container's."""
    assert sh("awk '{print $6}' /proc/self/stat").stdout.split() == ["1"]


def test_no_descriptor_of_ours_comes_along(sh: Run) -> None:
    assert sh("ls /proc/self/fd").stdout.split() == ["0", "1", "2", "3"]  # 3: the directory that ls reads


def test_nothing_of_the_callers_environment(sh: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    assert "SECRET" not in sh("env").stdout


# ---- refused by name


@pytest.mark.parametrize(
    "given, word",
    [
        ({"memroy": "1G"}, "did you mean 'memory'"),
        ({"memory": "1K"}, "at least 512K"),
        ({"memory": "many"}, "many"),
        ({"cpus": 0}, "CPUs"),
        ({"pids": 0}, "1 task"),
        ({"hostname": "a b"}, "hostname"),
        ({"env": ["A"]}, "NAME=VALUE"),
        ({"capabilities": ["FLY"]}, "FLY"),
        ({"rlimits": {"nofile": (2, 1)}}, "nofile"),
        ({"rlimits": {"files": 1}}, "files"),
        ({"id": "../up"}, "id"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(sh: Run, given: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidOption, match=word):
        sh("true", **given)


def test_a_command_is_words() -> None:
    with pytest.raises(InvalidOption, match="list of words"):
        Container.run("base", "ls -l")  # type: ignore[arg-type]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs the numbers of x86-64")
def test_a_filter_of_ones_own(sh: Run, tmp_path: Path) -> None:
    profile = tmp_path / "no-mkdir.json"
    profile.write_text(
        '{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],'
        ' "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}'
    )
    assert "not supported" in sh("mkdir /x", seccomp=str(profile)).stderr


def test_a_limit_that_cannot_be_had_is_refused(sh: Run) -> None:
    """Asked for explicitly it is not dropped in silence; what was only a default is told in a warning."""
    from nsbook.linux import mount as m

    m.mount("tmpfs", "/sys/fs/cgroup", "tmpfs", 0, "size=64k")
    try:
        with pytest.raises(Unsupported, match="memory"):
            sh("true", memory="64M")
        result = sh("echo ran")
    finally:
        m.umount2("/sys/fs/cgroup", 0)
    assert result.stdout == "ran\n"
    assert any("no control group" in w for w in result.warnings)
