"""The live view of an assembly, clicked in a real JupyterLab: what the page shows is what the kernel's assembly has done."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="needs playwright: pip install playwright")
sys.path.insert(0, str(Path(__file__).parent))
from lab import Lab, LabPage
from playwright.sync_api import Locator, expect

from needs import requires

pytestmark = requires("root")

ASSEMBLY = """
import nsbook
asm = nsbook.Assembly("base", ["sh", "-c", "hostname; ls /"], hostname="assembled")
asm.widget()
"""
CLOSE = "asm.close(); nsbook.ledger()"


def open_view(lab: Lab, page: LabPage, *cells: str) -> Locator:
    page.open(lab.write("assembly.ipynb", ASSEMBLY, *cells)).run_all()
    view = page.page.locator(".nsb-assembly")
    expect(view).to_have_count(1)
    return view


def click(view: Locator, name: str) -> None:
    """Click a button and wait until the kernel has answered."""
    serial = view.get_attribute("data-serial")
    view.get_by_role("button", name=name, exact=True).click()
    expect(view).not_to_have_attribute("data-serial", serial or "")


def test_step_and_undo_on_both_sides(lab_server: Lab, page: LabPage) -> None:
    view = open_view(lab_server, page)
    assert page.kernel("asm.position") == 0
    expect(view).to_contain_text("There is no child yet")
    for number in (1, 2, 3):
        click(view, "Step")
        assert page.kernel("[asm.position, asm.state]") == [number, "building"]
        expect(view.locator(".nsb-counted")).to_contain_text(f"{number} of")
    click(view, "Undo")
    assert page.kernel("asm.position") == 2
    click(view, "Start over")
    assert page.kernel("[asm.position, asm.state]") == [0, "made"]
    page.kernel("[asm.close(), 0][1]")
    page.quiet()


def test_look(lab_server: Lab, page: LabPage) -> None:
    view = open_view(lab_server, page)
    page.kernel("[asm.run_to('Unshare'), 0][1]")
    click(view, "Look again")
    page.shot("assembly-a")
    page.theme("dark")
    page.shot("assembly-b")
    page.kernel("[asm.run_to('SetHostname'), 0][1]")
    click(view, "Look again")
    page.shot("assembly-c")
    page.theme("light")
    click(view, "Step")
    page.shot("assembly-d")
    page.page.set_viewport_size({"width": 800, "height": 1000})
    page.shot("assembly-e")
    page.kernel("[asm.close(), 0][1]")
