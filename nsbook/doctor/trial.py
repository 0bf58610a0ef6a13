"""How something is tried: a small plan, run by the launcher in a child up to a barrier that holds, then taken back.

What was refused is judged by the diagnoser, with the facts that the refused process gathered.
"""

from __future__ import annotations

import os
from threading import Lock

from nsbook.doctor.report import Finding
from nsbook.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeVar

    from nsbook.spawn.ops import Op

    T = TypeVar("T")

SECONDS = 10.0
"""For one trial. All of them together take a fraction of one, but a machine may be slow or busy."""


class Refusal(Frozen):
    """Who refused, why, what helps; ``op`` is the op that failed, ``errno`` what it was told (0: no system call failed)."""

    layer: str
    why: str
    fix: str = ""
    op: str = ""
    errno: int = 0


def finding(feature: str, how: str, refusal: Refusal | None, *, partly: bool = False) -> Finding:
    """``partly``: what was refused is not all of it."""
    if refusal is None:
        return Finding(feature, "works", how)
    return Finding(feature, "partly" if partly else "refused", how, refusal.layer, refusal.why, refusal.fix)


_shared: dict[str, Any] = {}
_locks: dict[str, Lock] = {}


def once(name: str, trial: Callable[[], T]) -> T:
    """A trial that several findings are drawn from, made for the first of them. Threads wait for each other."""
    with _locks.setdefault(name, Lock()):
        if name not in _shared:
            _shared[name] = trial()
        found: T = _shared[name]
        return found


def forget() -> None:
    """Try again what is asked for from now on."""
    _shared.clear()


def attempt(title: str, steps: Sequence[Op], look: Callable[[], Refusal | None] | None = None) -> Refusal | None:
    """Run the steps; None: all of them worked. ``look`` is called while they stand, and may still say no."""
    from nsbook.spawn.client import Session
    from nsbook.spawn.ops import Barrier
    from nsbook.spawn.plan import Plan, new_run_id

    plan = Plan(new_run_id(), (*steps, Barrier("tried", True)), (), f"doctor: {title}")
    try:
        session = Session(plan, interactive=True, deadline=SECONDS)
        try:
            session.hear(2 * SECONDS)
            return look() if look is not None else None
        finally:
            session.close()
    except Exception as error:
        return refusal_of(error)


def refusal_of(error: Exception) -> Refusal:
    """What an error says of who refused. Raises it again if it is none that a refusal makes."""
    from nsbook.errors import CleanupError, NsbookError, SetupError, Unsupported

    if isinstance(error, CleanupError) and isinstance(error.original, SetupError):
        first = refusal_of(error.original)
        return first.replace(why=f"{first.why} (and {error})")
    if isinstance(error, SetupError):
        code = getattr(error.__cause__, "errno", 0) or 0
        name = error.op.name if error.op is not None else ""
        found = error.diagnosis
        if found is not None:
            return Refusal(found.layer, found.why, found.fix, name, code)
        return Refusal("kernel", str(error), "", name, code)
    if isinstance(error, Unsupported):
        return Refusal("kernel", error.reason, error.fix)
    if isinstance(error, OSError):  # not in the child: the launcher or its directory can't be had
        from nsbook.linux import diagnose

        found = diagnose.explain(diagnose.capture(error))
        place = f": {os.fsdecode(error.filename)}" if error.filename else ""
        why = found.why if found.call else f"the trial could not begin ({error.strerror or error}{place})"
        return Refusal(found.layer if found.call else "file", why, found.fix, "", error.errno or 0)
    if isinstance(error, NsbookError | TimeoutError):
        return Refusal("kernel", str(error))
    raise error


def direct(call: Callable[[], object]) -> Refusal | None:
    """Make a harmless call right here; None: it worked."""
    from nsbook.linux import diagnose

    try:
        call()
    except OSError as error:
        found = diagnose.explain(diagnose.capture(error))
        return Refusal(found.layer, found.why, found.fix, found.call, error.errno or 0)
    return None


def in_userns() -> list[Op]:
    """A child in a user namespace of its own, with one id mapped: the caller is root in it."""
    return _user(())


def begin(*kinds: str) -> list[Op]:
    """A child in new namespaces of these kinds, as a container has them: root's need nothing else, an ordinary user's lie
    in a user namespace."""
    from nsbook.spawn import ops

    early = tuple(k for k in kinds if k == "pid")
    first = [ops.Clone(early)] if os.geteuid() == 0 else _user(early)
    return [*first, *(ops.Unshare((k,)) for k in kinds if k != "pid")]


def begin_in_userns(*kinds: str) -> list[Op]:
    """The same, in a user namespace whoever we are."""
    from nsbook.spawn import ops

    return [*_user(tuple(k for k in kinds if k == "pid")), *(ops.Unshare((k,)) for k in kinds if k != "pid")]


def _user(also: tuple[str, ...]) -> list[Op]:
    from nsbook.spawn import ops

    return [
        ops.Clone(("user", *also)),
        ops.Barrier("the user namespace is there"),
        ops.WriteIdMap("uid", ((0, os.geteuid(), 1),)),
        ops.WriteIdMap("gid", ((0, os.getegid(), 1),)),
        ops.Barrier("its id maps are written"),
    ]


def ours() -> str:
    """For a sentence: in which user namespace :func:`begin` works."""
    return "as root" if os.geteuid() == 0 else "in a user namespace of its own"


def scratch() -> str:
    """The name of a directory for one trial; the plan makes it, and removes it."""
    from nsbook.places import run_root
    from nsbook.spawn.plan import new_run_id

    return os.path.join(run_root(), f"doctor-{new_run_id()}")
