"""What a test needs of the machine it runs on.

::

    from needs import requires

    @requires("root", "podman")
    def test_podman_runs_us(): ...

Each name below is probed once, by trying. Where it is missing the test is skipped, and the skip says what is missing and
how to get it; with ``NSBOOK_TESTS_MUST_RUN=1`` (as in CI) it fails instead. Names of *kinds of machine* (a cgroup layout,
being an ordinary user) can't be installed: a test that needs another kind is left out even then; such kinds are guests
or sandboxes that tests of their own start.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from apart import outside

must_run = os.environ.get("NSBOOK_TESTS_MUST_RUN", "") not in ("", "0")
"""Whether a skip for lack of something is a failure."""


class Need(NamedTuple):
    """``lack`` is the sentence shown where ``probe`` says no. ``kind``: a kind of machine, which can't be installed."""

    probe: Callable[[], bool]
    lack: str
    kind: bool = False


def requires(*names: str) -> pytest.MarkDecorator:
    """The mark of a test (or, as ``pytestmark``, of a module) that needs all of these."""
    for name in names:
        if name not in needs:
            raise LookupError(f"no such need: {name!r}; there are {', '.join(sorted(needs))}")
    return pytest.mark.requires(*names)


def need(*names: str) -> None:
    """Skip (or fail) the running test unless the machine has all of these."""
    for name in names:
        if not has(name):
            text = f"needs {name}: {needs[name].lack}"
            if must_run and not needs[name].kind:
                pytest.fail(text, pytrace=False)
            pytest.skip(text)


def may_skip(item: pytest.Item, reason: str) -> bool:
    """Whether this skip stays a skip even where all must run."""
    kinds = [f"needs {name}: " for name, what in needs.items() if what.kind]
    return item.get_closest_marker("allowed_skip") is not None or any(kind in reason for kind in kinds)


@cache
def has(name: str) -> bool:
    """Whether the machine has it; tried once."""
    try:
        return needs[name].probe()
    except (OSError, subprocess.SubprocessError):
        return False


def run(*command: str, timeout: float = 20) -> bool:
    """Whether the command ends well."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=timeout, check=False
    )
    return done.returncode == 0


def programme(name: str, *words: str) -> Need:
    """A programme that must answer (to ``--version``, unless told otherwise). ``name``: the Debian package's, too."""
    return packaged(name, name, *(words or ("--version",)))


def packaged(package: str, name: str, *words: str) -> Need:
    """A programme that bears another name than its package. Looked for in the sbin directories, too."""

    def probe() -> bool:
        path = where(name)
        return path is not None and run(path, *words)

    return Need(probe, f"{name} does not run; apt install {package}")


def where(name: str) -> str | None:
    """The programme's path."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")


def apart_from_user() -> list[str]:
    """What makes the capabilities for a trial: nothing for root, a user namespace for others."""
    return [] if os.geteuid() == 0 else ["--user", "--map-root-user"]


def is_root() -> bool:
    return os.geteuid() == 0 and run("unshare", "--mount", "true")


def has_userns() -> bool:
    return run("unshare", "--user", "--map-root-user", "true")


def has_overlay() -> bool:
    options = "lowerdir=l,upperdir=u,workdir=w"
    script = f"mount -t tmpfs tmpfs $0 && cd $0 && mkdir l u w m && mount -t overlay -o {options} overlay m"
    with tempfile.TemporaryDirectory() as there:
        return run("unshare", *apart_from_user(), "--mount", "--propagation", "private", "sh", "-c", script, there)


def has_net_admin() -> bool:
    return run("unshare", *apart_from_user(), "--net", "ip", "link", "add", "nsbt0", "type", "veth", "peer", "name", "nsbt1")


def has_time_namespaces() -> bool:
    return run("unshare", *apart_from_user(), "--time", "true")


def lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def can_make_cgroup(parent: Path | None) -> bool:
    if parent is None:
        return False
    trial = parent / f"nsbook-probe-{os.getpid()}"
    trial.mkdir()
    trial.rmdir()
    return True


def own_cgroups() -> dict[str, Path]:
    """This process's directory in each hierarchy that is mounted here, by controller ("" for version 2)."""
    mounts: list[tuple[str, str, str, set[str]]] = []
    for line in lines("/proc/self/mountinfo"):
        fields, _, rest = line.partition(" - ")
        root, point = fields.split()[3:5]
        kind, _, settings = rest.split()[:3]
        if kind in ("cgroup", "cgroup2"):
            mounts.append((kind, root, point, set(settings.split(","))))
    found: dict[str, Path] = {}
    for line in lines("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        for kind, root, point, offered in mounts:
            same = kind == "cgroup2" if not controllers else kind == "cgroup" and set(controllers.split(",")) <= offered
            if same and (root == "/" or f"{path}/".startswith(f"{root}/")):
                there = Path(point, path[len(root.rstrip("/")) :].lstrip("/"))
                found.update((controller, there) for controller in controllers.split(","))
                break
    return found


def has_cgroup_v1() -> bool:
    own = own_cgroups()
    return all(can_make_cgroup(own.get(c)) for c in ("memory", "pids", "cpu"))


def has_cgroup_v2() -> bool:
    own = own_cgroups().get("")
    if own is None or not can_make_cgroup(own):
        return False
    return {"memory", "pids", "cpu"} <= set((own / "cgroup.controllers").read_text().split())


def has_sub_ids() -> bool:
    """newuidmap, and a range in /etc/subuid for who we are: tried, since a set-uid bit may be missing or ineffective."""
    return run("unshare", "--user", "--map-auto", "--map-root-user", "true")


def has_static_busybox() -> bool:
    path = where("busybox")
    if path is None:
        return False
    with open(path, "rb") as file:
        return b"ld-linux" not in file.read(4096) and run(path, "true")


def has_uml() -> bool:
    return any(where(name) for name in ("linux.uml", "linux")) and run(where("linux.uml") or "linux", "--version")


def has_chromium() -> bool:
    return run(os.environ.get("CHROMIUM") or "chromium", "--version", "--no-sandbox")


def has_packages() -> bool:
    """Whether Debian's packages can be had. Tried twice: another apt may be at work on the lists just now."""
    for pause in (0, 5):
        time.sleep(pause)
        with tempfile.TemporaryDirectory() as there:
            os.chmod(there, 0o777)
            if run(*outside("sh", "-c", 'cd "$0" && apt-get download -qq hostname', there), timeout=60):
                return True
    return False


def has_limits() -> bool:
    """Memory, CPU time and tasks, in a group of either version."""
    from nsbook.primitives.cgroup_design import Limits, design

    try:
        return design("nsbook-tried", Limits(memory=1 << 26, quota=50_000, pids=10)).version > 0
    except Exception:
        return False


needs: dict[str, Need] = {
    "root": Need(is_root, "run the tests as root (with CAP_SYS_ADMIN)", kind=os.geteuid() != 0),
    "ordinary-user": Need(lambda: os.geteuid() != 0, "run the tests as an ordinary user", kind=True),
    "userns": Need(has_userns, "user namespaces are refused; sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone"),
    "sub-ids": Need(has_sub_ids, "newuidmap gives no range; apt install uidmap, lines in /etc/subuid and /etc/subgid", kind=True),
    "overlay": Need(has_overlay, "an overlay can't be mounted; kernel 5.11 or newer, modprobe overlay"),
    "net-admin": Need(has_net_admin, "links can't be made in a network namespace; apt install iproute2"),
    "limits": Need(has_limits, "no control group that we may limit; run as root, or in a delegated group", kind=os.geteuid() != 0),
    "time-namespaces": Need(has_time_namespaces, "the kernel has no time namespaces (CONFIG_TIME_NS)", kind=True),
    "cgroup-v1": Need(has_cgroup_v1, "no writable cgroup v1 hierarchies of memory, cpu and pids", kind=True),
    "cgroup-v2": Need(has_cgroup_v2, "no writable cgroup v2 with the controllers memory, cpu and pids", kind=True),
    "linux": Need(lambda: sys.platform == "linux", "run the tests on Linux", kind=True),
    "newuidmap": Need(lambda: where("newuidmap") is not None, "newuidmap is missing; apt install uidmap"),
    "busybox-static": Need(has_static_busybox, "no static busybox; apt install busybox-static"),
    "uml": Need(has_uml, "User Mode Linux is missing; apt install user-mode-linux"),
    "qemu": packaged("qemu-system-x86", "qemu-system-x86_64", "--version"),
    "chromium": Need(has_chromium, "chromium does not run; apt install chromium fonts-dejavu-core"),
    "debian-packages": Need(has_packages, "Debian's packages are out of reach; apt-get update, and a network"),
    "docker-registry": packaged("docker-registry", "docker-registry", "--version"),
    "nft": packaged("nftables", "nft", "--version"),
    "ip": packaged("iproute2", "ip", "-V"),
    "strace": packaged("strace", "strace", "-V"),
    "setpriv": packaged("util-linux", "setpriv", "--version"),
    "capsh": packaged("libcap2-bin", "capsh", "--supports=cap_chown"),
    "gcc": packaged("gcc", "gcc", "--version"),
    "slirp4netns": programme("slirp4netns"),
    "passt": packaged("passt", "pasta", "--version"),
    **{name: programme(name) for name in ("podman", "crun", "runc", "skopeo", "umoci", "buildah")},
    **{name: programme(name) for name in ("mmdebstrap", "fuse-overlayfs")},
}
