"""Capturing: never raises, changes nothing, works without /proc."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from needs import requires
from nsbook.linux import constants as C
from nsbook.linux import facts, mount, process, status
from nsbook.trace import record

Inside = Callable[..., dict[str, Any]]


def refusal() -> OSError:
    with pytest.raises(FileNotFoundError) as caught:
        mount.mount("tmpfs", "/no/such", "tmpfs", C.MS_NODEV)
    return caught.value


def test_the_facts_are_those_of_this_process() -> None:
    with record() as transcript:
        error = refusal()
        found = facts.capture(error)
    assert [row.name for row in transcript if row.name not in ("capget", "prctl", "ioctl")] == ["mount"], "looking leaves few rows"
    assert json.loads(json.dumps(found)) == found
    row = status.status()
    assert (found["call"], found["errno"], found["args"]["mountflags"]) == ("mount", errno.ENOENT, C.MS_NODEV)
    assert (found["pid"], found["euid"], found["cap_eff"], found["cap_bnd"]) == (os.getpid(), os.geteuid(), row.cap_eff, row.cap_bnd)
    assert (found["seccomp"], found["no_new_privs"]) == (row.seccomp, row.no_new_privs)
    assert found["paths"]["target"]["missing_below"] == "/"
    assert "missed" not in found


def test_an_error_of_somebody_else() -> None:
    found = facts.capture(FileNotFoundError(2, "No such file or directory", "/no/such"))
    assert (found["call"], found["args"], found["filename"]) == ("", {}, "/no/such")
    assert found["paths"]["path"]["missing_below"] == "/"
    assert facts.capture(OSError())["errno"] == 0
    json.dumps(facts.capture(OSError(1, "x", b"/\xff")))


@requires("userns")
def test_without_proc_the_system_calls_tell(inside: Inside) -> None:
    out = inside(
        """
        def refused():
            try:
                mount.mount("x", "/none", "tmpfs")
            except OSError as error:
                return diagnose.capture(error)
        whole = refused()
        mount.mount("tmpfs", "/proc", "tmpfs")
        out["facts"] = refused()
        out["same"] = {k: whole[k] == out["facts"][k] for k in ("cap_eff", "cap_bnd", "seccomp", "no_new_privs", "euid", "errno")}
        out["why"] = diagnose.explain(out["facts"]).to_dict()
        """,
        unshare=("--mount", "--propagation", "private"),
    )
    assert all(out["same"].values())
    assert out["facts"]["missed"]
    assert "owned" not in out["facts"]
    assert (out["why"]["layer"], out["why"]["page"]) == ("file", "mount(2)")


@requires("userns")
def test_probes_change_nothing_and_agree_with_the_kernel(inside: Inside) -> None:
    """As root, and as nobody: each call's harmless form is answered as the table says."""
    out = inside(
        """
        from nsbook.linux import facts
        def state():
            return [[nsfs.namespace_of("self", k).ino for k in C.NAMESPACES], len(mountinfo.mountinfo()), os.uname().nodename,
                    sorted(os.listdir("/proc/self/fd")), status.children("self"), credentials.capget(), status.status().seccomp]
        before = state()
        out["root"] = [facts.probe(call) for call in facts._PROBES]
        out["same"] = state() == before
        credentials.capset(0, 0, 0)
        out["nobody"] = [facts.probe(call) for call in facts._PROBES]
        out["unknown"] = facts.probe("read")
        """,
        unshare=("--mount", "--uts"),
    )
    assert out["same"] is True
    assert out["unknown"] is None
    assert [p for p in out["root"] if p["errno"] != p["expected"]] == []
    for probe in out["nobody"]:
        assert probe["errno"] == (errno.EPERM if probe["asks_first"] else probe["expected"]), probe


def test_an_interpreter_is_found_in_the_file() -> None:
    import sys

    with pytest.raises(OSError, match=r".") as caught:
        process.execve("/etc/hostname/x", ["x"], {})
    assert facts.capture(caught.value)["program"] == {}
    fd = os.open(os.path.realpath(sys.executable), os.O_RDONLY)
    try:
        interpreter = facts._elf_interpreter(fd, os.pread(fd, 4096, 0))
    finally:
        os.close(fd)
    assert "ld-" in interpreter
    assert os.path.exists(interpreter)
