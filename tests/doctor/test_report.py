"""A report reads well, whatever it has to say."""

from __future__ import annotations

import json

import pytest

from nsbook.doctor.report import Finding, Report
from nsbook.errors import InvalidOption

WHY = ("seccomp", "a filter answered.", "another filter")
FINDINGS = (
    Finding("overlay", "works", "mounted"),
    Finding("proc", "refused", "mounted", *WHY),
    Finding("sysfs", "refused", "mounted", *WHY),
    Finding("mknod", "partly", "made", "user namespace", "nobody may"),
)
REPORT = Report("unprivileged", FINDINGS, "6.18", 1000)


def test_it_can_be_asked() -> None:
    assert REPORT.can("overlay")
    assert REPORT.can("mknod")
    assert not REPORT.can("proc")
    assert REPORT["proc"].layer == "seccomp"
    with pytest.raises(InvalidOption, match="no finding about 'bridge'"):
        REPORT["bridge"]


def test_each_reason_is_told_once() -> None:
    text = str(REPORT)
    assert text.count("a filter answered. Fix: another filter") == 1
    lines = {line.split()[0]: line for line in text.splitlines() if line.split()[0] in ("overlay", "proc", "sysfs", "mknod")}
    assert lines["proc"].endswith("seccomp [1]")
    assert lines["sysfs"].endswith("seccomp [1]")
    assert lines["mknod"].endswith("user namespace [2]")
    assert "[" not in lines["overlay"]
    assert "[2] user namespace: nobody may" in text.splitlines()
    assert "Tier: unprivileged (uid 1000, Linux 6.18)" in text


def test_a_page_without_a_kernel_shows_it() -> None:
    bundle = REPORT._repr_mimebundle_()
    assert "<table" in bundle["text/html"]
    assert "overlay" in bundle["text/html"]


def test_json_carries_it_whole() -> None:
    data = json.loads(json.dumps(REPORT.to_json()))
    assert (data["tier"], data["kernel"], data["uid"]) == ("unprivileged", "6.18", 1000)
    assert tuple(Finding(**f) for f in data["findings"]) == FINDINGS
