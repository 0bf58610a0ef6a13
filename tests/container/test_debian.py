"""A real distribution: what mmdebstrap makes of Debian, from its tar, as root and in a user namespace."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import nsbook
from apart import outside
from needs import need, requires
from nsbook.container.container import Container

pytestmark = [requires("root", "overlay", "mmdebstrap", "debian-packages"), pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its tar, made once."""
    need("root", "mmdebstrap", "debian-packages")
    path = tmp_path_factory.mktemp("debian") / "debian.tar"
    command = outside("mmdebstrap", "--quiet", "--variant=minbase", "bookworm", str(path))
    subprocess.run(command, check=True, timeout=200, stdin=subprocess.DEVNULL)
    return str(path)


def test_its_own_tools_run(debian: str) -> None:
    result = Container.run(debian, ["sh", "-c", "dpkg --version | head -1; apt-get --version | head -1; . /etc/os-release; echo $ID"])
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Debian 'dpkg'")
    assert lines[1].startswith("apt ")
    assert lines[2] == "debian"


def test_the_package_database_is_whole(debian: str) -> None:
    """Thousands of files came through the layer with owners, modes, links and times as they should be."""
    result = Container.run(
        debian, ["sh", "-c", "dpkg --verify; dpkg --audit; stat -c '%U:%G %a' /usr/bin/passwd /tmp /etc/shadow /usr/bin/chage"]
    )
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split("\n")[:-1] == ["root:root 4755", "root:root 1777", "root:shadow 640", "root:shadow 2755"]


def test_what_a_package_manager_does(debian: str) -> None:
    """Removing a package goes through maintainer scripts, chown, chmod, rename and fsync, under the default filter."""
    with Container.create(debian, ["sleep", "60"], memory="512M", pids=100) as made:
        made.start()
        done = made.exec(["dpkg", "--force-all", "--purge", "tzdata"], env=["DEBIAN_FRONTEND=noninteractive"], timeout=60)
        assert done.exit_code == 0, done.stderr
        assert made.exec(["dpkg", "-s", "tzdata"]).exit_code == 1
        gone = {c.path for c in made.changes() if c.kind == "D"}
        assert "/usr/share/zoneinfo" in gone or any(p.startswith("/usr/share/zoneinfo/") for p in gone)
        added = made.exec(["useradd", "--create-home", "--shell", "/bin/bash", "lena"])
        assert added.exit_code == 0, added.stderr
        assert made.exec(["su", "-", "lena", "-c", "id -un; pwd"]).stdout.split() == ["lena", "/home/lena"]
    assert not nsbook.ledger()


def test_set_uid_programs_only_where_they_are_wanted(debian: str) -> None:
    line = ["sh", "-c", "grep NoNewPrivs /proc/self/status; cp /usr/bin/id /tmp/id; id -u"]
    assert Container.run(debian, line, user="nobody").stdout.split() == ["NoNewPrivs:", "1", "65534"]
    for wanted, seen in ((True, "65534"), (False, "0")):
        with Container.create(debian, ["sleep", "20"], no_new_privileges=wanted) as made:
            made.start()
            assert made.exec(["sh", "-c", "cp /usr/bin/id /usr/bin/rootid && chmod 4755 /usr/bin/rootid"]).exit_code == 0
            assert made.exec(["rootid", "-u"], user="nobody").stdout == f"{seen}\n"


def test_in_a_user_namespace(debian: str) -> None:
    result = Container.run(debian, ["sh", "-c", "dpkg --version | head -1; touch /x; chown 33:33 /x; stat -c %u:%g /x"], userns=True)
    assert result.stdout.splitlines()[1:] == ["33:33"]


def test_the_script_of_its_plan(debian: str, tmp_path: Path) -> None:
    """Debian has util-linux, so the script does all that a shell can: capabilities and ids, too."""
    line = "id -u; hostname; grep -E '^(Cap|NoNewPrivs|Groups)' /proc/self/status; wc -l < /proc/self/mountinfo"
    for given in ({"hostname": "deb"}, {"hostname": "deb", "user": "1000:100"}):
        plan = Container(debian, ["sh", "-c", line], **given).explain()
        (tmp_path / "script").write_text(plan.script())
        done = subprocess.run(["sh", str(tmp_path / "script")], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout == Container.run(debian, ["sh", "-c", line], **given).stdout
        assert done.stderr == "not done: op " + done.stderr.removeprefix("not done: op ")  # minbase has no ip(8)
        assert done.stderr.count("\n") == 1
        assert "LoopbackUp" in done.stderr
