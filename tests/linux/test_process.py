"""clone3 and its kin, for real."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from needs import requires
from nsbook.linux import constants as C
from nsbook.linux import process
from nsbook.trace import record

Inside = Callable[..., dict[str, Any]]


def pythons() -> list[str]:
    """This Python, and pyenv's newer ones where there are some."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found = [sys.executable]
    if not os.access(versions, os.R_OK | os.X_OK):
        return found
    for wanted in ("3.12", "3.13"):
        if not sys.version.startswith(wanted):
            found += [str(p / "bin/python3") for p in sorted(versions.glob(f"{wanted}.*"))[-1:]]
    return found


@contextmanager
def sleeper() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    child = subprocess.Popen(["sleep", "60"])
    fd = process.pidfd_open(child.pid)
    try:
        yield child, fd
    finally:
        os.close(fd)
        if child.returncode is None:
            child.kill()
            child.wait()


CLONE = """
import random, logging
hooks = []
os.register_at_fork(before=lambda: hooks.append("before"), after_in_parent=lambda: hooks.append("parent"),
                    after_in_child=lambda: hooks.append("child"))
readable, writable = os.pipe()
flags = C.CLONE_NEWUTS | C.CLONE_NEWPID | (C.CLONE_NEWUSER if os.geteuid() else 0)
with record() as t:
    pid, pidfd = process.clone3(flags)
    if pid == 0:
        import decimal, queue
        box = queue.Queue()
        worker = threading.Thread(target=lambda: box.put(sum(range(1000))))
        worker.start(); worker.join()
        told = {"pid": os.getpid(), "hooks": list(hooks), "sum": box.get(), "threads": threading.active_count(),
                "main": threading.current_thread() is threading.main_thread(), "ident": threading.get_native_id() != 0,
                "pidfd": pidfd, "rows": len(t)}
        grandchild = os.fork()
        if grandchild == 0: os._exit(3)
        told["grandchild"] = os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1])
        import gc; gc.collect()
        os.write(writable, json.dumps(told).encode())
        os._exit(7)
    out["result"] = process.waitid_pidfd(pidfd, C.WEXITED)
out["pid"] = pid
out["hooks"] = hooks
out["child"] = json.loads(os.read(readable, 4096))
out["rows"] = rows(t)
out["inheritable"] = os.get_inheritable(pidfd)
worker = threading.Thread(target=lambda: None); worker.start(); worker.join()
"""


@requires("userns")
@pytest.mark.parametrize("python", pythons())
def test_clone3_is_a_fork_to_python(inside: Inside, python: str) -> None:
    out = inside(CLONE, python=python, flags=("-X", "dev", "-W", "error"))
    assert out["result"] == [out["pid"], 7]
    assert out["hooks"] == ["before", "parent"]
    assert out["child"]["hooks"] == ["before", "child"]
    assert out["child"]["pid"] == 1
    assert out["child"]["pidfd"] == -1
    assert out["child"]["sum"] == 499500
    assert (out["child"]["threads"], out["child"]["main"], out["child"]["grandchild"]) == (1, True, 3)
    assert out["child"]["rows"] == 0, "the row of the call belongs to the parent alone"
    kind, name, args, result, code = out["rows"][0]
    assert (kind, name, code) == ("syscall", "clone3", 0)
    assert "CLONE_NEWUTS" in args
    assert "CLONE_NEWPID" in args
    assert "SIGCHLD" in args
    assert result.startswith(f"{out['pid']} (pidfd ")
    assert out["inheritable"] is False


@requires("userns")
@pytest.mark.parametrize("python", pythons())
def test_where_clone3_is_hidden_clone_does_it(inside: Inside, python: str) -> None:
    """The filter is that part of Docker's which says ENOSYS to clone3."""
    hide = """
    from nsbook.linux.numbers import NUMBERS
    instruction = lambda *words: __import__("struct").pack("=HBBI", *words)
    credentials.set_no_new_privs() if os.geteuid() else None
    seccomp.seccomp_set_mode_filter(instruction(0x20, 0, 0, 0) + instruction(0x15, 0, 1, NUMBERS["clone3"])
                                    + instruction(0x06, 0, 0, 0x50000 | 38) + instruction(0x06, 0, 0, 0x7FFF0000))
    """
    out = inside(
        dedent(hide)
        + CLONE
        + """
out["cgroup"] = error_of(lambda: process.clone3(0, cgroup=0))
out["time"] = error_of(lambda: process.clone3(C.CLONE_NEWTIME))
""",
        python=python,
    )
    assert out["result"] == [out["pid"], 7]
    assert out["child"]["hooks"] == ["before", "child"]
    assert out["cgroup"]["errno"] == out["time"]["errno"] == errno.ENOSYS


@requires("userns")
def test_a_child_of_ones_parent(inside: Inside) -> None:
    out = inside(
        """
        pid, fd = process.clone3(0)
        if pid == 0:
            sibling, _ = process.clone3(C.CLONE_PARENT)
            if sibling == 0:
                os._exit(9)
            os._exit(0)
        process.waitid_pidfd(fd, C.WEXITED)
        _, raw = os.waitpid(-1, 0)
        out["sibling"] = os.waitstatus_to_exitcode(raw)
        """
    )
    assert out["sibling"] == 9


def test_what_shares_memory_is_no_fork() -> None:
    with pytest.raises(ValueError, match="copy of the memory"):
        process.clone3(C.CLONE_VM)


@requires("userns")
def test_a_refused_clone_leaves_the_interpreter_whole(inside: Inside) -> None:
    out = inside(
        """
        hooks = []
        os.register_at_fork(before=lambda: hooks.append("before"), after_in_parent=lambda: hooks.append("parent"))
        out["error"] = error_of(lambda: process.clone3(C.CLONE_NEWUSER | C.CLONE_FS))
        out["hooks"] = hooks
        import signal
        out["mask"] = len(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        import fractions  # the import lock is free again
        worker = threading.Thread(target=lambda: __import__("colorsys")); worker.start(); worker.join()
        """
    )
    assert out["error"]["errno"] == errno.EINVAL
    assert out["error"]["notes"] == ["clone3(2): clone3(CLONE_FS|CLONE_NEWUSER, SIGCHLD)"]
    assert out["hooks"] == ["before", "parent"]
    assert out["mask"] == 0


def test_a_signal_during_the_clone_is_not_lost(inside: Inside) -> None:
    out = inside(
        """
        import signal
        seen = []
        signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        statuses = []
        for _ in range(100):
            pid, fd = process.clone3(0)
            if pid == 0:
                os._exit(5)
            statuses.append(process.waitid_pidfd(fd, C.WEXITED)[1])
            os.close(fd)
        signal.setitimer(signal.ITIMER_REAL, 0)
        out["statuses"] = sorted(set(statuses)); out["seen"] = len(seen)
        """
    )
    assert out["statuses"] == [5]
    assert out["seen"] > 0


def test_pidfd_signal_and_wait() -> None:
    with sleeper() as (child, fd), record() as transcript:
        assert not os.get_inheritable(fd)
        process.pidfd_send_signal(fd, 0)
        assert process.waitid_pidfd(fd, C.WEXITED | C.WNOHANG) is None
        process.pidfd_send_signal(fd, signal.SIGTERM)
        assert process.waitid_pidfd(fd, C.WEXITED) == (child.pid, -signal.SIGTERM)
        child.returncode = -signal.SIGTERM
        with pytest.raises(ProcessLookupError):
            process.pidfd_send_signal(fd, 0)
    assert [row.name for row in transcript] == ["pidfd_send_signal", "waitid", "pidfd_send_signal", "waitid", "pidfd_send_signal"]
    assert transcript[1].args == f"{fd}, WNOHANG|WEXITED"


def test_waiting_is_for_the_end_only() -> None:
    with pytest.raises(ValueError, match="exit only"):
        process.waitid_pidfd(0, C.WEXITED | C.WSTOPPED)


def test_pidfd_open_of_nobody() -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011
        process.pidfd_open(2**22 + 1)
    assert caught.value.errno in (errno.EINVAL, errno.ESRCH)


def test_pidfd_getfd(inside: Inside) -> None:
    out = inside(
        """
        readable, writable = os.pipe()
        pid, fd = process.clone3(0)
        if pid == 0:
            os.read(readable, 1)
            os._exit(0)
        copy = process.pidfd_getfd(fd, writable)
        os.write(copy, b"x")
        out["status"] = process.waitid_pidfd(fd, C.WEXITED)[1]
        out["refused"] = error_of(lambda: process.pidfd_getfd(fd, 0, 1))
        """
    )
    assert out["status"] == 0
    assert out["refused"]["errno"] == errno.EINVAL


@requires("userns")
def test_unshare_setns_and_the_host_name(inside: Inside) -> None:
    out = inside(
        """
        old = os.open("/proc/self/ns/uts", os.O_RDONLY)
        before = os.uname().nodename
        with record() as t:
            process.unshare(C.CLONE_NEWUTS)
            process.sethostname("büchse"); process.setdomainname("d")
        out["name"] = os.uname().nodename
        out["domain"] = open("/proc/sys/kernel/domainname").read().strip()
        out["long"] = error_of(lambda: process.sethostname("x" * 65))
        process.unshare(C.CLONE_NEWUTS)
        out["wrong"] = error_of(lambda: process.setns(old, C.CLONE_NEWNET))
        process.setns(old, C.CLONE_NEWUTS)
        out["back"] = os.uname().nodename == before
        out["rows"] = [r[1:3] for r in rows(t)]
        """,
        unshare=("--uts",),
    )
    assert (out["name"], out["domain"], out["back"]) == ("büchse", "d", True)
    assert out["long"]["errno"] == out["wrong"]["errno"] == errno.EINVAL
    assert out["rows"] == [["unshare", "CLONE_NEWUTS"], ["sethostname", '"büchse"'], ["setdomainname", '"d"']]


def test_prctl_close_range_and_limits(inside: Inside) -> None:
    out = inside(
        """
        process.prctl(C.PR_SET_NAME, b"a name")
        out["name"] = status.status().name
        first = os.open("/", os.O_RDONLY); second = os.dup(first); third = os.dup(first)
        process.close_range(first, second)
        out["open"] = [os.path.exists(f"/proc/self/fd/{n}") for n in (first, second, third)]
        process.close_range(third, 2**32 - 1, C.CLOSE_RANGE_CLOEXEC)
        out["cloexec"] = not os.get_inheritable(third)
        with record() as t:
            before = process.prlimit64(0, C.RLIMIT_NOFILE)
            process.prlimit64(0, C.RLIMIT_NOFILE, (64, before[1]))
        out["after"] = process.prlimit64(os.getpid(), C.RLIMIT_NOFILE)[0]
        out["rows"] = [r[1:3] for r in rows(t)]
        out["bad"] = error_of(lambda: process.prctl(9999))
        process.setsid() if os.getsid(0) != os.getpid() else None
        out["session"] = os.getsid(0) == os.getpid()
        process.kill(os.getpid(), 0)
        """
    )
    assert out["name"] == "a name"
    assert out["open"] == [False, False, True]
    assert out["cloexec"] is True
    assert out["after"] == 64
    assert out["rows"][0] == ["prlimit64", "0, RLIMIT_NOFILE, NULL"]
    assert out["rows"][1][1].startswith("0, RLIMIT_NOFILE, [64, ")
    assert out["bad"]["errno"] == errno.EINVAL
    assert out["session"] is True


def test_execve_that_fails_and_one_that_does_not() -> None:
    with record() as transcript, pytest.raises(FileNotFoundError) as caught:
        process.execve("/no/such", ["it", 'a "word"'], {"A": "1"})
    assert caught.value.__notes__ == [r'execve(2): execve("/no/such", ["it", "a \"word\""], /* 1 vars */)']
    assert transcript[0].errno == errno.ENOENT
    code = "from nsbook.linux import process; process.execve('/bin/echo', ['echo', 'hello'], {})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"hello\n"


@requires("cgroup-v2", "root")
def test_born_in_a_cgroup(inside: Inside) -> None:
    out = inside(
        """
        own = next(h for h in cgroups.hierarchies() if h.version == 2).directory
        there = f"{own}/born"
        os.mkdir(there)
        try:
            fd = os.open(there, os.O_RDONLY | os.O_DIRECTORY)
            pid, pidfd = process.clone3(0, cgroup=fd)
            if pid == 0:
                os._exit(0 if any(line.path.endswith("/born") for line in cgroups.cgroup()) else 1)
            out["status"] = process.waitid_pidfd(pidfd, C.WEXITED)[1]
        finally:
            os.rmdir(there)
        """
    )
    assert out["status"] == 0
