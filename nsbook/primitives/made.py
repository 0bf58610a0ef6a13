"""What primitives that are made have in common: the plan that made them, and the shepherd that holds them until the end."""

from __future__ import annotations

from nsbook.inspectable import Inspectable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from nsbook.spawn.client import Session
    from nsbook.spawn.plan import Plan
    from nsbook.trace import Transcript


def hold(plan: Plan) -> Session:
    """Run a plan up to its last barrier, which holds. Raises SetupError; then all is undone already."""
    from nsbook.spawn.client import Session

    session = Session(plan, interactive=True)
    try:
        session.hear()
    except BaseException:
        session.close()
        raise
    return session


class Made(Inspectable):
    """One that was made has a plan and a session; one that was adopted has neither, and its ``close()`` destroys nothing."""

    def __init__(self, plan: Plan | None = None, session: Session | None = None) -> None:
        self._plan = plan
        self._session = session

    @property
    def transcript(self) -> Transcript:
        """What was done to make it, with errno and microseconds; empty for an adopted one."""
        from nsbook.trace import Transcript

        return self._session.transcript if self._session is not None else Transcript()

    def explain(self) -> Plan:
        """The plan by which it was made; for an adopted one, an empty plan. Runs nothing."""
        from nsbook.spawn.plan import Plan

        return self._plan if self._plan is not None else Plan("", (), (), f"{type(self).__name__}: adopted, not made")

    @property
    def _ended(self) -> bool:
        """It was made, and is undone."""
        return self._session is not None and self._session.state == "ended"

    def close(self) -> None:
        """Take it back, if it was made here. May be called twice. Raises CleanupError."""
        if self._session is not None and not self._ended:
            self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
