"""The plan of ``exec``: one more process in the namespaces and the control group of a running container."""

from __future__ import annotations

from nsbook.container import users
from nsbook.container.prepare import Prepared
from nsbook.container.spec import NAMESPACES
from nsbook.spawn import ops
from nsbook.spawn.plan import Plan, new_run_id


def enter_plan(prepared: Prepared, argv: tuple[str, ...], *, user: str, env: tuple[str, ...], workdir: str) -> Plan:
    """Join the cgroup, enter the namespaces, fork (a process never changes its own pid namespace), and take on the same
    restrictions that the container's first process has."""
    config = prepared.config
    kinds = tuple([NAMESPACES[n["type"]] for n in config["linux"]["namespaces"]])
    process = config["process"]
    out: list[ops.Op] = [ops.Clone((), prepared.cgroup.cgroup_directory)]
    out += prepared.cgroup.join
    out += [ops.Setns("$target", kinds), ops.Fork(), ops.NewSession(), ops.ConnectStreams()]
    out += [op for op in prepared.plan.ops if isinstance(op, ops.SetRlimit | ops.DropBounding)]
    loading = [op for op in prepared.plan.ops if isinstance(op, ops.LoadSeccomp)]
    no_new = [op for op in prepared.plan.ops if isinstance(op, ops.NoNewPrivileges)]
    was = prepared.plan.find("SetUser", keep_capabilities=True)
    assert isinstance(was, ops.SetUser)
    sets = prepared.plan.find("SetCapabilities")
    assert isinstance(sets, ops.SetCapabilities)
    variables = dict(e.partition("=")[::2] for e in process["env"])
    if user:
        uid, gid, groups, home = users.look_up(user, prepared.lowerdirs)
        was = was.replace(uid=uid, gid=gid, groups=groups if was.set_groups else ())
        held = tuple(process["capabilities"]["bounding"]) if uid == 0 else ()
        sets = sets.replace(effective=held, permitted=held)
        variables["HOME"] = home
    if not no_new:
        out += loading
    out += [was, sets, ops.ChangeDirectory(workdir or process["cwd"])]
    out += [*no_new, *(loading if no_new else [])]
    variables.update(e.partition("=")[::2] for e in env)
    out.append(ops.Exec(argv, tuple([f"{k}={v}" for k, v in variables.items()])))
    return Plan(new_run_id(), tuple(out), (), f"exec in {prepared.id}")
