"""The sandbox holds what it says, in each of its modes; and a guest boots in it."""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from environments.machines import MODES, ROOT, Pod
from needs import requires

pytestmark = [requires("root"), pytest.mark.xdist_group("guest")]

ALWAYS = {
    "Uid": "1000 1000 1000 1000",
    "CapEff": "0" * 16,
    "CapBnd": "0" * 16,
    "NoNewPrivs": "1",
    "unshare(NEWNS)": "EPERM",
    "umount2": "EPERM",
    "chroot": "EPERM",
    "setns": "EPERM",
    "socket(AF_PACKET)": "EPERM",
    "memfd_create": "ok",
    "ptrace(TRACEME)": "ok",
    "writable /sys/fs/cgroup": "False",
    "writable /etc/passwd": "False",
    "writable /tmp": "True",
    "writable /home/jovyan": "True",
    "exists /dev/fuse": "False",
    "exists /dev/kvm": "False",
    "exists /dev/ptmx": "True",
}
BY_MODE = {
    "docker": {
        "Seccomp": "2",
        "unshare(NEWUSER)": "EPERM",
        "clone(NEWUSER)": "EPERM",
        "clone3": "ENOSYS",
        "mount": "EPERM",
        "pivot_root": "EPERM",
        "keyctl": "EPERM",
        "io_uring_setup": "EPERM",
        "socket(AF_VSOCK)": "EPERM",
        "personality(ADDR_NO_RANDOMIZE)": "EPERM",
        "personality(query)": "ok",
    },
    "apparmor": {"Seccomp": "2", "unshare(NEWUSER)": "ok", "clone(NEWUSER)": "ok", "mount": "EACCES", "pivot_root": "EACCES"},
    "none": {"Seccomp": "0", "unshare(NEWUSER)": "ok", "clone(NEWUSER)": "ok", "mount": "EPERM", "pivot_root": "EPERM"},
}


@pytest.mark.parametrize("mode", MODES)
def test_the_rules(pod: Pod, mode: str) -> None:
    done = pod(mode=mode, options=["--selftest"])
    assert done.returncode == 0, done.stderr
    said = dict(line.split("\t") for line in done.stdout.splitlines())
    expected = ALWAYS | BY_MODE[mode]
    assert {name: said[name] for name in expected} == expected


def test_what_is_written_is_gone(pod: Pod) -> None:
    script = "echo x > ~/here && echo y > /tmp/there && cat ~/here /tmp/there && touch /etc/nsbook-pod"
    done = pod("sh", "-c", script)
    assert done.stdout == "x\ny\n"
    assert done.returncode != 0
    for path in ("/home/jovyan/here", "/tmp/there", "/etc/nsbook-pod"):
        assert not Path(path).exists()


def test_status_input_and_streams(pod: Pod) -> None:
    done = pod("sh", "-c", "cat; echo err >&2; exit 9", data="in")
    assert (done.returncode, done.stdout, done.stderr) == (9, "in", "err\n")
    assert pod("sh", "-c", "kill -9 $$").returncode == 137
    assert pod("nosuch").returncode == 127
    assert pod("/etc").returncode == 126


def test_it_looks_like_a_binder_pod(pod: Pod) -> None:
    script = "import os, nsbook; e = os.environ; print(e['JUPYTERHUB_USER'], e['BINDER_REQUEST'], e['HOME'], os.getpid(), nsbook.__file__)"
    name, request, home, pid, where = pod(sys.executable, "-c", script).stdout.split()
    assert (name, request, home) == ("example-abc123", "v2/gh/example/example/HEAD", "/home/jovyan")
    assert int(pid) < 10
    assert where == str(ROOT / "nsbook/__init__.py")


def test_the_memory_limit_is_real(pod: Pod) -> None:
    script = "print(len(bytearray(200 << 20)))"
    assert pod(sys.executable, "-c", script, options=["--memory", "400m"]).stdout == f"{200 << 20}\n"
    assert pod(sys.executable, "-c", script, options=["--memory", "100m"]).returncode == 137


def test_a_pod_of_version_2_can_be_feigned(pod: Pod) -> None:
    script = "cat /sys/fs/cgroup/memory.max; echo x > /sys/fs/cgroup/memory.max"
    done = pod("sh", "-c", script, options=["--cgroupfs", "fake-v2", "--memory", "1g"])
    assert done.stdout == "1073741824\n"
    assert "ead-only" in done.stderr


def test_a_killed_sandbox_ends(pod: Pod) -> None:
    with subprocess.Popen(pod.command("sh", "-c", "echo up; exec sleep 7654"), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143


GUEST = [sys.executable, "-c", "import sys; from nsbook.guest import cli_run; sys.exit(cli_run(sys.argv[1:]))"]


@requires("uml")
@pytest.mark.parametrize("mode", MODES)
def test_a_guest_boots_where_all_is_forbidden(pod: Pod, mode: str) -> None:
    """With its own kernel, root, namespaces, an overlay and cgroup v2. The nonce was made up a moment ago: this is no
    recording."""
    nonce = secrets.token_hex(8)
    script = (
        "cat > /tmp/nonce; mount -t tmpfs t /mnt && mkdir /mnt/l /mnt/u /mnt/w /mnt/m && cp /tmp/nonce /mnt/l/ &&"
        " mount -t overlay -o lowerdir=/mnt/l,upperdir=/mnt/u,workdir=/mnt/w o /mnt/m &&"
        " unshare --mount --pid --net --uts --ipc --fork --mount-proc sh -c 'hostname inside; cat /mnt/m/nonce; id -u; hostname; echo $$'"
        " && cat /proc/version /sys/fs/cgroup/cgroup.controllers"
    )
    done = pod(*GUEST, "sh", "-c", script, mode=mode, data=f"{nonce}\n")
    assert done.returncode == 0, done.stderr
    back, uid, name, pid, version, controllers = done.stdout.splitlines()
    assert (back, uid, name, pid) == (nonce, "0", "inside", "1")
    assert version.startswith("Linux version ")
    assert version != Path("/proc/version").read_text().strip()
    assert {"memory", "pids", "cpu"} <= set(controllers.split())


@requires("uml")
def test_without_ptrace_the_guest_says_what_is_missing(pod: Pod) -> None:
    done = pod(*GUEST, "true", options=["--no-ptrace"])
    assert done.returncode == 125
    assert "ptrace" in done.stderr
    assert "Fix:" in done.stderr


@requires("uml")
def test_a_guest_fits_into_a_small_pod(pod: Pod) -> None:
    """The memory that it uses counts against the pod's limit, what it may use does not."""
    done = pod(*GUEST, "--memory", "1G", "sh", "-c", "grep MemTotal /proc/meminfo", options=["--memory", "600m"])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) > 900_000


@requires("uml")
def test_the_pod_s_end_is_the_guest_s(pod: Pod) -> None:
    """The check around every test fails if a process or a cgroup is left."""
    with subprocess.Popen(pod.command(*GUEST, "sh", "-c", "echo up; sleep 7654"), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
