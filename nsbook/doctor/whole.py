"""Trials of the whole: a container with a process in it, and a kernel of our own.

The container is made of the same ops as ``container`` makes its own of, in the same places, but without an image: the
host's programs are bound into an empty root. (The floor above is not asked: it may not be imported here; a test holds the
two to the same answer.)
"""

from __future__ import annotations

import os
import shutil

from nsbook.doctor.limits import DELEGATE, plainly
from nsbook.doctor.namespaces import single, widest
from nsbook.doctor.report import Finding
from nsbook.doctor.trial import SECONDS, Refusal, finding, refusal_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nsbook.primitives.cgroup_design import Design
    from nsbook.spawn.ops import Op

PROGRAMS = ("/usr", "/bin", "/lib", "/lib64", "/nix")
"""Directories that a host's ``true`` needs. Only those that there are."""
BOOT_SECONDS = 30.0


def container() -> Finding:
    """``true`` in all of a container's namespaces, on an overlay, with limits where they can be had, filtered and bare of
    what a container may not."""
    from nsbook.primitives.cgroup_design import Limits, design

    how = "`true` run in one: namespaces, overlay, proc, pivot_root, seccomp"
    made = design(f"nsbook-{_run_id()}", Limits())
    refused = _run(made)
    if made.version and refused is not None and refused.layer in ("cgroup", "read-only cgroup"):
        made, limits = made.replace(version=0), refused
        refused = _run(None)
        if refused is None:
            return finding("container", how + ", but no limits", limits, partly=True)
    if refused is None and not made.version:
        limits = plainly() or Refusal("cgroup", "; ".join(made.warnings), DELEGATE)
        return finding("container", how + ", but no limits", limits, partly=True)
    return finding("container", how + (" and limits" if refused is None else ""), refused)


def place() -> str:
    """Where a container's writable layer lies: in the data root; in the run root where that is an overlay itself."""
    from nsbook.linux.mountinfo import covering, mountinfo
    from nsbook.places import data_root, run_root

    wanted = os.path.join(data_root(), "containers")
    mount = covering(mountinfo(), os.path.realpath(wanted))
    return os.path.join(run_root(), "containers") if mount is not None and mount.fstype == "overlay" else wanted


def _run_id() -> str:
    from nsbook.spawn.plan import new_run_id

    return new_run_id()


def _run(cgroup: Design | None) -> Refusal | None:
    from nsbook.spawn import capture
    from nsbook.spawn.plan import Plan

    run = _run_id()
    try:
        plan = Plan(run, tuple(_ops(run, cgroup)), (), "doctor: container")
        session, _, said = capture.run(plan, data=None, observe=(), tagged=True, timeout=2 * SECONDS)
    except Exception as error:
        return refusal_of(error)
    if session.status:
        return Refusal("kernel", f"true ended with status {session.status}: {said.decode(errors='replace').strip()}")
    return None


def _ops(run: str, cgroup: Design | None) -> list[Op]:
    from binascii import b2a_base64

    from nsbook.linux import credentials
    from nsbook.primitives.capabilities import DEFAULT
    from nsbook.primitives.seccomp import SeccompFilter
    from nsbook.spawn import ops

    rootless = os.geteuid() != 0
    maps = (widest() or single()) if rootless else None
    tools = maps.tools if maps is not None else ("", "")
    owned = (maps.uid, maps.gid) if maps is not None else ()
    base = f"{place()}/doctor-{run}"
    root = f"{base}/merged"
    out: list[Op] = [ops.MakeDirectory(base, 0o711, *owned)]
    out += [ops.MakeDirectory(f"{base}/{name}", 0o755, *owned) for name in ("lower", "upper", "work", "merged")]
    out += cgroup.make if cgroup is not None else ()
    born = cgroup.cgroup_directory if cgroup is not None else ""
    out.append(ops.Clone(("user", "pid") if maps is not None else ("pid",), born))
    if maps is not None:
        out += [
            ops.Barrier("the user namespace is there"),
            ops.WriteIdMap("uid", maps.uid, tools[0]),
            ops.WriteIdMap("gid", maps.gid, tools[1]),
            ops.Barrier("its id maps are written"),
            ops.SetUser(0, 0, (), set_groups=bool(tools[0])),
        ]
    out += cgroup.join if cgroup is not None else ()
    out += [ops.Unshare((kind,)) for kind in ("mnt", "uts", "ipc", "net", "cgroup")]
    out.append(ops.SetPropagation("/", "private"))
    out.append(ops.MountOverlay((f"{base}/lower",), root, f"{base}/upper", f"{base}/work", rootless))
    safe = ("nosuid", "nodev", "noexec")
    out.append(ops.Mount("proc", "/proc", root, flags=safe))
    out.append(ops.Mount("tmpfs", "/dev", root, flags=("nosuid",), data="mode=755,size=65536k"))
    out.append(ops.Mount("devpts", "/dev/pts", root, flags=("nosuid", "noexec"), data="newinstance,ptmxmode=0666,mode=0620"))
    out.append(ops.Mount("sysfs", "/sys", root, flags=(*safe, "ro")))
    out.append(ops.MakeDevice("/dev/null", root, 1, 3, bind="/dev/null" if rootless else ""))
    out += [ops.MaskPath("/proc/kcore", root), ops.ReadOnlyPath("/proc/sys", root)]
    out += [ops.BindMount(path, path, root, flags=("ro",)) for path in PROGRAMS if os.path.isdir(path)]
    out += [ops.PivotRoot(root), ops.LoopbackUp(), ops.SetHostname("doctor")]
    kept = DEFAULT if rootless else tuple(n for n in DEFAULT if credentials.cap_bset_read(credentials.CAPABILITIES.index(n)))
    chosen = SeccompFilter.default()
    program = b2a_base64(chosen.program, newline=False).decode()
    out += [ops.NewSession(), ops.ConnectStreams(), ops.DropBounding(kept)]
    out.append(ops.SetUser(0, 0, (), True, set_groups=not rootless or bool(tools[0])))
    out += [ops.SetCapabilities(kept, kept), ops.ChangeDirectory("/"), ops.NoNewPrivileges()]
    out.append(ops.LoadSeccomp(program, "default", chosen.flag_bits))
    out.append(ops.Exec(("true",), ("PATH=/usr/bin:/bin:/run/current-system/sw/bin", f"NSBOOK_RUN={run}")))
    return out


def guest(*, deep: bool = False) -> Finding:
    """A small Linux of our own. Looked for; booted only when asked ``deep``-ly, because that takes a second or three."""
    folder = os.environ.get("NSBOOK_GUEST_KERNEL", "").rstrip("/")
    uml = f"{folder}/usr/bin/linux.uml"
    if os.access(uml, os.X_OK):
        said = _output((uml, "--version"), SECONDS)
        if isinstance(said, Refusal):
            return finding("guest kernel", f"{uml} --version", said)
        if deep:
            return _boot(uml)
        return _not_booted(f"{uml} is there, and runs: it is Linux {said.strip()}")
    qemu = shutil.which("qemu-system-x86_64")
    images = _kernels(folder)
    if qemu is not None and images:
        return _not_booted(f"{qemu} is there, and a kernel for it: {images[-1]}")
    why = f"there is no {uml}" + (", and no kernel for qemu-system-x86_64 that can be read" if qemu else " and no qemu-system-x86_64")
    return Finding("guest kernel", "refused", "looked for User Mode Linux and QEMU", "file", why, "apt install user-mode-linux")


def _not_booted(how: str) -> Finding:
    fix = "doctor(deep=True) boots User Mode Linux; `nsbook guest run true` boots either"
    return Finding("guest kernel", "partly", how, "system", "it was not booted, which takes some seconds", fix)


def _kernels(folder: str) -> list[str]:
    try:
        names = sorted(name for name in os.listdir(f"{folder}/boot") if name.startswith("vmlinuz-"))
    except OSError:
        return []
    return [f"{folder}/boot/{name}" for name in names if os.access(f"{folder}/boot/{name}", os.R_OK)]


def _boot(uml: str) -> Finding:
    """The kernel is booted on this machine's files, read-only, with ``echo`` as its first process: what is echoed was made
    up a moment before. When ``echo`` ends, so does the kernel, by a panic."""
    from nsbook.doctor.trial import scratch

    nonce, base = f"nsbook-{_run_id()}", scratch()
    words = (
        f"mem=64M uml_dir={base} umid=uml con=null con0=null,fd:1 root=/dev/root rootfstype=hostfs rootflags=/ ro quiet lsm=none panic=-1"
    )
    said = _output((uml, *words.split(" "), "init=/bin/echo", "--", nonce), BOOT_SECONDS, base)
    how = f"{uml} booted, with echo as its first process"
    if isinstance(said, Refusal):
        return finding("guest kernel", how, said)
    if nonce in said:
        return Finding("guest kernel", "works", how)
    last = " / ".join(said.strip().splitlines()[-3:]) or "nothing"
    fix = "let ptrace(2) through (seccomp profile; kernel.yama.ptrace_scope below 3), and /dev/shm or $TMPDIR be executable"
    return Finding("guest kernel", "refused", how, "kernel", f"it did not come up; its last words: {last}", fix)


def _output(argv: tuple[str, ...], seconds: float, base: str = "") -> str | Refusal:
    """What a program prints, run by the launcher; a directory that it needs is made, and removed with what is in it."""
    from nsbook.spawn import capture, ops
    from nsbook.spawn.plan import Plan

    run = _run_id()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) and not os.statvfs("/dev/shm").f_flag & os.ST_NOEXEC else base or "/tmp"
    env = (f"PATH={os.defpath}", f"TMPDIR={memory}", f"HOME={base or '/'}", f"NSBOOK_RUN={run}")
    first: list[Op] = [ops.MakeDirectory(base, 0o700)] if base else []
    steps = (*first, ops.Clone(()), ops.NewSession(), ops.ConnectStreams(), ops.Exec(argv, env))
    try:
        _, out, _ = capture.run(Plan(run, steps, (), f"doctor: {argv[0]}"), data=None, observe=(), tagged=True, timeout=seconds)
    except Exception as error:
        return refusal_of(error)
    return out.decode("utf-8", "replace")
