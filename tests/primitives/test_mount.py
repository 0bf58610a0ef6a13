"""Mounts: made, found, refused, taken off again; and tables of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import nsbook
from needs import requires
from nsbook import Mount, MountTable, Namespace
from nsbook.errors import InvalidOption, NotFound, SetupError, StateError
from nsbook.linux import mount as sys_mount
from nsbook.linux.constants import MS_SHARED

from .conftest import AsUser


def mounted(place: Path | str) -> list[str]:
    """The types of what is mounted on a place, as the machine's own table has it."""
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [words[2] for words in lines if words[1] == str(place)]


@requires("root")
def test_made_seen_and_taken_off(tmp_path: Path) -> None:
    before = MountTable.of()
    with Mount.create("tmpfs", tmp_path, flags=["nosuid", "noexec"], data="size=1m,mode=700") as made:
        assert mounted(tmp_path) == ["tmpfs"]
        seen = made.inspect()
        assert (seen.target, seen.there, seen.fstype, seen.root, seen.propagation) == (str(tmp_path), True, "tmpfs", "/", ())
        assert {"nosuid", "noexec", "rw"} <= set(seen.options)
        assert "size=1024k" in seen.super_options
        assert os.stat(tmp_path).st_mode & 0o777 == 0o700
        assert json.loads(json.dumps(seen.to_dict())) == seen.to_dict()
        assert Mount.of(tmp_path) == made
        assert hash(Mount.of(tmp_path)) == hash(made)
        changed = before.diff(MountTable.of()).changes
        assert [c.where for c in changed] == [f"mounts[{tmp_path}]"]
        assert len(nsbook.ledger()) == 1
    assert mounted(tmp_path) == []
    assert not before.diff(MountTable.of())
    assert not list(nsbook.ledger())
    made.close()
    with pytest.raises(StateError, match="is closed"):
        made.inspect()


@requires("root")
def test_binds_of_directories_and_files(tmp_path: Path) -> None:
    source, target, there = tmp_path / "source", tmp_path / "target", tmp_path / "there"
    source.mkdir()
    target.mkdir()
    (source / "file").write_text("content")
    there.touch()
    with Mount.create(source, target, bind=True, flags=["ro"]) as made:
        assert (target / "file").read_text() == "content"
        with pytest.raises(OSError, match="Read-only"):
            (target / "new").touch()
        (source / "new").touch()
        assert (target / "new").exists()
        assert made.inspect().root.endswith("/source")
    with Mount.create(source / "file", there, bind=True):
        assert there.read_text() == "content"
    assert there.read_text() == ""
    assert os.listdir(target) == []


@requires("root")
def test_a_recursive_bind_unmounts_nothing_of_the_original(tmp_path: Path) -> None:
    """Where mounts are shared, as systemd makes them, unmounting a copy's submounts would otherwise unmount the originals."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    with Mount.create("tmpfs", source, propagation="shared"):
        (source / "one").mkdir()
        with Mount.create("tmpfs", source / "one", propagation="shared"):
            (source / "one" / "two").mkdir()
            with Mount.create("tmpfs", source / "one" / "two", propagation="shared"):
                (source / "one" / "two" / "file").touch()
                with Mount.create(source, target, bind=True):
                    assert os.listdir(target / "one") == [], "without recursive, what is mounted below stays away"
                with Mount.create(source, target, bind=True, recursive=True):
                    assert (target / "one" / "two" / "file").exists()
                assert mounted(target / "one") == []
                assert (source / "one" / "two" / "file").exists()
                assert mounted(source / "one" / "two") == ["tmpfs"]


@requires("root")
def test_a_refused_mount_takes_off_nobody_else_s(tmp_path: Path) -> None:
    with Mount.create("tmpfs", tmp_path):
        (tmp_path / "mine").touch()
        with pytest.raises(SetupError) as refused:
            Mount.create("nosuchfs", tmp_path)
        assert isinstance(refused.value.__cause__, OSError)
        assert "nosuchfs" in str(refused.value)
        assert refused.value.diagnosis.why
        assert (tmp_path / "mine").exists()
        assert mounted(tmp_path) == ["tmpfs"]
        assert len(nsbook.ledger()) == 1
    assert mounted(tmp_path) == []


@requires("root")
def test_one_on_top_of_another(tmp_path: Path) -> None:
    below = Mount.create("tmpfs", tmp_path, data="size=1m")
    above = Mount.create("ramfs", tmp_path)
    assert sorted(mounted(tmp_path)) == ["ramfs", "tmpfs"]
    assert MountTable.of().find(tmp_path).fstype == MountTable.of().covering(tmp_path).fstype == "ramfs"
    assert below != above
    assert above.inspect().parent == below.id
    with pytest.raises(StateError, match="mounted on top"):
        below.close()
    assert below.inspect().there
    above.close()
    assert mounted(tmp_path) == ["tmpfs"]
    below.close()
    assert mounted(tmp_path) == []


@requires("root")
def test_unmounted_by_somebody_else(tmp_path: Path) -> None:
    with Mount.create("tmpfs", tmp_path) as made:
        subprocess.run(["umount", str(tmp_path)], check=True)
        assert made.inspect().there is False
        assert "not mounted any more" in str(made)
        with Mount.create("ramfs", tmp_path):
            assert made.inspect().there is False
    assert mounted(tmp_path) == []


@requires("root")
def test_it_goes_while_somebody_is_in_it(tmp_path: Path) -> None:
    with Mount.create("tmpfs", tmp_path):
        sleeper = subprocess.Popen(["sleep", "30"], cwd=tmp_path)
    try:
        assert mounted(tmp_path) == []
    finally:
        sleeper.kill()
        sleeper.wait()


@requires("root")
def test_what_can_be_said_beforehand_is_said(tmp_path: Path) -> None:
    for given, said in (
        ({"flags": ["read-only"]}, "no mount flag 'read-only'"),
        ({"propagation": "public"}, "private, slave, shared"),
        ({"recursive": True}, "goes with bind"),
    ):
        with pytest.raises(InvalidOption, match=said):
            Mount.create("tmpfs", tmp_path, **given)
    with pytest.raises(InvalidOption, match="data says nothing"):
        Mount.create(tmp_path, tmp_path, bind=True, data="size=1m")
    with pytest.raises(NotFound, match="nowhere"):
        Mount.create("tmpfs", tmp_path / "nowhere")
    with pytest.raises(NotFound, match="nowhere"):
        Mount.create(tmp_path / "nowhere", tmp_path, bind=True)
    assert mounted(tmp_path) == []


@requires("root")
def test_explain_script_and_transcript(tmp_path: Path) -> None:
    plan = Mount.plan("tmpfs", tmp_path, flags=["nodev"], data="size=1m")
    assert mounted(tmp_path) == []
    assert plan.ops[0].shell().text == f"mount -t tmpfs -o nodev,size=1m tmpfs {tmp_path}; mount --make-private {tmp_path}"
    with nsbook.record() as calls, Mount.create("tmpfs", tmp_path, flags=["nodev"], data="size=1m") as made:
        assert made.explain().ops == plan.ops
        assert made.transcript.ops[0].name == "HostMount"
    assert [c.name for c in calls.syscalls][:2] == ["mount", "mount"]
    by_hand = subprocess.run(
        ["sh", "-c", f"{plan.ops[0].shell().text}; cat /proc/self/mounts; umount {tmp_path}"], capture_output=True, text=True, check=True
    )
    assert f"tmpfs {tmp_path} tmpfs rw,nodev,relatime,size=1024k" in by_hand.stdout


@requires("root")
def test_a_killed_owner_s_mount_is_in_the_ledger_and_clean_takes_it_off(tmp_path: Path) -> None:
    """The owner and its shepherd are killed, so nobody undoes; the owner shares our mount namespace."""
    code = """
import os, sys, nsbook
made = nsbook.Mount.create("tmpfs", sys.argv[1])
entry = next(iter(nsbook.ledger()))
print(entry.owner, nsbook.spawn.statistics()["launcher"], flush=True)
os.kill(entry.owner, 9)
os.kill(nsbook.spawn.statistics()["launcher"], 9)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -9, done.stderr
    assert mounted(tmp_path) == ["tmpfs"]
    left = list(nsbook.ledger())
    assert [(entry.live, [op.name for op in entry.inverses]) for entry in left] == [(False, ["Unmount"])]
    nsbook.ledger().clean()
    assert mounted(tmp_path) == []


@requires("root", "setpriv")
def test_an_ordinary_user_is_told_who_refuses(as_user: AsUser, tmp_path: Path) -> None:
    (tmp_path / "root" / "here").mkdir()
    out = as_user("""
from nsbook.errors import SetupError
try:
    nsbook.Mount.create("tmpfs", "here")
except SetupError as error:
    out.update(layer=error.diagnosis.layer, why=error.diagnosis.why, errno=error.__cause__.errno)
""")
    assert out == {"layer": "capability", "why": out["why"], "errno": 1, "ledger": 0}
    assert "CAP_SYS_ADMIN" in out["why"]


# ---- tables


def test_a_table_is_the_kernel_s_and_stays_what_it_was() -> None:
    table = MountTable.of()
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    assert [row.id for row in table] == [int(line.split()[0]) for line in lines]
    assert len(table) == len(lines)
    assert table == MountTable(table.rows, table.taken)
    with pytest.raises(AttributeError):
        table.rows = ()  # type: ignore[misc]
    assert not table.diff(MountTable.of(os.getpid()))


def test_find_and_covering(tmp_path: Path) -> None:
    table = MountTable.of()
    assert table.find("/proc").fstype == "proc"
    assert table.covering("/proc/self/status").mountpoint == "/proc"
    assert (
        table.covering(tmp_path).mountpoint
        == subprocess.run(["findmnt", "-no", "TARGET", "-T", str(tmp_path)], capture_output=True, text=True, check=True).stdout.strip()
    )
    with pytest.raises(NotFound, match="nothing is mounted on"):
        table.find(tmp_path)
    with pytest.raises(NotFound, match="it has ended"):
        MountTable.of(1 << 30)


@requires("root")
def test_the_tree_has_every_mount_below_its_parent(tmp_path: Path) -> None:
    with Mount.create("tmpfs", tmp_path):
        inner = tmp_path / "inner"
        inner.mkdir()
        with Mount.create("tmpfs", inner):
            table = MountTable.of()
            rows = [row[0] for row in table.tree().rows]
            assert sorted(row.strip() for row in rows) == sorted(m.mountpoint for m in table)
            at = next(n for n, row in enumerate(rows) if row.strip() == str(tmp_path))
            depth = len(rows[at]) - len(rows[at].lstrip())
            assert rows[at + 1] == " " * (depth + 2) + str(inner)


@requires("root")
def test_tables_of_two_namespaces_differ_by_what_was_mounted_alone(tmp_path: Path) -> None:
    with Namespace.create("mnt") as mnt:
        assert not MountTable.of().diff(MountTable.of(mnt.pid)), "a new mount namespace starts as a copy"
        mnt.run(["mount", "-t", "tmpfs", "inside", str(tmp_path)])
        changes = MountTable.of().diff(MountTable.of(mnt.pid)).changes
        assert [(c.where, c.before) for c in changes] == [(f"mounts[{tmp_path}]", None)]
        assert "source=inside" in changes[0].after


@requires("root")
def test_propagation_in_words(tmp_path: Path) -> None:
    with Mount.create("tmpfs", tmp_path) as made:
        assert made.inspect().propagation == ()
        sys_mount.mount(None, tmp_path, None, MS_SHARED, None)
        assert made.inspect().propagation == ("shared",)
        masked = MountTable.of().sheet().text(mask=True)
        assert masked == MountTable.of().sheet().text(mask=True)
