"""``exec``: the configuration of one more process in a container that runs."""

from __future__ import annotations

from nsbook.container import users
from nsbook.container.compile import Ground, compile_exec
from nsbook.container.prepare import Prepared
from nsbook.spawn import ops
from nsbook.spawn.plan import Plan, new_run_id


def enter_plan(prepared: Prepared, argv: tuple[str, ...], *, user: str, env: tuple[str, ...], workdir: str) -> Plan:
    """As the first process, but for what is said otherwise. Raises InvalidOption for a user that the image doesn't know."""
    process = dict(prepared.config["process"])
    variables = dict(e.partition("=")[::2] for e in process["env"])
    if user:
        uid, gid, groups, home = users.look_up(user, prepared.lowerdirs)
        process["user"] = {"uid": uid, "gid": gid, "additionalGids": list(groups)}
        held = process["capabilities"]["bounding"] if uid == 0 else []
        process["capabilities"] = {**process["capabilities"], "effective": held, "permitted": held}
        variables["HOME"] = home
    variables.update(e.partition("=")[::2] for e in env)
    process |= {"args": list(argv), "env": [f"{k}={v}" for k, v in variables.items()], "cwd": workdir or process["cwd"]}
    loaded = next((op for op in prepared.plan.ops if isinstance(op, ops.LoadSeccomp)), None)
    ground = Ground(
        new_run_id(),
        "/",
        cgroup=prepared.cgroup,
        seccomp=loaded.program if loaded else "",
        seccomp_name=loaded.profile if loaded else "",
        seccomp_flags=loaded.flags if loaded else 0,
        title=f"exec in {prepared.id}",
    )
    return compile_exec({**prepared.config, "process": process}, ground)
