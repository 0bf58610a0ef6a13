"""What ``import nsbook`` loads: the launcher and the OCI runtime import it too, so it must cost nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {
    *("dataclasses", "inspect", "re", "enum", "typing", "pathlib", "json", "ctypes", "subprocess", "asyncio", "logging"),
    *("psutil", "pyroute2", "rich", "IPython", "traitlets", "ipywidgets", "anywidget", "matplotlib", "numpy", "nbformat"),
}


def loaded(statement: str) -> set[str]:
    """The modules that a bare Python has after the statement and had not before."""
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); before = set(sys.modules); {statement}; "
        "after = set(sys.modules) - before; import json; print(json.dumps(sorted(after)))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], stdout=subprocess.PIPE, check=True, timeout=30)
    return set(json.loads(done.stdout))


def test_the_face_is_light() -> None:
    after = loaded("import nsbook")
    assert "nsbook" in after
    assert not after & HEAVY
    assert not {name for name in after if name.startswith("nsbook.") and name.count(".") > 1}


def test_asking_for_one_name_does_not_load_the_others() -> None:
    after = loaded("import nsbook; nsbook.record")
    assert "nsbook.trace" in after
    assert not {name for name in after if name.startswith(("nsbook.container", "nsbook.views", "nsbook.images"))}


def test_dir_loads_nothing() -> None:
    assert "nsbook.container" not in loaded("import nsbook; dir(nsbook)")
