"""What was found: a finding for each feature, and all of them as a report."""

from __future__ import annotations

from nsbook.frozen import Frozen
from nsbook.inspectable import Inspectable, Sheet, Volatile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class Finding(Frozen):
    """``verdict`` is works, partly or refused; ``how`` says what was tried; where something was refused, ``layer`` says by
    whom (a word of :data:`nsbook.linux.rules.LAYERS`, or ``system``), ``why``, and ``fix`` what helps."""

    feature: str
    verdict: str
    how: str
    layer: str = ""
    why: str = ""
    fix: str = ""

    def __bool__(self) -> bool:
        return self.verdict != "refused"

    def reason(self) -> str:
        """Who refused and why, and the fix, in one paragraph; "" where all works."""
        if not self.why:
            return ""
        return f"{self.layer}: {self.why}" + (f"{'' if self.why.endswith('.') else '.'} Fix: {self.fix}" if self.fix else "")


class Report(Inspectable, Frozen):
    """All findings, and the ``tier`` that they make: ``root, cgroup v1/hybrid``, ``root, cgroup v2``, ``root, no cgroup``,
    ``rootless``, ``unprivileged`` or ``other system``. ``kernel`` and ``uid`` say where they are from."""

    tier: str
    findings: tuple[Finding, ...]
    kernel: str = ""
    uid: int = -1

    def __getitem__(self, feature: str) -> Finding:
        for finding in self.findings:
            if finding.feature == feature:
                return finding
        from nsbook.errors import InvalidOption

        raise InvalidOption(f"no finding about {feature!r}; there are: {', '.join(f.feature for f in self.findings)}")

    def can(self, feature: str) -> bool:
        """Does it work, at least partly? Raises InvalidOption for a feature that was not tried."""
        return bool(self[feature])

    def to_json(self) -> dict[str, Any]:
        """Plain data: what ``nsbook doctor --json`` prints."""
        return self.to_dict()

    def sheet(self) -> Sheet:
        """One row a feature."""
        where = f" (uid {self.uid}, Linux {self.kernel})" if self.kernel else ""
        return table("What this machine allows", self.findings, f"Tier: {self.tier}{where}")


def table(title: str, findings: Sequence[Finding], *notes: str) -> Sheet:
    """Findings as a sheet; below, each reason once, with the number by which the rows refer to it."""
    reasons: list[str] = []
    rows = []
    for f in findings:
        reason = f.reason()
        if reason and reason not in reasons:
            reasons.append(reason)
        number = f" [{reasons.index(reason) + 1}]" if reason else ""
        rows.append((f.feature, Volatile(f.verdict), Volatile(f.how), Volatile(f.layer + number)))
    texts = [*notes, *(f"[{n}] {reason}" for n, reason in enumerate(reasons, 1))]
    return Sheet(title, ("feature", "", "tried", "refused by"), tuple(rows), tuple(Volatile(t) for t in texts), "doctor")
