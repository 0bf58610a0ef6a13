"""Why a call was refused: the facts judged against the man pages.

>>> try: mount(...)                                        # in the process that fails
... except OSError as error: facts = capture(error)
>>> explain(facts).why                                     # anywhere, later
"""

from __future__ import annotations

import errno as errno_names

from nsbook.frozen import Frozen
from nsbook.linux import rules, rules_files, rules_mount, rules_process
from nsbook.linux.facts import capture as capture
from nsbook.linux.facts import probe as probe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


class Diagnosis(Frozen):
    """``layer`` (one of :data:`nsbook.linux.rules.LAYERS`) refused; ``rule`` is the sentence, ``page`` where it stands;
    ``why`` says what made it apply here; ``fix`` what helps, "" if nothing is known to.
    """

    layer: str
    rule: str
    page: str
    why: str
    fix: str = ""
    call: str = ""
    errno: int = 0

    def __str__(self) -> str:
        name = errno_names.errorcode.get(self.errno, str(self.errno))
        lines = [f"{self.call or 'the call'}: {name}, refused by {self.layer}: {self.why}", f"{self.page}: {self.rule}"]
        return "\n".join([*lines, f"Fix: {self.fix}"] if self.fix else lines)


def _all() -> Iterator[rules.Rule]:
    yield rules.FILTER
    yield from rules.NO_NAMESPACES
    yield from rules_mount.RULES
    yield from rules_process.RULES
    yield from rules_files.RULES
    yield rules.APPARMOR
    yield rules.UNKNOWN_CALL


def explain(facts: dict[str, Any]) -> Diagnosis:
    """The first rule that applies. Where none does, layer ``kernel``, the plain errno, and what the kernel said."""
    call, code = facts.get("call", ""), facts.get("errno", 0)
    if call == "mount" and code == rules.EACCES and rules.confined(facts) and not rules.filtered(facts):
        return _made(rules.APPARMOR, facts, rules.confined(facts))  # before the paths: a profile answers first
    for rule in _all():
        if (rule.calls and call not in rule.calls) or (rule.errnos and code not in rule.errnos):
            continue
        why = rule.judge(facts)
        if why:
            return _made(rule, facts, why)
    name = errno_names.errorcode.get(code, str(code))
    said = "; ".join(n for n in facts.get("notes", ()) if n) or facts.get("error", "")
    page = f"{call}(2)" if call else "errno(3)"
    return Diagnosis("kernel", f"{name}: {facts.get('error', '')}", page, f"no rule that nsbook knows applies ({said})", "", call, code)


def _made(rule: rules.Rule, facts: dict[str, Any], why: str) -> Diagnosis:
    return Diagnosis(rule.layer, rule.rule, rule.page, why, rule.fix, facts.get("call", ""), facts.get("errno", 0))
