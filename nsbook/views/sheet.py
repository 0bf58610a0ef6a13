"""A sheet as static HTML: the default display of every object, in a notebook and on a page without a kernel.

The markup says everything by itself (caption, column and row heads, ``code``, ``del`` and ``ins``), because GitHub strips
the style sheet. It is deterministic: no ids, no times. What differs from run to run stands in ``<data class="nsb-v">``, on
one line, so that a comparison of stored outputs can mask it; the style sheet is one line in ``<style>``.
"""

from __future__ import annotations

import re
from html import escape

from nsbook.inspectable import Sheet, Volatile
from nsbook.views.style import css

WHOLE = 60
"""A table of up to this many rows is shown whole; of a longer one the middle is folded, because its ends say the most."""
HEAD, TAIL = 24, 16
NAME = 18
"""Up to this length a column's text is a name."""
LONG = 150
"""A longer piece of code is cut, and unfolds to the whole."""

CODE = frozenset(
    {"in a shell", "call", "op or call", "arguments", "result", "instruction", "path", "lowerdirs", "upperdir", "options", "digest"}
)
NUMBERS = frozenset({"#", "µs", "took", "bytes", "size", "entries", "layers", "files", "count", "pid"})
CHIPS = {
    "host": "host",
    "child": "child",
    "both": "both",
    "done": "good",
    "next": "new",
    "in use": "good",
    "left behind": "bad",
    "works": "good",
    "partly": "new",
    "refused": "bad",
}
CHIP_COLUMNS = frozenset({"", "where", "actor", "state", "verdict"})
PAGE = re.compile(r"([\w.+-]+)\((\d\w*)\)")


def html(sheet: Sheet) -> str:
    """The sheet as one HTML element, complete in itself."""
    rows = sheet.rows
    parts = []
    if len(rows) <= WHOLE:
        if rows or sheet.title:
            parts.append(_table(sheet, rows, _caption(sheet.title), heads=bool(rows)))
    else:
        middle = rows[HEAD:-TAIL]
        columns = _widths(sheet)
        parts.append(_table(sheet, rows[:HEAD], _caption(sheet.title) + columns, folded=True))
        said = f"{len(middle)} more rows" + (f": {escape(middle[0][0])} to {escape(middle[-1][0])}" if _numbered(sheet) else "")
        folded = _table(sheet, middle, columns, folded=True, heads=False)
        parts.append(f'<details><summary class="nsb-fold">{said}</summary>\n{folded}</details>')
        parts.append(_table(sheet, rows[-TAIL:], columns, folded=True, heads=False))
    parts += [f"<p>{_prose(note)}</p>" for note in sheet.notes]
    kind = re.sub(r"[^a-z0-9-]", "", sheet.kind.lower())
    body = "\n".join(parts)
    return f'<div class="nsb nsb-sheet nsb-{kind}"><style>{css("palette", "sheet")}</style>\n{body}\n</div>'


def _table(sheet: Sheet, rows: tuple[tuple[str, ...], ...], top: str, *, folded: bool = False, heads: bool = True) -> str:
    out = ['<table class="nsb-folded">' if folded else "<table>"]
    if top:
        out.append(top)
    if heads and any(sheet.columns):
        cells = "".join(f'<th scope="col"{_number(name)}>{escape(name)}</th>' for name in sheet.columns)
        out.append(f"<thead><tr>{cells}</tr></thead>")
    out.append("<tbody>")
    out += [_row(sheet, row) for row in rows]
    out.append("</tbody></table>")
    return "\n".join(out)


def _caption(title: str) -> str:
    return f"<caption><strong>{_plain(title)}</strong></caption>" if title else ""


def _row(sheet: Sheet, row: tuple[str, ...]) -> str:
    named = not any(sheet.columns) or sheet.kind in ("snapshot", "diff")
    failed = sheet.kind == "transcript" and bool(row[sheet.columns.index("errno")])
    cells = []
    for index, text in enumerate(row):
        column = sheet.columns[index] if index < len(sheet.columns) else ""
        shown = _cell(sheet, row, index, column)
        if index == 0 and named:
            cells.append(f'<th scope="row">{shown}</th>')
        elif failed and column in ("op or call", "errno") and text:
            cells.append(f'<td class="nsb-bad">{shown}</td>')
        else:
            cells.append(f"<td{_number(column)}>{shown}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _number(column: str) -> str:
    return ' class="nsb-n"' if column in NUMBERS else ""


def _cell(sheet: Sheet, row: tuple[str, ...], index: int, column: str) -> str:
    text = row[index]
    if isinstance(text, Volatile):
        return _plain(text)
    if sheet.kind == "result" and index == 1:
        return _outcome(row[0], text)
    if sheet.kind == "diff" and column in ("before", "after"):
        tag = "del" if column == "before" else "ins"
        return f"<{tag}>{_plain(text)}</{tag}>" if text else ""
    if column in CHIP_COLUMNS and text in CHIPS:
        return f'<span class="nsb-chip nsb-{CHIPS[text]}">{escape(text)}</span>'
    if column == "man page":
        return PAGE.sub(_link, escape(text))
    is_op = sheet.kind == "transcript" and bool(row[0])  # the calls below it are code
    if column == "op" or (is_op and column == "op or call"):
        return f"<strong>{escape(text)}</strong>"
    if is_op and column == "arguments":
        return _plain(text)
    if column in CODE and text not in ("", "—"):
        return _code(text)
    return _plain(text)


def _outcome(name: str, text: str) -> str:
    """A value of a command's result: what it wrote, as it wrote it."""
    if name == "exit code":
        return f'<span class="nsb-{"good" if text == "0" else "bad"}">{escape(text)}</span>'
    if name in ("stdout", "stderr"):
        return _pre(text) if text else "<em>nothing</em>"
    return _plain(text)


def _plain(text: str) -> str:
    """Text with its lines and its indentation, which HTML would swallow."""
    if isinstance(text, Volatile):
        return f'<data class="nsb-v">{escape(text).replace(chr(10), "<br>")}</data>'
    if "\n" in text:
        return _pre(text)
    inner = text.lstrip(" ")
    return "&nbsp;" * (2 * (len(text) - len(inner))) + escape(inner)


def _pre(text: str) -> str:
    # The first newline after <pre> is HTML's, not the text's: one more keeps a text that begins with a newline.
    return f"<pre>{chr(10) if text.startswith(chr(10)) else ''}{escape(text)}</pre>"


def _code(text: str) -> str:
    inner = text.lstrip(" ")
    indent = "&nbsp;" * (2 * (len(text) - len(inner)))
    shown = escape(inner).replace("\n", "<br>")
    if len(inner) <= LONG:
        return f"{indent}<code>{shown}</code>"
    short = escape(" ".join(inner[: LONG - 30].split("\n")))
    return f"{indent}<details><summary><code>{short} …</code></summary><code>{shown}</code></details>"


def _link(found: re.Match[str]) -> str:
    """A man page's place on the web."""
    name, section = found[1], found[2]
    return f'<a href="https://man7.org/linux/man-pages/man{section}/{name}.{section}.html">{found[0]}</a>'


def _prose(text: str) -> str:
    """A sentence; what stands between backticks is code."""
    shown = _plain(text)
    return shown if isinstance(text, Volatile) else re.sub(r"`([^`]+)`", r"<code>\1</code>", shown)


def _numbered(sheet: Sheet) -> bool:
    return bool(sheet.columns) and sheet.columns[0] == "#" and all(row[0].isdigit() for row in sheet.rows)


def _widths(sheet: Sheet) -> str:
    """Columns of equal width in the parts of a folded table: names get the room that they need (in pixels, at the size
    that the style sheet gives them), texts share the rest. A volatile cell's length has no part in it."""
    count = max(len(row) for row in sheet.rows)
    out = []
    for index in range(count):
        head = sheet.columns[index] if index < len(sheet.columns) else ""
        lengths = sorted(8 if isinstance(row[index], Volatile) else len(row[index]) for row in sheet.rows if index < len(row))
        usual = lengths[len(lengths) * 9 // 10]
        longest = lengths[-1] if lengths[-1] <= NAME else usual
        letter = 8.6 if head in ("op", "op or call") else 7.2  # bold
        wide = "" if usual > NAME else f' width="{16 + max(len(head), longest) * letter:.0f}"'
        out.append(f"<col{wide}>")
    # With nothing but names in it, fixed widths would leave none for what the window is wider than they.
    return f"<colgroup>{''.join(out)}</colgroup>" if "<col>" in out else ""
