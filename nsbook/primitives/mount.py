"""Mount: one mount of the host's, made or found. mount(2), and mountinfo in proc(5).

``Mount.create("tmpfs", target)`` mounts, and unmounts at ``close()``; ``Mount.of(path)`` is the mount that a path lies in.
A mount is known by its place, its id in this mount namespace, and what it shows (ids are used again: the file system's device
number tells the old from the new). All the mounts together are a :class:`MountTable`.
"""

from __future__ import annotations

import os

from nsbook.errors import InvalidOption, NotFound, StateError
from nsbook.inspectable import Sheet, Snapshot, Volatile, now
from nsbook.linux import mountinfo
from nsbook.primitives.made import Made, hold
from nsbook.primitives.mount_table import MountTable as MountTable
from nsbook.primitives.mount_table import propagation_of, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from nsbook.linux.mountinfo import MountEntry
    from nsbook.spawn.plan import Plan


class MountSnapshot(Snapshot):
    """A mount at one moment, as mountinfo has it: ``device`` is "major:minor", ``root`` the directory of the file system that
    is shown at ``target``; ``options`` are the mount's own, ``super_options`` the file system's; ``propagation`` is in words,
    nothing for a private one. ``there`` is False, and the rest empty, when it is not mounted any more."""

    target: str
    there: bool
    fstype: str = ""
    source: str = ""
    root: str = ""
    options: tuple[str, ...] = ()
    propagation: tuple[str, ...] = ()
    super_options: tuple[str, ...] = ()
    device: str = ""
    id: int = 0
    parent: int = 0


class Mount(Made):
    """A mount on the host. Only what was made is unmounted."""

    def __init__(self, row: MountEntry) -> None:
        super().__init__()
        self.target = row.mountpoint
        self.id = row.id
        self._identity = identity_of(row)

    # ---- making and finding

    @classmethod
    def plan(
        cls,
        what: str | os.PathLike[str],
        target: str | os.PathLike[str],
        *,
        bind: bool = False,
        recursive: bool = False,
        flags: Iterable[str] = (),
        data: str = "",
        propagation: str = "private",
    ) -> Plan:
        """The plan of :meth:`create`. Runs nothing. Raises InvalidOption, NotFound."""
        from nsbook.spawn import ops
        from nsbook.spawn.ops.mounts import FLAGS, PROPAGATION
        from nsbook.spawn.plan import Plan, new_run_id

        place = _existing(target)
        given = (flags,) if isinstance(flags, str) else tuple(flags)
        wrong = [flag for flag in given if flag not in FLAGS]
        if wrong:
            raise InvalidOption(f"no mount flag {wrong[0]!r}; there are: {', '.join(FLAGS)} (what is the file system's goes to data)")
        if propagation not in PROPAGATION:
            raise InvalidOption(f"propagation={propagation!r}; there are: {', '.join(PROPAGATION)} (mount_namespaces(7))")
        if bind and data:
            raise InvalidOption("a bind mount shows a file system that has its options already: data says nothing to it")
        if recursive and not bind:
            raise InvalidOption("recursive=True goes with bind=True: only that brings other mounts along")
        op = ops.HostMount(
            place,
            "" if bind else os.fspath(what),
            _existing(what) if bind else "",
            given,
            data,
            propagation,
            recursive,
            beneath(place),
        )
        return Plan(new_run_id(), (op, ops.Barrier("kept", True)), (), f"Mount on {place}")

    @classmethod
    def create(
        cls,
        what: str | os.PathLike[str],
        target: str | os.PathLike[str],
        *,
        bind: bool = False,
        recursive: bool = False,
        flags: Iterable[str] = (),
        data: str = "",
        propagation: str = "private",
    ) -> Mount:
        """Mount a file system of type ``what`` (``"tmpfs"``) on ``target``, which exists; with ``bind``, show the directory
        or file ``what`` there too (``recursive``: with all that is mounted below it).

        ``flags`` are mount(8)'s words (``"ro"``, ``"nosuid"``), ``data`` the file system's options (``"size=1m"``). Raises
        InvalidOption, NotFound; SetupError, with the diagnosis, where it is refused.
        """
        plan = cls.plan(what, target, bind=bind, recursive=recursive, flags=flags, data=data, propagation=propagation)
        op = plan.ops[0].to_dict()
        session = hold(plan)
        try:
            made = next((m for m in mountinfo.mountinfo() if m.mountpoint == op["target"] and m.parent == op["beneath"]), None)
            if made is None:
                raise StateError(
                    f"the new mount on {op['target']} can't be seen: this thread is in another mount namespace than the launcher",
                    expected="one mount namespace",
                    actual="two",
                )
        except BaseException:
            session.close()
            raise
        self = cls(made)
        self._plan, self._session = plan, session
        return self

    @classmethod
    def of(cls, path: str | os.PathLike[str] = "/") -> Mount:
        """The mount that ``path`` lies in. Raises NotFound."""
        return cls(MountTable.of().covering(_existing(path)))

    # ---- asking

    def _row(self) -> MountEntry | None:
        if self._ended:
            raise StateError(f"the mount on {self.target} is closed", expected="mounted", actual="closed")
        return next((m for m in mountinfo.mountinfo() if identity_of(m) == self._identity), None)

    def inspect(self) -> MountSnapshot:
        """What mountinfo says of it now. Raises StateError when closed."""
        row = self._row()
        if row is None:
            return MountSnapshot(now(), self.target, False)
        return MountSnapshot(
            now(),
            self.target,
            True,
            row.fstype,
            row.source,
            row.root,
            row.options,
            propagation_of(row),
            row.super_options,
            row.device,
            row.id,
            row.parent,
        )

    def sheet(self) -> Sheet:
        """A line each."""
        seen = self.inspect()
        rows = (
            ("on", Volatile(seen.target)),
            ("file system", seen.fstype or "it is not mounted any more"),
            ("source", Volatile(seen.source)),
            ("shows", Volatile(f"{seen.root} of device {seen.device}" if seen.there else "")),
            ("options", Volatile(words(seen.options))),
            ("its own", Volatile(words(seen.super_options))),
            ("propagation", words(seen.propagation) or "private"),
        )
        return Sheet("Mount", ("", ""), rows, (), "mount")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mount) and other._identity == self._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        return f"<Mount {self.id} on {self.target}{' closed' if self._ended else ''}>"

    def close(self) -> None:
        """Unmount what was made, also while it is in use (MNT_DETACH). May be called twice.

        Raises StateError while something else is mounted on top of it: that goes first, and then this can be closed.
        """
        if self._session is not None and not self._ended:
            expect_on_top(self.target, self.id)
        super().close()


def identity_of(row: MountEntry) -> tuple[object, ...]:
    """What tells a mount from another that has got its id since."""
    return row.mountpoint, row.id, row.device, row.fstype, row.root


def beneath(place: str) -> int:
    """The id of the mount that a new one on ``place`` would lie on. Raises NotFound."""
    return MountTable.of().covering(place).id


def expect_on_top(target: str, id: int) -> None:
    """Raises StateError if the mount is covered by another on the same place."""
    above = next((m for m in mountinfo.mountinfo() if m.parent == id and m.mountpoint == target), None)
    if above is not None:
        raise StateError(
            f"{above.fstype} has been mounted on top of it, on {target}: unmount that first", expected="on top", actual="covered"
        )


def _existing(path: str | os.PathLike[str]) -> str:
    real = os.path.realpath(path)
    if not os.path.lexists(real):
        raise NotFound(f"there is no {real}: a mount needs a directory (or a file, for a file) that exists")
    return real
