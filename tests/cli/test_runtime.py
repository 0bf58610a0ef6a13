"""``nsbook-runtime``: a container's life by the OCI runtime command line, each verb in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft4Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4

import nsbook
from needs import own_cgroups, requires
from nsbook.container.spec import options, spec

pytestmark = requires("root")

RUNTIME = [sys.executable, "-m", "nsbook.cli.runtime"]
SCHEMAS = Path(__file__).parents[1] / "specs/oci-runtime"
LOOP = "echo up; while :; do sleep 0.05; done"


def valid(document: dict[str, Any], name: str) -> None:
    """Raises ValidationError for what the specification's schema doesn't allow."""
    found = [(path.name, Resource(contents=json.loads(path.read_text()), specification=DRAFT4)) for path in SCHEMAS.glob("*.json")]
    schema = {**json.loads((SCHEMAS / name).read_text()), "id": name}
    Draft4Validator(schema, registry=Registry().with_resources(found)).validate(document)


def oci(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run ``nsbook-runtime WORDS``. Output goes to a file: a container would hold a pipe open."""
    where = Path(os.environ["TMPDIR"])
    with open(where / "out", "w+") as out, open(where / "err", "w+") as err:
        try:
            done = subprocess.run([*RUNTIME, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=60, check=False, **more)
            return subprocess.CompletedProcess(words, done.returncode, (where / "out").read_text(), (where / "err").read_text())
        finally:
            (where / "out").unlink()
            (where / "err").unlink()


def good(*words: str, **more: Any) -> str:
    """The same, which must succeed in silence; what it printed."""
    done = oci(*words, **more)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def bad(*words: str) -> str:
    """The same, which must fail with status 1, a sentence and no traceback; what it said."""
    done = oci(*words)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("nsbook-runtime: ")
    return done.stderr


def state(id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(good("state", id))
    return found


def until(so: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 20
    while not so():
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded image's files."""
    place = tmp_path_factory.mktemp("image")
    nsbook.Image.base().layers[0].apply(place)
    return place


@pytest.fixture
def bundle(rootfs: Path, tmp_path: Path) -> Callable[..., str]:
    """Write a bundle whose process is ``argv``; ``change`` may alter its configuration first."""

    def write(*argv: str, change: Callable[[dict[str, Any]], object] | None = None) -> str:
        config = spec(options(hostname="bundled"), argv, env=("PATH=/usr/bin:/bin", "A=b"), rootfs=str(rootfs), cgroups_path="nsb-oci")
        config["annotations"] = {"org.example.why": "a test"}
        if change:
            change(config)
        valid(config, "config-schema.json")
        (tmp_path / "config.json").write_text(json.dumps(config))
        return str(tmp_path)

    return write


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    yield
    left = [line.split("\t")[0] for line in good("list").splitlines()]
    for id in left:
        oci("delete", "--force", id)
    assert left == []
    assert not nsbook.ledger()
    runtime = Path(os.environ["NSBOOK_ROOT"], "run/runtime")
    assert not runtime.exists() or os.listdir(runtime) == []
    assert [group for group in groups() if group.exists()] == []


def groups(name: str = "nsb-oci") -> list[Path]:
    return [place / name for place in dict.fromkeys(own_cgroups().values())]


def gone(id: str) -> None:
    until(lambda: state(id)["status"] == "stopped", f"{id} stopped")


def test_a_life(bundle: Any, tmp_path: Path) -> None:
    there = bundle("sh", "-c", "echo $A $(hostname) $(id -u) > /tmp/said; exec sleep 60", change=with_tmp(tmp_path))
    good("create", "life", "--bundle", there, "--pid-file", f"{tmp_path}/pid")
    made = state("life")
    valid(made, "state-schema.json")
    assert made == {
        "ociVersion": "1.0.2",
        "id": "life",
        "status": "created",
        "bundle": there,
        "pid": int((tmp_path / "pid").read_text()),
        "annotations": {"org.example.why": "a test"},
    }
    assert good("list") == f"life\t{made['pid']}\tcreated\t{there}\n"
    assert not (tmp_path / "shared/said").exists()
    assert any(group.exists() for group in groups())
    good("start", "life")
    until(lambda: Path(f"/proc/{made['pid']}/cmdline").read_bytes() == b"sleep\x0060\0", "its command")
    assert (tmp_path / "shared/said").read_text() == "b bundled 0\n"
    running = state("life")
    valid(running, "state-schema.json")
    assert running == {**made, "status": "running"}
    good("kill", "life", "KILL")
    gone("life")
    valid(state("life"), "state-schema.json")
    good("delete", "life")
    assert "no container life" in bad("state", "life")


def with_tmp(tmp_path: Path) -> Callable[[dict[str, Any]], None]:
    """Show the host's ``shared`` as the container's ``/tmp``."""

    def change(config: dict[str, Any]) -> None:
        (tmp_path / "shared").mkdir(exist_ok=True)
        config["mounts"].append({"destination": "/tmp", "type": "bind", "source": f"{tmp_path}/shared", "options": ["rbind"]})

    return change


@pytest.mark.parametrize(("line", "status", "out"), [("echo hello; exit 5", 5, "hello\n"), ("id -u", 0, "0\n")])
def test_run(bundle: Any, line: str, status: int, out: str) -> None:
    done = oci("run", "one", "--bundle", bundle("sh", "-c", line))
    assert (done.returncode, done.stdout, done.stderr) == (status, out, "")


def test_run_passes_signals_on(bundle: Any) -> None:
    there = bundle("sh", "-c", f"trap 'echo caught; exit 9' TERM; {LOOP}")
    with subprocess.Popen([*RUNTIME, "run", "one", "-b", there], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.terminate()
        assert process.communicate(timeout=30)[0] == "caught\n"
        assert process.returncode == 9


def test_run_detached(bundle: Any) -> None:
    good("run", "--detach", "away", "--bundle", bundle("sleep", "60"))
    assert state("away")["status"] == "running"
    assert "is running: stop it first" in bad("delete", "away")
    good("delete", "--force", "away")


def test_features() -> None:
    document = json.loads(good("features"))
    valid(document, "features-schema.json")
    assert set(document["linux"]["namespaces"]) >= {"mount", "pid", "user", "network", "uts", "ipc", "cgroup"}
    assert "CAP_SYS_ADMIN" in document["linux"]["capabilities"]
    assert document["linux"]["seccomp"]["enabled"] is True
    assert document["ociVersionMax"] in good("--version")


def test_what_can_not_be(bundle: Any, tmp_path: Path) -> None:
    assert "no config.json in the bundle" in bad("create", "x", "--bundle", str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    assert "is no JSON" in bad("create", "x", "--bundle", str(tmp_path))
    there = bundle("sh", "-c", LOOP)
    assert "container id '../x'" in bad("create", "../x", "--bundle", there)
    assert "--preserve-fds 'many': a number" in bad("create", "x", "--bundle", there, "--preserve-fds", "many")
    assert "no option --nosuch" in bad("create", "x", "--nosuch")
    assert "no verb 'crate'" in bad("crate", "x")
    assert "which container?" in bad("state")
    for verb in ("state", "start", "kill", "delete", "pause", "exec"):
        assert "no container nobody" in bad(verb, "nobody", "true")
    good("delete", "--force", "nobody")
    good("create", "x", "--bundle", there)
    assert "there is a container x already" in bad("create", "x", "--bundle", there)
    assert "is created" in bad("exec", "x", "true")
    assert "is created: stop it first" in bad("delete", "x")
    good("start", "x")
    assert "the container x is running" in bad("start", "x")
    assert "no signal 'FOO'" in bad("kill", "x", "FOO")
    assert "is running: stop it first" in bad("delete", "x")
    good("kill", "x", "9")
    gone("x")
    for verb in ("kill", "start", "exec"):
        assert "is stopped" in bad(verb, "x", "TERM")
    good("delete", "x")


def test_a_file_system_that_is_not_there(bundle: Any) -> None:
    there = bundle("true", change=lambda config: config["root"].update(path="/no/such"))
    assert "there is no directory /no/such" in bad("create", "x", "--bundle", there)


def test_a_command_that_is_not_there(bundle: Any) -> None:
    """It is found missing by who starts it, and the container is then stopped."""
    good("create", "x", "--bundle", bundle("nosuch"))
    said = bad("start", "x")
    assert "No such file or directory" in said
    assert "nosuch" in said
    gone("x")
    good("delete", "x")
    assert "nosuch" in bad("run", "x", "--bundle", bundle("nosuch"))


def test_a_created_one_can_be_killed_or_deleted(bundle: Any) -> None:
    there = bundle("sleep", "60")
    good("create", "x", "--bundle", there)
    good("kill", "x", "SIGKILL")
    gone("x")
    good("delete", "x")
    good("create", "x", "--bundle", there)
    good("delete", "--force", "x")


def test_errors_go_to_the_log_too(tmp_path: Path) -> None:
    bad("--log", f"{tmp_path}/log", "--log-format", "json", "state", "nobody")
    entry = json.loads((tmp_path / "log").read_text())
    assert (entry["level"], entry["msg"]) == ("error", "no container nobody")


def test_a_create_that_is_killed(bundle: Any, tmp_path: Path) -> None:
    """A hook that never ends holds it at its last moment; ``delete --force`` takes back what it had."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"echo hooked > {fifo}; exec sleep 20"]}
    there = bundle("sleep", "60", change=lambda config: config.update(hooks={"createRuntime": [hook]}))
    with subprocess.Popen([*RUNTIME, "create", "half", "--bundle", there], stdin=subprocess.DEVNULL) as process:
        assert fifo.read_text() == "hooked\n"
        hooks = children(process.pid)
        process.kill()
    for pid in hooks:
        if b"nsbook.cli.runtime" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    good("delete", "--force", "half")


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_exec(bundle: Any, tmp_path: Path) -> None:
    good("run", "--detach", "x", "--bundle", bundle("sh", "-c", LOOP))
    done = oci("exec", "x", "sh", "-c", "echo $A $(hostname) $$; exit 3")
    assert (done.returncode, done.stderr) == (3, "")
    first, host, pid = done.stdout.split()
    assert (first, host) == ("b", "bundled")
    assert int(pid) > 1
    process = {
        "args": ["sh", "-c", "echo $B $(id -u):$(id -g); pwd; kill -TERM $$"],
        "cwd": "/usr",
        "env": ["PATH=/bin", "B=c"],
        "user": {"uid": 12, "gid": 34},
    }
    (tmp_path / "process.json").write_text(json.dumps(process))
    done = oci("exec", "--process", f"{tmp_path}/process.json", "--pid-file", f"{tmp_path}/pid", "x")
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "c 12:34\n/usr\n")
    assert int((tmp_path / "pid").read_text()) > 1
    assert "nosuch" in bad("exec", "x", "nosuch")
    good("exec", "--detach", "--pid-file", f"{tmp_path}/pid", "x", "sleep", "60")
    inside = int((tmp_path / "pid").read_text())
    assert Path(f"/proc/{inside}/cmdline").read_bytes() == b"sleep\x0060\0"
    assert os.readlink(f"/proc/{inside}/ns/pid") == os.readlink(f"/proc/{state('x')['pid']}/ns/pid")
    good("delete", "--force", "x")
    until(lambda: not Path(f"/proc/{inside}").exists(), "who was in it ends with it")


def test_pause_and_resume(bundle: Any, tmp_path: Path) -> None:
    line = "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; done"
    good("run", "--detach", "x", "--bundle", bundle("sh", "-c", line, change=with_tmp(tmp_path)))
    count = tmp_path / "shared/count"
    until(count.exists, "it counts")
    good("pause", "x")
    assert state("x")["status"] == "paused"
    before = count.read_text()
    time.sleep(0.1)
    assert count.read_text() == before
    assert "is paused" in bad("exec", "x", "true")
    good("resume", "x")
    assert state("x")["status"] == "running"
    until(lambda: count.read_text() not in ("", before), "it counts on")
    good("pause", "x")
    good("delete", "--force", "x")


def test_kill_all(bundle: Any) -> None:
    good("run", "--detach", "x", "--bundle", bundle("sh", "-c", "sleep 60 & sleep 60 & " + LOOP))
    until(lambda: len(children(state("x")["pid"])) >= 2, "its children")
    pids = [state("x")["pid"], *children(state("x")["pid"])]
    good("kill", "--all", "x", "KILL")
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "all end")
    good("delete", "x")


def test_hooks(bundle: Any, tmp_path: Path) -> None:
    """In order, each with the state on its standard input."""
    log = tmp_path / "hooks"

    def hook(name: str) -> list[dict[str, Any]]:
        return [{"path": "/bin/sh", "args": ["sh", "-c", f'echo "{name} $X $(cat)" >> {log}'], "env": ["X=y", "PATH=/usr/bin:/bin"]}]

    names = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]
    there = bundle("sleep", "60", change=lambda config: config.update(hooks={name: hook(name) for name in names}))
    good("create", "x", "--bundle", there)
    good("start", "x")
    good("delete", "--force", "x")
    lines = [line.split(" ", 2) for line in log.read_text().splitlines()]
    assert [(name, x) for name, x, _ in lines] == [(name, "y") for name in names]
    states = [json.loads(text) for _, _, text in lines]
    for one in states:
        valid(one, "state-schema.json")
        assert one["bundle"] == there
    assert [one["status"] for one in states] == ["creating"] * 3 + ["running", "stopped"]


def test_a_hook_that_fails(bundle: Any) -> None:
    """The container is not made, and nothing of it is left."""
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "echo not today >&2; exit 4"]}
    there = bundle("sleep", "60", change=lambda config: config.update(hooks={"createRuntime": [hook]}))
    said = bad("create", "x", "--bundle", there)
    assert "failed with status 4: not today" in said
    assert "no container x" in bad("state", "x")


def test_a_hook_that_takes_too_long(bundle: Any) -> None:
    hook = {"path": "/bin/sleep", "args": ["sleep", "30"], "timeout": 1}
    there = bundle("sleep", "60", change=lambda config: config.update(hooks={"prestart": [hook]}))
    assert "timed out after 1 seconds" in bad("create", "x", "--bundle", there)


@requires("cgroup-v1")
@pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
def test_where_the_control_group_is(bundle: Any, absolute: bool) -> None:
    """Relative: below the caller's own. Absolute: from the root of each hierarchy."""
    own = own_cgroups()
    if absolute:
        relative = {c: Path("/", *place.parts[4:]) for c, place in own.items()}
        path = f"{relative['pids']}/deep/er"
        expected = Path(f"/sys/fs/cgroup/pids{path}")
    else:
        path, expected = "deep/er", own["pids"] / "deep/er"

    def change(config: dict[str, Any]) -> None:
        config["linux"]["cgroupsPath"] = path
        config["linux"]["resources"] = {"pids": {"limit": 33}, "memory": {"limit": 50 << 20}}

    good("run", "--detach", "x", "--bundle", bundle("sleep", "60", change=change))
    assert (expected / "pids.max").read_text() == "33\n"
    assert int((expected / "cgroup.procs").read_text()) == state("x")["pid"]
    memory = next(line for line in Path(f"/proc/{state('x')['pid']}/cgroup").read_text().splitlines() if ":memory:" in line)
    assert memory.endswith(path)
    good("delete", "--force", "x")
    assert not expected.exists()
    assert not expected.parent.exists()


def test_seccomp_of_the_bundle(bundle: Any) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    }
    there = bundle(
        "sh",
        "-c",
        "grep Seccomp: /proc/self/status; mkdir /dev/shm/x 2>&1 | grep -o 'not supported'; touch /dev/shm/y && echo fine",
        change=lambda config: config["linux"].update(seccomp=profile),
    )
    assert oci("run", "x", "--bundle", there).stdout == "Seccomp:\t2\nnot supported\nfine\n"


def test_a_terminal(bundle: Any, tmp_path: Path) -> None:
    """Its master end is handed over the console socket, as conmon takes it."""
    import array
    import socket

    there = bundle("sh", "-c", "tty; read x; echo got $x; exit 0", change=lambda config: config["process"].update(terminal=True))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(f"{tmp_path}/console")
        listener.listen(1)
        good("create", "x", "--bundle", there, "--console-socket", f"{tmp_path}/console")
        connection, _ = listener.accept()
        with connection:
            _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
    (master,) = array.array("i", ancillary[0][2])
    try:
        good("start", "x")
        os.write(master, b"it\n")
        gone("x")
        said = b""
        while True:
            try:
                said += os.read(master, 4096)
            except OSError:  # EIO: nobody has the other end open any more
                break
        assert said.replace(b"\r\n", b"\n").replace(b"it\n", b"", 1).decode() == "/dev/pts/0\ngot it\n"
    finally:
        os.close(master)
        oci("delete", "--force", "x")


def test_preserved_descriptors(bundle: Any) -> None:
    there = bundle("sh", "-c", "cat <&3; ls /proc/$$/fd; true")
    third = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.execv(sys.argv[2], sys.argv[2:])"
    read, write = os.pipe()
    os.write(write, b"from outside\n")
    os.close(write)
    try:
        done = subprocess.run(
            [sys.executable, "-c", third, str(read), *RUNTIME, "run", "x", "--bundle", there, "--preserve-fds", "1"],
            pass_fds=[read],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(read)
    assert (done.stderr, done.stdout.split()[:2]) == ("", ["from", "outside"])
    assert done.stdout.split()[2:] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(("place", "empty"), [("/run", True), ("/new/place", True), ("/etc", False), ("/bin", False)])
def test_a_tmpfs_with_what_was_there(bundle: Any, place: str, empty: bool) -> None:
    """``tmpcopyup``: nothing need be copied from a directory that is empty or missing; from others it is refused."""

    def change(config: dict[str, Any]) -> None:
        config["mounts"].append({"destination": place, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "tmpcopyup"]})

    there = bundle("sh", "-c", f"grep -c ' {place} tmpfs ' /proc/mounts", change=change)
    if empty:
        assert good("run", "x", "--bundle", there) == "1\n"
    else:
        assert "notmpcopyup" in bad("run", "x", "--bundle", there)
