"""Overlay: read-only layers under one writable layer, mounted on the host. Documentation/filesystems/overlayfs.

In a container the same stack is mounted in its own mount namespace (:class:`nsbook.Assembly` shows it); this one is where
everybody sees it, so it needs root.
"""

from __future__ import annotations

import os

from nsbook.errors import InvalidOption, NotFound, SetupError, StateError, Unsupported
from nsbook.frozen import Frozen
from nsbook.inspectable import Inspectable, Sheet, Snapshot, Volatile, now
from nsbook.linux import files, mountinfo
from nsbook.places import data_root, run_root
from nsbook.primitives.changes import Changes, changes
from nsbook.primitives.made import Made, hold
from nsbook.primitives.mount import beneath, expect_on_top, identity_of
from nsbook.primitives.mount_table import MountTable
from nsbook.primitives.namespace_plan import may_administer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from nsbook.linux.mountinfo import MountEntry
    from nsbook.spawn.ops import Op
    from nsbook.spawn.plan import Plan

    Path = str | os.PathLike[str]


class OverlaySnapshot(Snapshot):
    """A stack at one moment; lower directories top first. ``changes`` are (A, C or D, path), none for a read-only stack."""

    merged: str
    mounted: bool
    lowerdirs: tuple[str, ...]
    upperdir: str
    workdir: str
    changes: tuple[tuple[str, str], ...]


class Origin(Inspectable, Frozen):
    """Which layer gives a path: ``layer`` is its directory, ``role`` is ``upper`` or ``lower 1``, ``lower 2`` from the top
    down. A directory shows what other layers have in it, too: those are in ``merged_with``."""

    path: str
    role: str
    layer: str
    merged_with: tuple[str, ...] = ()

    def sheet(self) -> Sheet:
        """Where it comes from."""
        rows = [(self.path, self.role, Volatile(self.layer))]
        rows += [("", "merged with", Volatile(layer)) for layer in self.merged_with]
        return Sheet("Origin", ("path", "from", "directory"), tuple(rows), (), "origin")


class Overlay(Made):
    """A union mount: what several directories look like as one."""

    def __init__(self, lowerdirs: tuple[str, ...], upperdir: str, workdir: str, merged: str) -> None:
        super().__init__()
        self.lowerdirs, self.upperdir, self.workdir, self.merged = lowerdirs, upperdir, workdir, merged
        self._row: MountEntry | None = None

    # ---- making and finding

    @classmethod
    def plan(cls, lowerdirs: Sequence[Path], *, upper: Path | None = None, work: Path | None = None, target: Path | None = None) -> Plan:
        """The plan of :meth:`create`. Runs nothing. Raises InvalidOption, Unsupported."""
        from nsbook.spawn import ops
        from nsbook.spawn.plan import Plan, new_run_id

        if isinstance(lowerdirs, str):
            raise InvalidOption(f"lowerdirs is a list, top first: [{lowerdirs!r}]")
        lowers = tuple([_directory(d, "layer") for d in lowerdirs])
        if not lowers or (len(lowers) == 1 and upper == ""):
            raise InvalidOption("an overlay has at least one layer below a writable one, or two without")
        if work is not None and not upper:
            raise InvalidOption("work goes with an upper directory of your own: it lies beside it, in the same file system")
        run = new_run_id()
        out: list[Op] = []
        base = ""
        if upper is None:
            base = os.path.join(_writable_root(), "overlays", run)
            upperdir, workdir = f"{base}/upper", f"{base}/work"
            out += [ops.MakeDirectory(path) for path in (base, upperdir, workdir)]
        elif upper == "":
            upperdir = workdir = ""
        else:
            upperdir = _directory(upper, "upper directory")
            _refuse_overlay(upperdir)
            workdir = _directory(work, "work directory") if work is not None else f"{upperdir}.work-{run}"
            if work is None:
                out.append(ops.MakeDirectory(workdir))
        on = 0
        if target is not None:
            merged = _directory(target, "target")
            on = beneath(merged)
        else:
            if not base:
                base = os.path.join(run_root(), "overlays", run)
                out.append(ops.MakeDirectory(base))
            merged = f"{base}/merged"
            out.append(ops.MakeDirectory(merged))
        out += [ops.HostOverlay(lowers, merged, upperdir, workdir, beneath=on), ops.Barrier("kept", True)]
        return Plan(run, tuple(out), (), f"Overlay on {merged}")

    @classmethod
    def create(
        cls, lowerdirs: Sequence[Path], *, upper: Path | None = None, work: Path | None = None, target: Path | None = None
    ) -> Overlay:
        """Stack directories, top first.

        What is written goes to ``upper``: None is a new directory that is removed at :meth:`close`, ``""`` makes the stack
        read-only. ``work`` is the kernel's own scratch space, beside ``upper`` and in the same file system (a new directory,
        if not given). ``target`` is where the merged view is mounted: an existing directory, or a new one (:attr:`merged`).

        Raises InvalidOption, Unsupported (an ordinary user; an upper directory on an overlay), SetupError, with the diagnosis.
        """
        from nsbook.spawn.ops import HostOverlay

        plan = cls.plan(lowerdirs, upper=upper, work=work, target=target)
        op = next(o for o in plan.ops if isinstance(o, HostOverlay))
        self = cls(op.lowerdirs, op.upperdir, op.workdir, op.target)
        self._plan = plan
        try:
            self._session = hold(plan)
        except SetupError as error:
            if may_administer() or not isinstance(error.__cause__, PermissionError):
                raise
            raise Unsupported(
                "an overlay on the host",
                "mounting where everybody sees it takes CAP_SYS_ADMIN",
                "use a Container or an Assembly: it has a user namespace and mounts of its own, as Namespace.create('mnt') has",
            ) from error
        self._row = MountTable.of().find(self.merged)
        return self

    @classmethod
    def of(cls, path: Path) -> Overlay:
        """The overlay that a path lies in, as the kernel's table of mounts tells it (a container's root, say); what was found
        is not unmounted. Directories are as they were given to mount(2): they may be relative to we know not where. Raises
        NotFound when the path lies in no overlay."""
        row = MountTable.of().covering(path)
        if row.fstype != "overlay":
            raise NotFound(f"{os.fspath(path)} lies in no overlay: it is in {row.fstype}, mounted on {row.mountpoint}")
        lowers: list[str] = []
        found = {"upperdir": "", "workdir": ""}
        for option in row.super_options:
            key, _, value = option.partition("=")
            if key == "lowerdir":
                lowers += [d for d in _split(value) if d]
            elif key == "lowerdir+":
                lowers.append(value)
            elif key in found:
                found[key] = value
        self = cls(tuple(lowers), found["upperdir"], found["workdir"], row.mountpoint)
        self._row = row
        return self

    # ---- asking

    def changes(self) -> Changes:
        """What the writable layer holds against those below. Raises StateError when that can't be seen from here."""
        self._expect()
        if not self.upperdir:
            return Changes(())
        if not os.path.isdir(self.upperdir):
            raise StateError(f"there is no {self.upperdir} to be seen here", expected="a directory", actual="gone, or elsewhere")
        return changes(self.upperdir, self.lowerdirs)

    def origin(self, path: Path) -> Origin:
        """Which layer gives a path of the merged view (``"/etc/hosts"``). Links are not followed. Raises NotFound, also for
        what a whiteout or an opaque directory hides."""
        self._expect()
        parts = [p for p in os.fspath(path).split("/") if p not in ("", ".")]
        if ".." in parts:
            raise InvalidOption(f"{os.fspath(path)!r}: no '..'")
        shown = "/" + "/".join(parts)
        given: list[tuple[str, str]] = []
        names = [("upper", self.upperdir)] if self.upperdir else []
        for role, layer in [*names, *((f"lower {n}", d) for n, d in enumerate(self.lowerdirs, 1))]:
            found, ends = _look(layer, parts)
            if found == "whiteout" and not given:
                raise NotFound(f"{shown} is deleted: a whiteout in {layer} hides what lies below")
            if found == "file" and given:
                break  # a directory above hides a file of that name: nothing is merged
            if found in ("file", "directory"):
                given.append((role, layer))
            if ends:
                break
        if not given:
            raise NotFound(f"no layer shows {shown}")
        return Origin(shown, *given[0], tuple([layer for _, layer in given[1:]]))

    def inspect(self) -> OverlaySnapshot:
        """The stack, and what is changed in it. Raises StateError when closed."""
        self._expect()
        seen = tuple([(row.kind, row.path) for row in self.changes()]) if os.path.isdir(self.upperdir) else ()
        mounted = any(identity_of(m) == self._identity() for m in mountinfo.mountinfo())
        return OverlaySnapshot(now(), self.merged, mounted, self.lowerdirs, self.upperdir, self.workdir, seen)

    def sheet(self) -> Sheet:
        """The stack from the top down."""
        self._expect()
        rows = [("merged", Volatile(self.merged), "what everybody sees")]
        if self.upperdir:
            count = len(self.changes()) if os.path.isdir(self.upperdir) else -1
            told = f"{count} change{'s' * (count != 1)}" if count >= 0 else "not to be seen from here"
            rows.append(("upper", Volatile(self.upperdir), f"the writable layer: {told}"))
        rows += [(f"lower {n}", Volatile(d), "read-only") for n, d in enumerate(self.lowerdirs, 1)]
        return Sheet("Overlay", ("", "directory", ""), tuple(rows), (), "overlay")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Overlay) and other._identity() == self._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, ...]:
        return (self.merged,) if self._row is None else identity_of(self._row)

    def __repr__(self) -> str:
        return f"<Overlay of {len(self.lowerdirs)} on {self.merged}{' closed' if self._ended else ''}>"

    def _expect(self) -> None:
        if self._ended:
            raise StateError(f"the overlay on {self.merged} is closed", expected="mounted", actual="closed")

    def close(self) -> None:
        """Unmount it and remove what was made for it; ``upper``, if it was given, stays. May be called twice.

        Raises StateError while something else is mounted on top of it, CleanupError when it is in use (somebody's working
        directory): then `nsbook clean` takes it back afterwards.
        """
        if self._session is not None and not self._ended and self._row is not None:
            expect_on_top(self.merged, self._row.id)
        super().close()


def _directory(path: Path, what: str) -> str:
    real = os.path.realpath(path)
    if not os.path.isdir(real):
        raise InvalidOption(f"the {what} {real} is no directory")
    return real


def _refuse_overlay(path: str) -> None:
    if MountTable.of().covering(path).fstype == "overlay":
        raise Unsupported(
            f"an upper directory at {path}",
            "it lies on an overlay itself, where the kernel allows none",
            "choose one in another file system, such as a tmpfs",
        )


def _writable_root() -> str:
    """The data root, or the run root where the first lies on an overlay (as in a container): there an upper can't be."""
    table = MountTable.of()
    for root in (data_root(), run_root()):
        if table.covering(root).fstype != "overlay":
            return root
    raise Unsupported(
        "a writable layer",
        f"{data_root()} and {run_root()} lie on an overlay themselves, where the kernel allows no upper directory",
        "set NSBOOK_ROOT to a directory in another file system, such as a tmpfs",
    )


def _split(value: str) -> list[str]:
    """``lowerdir``'s value: colons part, a backslash escapes one."""
    out, word, escaped = [], "", False
    for character in value:
        if escaped or character not in ":\\":
            word, escaped = word + character, False
        elif character == "\\":
            escaped = True
        else:
            out.append(word)
            word = ""
    return [*out, word]


def _look(layer: str, parts: list[str]) -> tuple[str, bool]:
    """What a layer has at a path (``directory``, ``file``, ``whiteout`` or nothing), and whether it hides those below it."""
    place = layer
    hides = False
    for number, part in enumerate(parts):
        place = f"{place}/{part}"
        try:
            found = os.lstat(place)
        except (FileNotFoundError, NotADirectoryError):
            return "", hides
        last = number == len(parts) - 1
        if files.is_whiteout(found):
            return ("whiteout" if last else ""), True
        if not os.path.isdir(place) or os.path.islink(place):
            return ("file" if last else ""), True
        hides = hides or files.is_opaque(place) or files.is_opaque(place, user=True)
    return "directory", hides
