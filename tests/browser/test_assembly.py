"""The live view of an assembly, clicked in a real JupyterLab: what the page shows is what the kernel's assembly has done."""

from __future__ import annotations

import sys
from collections.abc import Iterator
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
VIEWS = "__import__('nsbook.views.assembly', fromlist=['view'])._views"


@pytest.fixture
def lab(lab_server: Lab, page: LabPage) -> Iterator[Lab]:
    """The server; the assembly is closed whatever happens, and nothing of it is left."""
    yield lab_server
    if page.kernel_id:
        assert page.kernel("[asm.close(), len(nsbook.ledger())][1]") == 0


def open_view(lab: Lab, page: LabPage, *cells: str) -> Locator:
    page.open(lab.write("assembly.ipynb", ASSEMBLY, *cells)).run_all()
    view = page.page.locator(".nsb-assembly")
    expect(view.first).to_be_visible()
    return view


def click(view: Locator, name: str) -> None:
    """Click a button and wait until the kernel has answered."""
    answered(view, lambda: view.get_by_role("button", name=name, exact=True).click())


def answered(view: Locator, act: object) -> None:
    """Do something and wait until the kernel has answered it."""
    serial = view.get_attribute("data-serial")
    assert callable(act)
    act()
    expect(view).not_to_have_attribute("data-serial", serial or "")


def test_step_and_undo_on_both_sides(lab: Lab, page: LabPage) -> None:
    view = open_view(lab, page)
    assert page.kernel("[asm.position, asm.state]") == [0, "made"]
    expect(view).to_contain_text("There is no child yet")
    expect(view.get_by_role("button", name="Undo")).to_have_attribute("aria-disabled", "true")
    for number in (1, 2, 3):
        click(view, "Step")
        assert page.kernel("[asm.position, asm.state]") == [number, "building"]
        expect(view.locator(".nsb-counted")).to_contain_text(f"{number} of {page.kernel('len(asm.plan)')}")
        expect(view.locator(f"[data-op='{number - 1}']")).to_contain_text("done: ")
        expect(view.locator("[aria-current=step]")).to_have_attribute("data-op", str(number))
    click(view, "Undo")
    assert page.kernel("asm.position") == 2
    expect(view.locator("[data-op='2']")).to_contain_text("next: ")
    click(view, "Start over")
    assert page.kernel("[asm.position, asm.state]") == [0, "made"]
    page.quiet()


def test_what_the_kernel_says(lab: Lab, page: LabPage) -> None:
    """Run to the last step before the command by clicking ops, and look from outside and from inside on the way."""
    view = open_view(lab, page)
    clone = page.kernel("[o.name for o in asm.plan.ops].index('Clone')")
    row = view.locator(f"[data-op='{clone}']")
    row.hover()
    answered(view, lambda: view.get_by_title(f"Run to {clone} Clone").click())
    assert page.kernel("asm.position") == clone + 1
    expect(view.locator("[aria-current=step]")).to_be_focused()
    expect(view.get_by_role("region", name="From outside")).to_contain_text(f"pid {page.kernel('asm.pid')} on the host")
    spaces = view.get_by_role("list", name="Namespaces").get_by_role("listitem")
    own = page.kernel("[k for k, _, own in asm.inspect().namespaces if own]")
    expect(spaces.filter(has_text="its own")).to_have_count(len(own))
    uts = page.kernel("[o.name == 'Unshare' and 'uts' in o.namespaces for o in asm.plan.ops].index(True)")
    expect(view.locator(f"[data-op='{uts}']")).to_be_attached()
    while page.kernel("asm.position") <= uts:
        click(view, "Step")
    expect(view.get_by_role("region", name="What has changed")).to_contain_text("uts namespace: the host's → its own")
    expect(spaces.filter(has_text="uts")).to_contain_text("its own")

    last = page.kernel("[o.name for o in asm.plan.ops].index('LoadSeccomp')")
    detail = view.locator(f"[data-op='{last}']")
    detail.click()
    answered(view, lambda: view.get_by_role("button", name="Run to here").locator("visible=true").click())
    assert page.kernel("[asm.position, asm.inside('hostname')]") == [last + 1, "assembled"]
    within = view.get_by_role("region", name="From inside")
    expect(within).to_contain_text("assembled")
    expect(within).to_contain_text("process 1, user 0, group 0, in /")
    within.locator("summary").filter(has_text="entries").click()
    expect(within.locator("details[open] pre").first).to_have_text("\n".join(page.kernel("asm.inside('list', '/')")))
    expect(view.get_by_role("region", name="From outside")).to_contain_text("seccompfiltered")

    click(view, "Step")
    page.kernel("asm.wait()")
    click(view, "Look again")
    expect(view).to_have_attribute("data-phase", "exited")
    expect(view).to_contain_text("The command has ended: exit code 0")
    expect(within.locator("pre").first).to_have_text(page.kernel("asm.stdout").rstrip("\n"))
    assert page.kernel("asm.stdout").startswith("assembled\nbin\n")
    click(view, "Undo")  # also the command can be taken back
    assert page.kernel("[asm.position, asm.state]") == [last + 1, "building"]

    click(view, "Close")
    assert page.kernel("[asm.state, len(nsbook.ledger())]") == ["closed", 0]
    expect(view).to_contain_text("everything that was made for it on the host has been taken back")
    expect(view.get_by_role("button", name="Step")).to_have_attribute("aria-disabled", "true")
    page.quiet()


def test_the_keyboard_is_enough(lab: Lab, page: LabPage) -> None:
    view = open_view(lab, page)
    keyboard = page.page.keyboard
    mode = "() => window.jupyterapp.shell.currentWidget.content.mode + window.jupyterapp.shell.currentWidget.content.activeCellIndex"
    before = page.page.evaluate(mode)
    view.get_by_role("button", name="Step").focus()
    answered(view, lambda: keyboard.press("Enter"))
    assert page.kernel("asm.position") == 1
    expect(view.get_by_role("button", name="Step")).to_be_focused()
    answered(view, lambda: keyboard.press("Space"))
    assert page.kernel("asm.position") == 2
    keyboard.press("Tab")
    expect(view.get_by_role("button", name="Undo")).to_be_focused()
    answered(view, lambda: keyboard.press("Enter"))
    assert page.kernel("asm.position") == 1
    for _ in ("Start over", "Look again", "Close", "the list"):
        keyboard.press("Tab")
    expect(view.locator("[data-op='1']")).to_be_focused()  # one stop for the whole list: at the next op
    keyboard.press("Home")
    expect(view.locator("[data-first='0']")).to_be_focused()
    keyboard.press("ArrowLeft")
    expect(view.locator("[data-op='1']")).to_be_hidden()
    keyboard.press("ArrowRight")
    for _ in range(4):
        keyboard.press("ArrowDown")
    target = view.locator("[data-op='3']")
    expect(target).to_be_focused()
    keyboard.press("Enter")
    expect(target).to_have_attribute("aria-expanded", "true")
    shell = page.kernel("asm.plan.ops[3].shell().text")
    expect(view.locator("li:has(> .nsb-line > [data-op='3']) pre")).to_have_text(shell)
    keyboard.press("Tab")  # the man page
    keyboard.press("Tab")
    expect(view.get_by_role("button", name="Run to here").locator("visible=true")).to_be_focused()
    answered(view, lambda: keyboard.press("Enter"))
    assert page.kernel("asm.position") == 4
    expect(view.locator("[data-op='4']")).to_be_focused()
    keyboard.press("End")
    expect(view.locator(f"[data-op='{page.kernel('len(asm.plan) - 1')}']")).to_be_focused()
    assert page.page.evaluate(mode) == before  # JupyterLab has taken none of these keys for its own
    page.quiet()


def test_a_refusal_is_explained_and_ends_nothing(lab: Lab, page: LabPage) -> None:
    view = open_view(lab, page)
    page.kernel("[asm.run_to(asm.plan.ops.index(asm.plan.find('MountOverlay')) - 1), 0][1]")
    page.kernel("__import__('os').rename(asm.plan.find('MountOverlay').upperdir, asm.plan.find('MountOverlay').upperdir + '.away')")
    click(view, "Step")
    alert = view.get_by_role("alert")
    expect(alert).to_contain_text("MountOverlay was refused with ENOENT")
    expect(alert).to_contain_text("why")
    expect(view.locator("[aria-current=step]")).to_contain_text("refused: MountOverlay")
    assert page.kernel("asm.next.name") == "MountOverlay"
    page.shot("assembly-refused")
    page.kernel("__import__('os').rename(asm.plan.find('MountOverlay').upperdir + '.away', asm.plan.find('MountOverlay').upperdir)")
    click(view, "Step")
    expect(alert).to_be_hidden()
    assert page.kernel("asm.next.name") == "Mount"
    page.quiet()


def test_cells_and_clicks_move_the_same_assembly(lab: Lab, page: LabPage) -> None:
    """A cell that steps moves every view of it; a click in one view moves the other."""
    view = open_view(lab, page, "_ = asm.step(2)", "asm.widget()")
    expect(view).to_have_count(2)
    expect(view.first.locator(".nsb-counted")).to_contain_text("2 of")
    click(view.last, "Step")
    expect(view.first.locator(".nsb-counted")).to_contain_text("3 of")
    assert page.kernel("asm.position") == 3
    assert page.kernel(f"len({VIEWS})") == 1
    page.quiet()


def test_running_a_cell_again_piles_nothing_up(lab: Lab, page: LabPage) -> None:
    view = open_view(
        lab, page, "import threading, comm; counts = []", "counts.append([len(comm.get_comm_manager().comms), threading.active_count()])"
    )
    for _ in range(3):
        page.kernel("[asm.close(), 0][1]")
        page.run_all()
    counts = []
    for _ in range(2):
        page.kernel("[asm.close(), 0][1]")
        page.run_all()
        counts.append(page.kernel("counts[-1]"))
    assert counts[0] == counts[1]
    assert page.kernel(f"[len({VIEWS}), list({VIEWS}.values())[0].assembly is asm]") == [1, True]
    expect(view).to_have_count(1)
    click(view, "Step")
    assert page.kernel("asm.position") == 1


def test_pictures(lab: Lab, page: LabPage) -> None:
    """Light and dark, wide and narrow; the plan scrolls to the next op in each, and nothing overflows."""
    view = open_view(lab, page)
    page.kernel("[asm.run_to('Unshare'), 0][1]")
    click(view, "Look again")
    click(view, "Step")
    for theme in ("light", "dark"):
        page.theme(theme)
        for width in (1280, 800):
            page.page.set_viewport_size({"width": width, "height": 1000})
            if width == 800:
                page.page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
            expect(view.locator("[aria-current=step]")).to_be_in_viewport()
            wide = "e => [e.scrollWidth, e.clientWidth]"
            scroll, client = view.evaluate(wide)
            assert scroll <= client + 1, f"at {width} the view is wider than its cell"
            page.long_shot(f"assembly-{theme}-{width}", width)
            page.page.evaluate("() => window.jupyterapp.shell.expandLeft()")
    colours = {name: view.evaluate(f"e => getComputedStyle(e).getPropertyValue('--nsb-{name}').trim()") for name in ("good", "child")}
    page.theme("light")
    assert all(view.evaluate(f"e => getComputedStyle(e).getPropertyValue('--nsb-{n}').trim()") != c for n, c in colours.items())
    page.quiet()
