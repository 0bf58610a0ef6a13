"""From an image and options to a plan: everything that a container needs, decided beforehand."""

from __future__ import annotations

import os

from nsbook.container import users
from nsbook.container.compile import Ground, compile_spec
from nsbook.container.rootless import Maps, maps_for
from nsbook.container.spec import PATH, Options, spec
from nsbook.errors import InvalidOption, Unsupported
from nsbook.frozen import Frozen
from nsbook.places import data_root, run_root
from nsbook.primitives.cgroup_design import DEVICE_RULES, Design, Limits, design
from nsbook.primitives.sizes import parse_size
from nsbook.spawn.plan import Plan, new_run_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nsbook.images import Image


class Prepared(Frozen):
    """A plan, and what its owner needs to know to look after what it makes."""

    plan: Plan
    config: dict[str, Any]
    id: str
    directory: str
    lowerdirs: tuple[str, ...]
    cgroup: Design
    image: str
    observe: tuple[str, ...]
    maps: Maps | None
    tagged: bool
    exec_template: tuple[tuple[str, Any], ...] = ()


def prepare(image: Image | str | os.PathLike[str], argv: tuple[str, ...], o: Options, *, id: str = "", title: str = "") -> Prepared:
    """Decide everything. Unpacks the image if that has not been done yet; makes nothing else.

    Raises ImageNotFound, InvalidOption, Unsupported.
    """
    id = id or new_run_id()
    if not id or len(id) > 64 or not all(c.isalnum() or c in "-_." for c in id) or id[0] in "-.":
        raise InvalidOption(f"id {id!r}: letters, digits, '-', '_' and '.', at most 64")
    lowerdirs, config, name = _content(image)
    argv = config.argv(argv) if config is not None else argv
    if not argv:
        raise InvalidOption(f"nothing to run: the image {name} names no command, so give one")
    maps = maps_for(wanted=o.userns)
    if os.geteuid() != 0 and o.userns is False:
        raise Unsupported("a container without a user namespace", "only root may make the other namespaces without one", "run as root")
    uid, gid, groups, home = users.look_up(o.user or (config.user if config is not None else ""), lowerdirs)
    if maps is not None and not (_mapped(uid, maps.uid) and _mapped(gid, maps.gid)):
        raise Unsupported(
            f"user {uid}:{gid} in this container", maps.note or "the id is outside of the map", "use root inside, or more sub-ids"
        )
    cgroup = _cgroup(id, o)
    seccomp, seccomp_name, flags = _seccomp(o)
    directory = os.path.join(containers_root(), id)
    env = _environment(config.env if config is not None else (), o, home)
    tagged = not cgroup.version
    document = spec(
        o,
        argv,
        env=env,
        ids=(uid, gid, groups),
        cwd=o.workdir or (config.workdir if config is not None else "") or "/",
        rootfs="merged",
        maps=(maps.uid, maps.gid) if maps is not None else None,
        rootless=os.geteuid() != 0,
        hostname=id[:12],
        cgroups_path=f"nsbook-{id}" if cgroup.version else "",
    )
    plan = compile_spec(
        document,
        Ground(
            id,
            f"{directory}/merged",
            directory,
            lowerdirs,
            cgroup,
            seccomp,
            seccomp_name,
            flags,
            title or f"Container {id}",
            o.init,
            tagged=tagged,
        ),
    )
    if maps is not None and maps.note:
        plan = plan.replace(warnings=(*plan.warnings, maps.note))
    observe = _observe(cgroup)
    return Prepared(plan, document, id, directory, lowerdirs, cgroup, name, observe, maps, tagged)


def _content(image: Image | str | os.PathLike[str]) -> tuple[tuple[str, ...], Any, str]:
    """Lower directories (top first), the image's configuration if it has one, its name."""
    from nsbook.images import resolve, unpacked_layers

    found = resolve(image) if isinstance(image, str | os.PathLike) else image
    if isinstance(found, str):
        return (found,), None, found
    return tuple(unpacked_layers(found)), found.config, found.name


def _mapped(number: int, ranges: tuple[tuple[int, int, int], ...]) -> bool:
    return any(inside <= number < inside + count for inside, _, count in ranges)


def _cgroup(id: str, o: Options) -> Design:
    memory = None if o.memory is None else parse_size(o.memory)
    quota = None if o.cpus is None else int(o.cpus * 100_000)
    limits = Limits(memory, memory, quota, 100_000, o.pids, devices=DEVICE_RULES)
    if not o.cgroup:
        if limits.names():
            raise InvalidOption("cgroup=False goes with no limit: " + ", ".join(limits.names()))
        return Design(0)
    return design(f"nsbook-{id}", limits)


_programs: dict[Any, tuple[str, str, int]] = {}


def _seccomp(o: Options) -> tuple[str, str, int]:
    """The compiled program in base64, its name and flags: compiled once a process."""
    key = (o.seccomp, o.capabilities) if isinstance(o.seccomp, str) else None
    if key in _programs:
        return _programs[key]
    if o.seccomp in (None, "unconfined"):
        made = ("", "", 0)
    else:
        from binascii import b2a_base64

        from nsbook.primitives.capabilities import DEFAULT, Capabilities
        from nsbook.primitives.seccomp import SeccompFilter

        kept = DEFAULT if o.capabilities is None else Capabilities.parse(o.capabilities)
        if o.seccomp == "default":
            chosen, name = SeccompFilter.default(kept), "default"
        elif isinstance(o.seccomp, SeccompFilter):
            chosen, name = o.seccomp, "given"
        else:
            chosen, name = SeccompFilter.from_profile(o.seccomp, capabilities=kept), os.path.basename(str(o.seccomp))
        made = (b2a_base64(chosen.program, newline=False).decode(), name, chosen.flag_bits)
    if key is not None:
        _programs[key] = made
    return made


def _environment(image_env: tuple[str, ...], o: Options, home: str) -> tuple[str, ...]:
    merged: dict[str, str] = {"PATH": PATH, "HOME": home}
    for entry in (*image_env, *o.env):
        key, _, value = entry.partition("=")
        merged[key] = value
    return tuple([f"{k}={v}" for k, v in merged.items()])


def _observe(cgroup: Design) -> tuple[str, ...]:
    """What to read of the cgroup before it goes: was anything killed for lack of memory, what was used."""
    memory = cgroup.path_of("memory")
    if not memory:
        return ()
    if cgroup.version == 2:
        return (f"{memory}/memory.events", f"{memory}/memory.peak")
    return (f"{memory}/memory.oom_control", f"{memory}/memory.max_usage_in_bytes")


_roots: dict[str, str] = {}


def containers_root() -> str:
    """Where containers have their writable layers: in the data root, or, where that lies on an overlay itself (the kernel
    refuses an upper directory there), in the run root."""
    wanted = os.path.join(data_root(), "containers")
    known = _roots.get(wanted)
    if known is None:
        from nsbook.linux.mountinfo import covering, mountinfo

        mount = covering(mountinfo(), os.path.realpath(wanted))
        known = _roots[wanted] = wanted if mount is None or mount.fstype != "overlay" else os.path.join(run_root(), "containers")
    return known


def oom_killed(observed: dict[str, str]) -> bool:
    """Did the kernel's out-of-memory killer take something of it?"""
    for path, text in observed.items():
        if path.endswith(("memory.events", "memory.oom_control")):
            for line in text.splitlines():
                words = line.split()
                if words[:1] == ["oom_kill"] and words[1] != "0":
                    return True
    return False
