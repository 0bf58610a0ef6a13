"""nsbook's source as the architecture tests read it: modules, what they import, and where."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "nsbook"


class Import(NamedTuple):
    """``module`` names a module of ours where it is one, else what the statement says. ``late``: inside a function."""

    module: str
    line: int
    late: bool
    typing_only: bool


class Module(NamedTuple):
    """``name`` is dotted; a package bears its own name."""

    name: str
    path: Path
    tree: ast.Module
    text: str

    @property
    def floor(self) -> str:
        """The first part below nsbook: ``linux``, ``spawn``, ``errors``...; ``nsbook`` for the face itself."""
        return self.name.split(".")[1] if "." in self.name else "nsbook"

    def __repr__(self) -> str:
        return self.name

    @property
    def where(self) -> str:
        return str(self.path.relative_to(ROOT))


@cache
def modules() -> dict[str, Module]:
    """All of nsbook, by name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text()
        found[name] = Module(name, path, ast.parse(text, str(path)), text)
    return found


def imports(module: Module) -> Iterator[Import]:
    """Every import statement, however deep."""
    yield from _imports(module, module.tree, late=False, typing_only=False)


def _imports(module: Module, node: ast.AST, *, late: bool, typing_only: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, late, typing_only)
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            if child.level:  # relative
                parts = module.name.split(".")
                keep = len(parts) - child.level + (module.path.name == "__init__.py")
                base = ".".join([*parts[:keep], *filter(None, [child.module])])
            for alias in child.names:
                full = f"{base}.{alias.name}"
                yield Import(full if full in modules() else base, child.lineno, late, typing_only)
        elif isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            for statement in child.body:
                yield from _imports(module, _wrap(statement), late=late, typing_only=True)
            for statement in child.orelse:
                yield from _imports(module, _wrap(statement), late=late, typing_only=typing_only)
        else:
            inside = late or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(module, child, late=inside, typing_only=typing_only)


def _wrap(statement: ast.stmt) -> ast.Module:
    return ast.Module(body=[statement], type_ignores=[])


def calls(module: Module) -> Iterator[tuple[str, int]]:
    """What is called, as it is written (``os.fork``, ``clone3``), and the line."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno
