"""The rules quote the man pages as they are, and are well formed."""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache

import pytest

from nsbook.linux import rules, rules_files, rules_mount, rules_process

ALL = [rules.FILTER, rules.APPARMOR, rules.UNKNOWN_CALL, *rules.NO_NAMESPACES, *rules_mount.RULES, *rules_process.RULES, *rules_files.RULES]


@cache
def page(name: str) -> str:
    """A man page as one line of text; "" where it is not installed (or is no man page)."""
    parts = re.fullmatch(r"([\w.-]+)\((\w+)\)", name)
    if parts is None:
        return ""
    environment = {**os.environ, "MANWIDTH": "5000", "LC_ALL": "C.UTF-8"}
    try:
        shown = subprocess.run(["man", "--nh", "--nj", parts[2], parts[1]], capture_output=True, text=True, env=environment, check=False)
    except FileNotFoundError:
        return ""
    return plain(shown.stdout) if shown.returncode == 0 else ""


def plain(text: str) -> str:
    for fancy, simple in (("“", '"'), ("”", '"'), ("‘", "'"), ("’", "'"), ("‐", "-")):
        text = text.replace(fancy, simple)
    return " ".join(text.split())


@pytest.mark.allowed_skip
def test_the_quotations_are_the_man_pages_own_words() -> None:
    if not page("mount(2)"):
        pytest.skip("needs man-pages: no mount(2); apt install man-db manpages manpages-dev")
    checked = 0
    for rule in ALL:
        text = page(rule.page)
        if text:
            checked += 1
            assert plain(rule.rule) in text, f"{rule.page}: {rule.rule}"
    assert checked > 100


def test_every_rule_is_well_formed() -> None:
    for rule in ALL:
        assert rule.layer in rules.LAYERS, rule
        assert rule.errnos or rule.calls, rule
        assert callable(rule.judge), rule


def test_no_judge_stumbles_over_missing_facts() -> None:
    """Facts come from processes without /proc: whatever is missing, a judge answers with text."""
    for rule in ALL:
        for call in rule.calls or ("mount",):
            for errno in rule.errnos or (22,):
                assert isinstance(rule.judge({"call": call, "errno": errno, "args": {}, "error": "", "notes": []}), str)
                assert isinstance(rule.judge({"call": call, "errno": errno}), str)
