"""Trials of single calls: a seccomp filter, the capabilities within reach, clone3, pidfds, openat2."""

from __future__ import annotations

import os

from nsbook.doctor.report import Finding
from nsbook.doctor.trial import attempt, direct, finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def seccomp() -> Finding:
    """The filter that containers get."""
    from binascii import b2a_base64

    from nsbook.primitives.seccomp import SeccompFilter
    from nsbook.spawn import ops

    chosen = SeccompFilter.default()
    program = b2a_base64(chosen.program, newline=False).decode()
    steps = [ops.Clone(()), ops.NoNewPrivileges(), ops.LoadSeccomp(program, "default", chosen.flag_bits)]
    return finding("seccomp", "the default system-call filter loaded", attempt("seccomp", steps))


def capabilities() -> Finding:
    """What the bounding set lacks, nobody here gets from any program; a new user namespace starts with all of them."""
    from nsbook.linux.credentials import cap_bset_read, capability_names, last_cap
    from nsbook.primitives.capabilities import DEFAULT

    how = "each looked for in the bounding set"
    missing = capability_names(sum(1 << n for n in range(last_cap() + 1) if not cap_bset_read(n)))
    if not missing:
        return Finding("capabilities", "works", how)
    hurt = [name for name in DEFAULT if name in missing]
    if len(missing) == last_cap() + 1:
        why = "the bounding set is empty"
    else:
        why = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing from the bounding set"
    if os.geteuid() == 0:
        why += f", of a container's defaults: {', '.join(hurt)}" if hurt else "; a container's defaults are all there"
    else:
        why += "; a user namespace, where one can be made, has all of them inside"
    fix = "start what this runs in with more (Docker: --cap-add, Kubernetes: capabilities.add)"
    return Finding("capabilities", "partly" if len(missing) <= last_cap() else "refused", how, "capability", why, fix)


def clone3() -> Finding:
    """With arguments that ask for nothing, so that no process is made; and a process, by whichever call does it."""
    from nsbook.linux.call import failed, note
    from nsbook.linux.facts import probe
    from nsbook.spawn import ops

    def call() -> None:
        answer = probe("clone3")
        if answer is not None and answer["errno"] != answer["expected"]:
            error = failed(errno=answer["errno"])
            note(error, "clone3", 2, "clone3(NULL, 0)", {"flags": 0})
            raise error

    refused = direct(call)
    how = "clone3(NULL, 0), which makes nothing"
    if refused is None:
        return finding("clone3", how, None)
    stands_in = attempt("clone3", [ops.Clone(())]) is None
    return finding("clone3", how + ("; clone(2) stands in" if stands_in else ""), refused, partly=stands_in)


def pidfd() -> Finding:
    """A process as a descriptor: our own, and a signal 0 to it."""
    from nsbook.linux.process import pidfd_open, pidfd_send_signal

    def call() -> None:
        fd = pidfd_open(os.getpid(), 0)
        try:
            pidfd_send_signal(fd, 0)
        finally:
            os.close(fd)

    return finding("pidfd", "our own process opened and sent signal 0", direct(call))


def openat2() -> Finding:
    """A path opened as if another directory were the root: what keeps mounts inside of a container."""
    from nsbook.linux.files import open_in_root

    def call() -> None:
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.close(open_in_root(root, "proc/../..", os.O_PATH))
        finally:
            os.close(root)

    return finding("openat2", "a path opened with RESOLVE_IN_ROOT", direct(call))


PROBES: dict[str, Callable[[], Finding]] = {
    "seccomp": seccomp,
    "capabilities": capabilities,
    "clone3": clone3,
    "pidfd": pidfd,
    "openat2": openat2,
}
