"""What an engine is: something that starts a kernel with this machine's files below it and one line to us."""

from __future__ import annotations

from nsbook.errors import InvalidOption, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from nsbook.guest.session import Session

    class Starter(Protocol):
        """``wire`` and ``disk`` are devices in the guest, ``modules`` a directory of the host's; ``spools``: input goes faster
        by a file than by the line. ``start`` of a session becomes the guest's first process."""

        engine: str
        wire: str
        disk: str
        modules: str
        spools: bool

        def command(self, session: Session, *, memory: int, cgroup: str, wire: int) -> list[str]:
            """The command line; ``wire`` is an inherited descriptor."""

        def environment(self, session: Session, memory: int) -> dict[str, str]:
            """The engine's own."""

        def why_not(self, console: str) -> tuple[str, str]:
            """Reason and fix that the console's words tell, or empty texts."""


def choose(engine: str) -> Starter:
    """The engine asked for, or the first that this machine has. Unsupported names what each lacks."""
    from nsbook.guest import qemu, uml

    if engine == "uml":
        return uml.Starter()
    if engine == "qemu":
        return qemu.Starter()
    if engine != "auto":
        raise InvalidOption(f"engine is auto, uml or qemu, not {engine!r}")
    try:
        return uml.Starter()
    except Unsupported as first:
        try:
            return qemu.Starter()
        except Unsupported as second:
            raise Unsupported("a guest", f"{first.reason} {second.reason}", f"{first.fix}; or: {second.fix}") from None
