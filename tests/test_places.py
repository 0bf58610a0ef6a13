"""Where nsbook keeps things, for root, for a user, and moved."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nsbook import places


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """As an ordinary user sees it (who else's files are tested by their owner's number)."""
    monkeypatch.delenv("NSBOOK_ROOT", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    return tmp_path


def test_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NSBOOK_ROOT", "here")
    assert (places.data_root(), places.run_root()) == (f"{tmp_path}/here/data", f"{tmp_path}/here/run")


def test_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NSBOOK_ROOT")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert (places.data_root(), places.run_root()) == ("/var/lib/nsbook", "/run/nsbook")


def test_a_user_s_data(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert places.data_root() == f"{user}/.local/share/nsbook"
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert places.data_root() == "/data/nsbook"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert places.data_root() == f"{user}/.local/share/nsbook"


def test_a_user_s_run_time_directory(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 4242)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(user))
    assert places.run_root().startswith("/tmp/nsbook-"), "someone else's (after su, say) is not used"
    os.rmdir(places._temporary(os.geteuid()))
    monkeypatch.setattr(places, "_owned", lambda path, uid: True)
    assert places.run_root() == f"{user}/nsbook"


@pytest.mark.parametrize("trap", ["file", "symlink", "mode", "owner"])
def test_what_stands_in_tmp_already(trap: str, user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anyone may write to /tmp, and may have been there first."""
    path = user / "trap"
    uid = os.getuid()
    monkeypatch.setattr(places, "_temporary", lambda user: str(path))
    monkeypatch.setattr(os, "geteuid", lambda: uid or 4242)
    if uid == 0 or trap == "owner":
        monkeypatch.setattr(os, "geteuid", lambda: uid + 1 if trap == "owner" else uid or 4242)
    if trap == "file":
        path.touch()
    elif trap == "symlink":
        (user / "real").mkdir(mode=0o700)
        path.symlink_to("real")
    else:
        path.mkdir(mode=0o755 if trap == "mode" else 0o700)
    if uid == 0 and trap in ("mode", "file"):
        os.chown(path, 4242, 4242)
    with pytest.raises(PermissionError, match="XDG_RUNTIME_DIR"):
        places.run_root()
    if trap == "owner":
        monkeypatch.setattr(os, "geteuid", lambda: uid or 4242)
        if uid == 0:
            os.chown(path, 4242, 4242)
        assert places.run_root() == str(path)
