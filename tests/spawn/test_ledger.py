"""The ledger: written before, forgotten after, and good enough to clean up by when nobody is left who would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from needs import requires
from nsbook.errors import CleanupError, Conflict
from nsbook.linux import host
from nsbook.spawn import ledger as l
from nsbook.spawn.ops import MakeDirectory, Op, RemoveTree, WriteFile
from nsbook.spawn.ops.host import KillRun

pytestmark = requires("linux")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "made" / "inner").mkdir(parents=True)
    (tmp_path / "made" / "inner" / "file").write_text("x")
    return tmp_path / "made"


def left_behind(run: str, *inverses: Op, **more: Any) -> l.Entry:
    """As a process that was killed leaves it."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with child:
        entry = l.open_entry(run, "a test", inverses, owner=child.pid, **more)
        assert entry.live
        child.kill()
    return entry


def test_written_read_and_forgotten(place: Path) -> None:
    entry = l.open_entry("aaaaaaaaaaaa", "a test", (RemoveTree(str(place)),))
    assert l.read(entry.path) == entry
    assert json.loads(Path(entry.path).read_text())["boot_id"] == host.boot_id()
    assert os.stat(entry.path).st_mode & 0o777 == 0o600
    (found,) = l.ledger()
    assert (found, found.live) == (entry, True)
    assert entry.undo() == []
    assert not place.exists()
    assert not l.ledger()
    assert entry.undo() == []  # twice, or for nothing


def test_one_run_id_once(place: Path) -> None:
    entry = l.open_entry("bbbbbbbbbbbb", "the first", (RemoveTree(str(place)),))
    with pytest.raises(Conflict, match="bbbbbbbbbbbb"):
        l.open_entry("bbbbbbbbbbbb", "the second", ())
    assert l.ledger().entries == (entry,)
    assert sorted(os.listdir(l.directory())) == ["bbbbbbbbbbbb.json"]
    entry.undo()


def test_clean_takes_what_was_left_behind_and_nothing_else(place: Path, tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    mine = l.open_entry("cccccccccccc", "in use", (RemoveTree(str(tmp_path / "ours")),))
    dead = left_behind("dddddddddddd", RemoveTree(str(place)))
    book = l.ledger()
    assert [e.live for e in book] == [True, False]
    assert "left behind" in str(book)
    assert book.clean() == [dead]
    assert not place.exists()
    assert (tmp_path / "ours").exists()
    assert l.ledger().clean(force=True) == [mine]
    assert not (tmp_path / "ours").exists()
    assert "nothing of nsbook" in str(l.ledger())


def test_a_pid_that_another_has_now_is_not_the_owner(place: Path) -> None:
    entry = l.open_entry("eeeeeeeeeeee", "a test", (RemoveTree(str(place)),)).replace(owner_start=1)
    entry.write()
    assert not l.read(entry.path).live
    l.ledger().clean()
    assert not place.exists()


def test_a_zombie_owns_nothing(place: Path, eventually: Any) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    entry = l.open_entry("ffffffffffff", "a test", (), owner=child.pid)
    os.kill(child.pid, signal.SIGKILL)
    assert eventually(lambda: not entry.live)
    assert os.path.exists(f"/proc/{child.pid}")  # it is still there: nobody has waited for it
    l.ledger().clean()
    with child:
        pass


def test_after_a_reboot_only_what_lies_on_a_disk_is_undone(place: Path, tmp_path: Path) -> None:
    """A path of the last boot's kernel may mean something else now: it is left alone."""
    setting = tmp_path / "setting"
    setting.write_text("as it is")
    entry = l.open_entry("111111111111", "a test", (WriteFile(str(setting), "changed"), RemoveTree(str(place))))
    entry.replace(boot_id="00000000-0000-0000-0000-000000000000").write()
    assert [e.live for e in l.ledger()] == [False]
    l.ledger().clean()
    assert not place.exists()
    assert setting.read_text() == "as it is"
    assert not l.ledger()


def test_half_an_entry_is_none_and_is_swept_up(place: Path) -> None:
    """The name comes last; what a process that was killed while writing has left is told by its pid."""
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    os.makedirs(l.directory(), exist_ok=True)
    half = Path(l.directory(), f"222222222222.json.{int(gone.stdout)}")
    half.write_text('{"run": "2222')
    ours = Path(l.directory(), f"333333333333.json.{os.getpid()}")
    ours.write_text("")
    assert not l.ledger()
    l.ledger().clean()
    assert not half.exists()
    assert ours.exists()
    ours.unlink()


def test_what_cannot_be_undone_is_told_and_stays(place: Path) -> None:
    entry = left_behind("444444444444", WriteFile(str(place / "inner"), "a directory"), RemoveTree(str(place / "inner" / "file")))
    with pytest.raises(CleanupError, match="set inner to"):
        l.ledger().clean()
    (kept,) = l.ledger()
    assert kept.inverses == (WriteFile(str(place / "inner"), "a directory"),)
    assert "set inner" in kept.error
    assert not (place / "inner" / "file").exists()
    entry.forget()


def test_an_entry_that_is_no_json_does_not_hide_the_others(place: Path) -> None:
    os.makedirs(l.directory(), exist_ok=True)
    broken = Path(l.directory(), "555555555555.json")
    broken.write_text("not json")
    left_behind("666666666666", RemoveTree(str(place)))
    book = l.ledger()
    assert [e.run for e in book] == ["666666666666"]
    assert "555555555555" in str(book)
    book.clean()
    assert not place.exists()
    broken.unlink()


def test_processes_are_found_by_their_run_id(eventually: Any) -> None:
    child = subprocess.Popen(["sleep", "60"], env={**os.environ, "NSBOOK_RUN": "777777777777"})
    other = subprocess.Popen(["sleep", "60"], env={**os.environ, "NSBOOK_RUN": "7777777777770"})
    with child, other:
        assert eventually(lambda: Path(f"/proc/{child.pid}/comm").read_text() == Path(f"/proc/{other.pid}/comm").read_text() == "sleep\n")
        left_behind("777777777777", tagged=True)
        begin = time.monotonic()
        l.ledger().clean()
        assert child.wait(5) == -signal.SIGKILL
        assert time.monotonic() - begin < 5
        assert other.poll() is None
        other.kill()
    assert "kill -9" in KillRun("a").shell().text


def test_a_tree_is_removed_but_never_what_is_mounted_in_it(tmp_path: Path) -> None:
    """Directories without permissions are removed; another file system is not entered; a link is not followed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "link").symlink_to(outside)
    (tree / "a" / "b" / "f").write_text("")
    (tree / "a" / "b").chmod(0)
    RemoveTree(str(tree)).execute(l.Place())
    assert not tree.exists()
    assert (outside / "kept").exists()


@requires("root")
def test_what_is_mounted_stays(tmp_path: Path) -> None:
    from nsbook.linux import mount as m

    tree = tmp_path / "tree"
    (tree / "mounted").mkdir(parents=True)
    m.mount("tmpfs", str(tree / "mounted"), "tmpfs", 0, "size=64k")
    try:
        (tree / "mounted" / "precious").write_text("x")
        for path in (tree, tree / "mounted"):
            with pytest.raises(OSError, match="mounted there"):
                RemoveTree(str(path)).execute(l.Place())
        assert (tree / "mounted" / "precious").exists()
    finally:
        m.umount2(str(tree / "mounted"), 0)


def test_directories_are_undone_by_their_inverse(tmp_path: Path) -> None:
    op = MakeDirectory(str(tmp_path / "x" / "y"), 0o711)
    op.execute(l.Place())
    assert (tmp_path / "x" / "y").stat().st_mode & 0o777 == 0o711
    for inverse in op.undo():
        inverse.execute(l.Place())
    assert not (tmp_path / "x" / "y").exists()
