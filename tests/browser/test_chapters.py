"""The chapters as a reader sees them: opened in a real JupyterLab, run from top to bottom, nothing fetched from outside."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="needs playwright: pip install playwright")
sys.path.insert(0, str(Path(__file__).parent))
from lab import Lab, LabPage
from playwright.sync_api import expect

from needs import requires

BOOK = Path(__file__).resolve().parents[2] / "notebooks"


@requires("root", "overlay")
@pytest.mark.parametrize("name", [path.name for path in sorted(BOOK.glob("[0-9][0-9]-*.ipynb"))])
def test_a_chapter_opens_and_runs(lab_server: Lab, page: LabPage, name: str) -> None:
    shutil.copy(BOOK / name, lab_server.root / name)
    page.open(name).run_all()
    assert page.kernel("len(nsbook.ledger())") == 0
    expect(page.page.locator(".jp-RenderedHTMLCommon .nsb-sheet").first).to_be_visible()
    page.long_shot(f"chapter-{name[:2]}-light")
    page.theme("dark")
    page.long_shot(f"chapter-{name[:2]}-dark")
    page.theme("light")
    page.quiet()
