"""As an ordinary user: with a single id, and with sub-ids. A process of our own becomes that user for it.

The user has no name and owns nothing but a directory. ``/etc/subuid`` and ``/etc/subgid`` are ones of the test's own,
bound over the machine's in the worker's private mount namespace.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import station
from needs import requires
from nsbook.linux import mount as m
from nsbook.linux.constants import MS_BIND

pytestmark = requires("root", "setpriv", "userns", "overlay")

UID, SUB, COUNT = 12345, 500000, 65536
AsUser = Callable[..., Any]

PRELUDE = """
import json, os, sys, traceback
import nsbook
from nsbook.container.container import Container
from nsbook.spawn import shutdown
def sh(line, **given):
    return Container.run("base", ["sh", "-c", line], **given)
out = {}
"""
CODA = """
shutdown()
out["ledger"] = len(nsbook.ledger())
containers = os.path.join(os.environ["NSBOOK_ROOT"], "data", "containers")
out["left"] = os.listdir(containers) if os.path.isdir(containers) else []
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package where every user may read it."""
    import nsbook

    place = tmp_path_factory.mktemp("sources")
    station.let_others_in(place)
    shutil.copytree(os.path.dirname(nsbook.__file__), place / "nsbook", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["chmod", "-R", "a+rX", str(place)], check=True)
    return place


@pytest.fixture
def as_user(sources: Path, tmp_path: Path) -> AsUser:
    """Run lines of Python as that user; what they put in ``out`` comes back."""
    tmp_path.chmod(0o755)
    root = tmp_path / "root"
    root.mkdir()
    os.chown(root, UID, UID)
    become = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=-all"]
    # By a shell: setpriv's own exec still has root's capabilities.
    readable = subprocess.run([*become, "sh", "-c", 'exec "$0" -c ""', sys.executable], check=False, capture_output=True).returncode == 0
    python = sys.executable if readable else "/usr/bin/python3"

    def run(lines: str, *, before: tuple[str, ...] = (), **variables: str) -> Any:
        environment = {
            "NSBOOK_ROOT": str(root),
            "PYTHONPATH": str(sources),
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(root),
            "TMPDIR": str(root),
            "PYTHONDONTWRITEBYTECODE": "1",
            **variables,
        }
        done = subprocess.run(
            [*become, *before, python, "-c", PRELUDE + lines + CODA],
            env=environment,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        out = json.loads(done.stdout.splitlines()[-1])
        assert (out.pop("ledger"), out.pop("left")) == (0, [])
        return out

    return run


@pytest.fixture
def bind_over(tmp_path: Path) -> Iterator[Callable[[str, str], None]]:
    """Have a file of /etc say something else, for this worker."""
    bound: list[str] = []

    def bind(path: str, text: str) -> None:
        file = tmp_path / os.path.basename(path)
        file.write_text(text)
        m.mount(str(file), path, None, MS_BIND)
        bound.append(path)

    try:
        yield bind
    finally:
        for path in bound:
            m.umount2(path, 0)


@pytest.fixture
def sub_ids(bind_over: Callable[[str, str], None]) -> None:
    """The user has a range of other ids, and a name, without which newuidmap does nothing."""
    for name in ("subuid", "subgid"):
        if not os.path.exists(f"/etc/{name}"):
            pytest.skip(f"needs newuidmap: there is no /etc/{name} to bind over; apt install uidmap")
        bind_over(f"/etc/{name}", f"{UID}:{SUB}:{COUNT}\n")
    bind_over("/etc/passwd", Path("/etc/passwd").read_text() + f"nsb-reader:x:{UID}:{UID}::/:/bin/sh\n")


def test_a_single_id(as_user: AsUser) -> None:
    out = as_user(
        """
        result = sh("id -u; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; hostname; touch /x && stat -c %u:%g /x;"
                    " cat /sys/class/net/lo/flags; echo hi > /dev/null && echo null; grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status",
                    hostname="mine")
        out["said"], out["wrong"], out["warnings"] = result.stdout.split(), result.stderr, result.warnings
        """.replace("\n        ", "\n"),
        before=("--no-new-privs",),
    )
    uid_map, gid_map = ["0", str(UID), "1"], ["0", str(UID), "1"]
    assert out["said"] == ["0", *uid_map, *gid_map, "deny", "mine", "0:0", "0x9", "null", "NoNewPrivs:", "1", "Seccomp:", "2"]
    assert out["wrong"] == ""
    assert any("a single id" in w for w in out["warnings"])


def test_a_single_id_has_no_other_users(as_user: AsUser) -> None:
    out = as_user(
        """
from nsbook.errors import Unsupported
try:
    sh("true", user="reader")
except Unsupported as error:
    out["refused"] = str(error)
out["chown"] = sh("chown 1 /etc/passwd").exit_code
""",
        before=("--no-new-privs",),
    )
    assert "1000" in out["refused"]
    assert out["chown"] == 1


def test_the_whole_life(as_user: AsUser) -> None:
    out = as_user(
        """
with Container.create("base", ["sh", "-c", "echo up; sleep 20"]) as made:
    made.start()
    out["exec"] = made.exec(["sh", "-c", "id -u; hostname; readlink /proc/self/ns/user; readlink /proc/1/ns/user"]).stdout.split()
    out["id"] = made.id
    made.kill()
    out["status"] = made.wait(10)
    out["changes"] = [r.path for r in made.changes()]
out["codes"] = [sh("exit 4").exit_code, Container.run("base", ["nothing"]).exit_code, sh("kill -9 $$", init=True).exit_code]
out["read_only"] = sh("touch /x", read_only=True).stderr
out["tmpfs"] = sh("grep -c ' /t ' /proc/self/mountinfo", tmpfs={"/t": ""}).stdout
out["host"] = sh("ls /sys/class/net | wc -l", network="host").exit_code
out["time"] = sh("readlink /proc/self/ns/time", time=True).stdout != os.readlink("/proc/self/ns/time") + chr(10)
"""
    )
    assert out["exec"][0] == "0"
    assert out["exec"][1] == out["id"][:12]
    assert out["exec"][2] == out["exec"][3]
    assert out["status"] == 137
    assert out["codes"] == [4, 127, 137]
    assert "Read-only" in out["read_only"]
    assert (out["tmpfs"], out["host"], out["time"]) == ("1\n", 0, True)


def test_a_bind_keeps_what_the_host_has_locked(as_user: AsUser, tmp_path: Path) -> None:
    """nosuid, nodev and noexec of the host's mount cannot be taken off in a user namespace: a read-only bind must keep them."""
    from nsbook.linux import constants as C

    place = tmp_path / "locked"
    place.mkdir()
    m.mount("tmpfs", str(place), "tmpfs", C.MS_NOSUID | C.MS_NODEV | C.MS_NOEXEC, "size=64k,mode=777")
    try:
        out = as_user(f"out['said'] = sh('touch /b/x; grep \" /b \" /proc/self/mountinfo', binds=['{place}:/b:ro']).stdout")
    finally:
        m.umount2(str(place), 0)
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(out["said"].split()[5].split(","))


def test_a_limit_is_refused_where_no_control_group_is_ours(as_user: AsUser) -> None:
    out = as_user(
        """
from nsbook.errors import Unsupported
try:
    sh("true", memory="64M")
except Unsupported as error:
    out["feature"], out["fix"] = error.feature, error.fix
"""
    )
    assert "memory" in out["feature"]
    assert out["fix"]


@requires("newuidmap")
def test_sub_ids(as_user: AsUser, sub_ids: None) -> None:
    """Other users inside, whose files only a process in such a user namespace can remove again."""
    out = as_user(
        """
result = sh("id -u; cat /proc/self/uid_map; mkdir -p /deep/er && touch /deep/er/f && chown -R 1000:1000 /deep && chmod 700 /deep;"
            " stat -c %u /deep; cat /proc/self/setgroups")
out["said"], out["wrong"], out["warnings"] = result.stdout.split(), result.stderr, result.warnings
out["user"] = sh("id -u; id -G; touch /tmp/mine && stat -c %u /tmp/mine", user="reader").stdout.split()
with Container.create("base", ["sh", "-c", "mkdir /d && chown 1000 /d && chmod 700 /d; sleep 20"]) as made:
    made.start()
    out["exec"] = made.exec(["id", "-u"], user="reader").stdout
"""
    )
    assert out["wrong"] == ""
    assert out["said"] == ["0", "0", str(UID), "1", "1", str(SUB), str(COUNT), "1000", "allow"]
    assert out["user"] == ["1000", "1000", "1000"]
    assert out["exec"] == "1000\n"
    assert not any("single id" in w for w in out["warnings"])


@requires("newuidmap")
@pytest.mark.parametrize("threads", [0, 3])
def test_what_a_mapped_user_left_is_cleaned_after_a_kill(as_user: AsUser, sub_ids: None, threads: int) -> None:
    """Also by a process with threads, as a notebook is."""
    out = as_user(
        f"threads = {threads}"
        """
import os, signal, threading, time
for _ in range(threads):
    threading.Thread(target=time.sleep, args=(3,), daemon=True).start()
made = Container.create("base", ["sh", "-c", "mkdir -p /d/e && touch /d/e/f && chown -R 1000 /d && chmod 700 /d; echo ok; sleep 20"])
made.start()
while made.stdout != "ok" + chr(10):
    time.sleep(0.01)
(entry,) = nsbook.ledger()
os.kill(entry.owner, signal.SIGKILL)
while entry.live:
    time.sleep(0.01)
out["cleaned"] = len(nsbook.ledger().clean())
def alive():
    try:
        return open(f"/proc/{made.pid}/stat").read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
end = time.monotonic() + 5
while alive() and time.monotonic() < end:
    time.sleep(0.01)
out["alive"] = alive()
try:
    made.remove()
except nsbook.errors.NsbookError as error:
    out["told"] = type(error).__name__
"""
    )
    assert out == {"cleaned": 1, "alive": False, "told": "StateError"}


@requires("newuidmap")
def test_a_user_without_a_name_gets_a_single_id(as_user: AsUser, bind_over: Callable[[str, str], None]) -> None:
    """A range under their number helps nothing: newuidmap wants to know the name. It is told, and works all the same."""
    for name in ("subuid", "subgid"):
        bind_over(f"/etc/{name}", f"{UID}:{SUB}:{COUNT}\n")
    out = as_user("result = sh('id -u'); out['said'], out['warnings'] = result.stdout, result.warnings")
    assert out["said"] == "0\n"
    assert any("name" in w for w in out["warnings"])
