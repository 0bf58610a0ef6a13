"""A container's configuration in the words of the OCI runtime specification, from nsbook's options.

The result is a plain dict that validates against the specification's ``config-schema.json``; :mod:`nsbook.container.compile`
turns it, or one that podman wrote, into a plan. Defaults are Docker's, but for ``noNewPrivileges``, which is on (as in
``runc spec``): a learner's container needs no set-uid programs, and may have them by ``no_new_privileges=False``.
"""

from __future__ import annotations

from nsbook.errors import InvalidOption
from nsbook.frozen import Frozen
from nsbook.primitives.sizes import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

DEVICES: tuple[tuple[str, int, int], ...] = (
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
)
"""The devices that every container has (runtime-spec, config-linux, "Default Devices")."""
LINKS: tuple[tuple[str, str], ...] = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
    ("/dev/core", "/proc/kcore"),
)

RLIMITS = [
    "AS",
    "CORE",
    "CPU",
    "DATA",
    "FSIZE",
    "LOCKS",
    "MEMLOCK",
    "MSGQUEUE",
    "NICE",
    "NOFILE",
    "NPROC",
    "RSS",
    "RTPRIO",
    "RTTIME",
    "SIGPENDING",
    "STACK",
]

NAMESPACES: dict[str, str] = {
    "mount": "mnt",
    "network": "net",
    "uts": "uts",
    "ipc": "ipc",
    "pid": "pid",
    "user": "user",
    "cgroup": "cgroup",
    "time": "time",
}
"""The specification's names and the kernel's."""


class Options(Frozen):
    """What ``Container.run``, ``create`` and ``explain`` can be told.

    ``memory`` is bytes or text such as ``"64M"`` (powers of 1024); ``cpus`` a number of CPUs (1.5); ``pids`` the most
    tasks; ``binds`` are ``"/host:/inside"`` or ``"/host:/inside:ro"``; ``tmpfs`` maps a path to mount options;
    ``network`` is ``"none"`` (a loopback alone) or ``"host"``; ``user`` is ``uid``, ``uid:gid`` or names that the
    image's ``/etc/passwd`` and ``/etc/group`` know; ``capabilities`` are those kept (None: Docker's fourteen);
    ``seccomp`` is ``"default"``, ``"unconfined"``, a :class:`~nsbook.primitives.SeccompFilter` or a profile's path;
    ``userns`` True makes a user namespace also for root; ``time`` adds a time namespace; ``init`` puts a small init at
    process 1; ``rlimits`` are ``{"nofile": (soft, hard)}``.
    """

    hostname: str = ""
    memory: int | str | None = None
    cpus: float | None = None
    pids: int | None = None
    read_only: bool = False
    binds: tuple[str, ...] = ()
    tmpfs: tuple[tuple[str, str], ...] = ()
    network: str = "none"
    user: str = ""
    env: tuple[str, ...] = ()
    workdir: str = ""
    capabilities: tuple[str, ...] | None = None
    seccomp: Any = "default"
    no_new_privileges: bool = True
    userns: bool | None = None
    time: bool = False
    init: bool = False
    rlimits: tuple[tuple[str, int, int], ...] = ()
    cgroup: bool = True
    oom_score: int | None = None
    sysctls: tuple[tuple[str, str], ...] = ()


def options(**given: Any) -> Options:
    """Options from keyword arguments as people write them (lists, dicts). Raises InvalidOption, naming the nearest."""
    unknown = [name for name in given if name not in Options.fields]
    if unknown:
        import difflib

        near = difflib.get_close_matches(unknown[0], Options.fields, 1)
        raise InvalidOption(
            f"no option {unknown[0]!r}" + (f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(Options.fields)}")
        )
    value = dict(given)
    if isinstance(value.get("env"), dict):
        value["env"] = [f"{k}={v}" for k, v in value["env"].items()]
    if isinstance(value.get("tmpfs"), dict):
        value["tmpfs"] = list(value["tmpfs"].items())
    if isinstance(value.get("tmpfs"), str):
        value["tmpfs"] = [value["tmpfs"]]
    if "tmpfs" in value:
        value["tmpfs"] = tuple([(t, "") if isinstance(t, str) else tuple(t) for t in value["tmpfs"]])
    if isinstance(value.get("rlimits"), dict):
        value["rlimits"] = tuple([(k, *(v if isinstance(v, tuple | list) else (v, v))) for k, v in value["rlimits"].items()])
    if isinstance(value.get("sysctls"), dict):
        value["sysctls"] = tuple(value["sysctls"].items())
    if isinstance(value.get("binds"), str):
        value["binds"] = (value["binds"],)
    for name in ("env", "binds", "capabilities"):
        if value.get(name) is not None:
            value[name] = tuple(value[name])
    made = Options(**value)
    _check(made)
    return made


def _check(o: Options) -> None:
    if o.network not in ("none", "host"):
        raise InvalidOption(f"network={o.network!r}: there are 'none' (a loopback alone) and 'host'")
    if o.cpus is not None and not 0.01 <= o.cpus <= 10_000:
        raise InvalidOption(f"cpus={o.cpus!r}: a number of CPUs, at least 0.01")
    if o.pids is not None and o.pids < 1:
        raise InvalidOption(f"pids={o.pids!r}: at least 1 task")
    if o.hostname and (len(o.hostname) > 64 or not all(c.isalnum() or c in "-." for c in o.hostname)):
        raise InvalidOption(f"hostname={o.hostname!r}: letters, digits, '-' and '.', at most 64 (sethostname(2))")
    if o.memory is not None and parse_size(o.memory) < 512 * 1024:
        raise InvalidOption(f"memory={o.memory!r}: at least 512K, or nothing can start in it")
    for entry in o.env:
        if "=" not in entry or entry.startswith("="):
            raise InvalidOption(f"env {entry!r}: NAME=VALUE")
    for bind in o.binds:
        parse_bind(bind)
    for name, soft, hard in o.rlimits:
        if name.upper() not in RLIMITS:
            raise InvalidOption(f"rlimit {name!r}: there are {', '.join(RLIMITS).lower()} (getrlimit(2))")
        if hard >= 0 and not 0 <= soft <= hard:
            raise InvalidOption(f"rlimit {name}={soft}: the soft limit is above the hard one, {hard}")
    if o.workdir and not o.workdir.startswith("/"):
        raise InvalidOption(f"workdir={o.workdir!r}: an absolute path")


def parse_bind(text: str) -> tuple[str, str, tuple[str, ...], str]:
    """``"/host:/inside:ro,rslave"`` -> source, target, flags, propagation. Raises InvalidOption."""
    parts = text.split(":")
    if len(parts) == 2:
        parts.append("")
    if len(parts) != 3 or not parts[0].startswith("/") or not parts[1].startswith("/"):
        raise InvalidOption(f"bind {text!r}: /path/on/the/host:/path/inside[:ro]")
    flags: list[str] = []
    propagation = ""
    for word in filter(None, parts[2].split(",")):
        if word == "ro":
            flags.append("rro")  # what is mounted below is not to be written either (as Docker, since 25)
        elif word in ("private", "rprivate", "slave", "rslave", "shared", "rshared"):
            propagation = word
        elif word != "rw":
            raise InvalidOption(f"bind {text!r}: no option {word!r} (ro, rw, rprivate, rslave, rshared)")
    return parts[0], parts[1], tuple(flags), propagation


def default_mounts(*, rootless: bool, single_id: bool, host_network: bool, cgroup: bool) -> list[dict[str, Any]]:
    """What every container has mounted (Docker's list)."""
    pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    if not single_id:
        pts.append("gid=5")
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": pts},
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
    ]
    if rootless and host_network:
        # sysfs belongs to the network namespace: whoever doesn't own that may not mount it, but may bind the host's
        mounts.append({"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]})
    else:
        mounts.append({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]})
        if cgroup:
            mounts.append(
                {
                    "destination": "/sys/fs/cgroup",
                    "type": "cgroup",
                    "source": "cgroup",
                    "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
                }
            )
    return mounts


def spec(
    o: Options,
    argv: tuple[str, ...],
    *,
    env: tuple[str, ...] = (),
    ids: tuple[int, int, tuple[int, ...]] = (0, 0, ()),
    cwd: str = "/",
    rootfs: str = "rootfs",
    maps: tuple[tuple[tuple[int, int, int], ...], tuple[tuple[int, int, int], ...]] | None = None,
    rootless: bool = False,
    hostname: str = "",
    cgroups_path: str = "",
) -> dict[str, Any]:
    """The runtime-spec configuration of a container with these options."""
    from nsbook.primitives.capabilities import DEFAULT, Capabilities

    kept = list(DEFAULT if o.capabilities is None else Capabilities.parse(o.capabilities))
    uid, gid, groups = ids
    host_network = o.network == "host"
    namespaces = ["pid", "mount", "uts", "ipc", "cgroup"]
    if not host_network:
        namespaces.append("network")
    if maps:
        namespaces.append("user")
    if o.time:
        namespaces.append("time")
    single = bool(maps) and sum(r[2] for r in maps[0]) == 1 if maps else False
    mounts = default_mounts(rootless=rootless, single_id=single, host_network=host_network, cgroup=bool(cgroups_path))
    for path, opts in o.tmpfs:
        words = [w for w in opts.split(",") if w] or ["mode=1777"]
        mounts.append({"destination": path, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "noexec", *words]})
    for bind in o.binds:
        source, target, flags, propagation = parse_bind(bind)
        mounts.append({"destination": target, "type": "bind", "source": source, "options": ["rbind", propagation or "rprivate", *flags]})
    process: dict[str, Any] = {
        "terminal": False,
        "user": {"uid": uid, "gid": gid, **({"additionalGids": list(groups)} if groups else {})},
        "args": list(argv),
        "env": list(env),
        "cwd": cwd,
        "capabilities": {
            "bounding": kept,
            "effective": kept if uid == 0 else [],
            "permitted": kept if uid == 0 else [],
        },
        "rlimits": [{"type": f"RLIMIT_{name.upper()}", "soft": soft, "hard": hard} for name, soft, hard in o.rlimits],
        "noNewPrivileges": o.no_new_privileges,
    }
    if o.oom_score is not None:
        process["oomScoreAdj"] = o.oom_score
    resources: dict[str, Any] = {}
    if o.memory is not None:
        resources["memory"] = {"limit": parse_size(o.memory), "swap": parse_size(o.memory)}
    if o.cpus is not None:
        resources["cpu"] = {"quota": int(o.cpus * 100_000), "period": 100_000}
    if o.pids is not None:
        resources["pids"] = {"limit": o.pids}
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in namespaces],
        "maskedPaths": list(MASKED),
        "readonlyPaths": list(READ_ONLY),
        "resources": resources,
    }
    if maps:
        linux["uidMappings"] = [{"containerID": a, "hostID": b, "size": n} for a, b, n in maps[0]]
        linux["gidMappings"] = [{"containerID": a, "hostID": b, "size": n} for a, b, n in maps[1]]
    if cgroups_path:
        linux["cgroupsPath"] = cgroups_path
    if o.sysctls:
        linux["sysctl"] = dict(o.sysctls)
    return {
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": rootfs, "readonly": o.read_only},
        "hostname": o.hostname or hostname,
        "mounts": mounts,
        "linux": linux,
    }
