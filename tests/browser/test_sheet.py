"""The default display in a real JupyterLab: its own rules for tables have given way, and the theme is followed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="needs playwright: pip install playwright")
sys.path.insert(0, str(Path(__file__).parent))
from lab import Lab, LabPage
from playwright.sync_api import expect

from needs import requires

RUN = """
import nsbook
with nsbook.record():
    ran = nsbook.Container.run("base", ["sh", "-c", "hostname; exit 3"], hostname="h")
ran
"""
CHANGE = """
with nsbook.Assembly("base", ["sh"]) as asm:
    before = asm.run_to("Clone").inspect()
    after = asm.run_to("PivotRoot").inspect()
before.diff(after)
"""
CELLS = (RUN, "ran.transcript", CHANGE, "asm.plan", "nsbook.ledger()")


@requires("root")
def test_the_default_display(lab_server: Lab, page: LabPage) -> None:
    page.open(lab_server.write("sheets.ipynb", *CELLS)).run_all()
    sheets = page.page.locator(".nsb-sheet")
    expect(sheets).to_have_count(len(CELLS))
    expect(sheets.nth(0).locator("pre").first).to_have_text("h")
    expect(sheets.nth(3).locator("tr")).to_have_count(page.kernel("len(asm.plan)") + 1)  # also the folded ones
    cell = sheets.nth(3).locator("td").nth(3)
    style = "e => { const s = getComputedStyle(e); return [s.textAlign, s.whiteSpace, s.color] }"
    left, wraps, light = cell.evaluate(style)
    assert (left, wraps) == ("left", "normal")
    stripes = sheets.nth(3).evaluate("e => new Set([...e.querySelectorAll('tbody tr')].map(r => getComputedStyle(r).backgroundColor)).size")
    assert stripes == 1
    code = sheets.nth(3).locator("td > code").first
    assert code.evaluate("e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).padding]") == ["rgba(0, 0, 0, 0)", "0px"]
    for sheet in sheets.all():
        scroll, client = sheet.evaluate("e => [e.scrollWidth, e.clientWidth]")
        assert scroll <= client + 1, "wider than the cell"
    page.long_shot("sheets-light")
    page.theme("dark")
    page.long_shot("sheets-dark")
    assert cell.evaluate(style)[2] != light
    page.theme("light")
    page.quiet()
