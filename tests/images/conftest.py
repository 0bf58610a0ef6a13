"""What the tests of images share: archives made by hand, a tree told by its listing, an ordinary user."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apart import outside

NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that any user may reach and write to (pytest's own are for their owner alone)."""
    path = Path(tempfile.mkdtemp(prefix="images-"))
    path.chmod(0o777)
    yield path
    subprocess.run(["chmod", "-R", "u+rwx", path], check=False, stderr=subprocess.DEVNULL)
    shutil.rmtree(path)


@pytest.fixture
def as_user() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """``with as_user():`` what an ordinary user may do; for a user that is nothing else."""

    @contextlib.contextmanager
    def dropped() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(NOBODY)  # with it go the effective capabilities
        try:
            yield
        finally:
            os.seteuid(0)

    return dropped


@pytest.fixture
def archive() -> Callable[..., bytes]:
    """A tar of entries, each (name, type, further fields of TarInfo): ``data`` is the content."""

    def make(*entries: dict[str, Any], format: int = tarfile.PAX_FORMAT) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=format, encoding="utf-8", errors="surrogateescape") as tar:
            for entry in entries:
                info = tarfile.TarInfo(entry["name"])
                content = entry.get("data", b"")
                info.mode = 0o755 if entry.get("type") == tarfile.DIRTYPE else 0o644
                for key, value in entry.items():
                    if key not in ("name", "data"):
                        setattr(info, key, value)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return out.getvalue()

    return make


@pytest.fixture
def listing() -> Callable[..., dict[str, tuple[Any, ...]]]:
    """Everything about a tree: by path (type and mode, owner, mtime, size or target or device, content, xattrs, twins)."""

    def look(root: Path, *, owners: bool = True, devices: bool = True) -> dict[str, tuple[Any, ...]]:
        found: dict[str, tuple[Any, ...]] = {}
        inodes: dict[int, list[str]] = {}
        for directory, names, files in os.walk(root):
            for name in (".", *names, *files):
                path = os.path.normpath(os.path.join(directory, name))
                s = os.lstat(path)
                what: Any = ""
                if stat.S_ISREG(s.st_mode):
                    what = hashlib.sha256(Path(path).read_bytes()).hexdigest()
                elif stat.S_ISLNK(s.st_mode):
                    what = os.readlink(path)
                elif stat.S_ISCHR(s.st_mode) or stat.S_ISBLK(s.st_mode):
                    what = (os.major(s.st_rdev), os.minor(s.st_rdev))
                    if not devices:
                        continue
                xattrs = {n: os.getxattr(path, n, follow_symlinks=False) for n in os.listxattr(path, follow_symlinks=False)}
                name = os.path.relpath(path, root)
                found[name] = (oct(s.st_mode), (s.st_uid, s.st_gid) if owners else (), s.st_mtime_ns, what, xattrs)
                if not stat.S_ISDIR(s.st_mode):
                    inodes.setdefault(s.st_ino, []).append(name)
        for twins in inodes.values():
            for name in twins:
                found[name] += (tuple(sorted(set(twins))),)
        return found

    return look


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real Debian root file system, as mmdebstrap makes it (use with @requires("mmdebstrap", "debian-packages"))."""
    path = tmp_path_factory.mktemp("debian") / "bookworm.tar"
    subprocess.run(
        outside("mmdebstrap", "--quiet", "--variant=minbase", "bookworm", str(path)), check=True, timeout=110, stdin=subprocess.DEVNULL
    )
    return path
