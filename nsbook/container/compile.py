"""From an OCI runtime configuration to a plan: config.json in, ops out. runtime-spec, config.md and config-linux.md.

Everything that can be known beforehand is decided here, and what this host can't do is either refused by name or, where it
was only a default, reduced and listed in the plan's warnings. Nothing is executed.
"""

from __future__ import annotations

import os

from nsbook.container.spec import DEVICES, LINKS, NAMESPACES, RLIMITS
from nsbook.errors import InvalidSpec, Unsupported
from nsbook.frozen import Frozen
from nsbook.linux import credentials
from nsbook.primitives.cgroup_design import Design, hierarchies
from nsbook.spawn import ops
from nsbook.spawn.ops.mounts import FLAGS, RECURSIVE
from nsbook.spawn.plan import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Ranges = tuple[tuple[int, int, int], ...]

PROPAGATION_WORDS = ("private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable")
IGNORED_WORDS = ("rw", "suid", "dev", "exec", "async", "defaults", "norelatime", "diratime", "atime", "nostrictatime")


class Ground(Frozen):
    """What a plan stands on: where the container's files are and what this host gives it."""

    run: str
    rootfs: str
    """The directory that becomes ``/``: the merged overlay, or a plain rootfs."""
    directory: str = ""
    """The container's own directory, made for it and removed with it; "" when somebody else looks after that."""
    lowerdirs: tuple[str, ...] = ()
    """Top first; empty: ``rootfs`` is used as it is, and written to."""
    cgroup: Design | None = None
    seccomp: str = ""
    """The compiled program in base64; "" for none."""
    seccomp_name: str = ""
    seccomp_flags: int = 0
    title: str = "Container"
    init: bool = False
    create_cwd: bool = True
    tagged: bool = False
    preserve_fds: int = 0


def compile_spec(config: dict[str, Any], ground: Ground) -> Plan:
    """The plan of one container. Raises InvalidSpec, Unsupported."""
    return _Compiler(config, ground).plan()


def compile_exec(config: dict[str, Any], ground: Ground) -> Plan:
    """The plan of one more process in a running container: join the cgroup, enter the namespaces, fork (a process never
    changes its own pid namespace), and take on the restrictions that ``config`` says. The slot ``$target`` is a pidfd of
    the container's first process."""
    compiler = _Compiler(config, ground)
    kinds = tuple(compiler.made + [kind for kind, _ in compiler.joined])
    cgroup = ground.cgroup
    out: list[ops.Op] = [ops.Clone((), cgroup.cgroup_directory if cgroup else "")]
    if cgroup:
        out += cgroup.join
    out.append(ops.Setns("$target", kinds))
    if "pid" in kinds:
        out.append(ops.Fork())
    out += compiler.limits()
    out += compiler.last(hold=False)
    return Plan(ground.run, tuple(out), tuple(compiler.warnings), ground.title)


class _Compiler:
    def __init__(self, config: dict[str, Any], ground: Ground) -> None:
        self.config = config
        self.ground = ground
        self.linux: dict[str, Any] = config.get("linux") or {}
        try:
            self.process: dict[str, Any] = config["process"]
            self.argv = tuple(self.process["args"])
        except KeyError as error:
            raise InvalidSpec(f"config.json has no {error.args[0]!r}") from None
        if not self.argv:
            raise InvalidSpec("process.args is empty: there is nothing to run")
        self.warnings: list[str] = list(ground.cgroup.warnings) if ground.cgroup else []
        self.root = ground.rootfs
        self.maps = self._maps()
        self.made, self.joined = self._namespaces()
        self._bounding: dict[int, bool] = {}
        self.rootless = os.geteuid() != 0
        self.in_userns = "user" in self.made or any(k == "user" for k, _ in self.joined)

    # ---- reading

    def _maps(self) -> tuple[Ranges, Ranges]:
        def ranges(key: str) -> Ranges:
            return tuple([(m["containerID"], m["hostID"], m["size"]) for m in self.linux.get(key) or ()])

        return ranges("uidMappings"), ranges("gidMappings")

    def _namespaces(self) -> tuple[list[str], list[tuple[str, str]]]:
        made: list[str] = []
        joined: list[tuple[str, str]] = []
        for entry in self.linux.get("namespaces") or ():
            try:
                kind = NAMESPACES[entry["type"]]
            except KeyError:
                raise InvalidSpec(f"namespace type {entry.get('type')!r}: there are {', '.join(NAMESPACES)}") from None
            if kind in made or kind in [k for k, _ in joined]:
                raise InvalidSpec(f"the namespace {entry['type']} is listed twice")
            if entry.get("path"):
                joined.append((kind, entry["path"]))
            else:
                made.append(kind)
        if "mnt" not in made:
            raise Unsupported(
                "a container without a mount namespace of its own",
                "its mounts would land on the host",
                "list it in linux.namespaces",
            )
        if "user" in made and not self.maps[0]:
            raise InvalidSpec("a user namespace without linux.uidMappings: every id in it would be nobody")
        return made, joined

    # ---- the plan

    def plan(self) -> Plan:
        out: list[ops.Op] = []
        out += self._host()
        out += self._process()
        out += self._root()
        out += self._furnish()
        out += self._enter()
        out += self.limits()
        out += self.last()
        return Plan(self.ground.run, tuple(out), tuple(self.warnings), self.ground.title)

    def _host(self) -> list[ops.Op]:
        ground, out = self.ground, list[ops.Op]()
        if ground.directory:
            maps = self.maps if self.in_userns and self.rootless else ()  # whose files these will be: to remove them again
            out.append(ops.MakeDirectory(ground.directory, 0o711, *maps))
            if ground.lowerdirs:
                out += [ops.MakeDirectory(f"{ground.directory}/{name}", 0o755, *maps) for name in ("upper", "work", "merged")]
        if ground.cgroup:
            out += ground.cgroup.make
        return out

    def _process(self) -> list[ops.Op]:
        out: list[ops.Op] = []
        cgroup = self.ground.cgroup
        early = tuple(k for k in ("user", "pid") if k in self.made)
        for kind, path in self.joined:
            if kind == "pid":
                out.append(ops.EnterForChildren(path, "pid"))
        out.append(ops.Clone(early, cgroup.cgroup_directory if cgroup else ""))
        if "user" in self.made:
            tools = ("newuidmap", "newgidmap") if self.rootless and self._needs_tools() else ("", "")
            out += [
                ops.Barrier("the user namespace is there"),
                ops.WriteIdMap("uid", self.maps[0], tools[0]),
                ops.WriteIdMap("gid", self.maps[1], tools[1]),
                ops.Barrier("its id maps are written"),
                ops.SetUser(0, 0, (), set_groups=not self.rootless or bool(tools[0])),
            ]
        if cgroup:
            out += cgroup.join
        out += [ops.EnterNamespace(path, kind) for kind, path in self.joined if kind != "pid"]
        out += [ops.Unshare((kind,)) for kind in ("mnt", "uts", "ipc", "net", "cgroup") if kind in self.made]
        # Written now, through the host's /proc: it shows the writer's own namespaces, and the container's will be read-only.
        for key, value in (self.linux.get("sysctl") or {}).items():
            self._check_sysctl(key)
            out.append(ops.SetSysctl(key, str(value)))
        if "time" in self.made:
            # Only children enter a new time namespace: so there is one more fork.
            offsets = self.linux.get("timeOffsets") or {}
            out.append(ops.Unshare(("time",)))
            for clock, offset in offsets.items():
                out.append(ops.SetTimeOffset(clock, offset.get("secs", 0), offset.get("nanosecs", 0)))
            out.append(ops.Fork() if "pid" not in self.made else ops.EnterTimeNamespace())
        return out

    def _needs_tools(self) -> bool:
        return len(self.maps[0]) > 1 or self.maps[0][0][2] > 1

    def _root(self) -> list[ops.Op]:
        ground, out = self.ground, list[ops.Op]()
        mode = (self.linux.get("rootfsPropagation") or "rprivate").removeprefix("r")
        out.append(ops.SetPropagation("/", "slave" if mode in ("slave", "shared") else "private"))
        if ground.lowerdirs:
            upper, work = f"{ground.directory}/upper", f"{ground.directory}/work"
            out.append(ops.MountOverlay(ground.lowerdirs, self.root, upper, work, self.in_userns))
        else:
            out.append(ops.BindMount(self.root, "/", self.root))
        return out

    def _furnish(self) -> list[ops.Op]:
        root, out = self.root, list[ops.Op]()
        mounts = self.config.get("mounts") or []
        devices_done = False
        for entry in mounts:
            target = os.path.normpath("/" + entry["destination"].lstrip("/"))
            if (
                not devices_done
                and not _below(target, "/dev")
                and any(_below(m["destination"], "/dev") for m in mounts[: mounts.index(entry)])
            ):
                out += self._devices()
                devices_done = True
            out.append(self._mount(entry, target))
        if not devices_done:
            out += self._devices()
        out += [ops.MaskPath(p, root) for p in self.linux.get("maskedPaths") or ()]
        out += [ops.ReadOnlyPath(p, root) for p in self.linux.get("readonlyPaths") or ()]
        return out

    def _devices(self) -> list[ops.Op]:
        root, out = self.root, list[ops.Op]()
        listed = {d["path"]: d for d in self.linux.get("devices") or ()}
        for path, major, minor in DEVICES:
            if path not in listed:
                out.append(ops.MakeDevice(path, root, major, minor, bind=path if self.in_userns else ""))
        for path, d in listed.items():
            bind = path if self.in_userns else ""
            mode, uid, gid = d.get("fileMode", 0o666), d.get("uid", 0), d.get("gid", 0)
            out.append(ops.MakeDevice(path, root, d.get("major", 0), d.get("minor", 0), d.get("type", "c"), mode, uid, gid, bind))
        out += [ops.MakeLink(path, to, root) for path, to in LINKS]
        return out

    def _mount(self, entry: dict[str, Any], target: str) -> ops.Op:
        kind, source, words = entry.get("type") or "bind", entry.get("source") or "", list(entry.get("options") or ())
        flags = tuple([w for w in words if w in FLAGS or w in RECURSIVE])
        propagation = next((w for w in words if w in PROPAGATION_WORDS), "")
        bind = "bind" in words or "rbind" in words or kind == "bind"
        known = {*FLAGS, *RECURSIVE, *PROPAGATION_WORDS, *IGNORED_WORDS, "bind", "rbind"}
        data = [w for w in words if w not in known]
        if kind == "cgroup" and not bind:
            return self._cgroups(target, "ro" in words)
        if bind:
            if not source:
                raise InvalidSpec(f"the bind mount on {target} has no source")
            if not os.path.exists(source):
                raise InvalidSpec(f"the bind mount on {target}: there is no {source} on this host")
            if data:
                raise InvalidSpec(f"the bind mount on {target}: option {data[0]!r} is none of a bind mount's")
            return ops.BindMount(source, target, self.root, "rbind" in words or "bind" not in words, flags, propagation)
        if self.in_userns and kind == "devpts" and sum(r[2] for r in self.maps[1]) <= 5:
            data = [w for w in data if w != "gid=5"]  # an id that the map doesn't have is EINVAL
        return ops.Mount(kind, target, self.root, source, flags, ",".join(data), kind == "mqueue")

    def _cgroups(self, target: str, read_only: bool) -> ops.Op:
        """A container sees its own control groups as the root: by a cgroup namespace of its own, or, where it has none or
        may not mount them (version 1 in a user namespace), by binding its own directories."""
        design = self.ground.cgroup
        made = dict(design.by_controller) if design else {}
        found = [h for h in hierarchies() if h.controllers]
        v1 = [h for h in found if h.version == 1]
        if not v1:
            if "cgroup" in self.made:
                return ops.MountCgroups(target, self.root, 2, (), read_only)
            own = design.paths[0] if design and design.paths else next((h.directory for h in found), "") or "/sys/fs/cgroup"
            return ops.BindMount(own, target, self.root, False, ("ro",) if read_only else ())
        names = tuple([",".join(h.controllers) for h in v1])
        if "cgroup" in self.made and not self.in_userns:
            return ops.MountCgroups(target, self.root, 1, names, read_only)
        sources = tuple([next((made[c] for c in h.controllers if c in made), h.directory or h.mountpoint) for h in v1])
        return ops.MountCgroups(target, self.root, 1, names, read_only, sources)

    def _enter(self) -> list[ops.Op]:
        out: list[ops.Op] = [ops.PivotRoot(self.root)]
        if "net" in self.made:
            out.append(ops.LoopbackUp())
        if self.config.get("hostname") and "uts" in self.made:
            out.append(ops.SetHostname(self.config["hostname"]))
        if self.config.get("domainname") and "uts" in self.made:
            out.append(ops.SetDomainname(self.config["domainname"]))
        if (self.config.get("root") or {}).get("readonly"):
            out.append(ops.RemountRoot(("ro",)))
        return out

    def _check_sysctl(self, key: str) -> None:
        owner = (
            "net" if key.startswith("net.") else "ipc" if key.startswith(("kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue.")) else ""
        )
        if key in ("kernel.hostname", "kernel.domainname"):
            owner = "uts"
        if not owner:
            raise InvalidSpec(f"sysctl {key}: it belongs to no namespace, so it would change the host")
        if owner not in self.made:
            raise InvalidSpec(f"sysctl {key}: it belongs to the {owner} namespace, which this container shares with the host")

    def limits(self) -> list[ops.Op]:
        process, out = self.process, list[ops.Op]()
        for limit in process.get("rlimits") or ():
            if limit["type"].removeprefix("RLIMIT_") not in RLIMITS:
                raise InvalidSpec(f"rlimit {limit['type']!r}: there are {', '.join(RLIMITS)} (getrlimit(2))")
            out.append(ops.SetRlimit(limit["type"], limit["soft"], limit["hard"]))
        if process.get("oomScoreAdj") is not None:
            out.append(ops.SetOomScore(process["oomScoreAdj"]))
        if process.get("terminal"):
            out.append(ops.OpenTerminal())
        out.append(ops.NewSession("$stdin" if process.get("terminal") else ""))
        out.append(ops.ConnectStreams(preserve=self.ground.preserve_fds))
        return out

    def last(self, *, hold: bool = True) -> list[ops.Op]:
        process, out = self.process, list[ops.Op]()
        user = process.get("user") or {}
        uid, gid, groups = user.get("uid", 0), user.get("gid", 0), tuple(user.get("additionalGids") or ())
        filtered = (
            [ops.LoadSeccomp(self.ground.seccomp, self.ground.seccomp_name, self.ground.seccomp_flags)] if self.ground.seccomp else []
        )
        no_new = bool(process.get("noNewPrivileges"))
        sets = process.get("capabilities")
        if sets is not None:
            bounding, effective, permitted, inheritable, ambient = [
                self._allowed(tuple(sets.get(k) or ())) for k in ("bounding", "effective", "permitted", "inheritable", "ambient")
            ]
            out.append(ops.DropBounding(bounding))
            ambient = tuple([n for n in ambient if n in permitted and n in inheritable])  # the kernel's own rule
        if not no_new:
            out += filtered  # needs CAP_SYS_ADMIN, which goes with the next ops
        set_groups = not (self.in_userns and self.rootless and not self._needs_tools())
        out.append(ops.SetUser(uid, gid, groups if set_groups else (), sets is not None, set_groups))
        if groups and not set_groups:
            self.warnings.append("supplementary groups are not set: an ordinary user's namespace with a single id has setgroups(2) denied")
        if sets is not None:
            out.append(ops.SetCapabilities(effective, permitted, inheritable, ambient))
        if user.get("umask") is not None:
            out.append(ops.SetUmask(user["umask"]))
        out.append(ops.ChangeDirectory(process.get("cwd") or "/", self.ground.create_cwd and uid == 0))
        if hold:
            out.append(ops.Barrier("start", True))
        if self.ground.init:
            out.append(ops.Init())
        if no_new:
            out.append(ops.NoNewPrivileges())
            out += filtered
        env = tuple(process.get("env") or ())
        if self.ground.tagged:
            env = (*env, f"NSBOOK_RUN={self.ground.run}")
        out.append(ops.Exec(self.argv, env))
        return out

    def _allowed(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """What this host can give at all: a capability outside of our bounding set is gone for good."""
        if self.in_userns:
            return tuple([n for n in names if n in credentials.CAPABILITIES[: credentials.last_cap() + 1]])
        kept = []
        for name in names:
            try:
                number = credentials.CAPABILITIES.index(name)
            except ValueError:
                raise InvalidSpec(f"no capability {name!r}: see capabilities(7)") from None
            if number not in self._bounding:
                self._bounding[number] = number <= credentials.last_cap() and credentials.cap_bset_read(number)
            if self._bounding[number]:
                kept.append(name)
            else:
                text = f"{name} is not given: it is not in this host's bounding set"
                if text not in self.warnings:
                    self.warnings.append(text)
        return tuple(kept)


def _below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory + "/")
