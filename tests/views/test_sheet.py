"""The default display: well-formed, escaped, the same every time, and readable when every style is gone."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsbook.inspectable import Change, Difference, Sheet, Volatile, mimebundle
from nsbook.trace import Call, Transcript
from nsbook.views.sheet import HEAD, LONG, TAIL, WHOLE, html
from nsbook.views.style import HERE, css

VOID = {"br", "col"}
VOLATILE = re.compile(r'<data class="nsb-v">.*?</data>')
"""As the comparison of stored outputs masks it: without DOTALL."""


class Page(HTMLParser):
    """Checks that every element is closed in order, and collects rows of text and what stands in which element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.texts: dict[str, list[str]] = {}
        self.ids: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [str(value) for name, value in attrs if name == "id"]
        if tag in VOID:
            return
        self.open.append(tag)
        self.texts.setdefault(tag, []).append("")
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data
        if "tr" in self.open:
            self.rows[-1][-1] += data


ROWS = (("0", "host", "Clone", "clone3"), ("1", "child", "Unshare", "unshare"))
PLAN = Sheet("A plan", ("#", "where", "op", "call"), ROWS, ("run `nsbook clean`",), "plan")


def test_a_table_says_what_it_is_without_any_style() -> None:
    text = html(PLAN)
    page = Page(text)
    assert page.texts["caption"] == ["A plan"]
    assert page.rows == [["#", "where", "op", "call"], ["0", "host", "Clone", "clone3"], ["1", "child", "Unshare", "unshare"]]
    assert '<th scope="col" class="nsb-n">#</th>' in text
    assert page.texts["code"] == ["clone3", "unshare", "nsbook clean"]
    assert '<span class="nsb-chip nsb-host">host</span>' in text
    assert page.texts["p"] == ["run nsbook clean"]
    assert page.ids == []


def test_no_columns_make_the_first_cell_the_row_s_head() -> None:
    text = html(Sheet("Container", ("", ""), (("state", "running"),)))
    assert '<th scope="row">state</th><td>running</td>' in text
    assert "<thead>" not in text


HOSTILE = "<script>alert('1')</script>&amp; \"x\""


@pytest.mark.parametrize("kind", ["table", "plan", "transcript", "diff", "result", "snapshot", "ledger", "<b>"])
def test_everything_is_escaped(kind: str) -> None:
    columns = ("#", "op or call", "arguments", "errno", "in a shell", "before", "man page") if kind != "result" else ("", "")
    cells = tuple(HOSTILE for _ in columns)
    rows = (cells, tuple(Volatile(HOSTILE) for _ in columns), tuple(HOSTILE + "\n" + "y" * LONG for _ in columns))
    if kind == "result":
        rows += (("stdout", HOSTILE), ("exit code", HOSTILE))
    text = html(Sheet(HOSTILE, columns, rows, (HOSTILE,), kind))
    page = Page(text)
    assert "script" not in page.texts
    assert "".join(page.texts["caption"]) == HOSTILE
    assert "".join(page.texts["p"]) == HOSTILE
    assert page.rows[-1][-1].startswith(HOSTILE)


def test_volatile_cells_can_be_masked() -> None:
    def sheet(pid: str, usec: str) -> Sheet:
        return Sheet(Volatile(f"run {pid}"), ("pid", "µs"), ((Volatile(pid), Volatile(usec)), ("1", "2")), (Volatile(f"at\n{pid}"),))

    one, two = html(sheet("17", "3")), html(sheet("23456\n7", "400"))
    assert one != two
    assert VOLATILE.sub("…", one) == VOLATILE.sub("…", two)
    assert "17" not in VOLATILE.sub("…", one).partition("</style>")[2]


def test_a_long_table_keeps_its_ends_and_masks_alike() -> None:
    def sheet(usec: int) -> Sheet:
        return Sheet("Long", ("#", "op", "µs"), tuple((str(n), "Mount", Volatile("9" * usec)) for n in range(WHOLE + 1)), (), "plan")

    text = html(sheet(1))
    page = Page(text)
    assert [row[0] for row in page.rows[1:]] == [str(n) for n in range(WHOLE + 1)]  # nothing is lost
    assert page.texts["summary"] == [f"{WHOLE + 1 - HEAD - TAIL} more rows: {HEAD} to {WHOLE - TAIL}"]
    before, folded = text.split("<details>")
    assert before.count("<tr>") == HEAD + 1
    assert folded.split("</details>")[1].count("<tr>") == TAIL
    assert len(page.texts["caption"]) == len(page.texts["thead"]) == 1
    assert VOLATILE.sub("…", text) == VOLATILE.sub("…", html(sheet(9)))  # the widths of columns don't depend on it
    assert "<details>" not in html(sheet(1).replace(rows=sheet(1).rows[:-1]))


def test_long_code_unfolds_to_the_whole() -> None:
    line = "mount -t overlay " + "x" * LONG
    page = Page(html(Sheet("", ("in a shell",), ((line,), ("true",)))))
    assert page.texts["code"][1] == line
    assert len(page.texts["summary"][0]) < LONG
    assert page.texts["code"][2] == "true"


def test_a_result() -> None:
    rows = (("exit code", "3"), ("stdout", "\n a\n<b>"), ("stderr", ""), ("time", Volatile("1 ms")))
    text = html(Sheet("sh", ("", ""), rows, (), "result"))
    page = Page(text)
    assert "<pre>\n\n a\n&lt;b&gt;</pre>" in text  # HTML swallows one newline after <pre>
    assert '<span class="nsb-bad">3</span>' in text
    assert page.texts["em"] == ["nothing"]
    assert '<span class="nsb-good">0</span>' in html(Sheet("true", ("", ""), (("exit code", "0"),), (), "result"))


def test_a_difference() -> None:
    page = Page(html(Difference("What changed", (Change("hostname", "a", "b"), Change("mounts[/]", None, "ext4"))).sheet()))
    assert page.texts["del"] == ["a"]
    assert page.texts["ins"] == ["b", "ext4"]
    nothing = html(Difference("What changed").sheet())
    assert "<thead>" not in nothing
    assert "nothing changed" in nothing


CALLS = (
    Call("op", "Mount", "mount proc on /proc", "-1", 16, 12.4, "child", 0, 27),
    Call("syscall", "mount", '"proc", "/proc"', "-1", 16, 10.2, "child", 71, 27),
    Call("op", "Exec", "become sh", "0", 0, 3.0, "child", 0, 28),
    Call("syscall", "pidfd_open", "71", "9", 0, 1.0, "caller", 3),
)


def test_a_transcript() -> None:
    transcript = Transcript(CALLS)
    sheet = transcript.sheet()
    assert sheet.title == "Transcript: 2 ops, 2 calls, 2 failed"
    assert sheet.rows[0] == ("27", "child", "Mount", "mount proc on /proc", "", "EBUSY", "12")
    assert sheet.rows[1][:3] == ("", "child", "  mount")
    assert sheet.rows[3][2:5] == ("pidfd_open", "71", "9")
    assert isinstance(sheet.rows[3][4], Volatile)
    assert all(isinstance(row[-1], Volatile) for row in sheet.rows)
    text = html(sheet)
    page = Page(text)
    assert page.texts["strong"][1:] == ["Mount", "Exec"]
    assert text.count('<td class="nsb-bad">') == 4  # the name and the errno of both failures
    assert "&nbsp;&nbsp;&nbsp;&nbsp;<code>mount</code>" in text  # its call, indented, also without a style
    assert str(transcript) == sheet.text()
    assert transcript._repr_mimebundle_() == {"text/plain": sheet.text(mask=True), "text/html": text}


def test_an_empty_transcript() -> None:
    assert Page(html(Transcript().sheet())).texts["p"] == ["nothing was called"]


def test_long_arguments_are_cut_in_the_display_alone() -> None:
    transcript = Transcript([Call("syscall", "mount", "x" * 300, "0")])
    assert len(transcript.sheet().rows[0][3]) < 150
    assert len(transcript[0].args) == 300


def test_man_pages_are_linked() -> None:
    text = html(Sheet("", ("man page",), (("mount(2), Documentation/x",), ("PR_SET_NO_NEW_PRIVS(2const)",))))
    assert '<a href="https://man7.org/linux/man-pages/man2/mount.2.html">mount(2)</a>, Documentation/x' in text
    assert "man2const/PR_SET_NO_NEW_PRIVS.2const.html" in text


def test_the_face_offers_html() -> None:
    import nsbook

    assert mimebundle(nsbook.ledger().sheet())["text/html"] == html(nsbook.ledger().sheet())


cells = st.text(max_size=12).map(lambda s: "".join(c for c in s if c not in "\r\0\ud800"))


@settings(max_examples=60)
@given(st.lists(st.tuples(cells, cells, cells), max_size=5), st.sampled_from(["table", "plan", "diff", "snapshot", "ledger"]), cells)
def test_any_text_comes_through(rows: list[tuple[str, str, str]], kind: str, title: str) -> None:
    sheet = Sheet(title, ("what", "before", "in a shell"), tuple(rows), (), kind)
    text = html(sheet)
    assert text == html(sheet)
    page = Page(text)
    assert len(page.rows) == (len(rows) + 1 if rows else (1 if page.rows else 0))
    for shown, row in zip(page.rows[1:], rows, strict=True):
        assert [_seen(c) for c in shown] == [_seen(c) for c in row]


def _seen(text: str) -> str:
    """Without white space, which HTML treats in its own way."""
    return "".join(text.split())


@pytest.mark.parametrize("names", [("palette", "sheet"), ("palette", "assembly")])
def test_a_style_sheet_is_one_line_within_our_own_walls(names: tuple[str, ...]) -> None:
    text = css(*names)
    assert "\n" not in text
    assert "<" not in text
    assert "/*" not in text
    assert text.count("{") == text.count("}")
    for selector in re.findall(r"([^{}]+)\{", text):
        if not selector.startswith("@"):
            assert all(".nsb" in part for part in re.split(r",(?![^(]*\))", selector)), selector


def test_every_colour_is_in_the_palette_in_both_themes() -> None:
    palette = (HERE / "palette.css").read_text()
    light, dark = palette.split('[data-jp-theme-light="false"]')
    colours = re.findall(r"(--nsb-[a-z]+): #", light)
    assert len(colours) >= 6
    assert re.findall(r"(--nsb-[a-z]+): #", dark) == colours
    for path in HERE.glob("*.css"):
        text = path.read_text()
        if path.name != "palette.css":
            assert not re.search(r"#[0-9a-f]{3,8}\b|rgba?\(", text), path.name
        used = set(re.findall(r"var\((--nsb-[a-z]+)", text))
        assert used <= set(re.findall(r"(--nsb-[a-z]+):", palette)), path.name


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _over(colour: str, share: float, ground: str) -> str:
    mixed = [round(share * int(colour[i : i + 2], 16) + (1 - share) * int(ground[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{c:02x}" for c in mixed)


def test_every_coloured_word_can_be_read() -> None:
    """At least 4.5:1 (WCAG 2.2, 1.4.3) on JupyterLab's grounds, also on a chip of its own colour."""
    light, dark = (HERE / "palette.css").read_text().split('[data-jp-theme-light="false"]')
    for text, ground in ((light, "#ffffff"), (dark, "#111111"), (dark, "#212121")):
        for name, colour in re.findall(r"(--nsb-[a-z]+): (#[0-9a-f]{6})", text):
            chip = _over(colour, 0.11, ground)
            low, high = sorted((_luminance(colour), _luminance(chip)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (name, colour, ground)
