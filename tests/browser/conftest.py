"""One JupyterLab and one Chromium for all browser tests, which therefore run in one worker."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from needs import need

if TYPE_CHECKING:
    from lab import Lab, LabPage
    from playwright.sync_api import Browser


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("browser"))
            item.add_marker(pytest.mark.requires("chromium"))
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def lab_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    from lab import Lab

    lab = Lab(tmp_path_factory.mktemp("lab") / "home")
    yield lab
    lab.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    need("chromium")
    from lab import CHROMIUM, CHROMIUM_ARGUMENTS
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=CHROMIUM_ARGUMENTS)
        warm(browser)
        yield browser
        browser.close()


def warm(browser: Browser) -> None:
    """Start what stays until the end, so that it is no leak of the first test: Chromium's network process, a loop."""
    from jupyter_core.utils import run_sync

    async def nothing() -> None:
        pass

    run_sync(nothing)()
    page = browser.new_page()
    page.evaluate("() => fetch('data:,').then(() => 1)")
    page.close()


@pytest.fixture
def page(browser: Browser, lab_server: Lab, request: pytest.FixtureRequest) -> Iterator[LabPage]:
    """A fresh page. Whatever happens, its last picture is kept and its kernels end."""
    from lab import LabPage

    context = browser.new_context(viewport={"width": 1280, "height": 1000}, locale="en-US", reduced_motion="reduce")
    page = LabPage(context.new_page(), lab_server)
    yield page
    try:
        page.shot("last-" + request.node.name)
    finally:
        context.close()
        for session in lab_server.api("sessions"):
            lab_server.api(f"sessions/{session['id']}", "DELETE")
