"""A plan's shell script, run for real: the kernel's state is the same as after the plan itself, and nothing is left.

Each plan is built twice, under the same run id: by ``sh`` from ``plan.script()``, and by the launcher.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import leaks
from needs import requires
from nsbook.container.container import Container
from nsbook.container.prepare import Prepared
from nsbook.images.base import base
from nsbook.spawn.client import Session

pytestmark = requires("root", "overlay")

LOOK = """
cat /proc/self/mountinfo; echo; hostname; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; ls /sys/class/net
cat /sys/class/net/lo/flags; for n in cgroup ipc mnt net pid time user uts; do readlink /proc/self/ns/$n; done
cat /proc/self/limits /proc/self/oom_score_adj; cat /proc/self/cgroup; ls -l /dev; pwd; umask; env | sort; echo $$; ulimit -n
cat /proc/sys/net/ipv4/ip_forward; grep -E '^(NoNewPrivs|SigIgn|SigBlk|Cap|Uid|Gid|Groups)' /proc/self/status; awk '{print $6}' /proc/self/stat
echo READY; exec sleep 60
"""
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
LIMITS = [
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "cpu.cfs_quota_us",
    "cpu.cfs_period_us",
    "pids.max",
    "devices.list",
    "memory.max",
    "memory.swap.max",
    "cpu.max",
    "cgroup.controllers",
]

PLANS: dict[str, dict[str, Any]] = {
    "default": {},
    "limits": {"memory": "64M", "cpus": 0.5, "pids": 40},
    "userns": {"userns": True},
    "userns-limits": {"userns": True, "memory": "64M", "binds": ["/usr:/host:ro"]},
    "files": {
        "binds": ["/usr:/host/usr:ro", "/etc/hostname:/one/file"],
        "tmpfs": {"/t": "size=1m,mode=700", "/u v": ""},
        "read_only": True,
    },
    "process": {
        "hostname": "box-1",
        "rlimits": {"nofile": (100, 200)},
        "oom_score": 77,
        "workdir": "/made",
        "env": {"A": "b 'c' \"d\" $e"},
    },
    "time": {"time": True},
    "sysctl": {"sysctls": {"net.ipv4.ip_forward": "1"}},
    "host-network": {"network": "host", "cgroup": False},
}


def words(text: str) -> dict[str, list[str]]:
    """What the command said, so that two of them can be compared: numbers that the kernel gives out are taken away."""
    table, _, rest = text.partition("\n\n")
    mounts = []
    for line in table.splitlines():
        fields = line.split()
        mounts.append(" ".join([*fields[3:6], *fields[fields.index("-") :]]))
    lines = [line for line in rest.splitlines() if not line.startswith(("SHLVL=", "OLDPWD="))]
    kernel = [line.partition(":[")[0] if ":[" in line else line for line in lines]
    return {"mounts": mounts, "rest": [" ".join(w for w in line.split() if ":" not in w or not w[:1].isdigit()) for line in kernel]}


def own(text: str) -> dict[str, bool]:
    """Which namespaces are others than ours."""
    seen = dict(line.partition(":[")[::2] for line in text.splitlines() if ":[" in line and line.endswith("]"))
    return {kind: f"{kind}:[{seen[kind]}" != os.readlink(f"/proc/self/ns/{kind}") for kind in NAMESPACES}


def limits(made: Prepared) -> dict[str, str]:
    """The files of its control groups, and how many processes each one has."""
    found = {}
    for path in made.cgroup.paths:
        for name in LIMITS:
            if os.path.exists(f"{path}/{name}"):
                found[f"{path}/{name}"] = Path(path, name).read_text()
        found[f"{path} has"] = str(len(Path(path, "cgroup.procs").read_text().split()))
    return found


def until_ready(fd: int, timeout: float = 30.0) -> str:
    text, end = b"", time.monotonic() + timeout
    while b"READY\n" not in text:
        assert select.select([fd], [], [], max(0, end - time.monotonic()))[0], f"too slow: {text!r}"
        part = os.read(fd, 65536)
        assert part, f"it ended: {text.decode()}"
        text += part
    return text.decode()


@pytest.fixture
def by_shell(tmp_path: Path) -> Iterator[Callable[[Prepared], subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(made: Prepared, shell: tuple[str, ...] = ("sh",)) -> subprocess.Popen[bytes]:
        file = tmp_path / "a script.sh"
        file.write_text(made.plan.script())
        process = subprocess.Popen([*shell, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=20)


@pytest.mark.parametrize("name", list(PLANS))
def test_the_kernel_says_the_same(name: str, container_plan: Any, by_shell: Any) -> None:
    before = leaks.look()
    made = container_plan(argv=("sh", "-c", LOOK), **PLANS[name])

    process = by_shell(made)
    said = until_ready(process.stdout.fileno())
    seen = limits(made)
    process.terminate()
    _, complaints = process.communicate(timeout=20)
    assert process.returncode == 143
    assert not leaks.left_since(before), complaints.decode()
    # busybox's setpriv knows neither bounding sets nor ids; all else is done
    # (and unshare of util-linux 2.38 complains of a signal mask when its child is killed)
    missing = {line.split()[-1] for line in complaints.decode().splitlines() if not line.startswith("unshare: sigprocmask")}
    assert missing <= {"DropBounding", "SetUser", "SetCapabilities"}, complaints.decode()

    read, write = os.pipe()
    null = os.open(os.devnull, os.O_RDONLY)
    session = Session(made.plan, streams={"stdin": null, "stdout": write, "stderr": write}, tagged=made.tagged)
    os.close(write)
    try:
        expected = until_ready(read)
        wanted = limits(made)
    finally:
        session.close()
        os.close(read)
        os.close(null)

    ours, theirs = words(expected), words(said)
    assert theirs["mounts"] == ours["mounts"]
    capabilities = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Groups")  # what busybox could not do
    assert [line for line in theirs["rest"] if not line.startswith(capabilities)] == [
        line for line in ours["rest"] if not line.startswith(capabilities)
    ]
    assert own(said) == own(expected)
    assert own(said)["mnt"]
    assert own(said)["user"] is ("userns" in name)
    assert seen == wanted


@pytest.mark.parametrize("given", [{}, {"user": "1000:1000"}, {"userns": True}, {"capabilities": ["CHOWN"]}, {"no_new_privileges": False}])
@requires("setpriv")
def test_an_image_with_util_linux_gets_it_all(given: dict[str, Any], by_shell: Any, tmp_path: Path) -> None:
    """The image of the host's own tools has its setpriv: then capabilities and ids are the same, too."""
    line = "grep -E '^(NoNewPrivs|Cap|Uid|Gid|Groups)' /proc/self/status; pwd; hostname"
    container = Container(base(way="tools"), ["sh", "-c", line], hostname="tools", **given)
    process = by_shell(container._prepared)
    said, complaints = process.communicate(timeout=30)
    assert process.returncode == 0, complaints.decode()
    assert complaints.decode().split()[-1:] in ([], ["NewSession"])  # it has no setsid(1)
    assert complaints.count(b"\n") <= 1
    assert said.decode() == Container.run(base(way="tools"), ["sh", "-c", line], hostname="tools", **given).stdout


@pytest.mark.parametrize("shell", [("dash",), ("busybox", "sh"), ("bash",)], ids=lambda s: s[0])
def test_every_shell_can_read_and_run_it(shell: tuple[str, ...], container_plan: Any, by_shell: Any, tmp_path: Path) -> None:
    for name, given in PLANS.items():
        (tmp_path / "s.sh").write_text(container_plan(argv=("sh", "-c", LOOK), **given).plan.script())
        done = subprocess.run([*shell, "-n", str(tmp_path / "s.sh")], check=False, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), name
    if shell[0] == "busybox":
        return  # Debian's runs its own env, rm and unshare whatever PATH says, and these know too little
    process = by_shell(container_plan(argv=("sh", "-c", "cat; exit 3"), userns=True), shell)
    out, complaints = process.communicate(b"through the script\n", timeout=30)
    assert (process.returncode, out) == (3, b"through the script\n"), complaints.decode()


@pytest.mark.parametrize("code, line", [(0, "true"), (3, "exit 3"), (137, "kill -9 $$; sleep 1"), (127, "exec nothing-there")])
def test_its_status_is_the_commands(code: int, line: str, container_plan: Any, by_shell: Any) -> None:
    process = by_shell(container_plan(argv=("sh", "-c", line), init=code == 137))
    process.communicate(timeout=30)
    assert process.returncode == code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_takes_everything_back(number: int, container_plan: Any, by_shell: Any) -> None:
    before = leaks.look()
    process = by_shell(container_plan(argv=("sh", "-c", "echo READY; exec sleep 60")))
    until_ready(process.stdout.fileno())
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert not leaks.left_since(before)


def test_an_op_that_fails_ends_it_and_takes_everything_back(container_plan: Any, by_shell: Any) -> None:
    before = leaks.look()
    process = by_shell(container_plan(tmpfs={"/x": "size=nonsense"}))
    _, complaints = process.communicate(timeout=20)
    assert process.returncode not in (0, 143)
    assert b"mount" in complaints
    assert not leaks.left_since(before)


def test_the_command_has_the_usual_signals(container_plan: Any, by_shell: Any) -> None:
    """A shell starts what is in the background with SIGINT ignored, and that would be the container's for good."""
    process = by_shell(container_plan(argv=("sh", "-c", "grep SigIgn /proc/self/status")))
    assert int(process.communicate(timeout=20)[0].split()[1], 16) & (1 << (signal.SIGINT - 1)) == 0


def test_every_op_is_named_in_it(container_plan: Any) -> None:
    for given in PLANS.values():
        plan = container_plan(argv=("sh", "-c", "true"), **given).plan
        text = plan.script()
        for index, op in enumerate(plan.ops):
            assert f"# {index} {op.name}: " in text, (index, op)
        for line in text.splitlines():
            assert len(line) < 4000


def test_the_script_of_exec(by_shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from nsbook.container.enter import enter_plan

    look = "for n in cgroup ipc mnt net pid uts; do readlink /proc/self/ns/$n; done; hostname; pwd; cat /proc/self/cgroup; ulimit -n"
    with Container.create("base", ["sleep", "20"], hostname="there", rlimits={"nofile": 99}) as made:
        made.start()
        plan = enter_plan(made._prepared, ("sh", "-c", look), user="", env=(), workdir="/tmp")
        monkeypatch.setenv("target", str(made.pid))
        process = by_shell(made._prepared.replace(plan=plan))
        out, complaints = process.communicate(timeout=20)
        assert process.returncode == 0, complaints.decode()
        assert out.decode() == made.exec(["sh", "-c", look], workdir="/tmp").stdout
