"""The *Needs* cell of a chapter: what it does, and whether this machine lets it."""

from __future__ import annotations

from nsbook.frozen import Frozen
from nsbook.inspectable import Inspectable, Sheet, Volatile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nsbook.doctor import Finding

MARKS = {"works": "✔ works", "partly": "◐ partly", "refused": "✘ refused"}


class Needs(Inspectable, Frozen):
    """The findings that a chapter depends on. Truthy when everything works."""

    findings: tuple[Finding, ...]

    def __bool__(self) -> bool:
        return all(f.verdict != "refused" for f in self.findings)

    def sheet(self) -> Sheet:
        """One row a need; what is refused, by whom, and what helps."""
        rows = []
        for f in self.findings:
            why = "" if f.verdict == "works" else f"{f.layer}: {f.why}" + (f" → {f.fix}" if f.fix else "")
            rows.append((f.feature, Volatile(MARKS.get(f.verdict, f.verdict)), Volatile(why)))
        notes: tuple[str, ...] = ()
        if not self:
            notes = (
                "This machine refuses some of it. Cells that can't run here show a labelled recording.",
                "The real thing, without any privilege, in a small Linux of our own: in a terminal, nsbook guest run nsbook demo",
            )
        return Sheet("This chapter needs", ("", "here", "why, and what helps"), tuple(rows), notes, "needs")


def needs(*features: str) -> Needs:
    """Try these features (only these) and say what this machine allows. See ``nsbook.doctor()`` for all of them."""
    from nsbook.doctor import needs as tried

    return Needs(tuple(tried(*features)))
