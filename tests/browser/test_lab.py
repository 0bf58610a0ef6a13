"""A real JupyterLab runs nsbook: what the page shows is what the kernel says, and nothing is fetched from elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="needs playwright: pip install playwright")
sys.path.insert(0, str(Path(__file__).parent))
from lab import Lab, LabPage
from nbformat.v4 import new_markdown_cell
from playwright.sync_api import expect

TRANSCRIPT = """
import os, nsbook
with nsbook.record() as transcript:
    pass
transcript
"""
SHEET = """
from nsbook.inspectable import Inspectable, Sheet
class Kernel(Inspectable):
    def sheet(self):
        return Sheet("This kernel", ("what", "value"), (("pid", str(os.getpid())), ("name", "nsbook")))
Kernel()
"""
HTML = """
from IPython.display import HTML
HTML(f'<p class="t-pid">{os.getpid()}</p>')
"""
SLIDER = """
import ipywidgets as W
slider = W.IntSlider(value=3, min=0, max=10, description="slider"); slider.add_class("t-slider")
label = W.Label(value="v=3"); label.add_class("t-label")
slider.observe(lambda change: setattr(label, "value", f"v={change['new']}"), "value")
W.VBox([slider, label])
"""


def test_the_kernel_and_the_page_agree(lab_server: Lab, page: LabPage) -> None:
    page.open(lab_server.write("trial.ipynb", new_markdown_cell("# nsbook"), TRANSCRIPT, SHEET, HTML)).run_all()
    pid = page.kernel("os.getpid()")
    expect(page.page.locator("p.t-pid")).to_have_text(str(pid))
    assert page.kernel("type(transcript).__name__") == "Transcript"
    expect(page.page.locator(".jp-OutputArea-output").filter(has_text="This kernel").first).to_contain_text(str(pid))
    page.quiet()


def test_a_widget_makes_the_round_trip_in_both_themes(lab_server: Lab, page: LabPage) -> None:
    page.open(lab_server.write("widget.ipynb", SLIDER)).run_all()
    handle = page.page.locator(".t-slider .noUi-handle")
    handle.focus()
    page.page.keyboard.press("ArrowRight")
    page.page.keyboard.press("ArrowRight")
    expect(page.page.locator(".t-label")).to_have_text("v=5")
    page.kernel_eventually("slider.value", 5)
    backgrounds = []
    for theme in ("dark", "light"):
        page.theme(theme)
        page.shot(f"widget-{theme}")
        script = "() => getComputedStyle(document.body).getPropertyValue('--jp-layout-color0').trim()"
        backgrounds.append(page.page.evaluate(script))
    assert backgrounds[0] != backgrounds[1]
    page.quiet()


def test_a_cell_that_fails_is_reported(lab_server: Lab, page: LabPage) -> None:
    page.open(lab_server.write("bad.ipynb", "1 + 1", "raise ValueError('boom')", "3"))
    with pytest.raises(AssertionError, match="ValueError: boom"):
        page.run_all()


def test_nothing_pops_up(lab_server: Lab, page: LabPage) -> None:
    """No news, no offer to look for any, no manager of extensions that would ask a registry."""
    page.open(lab_server.write("quiet.ipynb", "1"))
    page.page.wait_for_timeout(1500)  # the news would come a second after the start
    assert page.page.locator(".Toastify__toast").count() == 0
    has = "name => window.jupyterapp.hasPlugin(name)"
    for plugin in ("@jupyterlab/apputils-extension:announcements", "@jupyterlab/extensionmanager-extension:plugin"):
        assert page.page.evaluate(has, plugin) is False
    assert page.page.evaluate(has, "@jupyterlab/apputils-extension:notification") is True
    page.quiet()
