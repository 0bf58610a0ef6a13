"""What the guest is: its tree, cgroups, users, modules; and that none of it comes back to the host."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from needs import requires
from nsbook.errors import InvalidOption, SetupError, StateError, Unsupported
from nsbook.guest import Guest, GuestSnapshot, uml

pytestmark = [requires("uml"), pytest.mark.xdist_group("guest")]


def ask(guest: Guest, script: str, user: str | None = None) -> str:
    result = guest.run(["sh", "-c", script], user=user)
    assert result.exit_code == 0, result.stdout + result.stderr
    return result.stdout.decode()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the guest hides behind its own /tmp."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="nsbook-test-") as path:
        yield Path(path)


def test_inspect_says_what_the_kernel_says(guest: Guest) -> None:
    before = guest.inspect()
    assert isinstance(before, GuestSnapshot)
    assert before.kernel == ask(guest, "cat /proc/version").strip()
    assert before.release == ask(guest, "uname -r").strip()
    assert before.hostname == ask(guest, "hostname").strip()
    assert (before.engine, before.cgroup, before.running) == ("uml", "v2", ())
    assert 900 << 20 < before.memory <= 1 << 30
    assert before.available < before.memory
    assert Path(f"/proc/{before.pid}/comm").read_text() == "linux.uml\n"
    with guest.open_stream(["sleep", "50"]) as process:
        during = guest.inspect()
        assert during.running == ("sleep 50",)
        assert during.uptime > before.uptime
        assert {c.where for c in before.diff(during).changes} >= {"running[sleep 50]", "processes"}
        process.kill()


def test_it_draws_itself(guest: Guest) -> None:
    text = guest.sheet().text()
    assert "uml" in text
    assert guest.inspect().release in text
    assert "…" in guest._repr_mimebundle_()["text/plain"]


def test_the_host_s_files_are_below_and_stay_as_they_are(guest: Guest) -> None:
    assert ask(guest, "cat /etc/passwd") == Path("/etc/passwd").read_text()
    ask(guest, "echo changed > /etc/nsbook-guest-was-here; rm /etc/hostname; mkdir /nsbook-new; mv /etc/fstab /etc/gone")
    assert ask(guest, "cat /etc/nsbook-guest-was-here") == "changed\n"
    assert not Path("/etc/nsbook-guest-was-here").exists()
    assert not Path("/nsbook-new").exists()
    assert Path("/etc/hostname").exists()


def test_tmp_and_run_are_its_own(guest: Guest, place: Path) -> None:
    assert place.name not in ask(guest, "ls -a /tmp")
    assert ask(guest, "stat -f -c %T /tmp /var/tmp") == "ext2/ext3\next2/ext3\n"
    assert ask(guest, "stat -c %a /tmp /var/tmp") == "1777\n1777\n"
    assert ask(guest, "ls -A /run").split() == ["lock", "nsbook", "user"]


def test_a_directory_can_be_shared(guest: Guest, place: Path) -> None:
    (place / "file").write_text("from the host")
    (place / "below").mkdir()
    guest.share(place / "below")
    guest.share(place)
    assert ask(guest, f"cat {place}/file") == "from the host"
    ask(guest, f"echo mine > {place}/file; echo new > {place}/new")
    assert ask(guest, f"cat {place}/file {place}/new") == "mine\nnew\n"
    assert (place / "file").read_text() == "from the host"
    assert sorted(p.name for p in place.iterdir()) == ["below", "file"]
    (place / "later").write_text("also")
    assert ask(guest, f"cat {place}/later") == "also"


def test_a_directory_can_be_shared_for_writing(guest: Guest, place: Path) -> None:
    guest.share(place, writable=True)
    ask(guest, f"echo arrived > {place}/new; mkdir {place}/d")
    assert (place / "new").read_text() == "arrived\n"
    assert (place / "d").is_dir()


def test_what_is_not_there_can_t_be_shared(guest: Guest) -> None:
    with pytest.raises(SetupError, match="/tmp/nsbook-no-such-place"):
        guest.share("/tmp/nsbook-no-such-place")


def test_cgroup_v2_with_all_controllers(guest: Guest) -> None:
    assert ask(guest, "stat -f -c %T /sys/fs/cgroup") == "cgroup2fs\n"
    have = set(ask(guest, "cat /sys/fs/cgroup/cgroup.controllers").split())
    assert have >= {"cpu", "io", "memory", "pids"}
    assert set(ask(guest, "cat /sys/fs/cgroup/guest/cgroup.subtree_control").split()) == have
    assert ask(guest, "cat /proc/self/cgroup").startswith("0::/guest/")
    assert ask(guest, "mkdir /sys/fs/cgroup/x && echo 20M > /sys/fs/cgroup/x/memory.max && cat /sys/fs/cgroup/x/memory.max") == "20971520\n"


@pytest.mark.parametrize("mode", ["v1", "hybrid"])
def test_the_older_cgroup_layouts(mode: str) -> None:
    with Guest.boot(cgroup=mode, memory="256M") as guest:
        names = set(ask(guest, "ls /sys/fs/cgroup").split())
        assert names >= {"cpu", "memory", "pids", "freezer", "devices", "systemd"}
        assert ("unified" in names) == (mode == "hybrid")
        lines = ask(guest, "cat /proc/self/cgroup").splitlines()
        assert any(":memory:/guest/" in line for line in lines)
        assert any(line.startswith("0::/guest/") for line in lines) == (mode == "hybrid")
        assert ask(guest, "cat /proc/self/cgroup | grep -c guest", user="ann").strip() == str(len(names))
        assert guest.run(["sh", "-c", "setsid sleep 4321 & sleep 4321"], timeout=0.5).timed_out
        assert "sleep 4321" not in ask(guest, "ps ax")


def test_root_may_do_what_root_does(guest: Guest) -> None:
    assert (
        ask(
            guest,
            "unshare --mount --uts --pid --net --ipc --cgroup --fork --mount-proc sh -c 'hostname inner; hostname; ps -e -o pid= | wc -l'",
        ).split()[0]
        == "inner"
    )
    assert ask(guest, "hostname") == "nsbook-guest\n"
    script = (
        "d=$(mktemp -d) && cd $d && mkdir l u w m && echo low > l/a && mount -t overlay -o lowerdir=l,upperdir=u,workdir=w o m"
        " && echo high > m/b && rm m/a && ls u && stat -c %F u/a && umount m"
    )
    assert ask(guest, script) == "a\nb\ncharacter special file\n"
    assert ask(guest, "mount -t tmpfs t /mnt && touch /mnt/x && ls /mnt && umount /mnt") == "x\n"


def test_modules_load_on_demand(guest: Guest) -> None:
    script = "ip link add v0 type veth peer name v1 && ip link add br9 type bridge && ip link set v1 master br9 && nft add table bridge t"
    assert guest.run(["sh", "-c", script]).stderr == b""
    assert {"veth", "bridge", "nf_tables"} <= {line.split()[0] for line in ask(guest, "cat /proc/modules").splitlines()}
    assert ask(guest, "ip -br link show lo").split()[1] in ("UNKNOWN", "UP")


def test_an_ordinary_user_has_what_a_login_gives(guest: Guest) -> None:
    script = "id -un; id -u; echo $HOME; echo $XDG_RUNTIME_DIR; [ -w $HOME ] && [ -w $XDG_RUNTIME_DIR ] && echo writable"
    script += "; grep ^ann: /etc/subuid; pwd"
    name, uid, home, runtime, writable, subs, cwd = ask(guest, script, user="ann").splitlines()
    assert (name, home, runtime, writable, cwd) == ("ann", "/home/ann", f"/run/user/{uid}", "writable", os.getcwd())
    assert int(uid) >= 2000
    assert subs.split(":")[2] == "65536"
    assert "ann" not in Path("/etc/passwd").read_text()
    assert guest.run(["cat", "/proc/kmsg"], user="ann").exit_code == 1
    assert ask(guest, "id -u", user="4711") == "4711\n"


def test_an_ordinary_user_may_map_sub_ids_and_divide_his_cgroup(guest: Guest) -> None:
    script = (
        "unshare --user --map-auto --map-root-user cat /proc/self/uid_map && cd /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)"
        " && mkdir leaf && echo 0 > leaf/cgroup.procs && echo +memory +pids > cgroup.subtree_control && mkdir box"
        " && echo 10 > box/pids.max && cat box/pids.max"
    )
    lines = ask(guest, script, user="ann").splitlines()
    assert [line.split()[2] for line in lines[:2]] == ["1", "65535"]
    assert lines[2] == "10"


def test_it_runs_as_that_user_unless_told_otherwise() -> None:
    with Guest.boot(user="bob", memory="256M") as guest:
        assert ask(guest, "id -un") == "bob\n"
        assert ask(guest, "id -un", user="root") == "root\n"


def test_close_leaves_nothing_and_may_be_repeated() -> None:
    guest = Guest.boot(memory="256M")
    pid, console = guest.pid, guest._session.path
    with guest.open_stream(["sleep", "100"]) as process:
        guest.close()
        guest.close()
        assert not Path(console).exists()
        assert not Path(f"/proc/{pid}").exists()
        assert guest.closed
        with pytest.raises(StateError):
            process.wait(5)
    for act in (guest.inspect, lambda: guest.run(["true"])):
        with pytest.raises(StateError, match="closed"):
            act()
    assert "closed" in guest.sheet().text()


def test_a_guest_that_dies_is_noticed() -> None:
    with Guest.boot(memory="256M") as guest:
        guest.open_stream(["sh", "-c", "echo o > /proc/sysrq-trigger; sleep 100"])
        deadline = time.monotonic() + 20
        while not guest.closed and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(StateError, match="stopped"):
            guest.run(["true"])


def test_a_guest_s_root_can_t_confuse_us() -> None:
    """What he writes to the line is nonsense to us, and the guest is given up."""
    with Guest.boot(memory="256M") as guest, pytest.raises(StateError, match="line"):
        guest.run(["sh", "-c", "head -c 100000 /dev/urandom > /dev/ttyS0; sleep 100"], timeout=20)


def test_a_boot_that_fails_says_where_and_shows_the_console(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Here the kernel's package lacks its modules."""
    kernel = uml.find()
    modules = tmp_path / "usr/lib/uml/modules" / kernel.release
    modules.mkdir(parents=True)
    (modules / "modules.dep").write_text(Path(kernel.modules, "modules.dep").read_text())
    (tmp_path / "usr/bin").mkdir()
    (tmp_path / "usr/bin/linux.uml").symlink_to(kernel.image)
    monkeypatch.setenv("NSBOOK_GUEST_KERNEL", str(tmp_path))
    with pytest.raises(SetupError) as failure:
        Guest.boot(memory="256M")
    assert "its console" in str(failure.value)
    assert f"No such file or directory: '{modules}" in str(failure.value)


def test_an_engine_that_can_t_be_held_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nsbook.guest.session.import_path", lambda: ["/no/such/place"])
    with pytest.raises(SetupError, match="keeper"):
        Guest.boot(memory="256M")


def test_too_little_time_is_said() -> None:
    with pytest.raises(SetupError, match=r"not answered in 0\.01 s"):
        Guest.boot(memory="256M", timeout=0.01)


@pytest.mark.parametrize("options", [{"memory": "lots"}, {"memory": "1M"}, {"engine": "vmware"}, {"cgroup": "v3"}])
def test_options_that_make_no_sense(options: dict[str, str]) -> None:
    with pytest.raises(InvalidOption):
        Guest.boot(**options)  # type: ignore[arg-type]


def test_where_no_kernel_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NSBOOK_GUEST_KERNEL", str(tmp_path))
    with pytest.raises(Unsupported) as refusal:
        Guest.boot(engine="uml")
    assert "apt install user-mode-linux" in refusal.value.fix
    with pytest.raises(Unsupported) as refusal:
        Guest.boot()
    assert "user-mode-linux" in refusal.value.fix
    assert "linux-image" in refusal.value.fix or "qemu" in refusal.value.fix


def test_an_unpacked_package_will_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for path in ("/usr/bin/linux.uml", "/usr/lib/uml"):
        target = tmp_path / path.lstrip("/")
        target.parent.mkdir(parents=True)
        subprocess.run(["cp", "-R", path, target], check=True)
    monkeypatch.setenv("NSBOOK_GUEST_KERNEL", str(tmp_path))
    monkeypatch.setenv("TMPDIR", "/tmp")
    with Guest.boot(memory="256M", share=[tmp_path]) as guest:
        assert ask(guest, "ip link add v0 type veth peer name v1; echo $?") == "0\n"


def test_without_mkfs_the_scratch_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nsbook.guest.session.shutil.which", lambda name, path=None: None)
    with Guest.boot(memory="512M") as guest:
        assert guest.inspect().scratch == "tmpfs"
        assert ask(guest, "stat -f -c %T /tmp; echo x > /etc/x; cat /etc/x") == "tmpfs\nx\n"
