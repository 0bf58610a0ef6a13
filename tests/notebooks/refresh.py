"""Run the chapters and store their outputs: ``.venv/bin/python tests/notebooks/refresh.py [NOTEBOOK...]``, as root.

The stored outputs are those of a real run. What a commit must not carry (widget state, execution times, addresses) is
taken out.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def refresh(path: Path) -> None:
    """Execute one chapter in place. Raises when a cell fails."""
    book = nbformat.read(path, as_version=4)
    NotebookClient(
        book, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}, store_widget_state=False
    ).execute()
    book.metadata.pop("widgets", None)
    book.metadata["language_info"] = {"name": "python"}
    for cell in book.cells:
        cell.metadata.pop("execution", None)
    nbformat.write(book, path)


if __name__ == "__main__":
    for chapter in [Path(name) for name in sys.argv[1:]] or sorted(NOTEBOOKS.glob("*.ipynb")):
        print(chapter.name, flush=True)
        refresh(chapter)
