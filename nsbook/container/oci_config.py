"""What an OCI configuration asks of the control groups, and what this runtime can do. runtime-spec, config-linux.md, features.md."""

from __future__ import annotations

import os

from nsbook.errors import Unsupported
from nsbook.primitives.cgroup_design import DEVICE_RULES, Design, Limits, design_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = "1.0.2"


def cgroup_of(config: dict[str, Any]) -> Design:
    """The control group that a configuration asks for. Raises Unsupported for a limit that can't be had."""
    linux = config.get("linux") or {}
    resources = linux.get("resources") or {}
    memory, cpu, pids = (resources.get(k) or {} for k in ("memory", "cpu", "pids"))
    devices = []
    for rule in resources.get("devices") or ():
        numbers = [("*" if rule.get(k) in (None, -1) else str(rule[k])) for k in ("major", "minor")]
        kind = rule.get("type") or "a"
        text = "a" if kind == "a" and numbers == ["*", "*"] else f"{kind} {':'.join(numbers)} {rule.get('access') or 'rwm'}"
        devices.append(("allow" if rule.get("allow") else "deny", text))

    if devices:
        # Whatever a bundle denies, the devices that the specification promises to every container can be made and used.
        devices += [rule for rule in DEVICE_RULES if rule[0] == "allow"]

    def positive(value: Any) -> int | None:
        return value if isinstance(value, int) and value > 0 else None

    limits = Limits(
        positive(memory.get("limit")),
        positive(memory.get("swap")),
        positive(cpu.get("quota")),
        cpu.get("period") or 100_000,
        positive(pids.get("limit")),
        positive(cpu.get("shares")),
        positive(memory.get("reservation")),
        cpu.get("cpus") or "",
        cpu.get("mems") or "",
        tuple(devices),
    )
    path = linux.get("cgroupsPath") or ""
    if path.count(":") == 2:
        parts = path.split(":")
        path = f"/{parts[0]}/{parts[1]}-{parts[2]}.scope"  # systemd's spelling, for a host that has no systemd to ask
    if not path and not limits.names() and not devices:
        return Design(0)
    return design_at(path or f"nsbook-{os.getpid()}", limits)


def without_idle_copies(config: dict[str, Any], rootfs: str) -> dict[str, Any]:
    """The configuration without ``tmpcopyup`` where there is nothing to copy.

    The option is runc's and podman's, not the kernel's: the directory that a tmpfs is to cover is copied into it. Podman asks
    for it by ``--tmpfs`` and ``--read-only``, mostly on directories that are empty or not there. Raises Unsupported for others.
    """
    mounts = []
    for entry in config.get("mounts") or ():
        words = entry.get("options") or []
        if entry.get("type") == "tmpfs" and "tmpcopyup" in words:
            if not _nothing_at(rootfs, entry["destination"]):
                raise Unsupported(f"tmpcopyup of {entry['destination']}", "the image has files there", "say notmpcopyup to have it empty")
            entry = {**entry, "options": [word for word in words if word != "tmpcopyup"]}
        mounts.append(entry)
    return {**config, "mounts": mounts}


def _nothing_at(rootfs: str, destination: str) -> bool:
    """Whether that path in the image is missing or an empty directory; a symlink on the way might lead anywhere: no."""
    here = rootfs
    for name in os.path.normpath(f"/{destination}").split("/"):
        here = os.path.join(here, name)
        if os.path.islink(here):
            return False
    try:
        return not os.listdir(here)
    except FileNotFoundError:
        return True


def features() -> dict[str, Any]:
    """What this runtime can do (runtime-spec, features.md)."""
    from nsbook.container.spec import NAMESPACES
    from nsbook.linux.credentials import CAPABILITIES, last_cap
    from nsbook.spawn.ops.mounts import FLAGS

    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "poststart", "poststop"],
        "mountOptions": sorted([*FLAGS, "bind", "rbind", "private", "rprivate", "slave", "rslave", "shared", "rshared"]),
        "linux": {
            "namespaces": sorted(NAMESPACES),
            "capabilities": list(CAPABILITIES[: last_cap() + 1]),
            "cgroup": {"v1": True, "v2": True, "systemd": False},
            "seccomp": {"enabled": True},
        },
    }
