#!/usr/bin/env python3
"""binderlike - run a command as a Binder pod (an unprivileged Kubernetes container) would run it.

Plain Python and Linux; started as root; x86_64; cgroup v1 or v2::

    python tests/environments/binderlike.py [options] -- COMMAND [ARG...]

What the command is given
  * user jovyan, uid and gid 1000, no supplementary groups, HOME=/home/jovyan (empty)
  * no capabilities: permitted, effective, inheritable, ambient and bounding sets are empty; no_new_privs is set, so
    set-uid programs (sudo, newuidmap) give nothing
  * the system-call filter of Docker's default profile for a container without added capabilities: EPERM for unshare,
    setns, mount, pivot_root, clone with CLONE_NEW*, keyctl, bpf, io_uring, ...; ENOSYS for clone3
  * its own mount, pid, ipc, uts and cgroup namespaces; a private throw-away overlay of this machine's / (nothing that the
    command writes is kept or seen outside, but in --rw directories); own /tmp; /dev with null, zero, full, random,
    urandom, tty, ptmx, shm (64 MB) and mqueue only: no fuse, kvm, net/tun
  * /sys and /sys/fs/cgroup read-only, /proc masked and read-only where Docker does it
  * a memory limit (cgroup) of 2 GB; --cpus and --pids for more
  * the environment variables of a Binder pod (JUPYTERHUB_*, BINDER_*, MEM_LIMIT, ...)
Exit status: the command's, 128+N when signal N ended it, 125 if the sandbox failed.

It creates (and removes) one cgroup below its own; it changes nothing else.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import shutil
import signal
import socket
import struct
import sys
import tempfile

import pod_rules
from pod_calls import NEWCGROUP, NEWIPC, NEWNET, NEWNS, NEWPID, NEWUTS, PR_SET_PDEATHSIG, Failed, check, libc
from pod_cgroup import Limits, PodCgroup
from pod_tree import UID, USER, Tree

NAME = "binderlike"
HOSTNAME = "jupyter-example-abc123"
LEFT_OUT = ["TMPDIR", "TMP", "TEMP", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "MAIL", "SUDO_USER", "SUDO_UID", "SUDO_GID", "SUDO_COMMAND", "_"]


def environment(options: argparse.Namespace) -> dict[str, str]:
    """The caller's (an image's own is given by ``-e``), with what a pod has."""
    env = {} if options.image else {k: v for k, v in os.environ.items() if k not in LEFT_OUT}
    env.update(HOME=f"/home/{USER}", USER=USER, LOGNAME=USER, SHELL="/bin/bash", BINDERLIKE="1")
    env.update(
        {
            "NB_USER": USER,
            "NB_UID": str(UID),
            "REPO_DIR": f"/home/{USER}",
            "HOSTNAME": HOSTNAME,
            "KUBERNETES_SERVICE_HOST": "10.0.0.1",
            "KUBERNETES_SERVICE_PORT": "443",
            "JUPYTERHUB_USER": "example-abc123",
            "JUPYTERHUB_SERVICE_PREFIX": f"/user/{USER}-example-abc123/",
            "JUPYTERHUB_BASE_URL": "/",
            "JUPYTERHUB_SERVER_NAME": "",
            "BINDER_LAUNCH_HOST": "https://binder.example/",
            "BINDER_REQUEST": "v2/gh/example/example/HEAD",
            "BINDER_REPO_URL": "https://git.example/example/example",
            "MEM_LIMIT": str(options.memory),
            "MEM_GUARANTEE": str(options.memory // 4),
        }
    )
    if options.cpus:
        env["CPU_LIMIT"] = str(options.cpus)
    for item in options.env:
        name, given, value = item.partition("=")
        if given:
            env[name] = value
        elif name in os.environ:
            env[name] = os.environ[name]
    return env


def raise_loopback() -> None:
    """``ip link set lo up``: netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        flags = struct.unpack("16sh", fcntl.ioctl(control, 0x8913, struct.pack("16sh", b"lo", 0)))[1]
        fcntl.ioctl(control, 0x8914, struct.pack("16sh", b"lo", flags | 1))


def as_status(status: int) -> int:
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def pass_on(pid: int) -> None:
    """The signals that would end us are the child's; Ctrl-C reaches it by the terminal."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda n, _: os.kill(pid, n))
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def inside(options: argparse.Namespace, there: str, cgroup: PodCgroup, limits: Limits) -> None:
    """The sandbox's first process: builds it, starts the command, reaps. Never returns."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        env = environment(options)
        Tree(there, options.need, options.rw, options.own, options.shm, options.image).build(cgroup, limits, options.cgroupfs)
        socket.sethostname(HOSTNAME)
        if options.net == "none":
            raise_loopback()
        pod_rules.drop_privileges(0 if options.root else UID, options.seccomp, ptrace=not options.no_ptrace)
        os.chdir(options.cwd)
    except (Failed, OSError) as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        os._exit(125)
    child = os.fork()
    if child == 0:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        try:
            if options.selftest:
                os.environ.update(env)
                import pod_selftest

                pod_selftest.report()
                os._exit(0)
            os.execvpe(options.command[0], options.command, env)
        except OSError as error:
            print(f"{NAME}: {options.command[0]}: {error.strerror}", file=sys.stderr)
            os._exit(127 if error.errno == errno.ENOENT else 126)
    pass_on(child)
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(as_status(status))


def apart(options: argparse.Namespace, there: str, cgroup: PodCgroup, limits: Limits) -> None:
    """A child that leaves the caller's namespaces and cgroup, and waits for the one that can be pid 1. Never returns."""
    try:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        cgroup.join()
        flags = NEWNS | NEWPID | NEWIPC | NEWUTS | NEWCGROUP | (NEWNET if options.net == "none" else 0)
        check(libc.unshare(flags), "unshare")
        first = os.fork()
        if first == 0:
            inside(options, there, cgroup, limits)
        pass_on(first)
        os._exit(as_status(os.waitpid(first, 0)[1]))
    except (Failed, OSError) as error:
        print(f"{NAME}: {error}", file=sys.stderr)
    finally:
        os._exit(125)


def size(text: str) -> int:
    """``2g``, ``64m``, or bytes."""
    word = text.strip().lower().removesuffix("b").removesuffix("i")
    power = "kmgt".find(word[-1:]) + 1
    try:
        return int(float(word[:-1] if power else word) * 1024**power)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a size: {text}") from None


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=NAME, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = "docker: its default filter; apparmor: no filter, but mount and pivot_root give EACCES; none: Kubernetes' own default"
    parser.add_argument("--seccomp", choices=pod_rules.MODES, default="docker", help=text)
    parser.add_argument("--memory", type=size, default=size("2g"), help="memory limit, default 2g; 0: none")
    parser.add_argument("--cpus", type=float, help="CPU limit")
    parser.add_argument("--pids", type=int, help="limit of tasks")
    many = {"action": "append", "default": [], "metavar": "DIR"}
    parser.add_argument("--rw", help="DIR of this machine, writable as far as uid 1000 may", **many)  # type: ignore[arg-type]
    parser.add_argument("--own", help="give the user DIR inside the overlay, recursively", **many)  # type: ignore[arg-type]
    parser.add_argument("--share", help="show DIR although the pod has its own /tmp or /run", **many)  # type: ignore[arg-type]
    parser.add_argument("--image", default="", metavar="DIR", help="the root file system of a built image, shown instead of this machine's")
    parser.add_argument("--cwd", help="working directory (default: the current one)")
    parser.add_argument("--cgroupfs", choices=("auto", "fake-v2", "none"), default="auto", help="what /sys/fs/cgroup shows")
    parser.add_argument("--no-ptrace", action="store_true", help="ptrace fails too (profiles for kernels before 4.8)")
    parser.add_argument("--net", choices=("host", "none"), default="host", help="this machine's network, or loopback only")
    parser.add_argument("--shm", type=size, default=size("64m"), help="size of /dev/shm")
    parser.add_argument("-e", "--env", action="append", default=[], metavar="NAME[=VALUE]", help="set a variable")
    parser.add_argument("--root", action="store_true", help="uid 0 instead, still without capabilities")
    parser.add_argument("--selftest", action="store_true", help="try the rules from inside and print a line for each")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.command[:1] == ["--"]:
        del options.command[0]
    if not options.command and not options.selftest:
        parser.error("no command")
    if os.geteuid() != 0:
        parser.error("start it as root")
    if os.uname().machine != "x86_64":
        parser.error("x86_64 only")
    if not options.image:
        options.cwd = os.path.realpath(options.cwd or os.getcwd())
    for name in ("rw", "own", "share"):
        setattr(options, name, [os.path.realpath(d) for d in getattr(options, name)])
    own = os.path.dirname(os.path.realpath(__file__))
    need = [options.cwd, *options.own, *options.share, sys.prefix, sys.base_prefix, os.environ.get("VIRTUAL_ENV", ""), own]
    need += os.environ.get("PATH", "").split(":")
    options.need = [d for d in dict.fromkeys(os.path.realpath(d) for d in need if d) if os.path.isdir(d)]
    options.need += [d for d in options.rw if d not in options.need]
    return options


def main() -> int:
    """The exit status."""
    options = parse()
    limits = Limits(options.memory, options.cpus, options.pids)

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGHUP, stop)
    there = tempfile.mkdtemp(prefix=f"{NAME}.")
    os.chmod(there, 0o755)
    cgroup: PodCgroup | None = None
    try:
        cgroup = PodCgroup(limits)
        child = os.fork()
        if child == 0:
            apart(options, there, cgroup, limits)
        pass_on(child)
        return as_status(os.waitpid(child, 0)[1])
    except Failed as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 125
    finally:
        if cgroup:
            cgroup.remove()
        shutil.rmtree(there, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
