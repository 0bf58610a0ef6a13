"""The Binder image, built as Binder builds it and run as Binder runs it.

Nothing can be pulled here, so the base is a Debian that mmdebstrap makes; ``binder/Dockerfile`` is the one that Binder
gets. How this machine reaches its registries of packages (certificates, client settings) is lent to the build by bind
mounts, and so does not become part of the image.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import apart
from needs import requires

pytestmark = [
    requires("root", "buildah", "mmdebstrap", "debian-packages"),
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.xdist_group("binder"),
]

ROOT = Path(__file__).resolve().parents[2]
USER, UID, HOME = "jovyan", 1000, "/home/jovyan"

LENT = ("/etc/ssl/certs", "/usr/local/share/ca-certificates", "/etc/pip.conf", "/etc/apt")

ENTER = """
set -e
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do touch "dev/$device"; mount --bind "/dev/$device" "dev/$device"; done
mkdir dev/shm && mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s /proc/self/fd dev/fd
mkdir .outside
pivot_root . .outside
umount -l /.outside
rmdir /.outside
cd "$2"
shift 2
exec "$@"
"""
"""Makes ``$1`` the root (no chroot: user namespaces are refused in one) and runs the rest in ``$2``."""


def codename() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "VERSION_CODENAME":
            return value.strip('"')
    return "bookworm"


class Image:
    """The image's root file system, and its settings."""

    def __init__(self, root: Path, config: dict[str, object]) -> None:
        self.root = root
        self.config = config

    def command(self, *words: str, **env: str) -> list[str]:
        """``words`` as the pod would start them: the image's user and environment, no capability, nothing of this machine's."""
        variables = dict(v.split("=", 1) for v in self.config["Env"]) | env  # type: ignore[attr-defined]
        ordinary = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--bounding-set=-all", "--no-new-privs", "--"]
        return [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"),
            *("sh", "-c", ENTER, "sh", str(self.root), str(self.config["WorkingDir"])),
            *("env", "-i", *(f"{k}={v}" for k, v in variables.items()), *ordinary, *words),
        ]

    def run(self, *words: str, **env: str) -> str:
        done = subprocess.run(self.command(*words, **env), capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    there = tmp_path_factory.mktemp("binder")
    storage = ["--root", str(there / "storage"), "--runroot", str(there / "run"), "--storage-driver", "vfs"]

    def buildah(*words: str) -> str:
        done = subprocess.run(
            apart.outside("buildah", *storage, *words), capture_output=True, text=True, check=False, cwd=ROOT, env=environment
        )
        assert done.returncode == 0, f"buildah {' '.join(words)}\n{done.stdout[-3000:]}{done.stderr[-5000:]}"
        return done.stdout.strip()

    environment = {"PATH": os.environ["PATH"], "HOME": str(there), "TMPDIR": str(there), "BUILDAH_ISOLATION": "chroot"}
    base = there / "base.tar"
    included = "python3,python3-venv,ca-certificates"
    try:
        words = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={included}", codename(), str(base)]
        made = subprocess.run(apart.outside(*words), capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr[-3000:]
        container = buildah("from", "scratch")
        buildah("add", "--quiet", container, str(base), "/")
        base.unlink()
        buildah("commit", "--quiet", "--rm", container, "local/base")
        lent = [word for path in LENT if os.path.exists(path) for word in ("--volume", f"{path}:{path}:ro")]
        buildah(
            *("bud", "--quiet", "--pull-never", "--build-arg", "BASE=localhost/local/base", *lent),
            *("--file", "binder/Dockerfile", "--tag", "local/binder", "."),
        )
        config = json.loads(buildah("inspect", "--type", "image", "local/binder"))["OCIv1"]["config"]
        container = buildah("from", "--pull-never", "localhost/local/binder")
        yield Image(Path(buildah("mount", container)), config)
    finally:
        for target in (there / "storage").rglob("merged"):
            subprocess.run(["umount", "-l", target], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(there, ignore_errors=True)


def test_it_follows_binder_s_rules(image: Image) -> None:
    """An ordinary user by NB_USER and NB_UID, whose home holds the repository and is theirs; Jupyter is installed."""
    assert image.config["User"] == USER
    assert image.config["WorkingDir"] == HOME
    assert image.run("id", "-u").strip() == str(UID)
    assert image.run("id", "-un").strip() == USER
    assert image.run("find", HOME, "!", "-user", USER).strip() == ""
    assert image.run("jupyter", "lab", "--version").split(".")[0].isdigit()
    assert image.run("test", "-w", HOME) == ""


def test_it_holds_what_the_chapters_need(image: Image) -> None:
    for name in ("linux.uml", "busybox", "mkfs.ext4", "ip", "nft", "unshare", "nsbook", "nsbook-runtime"):
        assert image.run("sh", "-c", f"PATH=$PATH:/usr/sbin:/sbin; command -v {name}").strip(), name
    script = "import nsbook, ipywidgets, anywidget, matplotlib, psutil, pyroute2, rich; print(nsbook.__file__)"
    assert image.run("sh", "-c", f"cd notebooks && python -c '{script}'").startswith("/opt/nsbook/")
    for chapter in sorted((ROOT / "notebooks").glob("*.ipynb")):
        image.run("test", "-r", f"{HOME}/notebooks/{chapter.name}")


def test_nothing_of_this_machine_was_baked_in(image: Image) -> None:
    """What was lent to the build is not in the image."""
    settings = image.root / "etc/pip.conf"
    assert not settings.exists() or settings.stat().st_size == 0  # the mount's empty target stays
    assert set(os.listdir(image.root / "etc/apt/apt.conf.d")) <= {"01autoremove", "70debconf"}  # apt's and debconf's own


def test_no_program_gives_privileges(image: Image) -> None:
    """In a pod set-uid programs give nothing: the chapters must not count on one. Nor is a password set."""
    assert image.run("sh", "-c", "grep CapBnd /proc/self/status").split()[1].strip("0") == ""
    assert (image.root / "etc/shadow").read_text().split(f"{USER}:")[1].split(":")[0] in ("!", "*", "!!")


def test_lab_opens_at_chapter_00(image: Image) -> None:
    """Started as Binder does, in this test's own network namespace; the address without a path leads to the chapter."""
    script = """
import http.client, json, glob, os, subprocess, sys, time
lab = subprocess.Popen(["jupyter-lab", "--ip=127.0.0.1", "--port=8765", "--no-browser", "--IdentityProvider.token=t"])
try:
    for _ in range(300):
        time.sleep(0.1)
        try:
            connection = http.client.HTTPConnection("127.0.0.1", 8765)
            connection.request("GET", "/?token=t")
            answer = connection.getresponse()
        except OSError:
            continue
        print("STATUS", answer.status, answer.getheader("Location"))
        break
finally:
    lab.terminate()
    lab.wait()
"""
    start = time.monotonic()
    out = image.run("python", "-c", script)
    assert "/lab/tree/notebooks/00-welcome.ipynb" in out, out
    assert time.monotonic() - start < 60


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["docker", "none"])
def test_the_chapters_run_in_the_guest_in_a_pod_of_this_image(image: Image, mode: str) -> None:
    """The image as Binder would start it, with nothing of this machine but its kernel: JupyterLab's own ``jupyter execute``
    runs the chapters inside the guest, and a cell that fails fails it."""
    variables = [word for v in image.config["Env"] for word in ("-e", v)]  # type: ignore[attr-defined]
    pod = [sys.executable, str(Path(__file__).with_name("binderlike.py")), "--seccomp", mode, "--image", str(image.root), "--cwd", HOME]
    chapters = [f"notebooks/{path.name}" for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]-*.ipynb"))]
    words = ["nsbook", "guest", "run", "jupyter", "execute", "--startup_timeout=120", "--timeout=120", *chapters]
    done = subprocess.run([*pod, *variables, "--", *words], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    for chapter in chapters:
        assert f"Executing {chapter}" in done.stderr or chapter in done.stderr + done.stdout
