"""Overlay: read-only layers under one writable layer, mounted on the host. Documentation/filesystems/overlayfs.

In a container the same stack is mounted in its own mount namespace (:class:`nsbook.Assembly` shows it); this one is where
everybody sees it, so it needs root.
"""

from __future__ import annotations

import os

from nsbook.errors import InvalidOption, NotFound, StateError, Unsupported
from nsbook.inspectable import Inspectable, Sheet, Snapshot, Volatile, now
from nsbook.linux import files
from nsbook.places import run_root
from nsbook.primitives.changes import Changes, changes
from nsbook.spawn.plan import Plan, new_run_id
from nsbook.trace import Transcript

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from nsbook.spawn.client import Session
    from nsbook.spawn.ops import Op


class OverlaySnapshot(Snapshot):
    """A stack at one moment; lower directories top first."""

    merged: str
    mounted: bool
    lowerdirs: tuple[str, ...]
    upperdir: str
    workdir: str
    changes: tuple[tuple[str, str], ...]


class Overlay(Inspectable):
    """A union mount: what several directories look like as one."""

    def __init__(self, lowerdirs: tuple[str, ...], upperdir: str, workdir: str, merged: str, plan: Plan) -> None:
        self.lowerdirs, self.upperdir, self.workdir, self.merged = lowerdirs, upperdir, workdir, merged
        self._plan = plan
        self._session: Session | None = None
        self._closed = False

    @classmethod
    def plan(cls, lowerdirs: list[str] | tuple[str, ...], *, writable: bool = True, directory: str = "") -> Plan:
        """The plan of :meth:`create`. Raises InvalidOption for a layer that is no directory."""
        from nsbook.spawn import ops

        lowers = tuple([os.path.realpath(d) for d in lowerdirs])
        for lower in lowers:
            if not os.path.isdir(lower):
                raise InvalidOption(f"the layer {lower} is no directory")
        if not lowers or (len(lowers) == 1 and not writable):
            raise InvalidOption("an overlay has at least one layer below a writable one, or two without")
        run = new_run_id()
        base = directory or os.path.join(run_root(), "overlays", run)
        names = ("upper", "work", "merged") if writable else ("merged",)
        out: list[Op] = [ops.MakeDirectory(base, 0o700), *(ops.MakeDirectory(f"{base}/{name}") for name in names)]
        upper, work = (f"{base}/upper", f"{base}/work") if writable else ("", "")
        out += [ops.HostOverlay(lowers, f"{base}/merged", upper, work), ops.Barrier("kept", True)]
        return Plan(run, tuple(out), (), "Overlay")

    @classmethod
    def create(cls, lowerdirs: list[str] | tuple[str, ...], *, writable: bool = True, directory: str = "") -> Overlay:
        """Stack directories, top first; what is written goes to a new directory that is removed at :meth:`close`.

        Raises Unsupported for an ordinary user, SetupError with the diagnosis.
        """
        from nsbook.spawn.client import Session
        from nsbook.spawn.ops import HostOverlay

        if os.geteuid() != 0:
            raise Unsupported(
                "an overlay on the host", "only root mounts where everybody sees it", "use a container or an Assembly: it has its own"
            )
        plan = cls.plan(lowerdirs, writable=writable, directory=directory)
        op = next(o for o in plan.ops if isinstance(o, HostOverlay))
        self = cls(op.lowerdirs, op.upperdir, op.workdir, op.target, plan)
        self._session = Session(plan, interactive=True)
        self._session.hear()
        return self

    def changes(self) -> Changes:
        """What the writable layer holds against those below."""
        self._expect()
        if not self.upperdir:
            return Changes(())
        return changes(self.upperdir, self.lowerdirs)

    def origin(self, path: str) -> str:
        """The directory of the stack that gives this path. Raises NotFound, also for a path that a whiteout hides."""
        self._expect()
        inner = path.lstrip("/")
        for layer in (self.upperdir, *self.lowerdirs):
            if not layer:
                continue
            try:
                found = os.lstat(os.path.join(layer, inner))
            except (FileNotFoundError, NotADirectoryError):
                continue
            if files.is_whiteout(found):
                raise NotFound(f"{path} is deleted: a whiteout in {layer} hides it")
            return layer
        raise NotFound(f"no layer has {path}")

    def inspect(self) -> OverlaySnapshot:
        """The stack, and what is changed in it."""
        self._expect()
        seen = tuple([(row.kind, row.path) for row in self.changes()])
        return OverlaySnapshot(now(), self.merged, os.path.ismount(self.merged), self.lowerdirs, self.upperdir, self.workdir, seen)

    def sheet(self) -> Sheet:
        """The stack from the top down."""
        self._expect()
        rows = [("merged", Volatile(self.merged), "what everybody sees")]
        if self.upperdir:
            rows.append(("upper", Volatile(self.upperdir), f"the writable layer: {len(self.changes())} changes"))
        rows += [(f"lower {n}", Volatile(d), "read-only") for n, d in enumerate(self.lowerdirs, 1)]
        return Sheet("Overlay", ("", "directory", ""), tuple(rows), (), "overlay")

    def explain(self) -> Plan:
        """The plan by which it was made."""
        return self._plan

    @property
    def transcript(self) -> Transcript:
        """What was done to make it."""
        return self._session.transcript if self._session is not None else Transcript()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Overlay) and other.merged == self.merged

    def __hash__(self) -> int:
        return hash(self.merged)

    def __repr__(self) -> str:
        return f"<Overlay of {len(self.lowerdirs)} on {self.merged}>"

    def _expect(self) -> None:
        if self._closed:
            raise StateError(f"the overlay on {self.merged} is closed", expected="mounted", actual="closed")

    def close(self) -> None:
        """Unmount it and remove what was made for it. May be called twice."""
        if not self._closed and self._session is not None:
            self._closed = True
            self._session.close()

    def __enter__(self) -> Overlay:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
