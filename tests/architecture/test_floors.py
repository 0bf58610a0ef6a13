"""The walls of the house: who may import whom, and what may be done where (over the AST; nothing is imported)."""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from source import PACKAGE, ROOT, Module, calls, imports, modules

GROUND = {"frozen", "errors", "trace", "progress", "inspectable", "places"}
BELOW_CONTAINER = GROUND | {"linux", "images", "spawn", "primitives", "doctor"}

MAY_IMPORT: dict[str, set[str]] = {
    "frozen": set(),
    "errors": set(),
    "places": set(),
    "trace": {"frozen", "inspectable"},
    "progress": {"frozen"},
    "inspectable": {"frozen", "errors"},
    "linux": GROUND,
    "images": GROUND | {"linux"},
    "spawn": GROUND | {"linux"},
    "primitives": GROUND | {"linux", "spawn"},
    "doctor": GROUND | {"linux", "spawn", "primitives"},
    "container": BELOW_CONTAINER,
    "engine": BELOW_CONTAINER | {"container"},
    "guest": BELOW_CONTAINER | {"container"},
    "book": BELOW_CONTAINER | {"container", "engine", "guest"},
    "api": BELOW_CONTAINER | {"container", "engine"},
    "cli": BELOW_CONTAINER | {"container", "engine", "guest", "book", "api"},
    "jupyter": BELOW_CONTAINER | {"container", "engine", "guest", "book"},
    "views": BELOW_CONTAINER | {"container", "engine", "guest", "book"},
    "nsbook": {"inspectable"},  # the face names the others for type checkers only
}
"""Which floors each floor may import, besides itself. Nothing may import ``views``."""

STARTS_PROCESSES: dict[str, str] = {
    "guest": "boots User Mode Linux or QEMU, which is no container of ours",
    "nsbook.images.base": "asks this host's busybox for its list of applets",
}
"""Who but ``spawn`` starts processes, and why: a floor or a module."""

FORKING_MODULES = {"subprocess", "multiprocessing", "concurrent.futures.process", "pty"}
FORKING_CALLS = {
    *("os.fork", "os.forkpty", "os.system", "os.popen", "os.posix_spawn", "os.posix_spawnp"),
    *("os.execv", "os.execve", "os.execvp", "os.execvpe", "os.execl", "os.execle", "os.execlp", "os.execlpe"),
    *("asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell"),
    *("clone3", "clone", "vfork", "unshare", "setns"),
}
"""A name without a dot is that of a wrapper in ``linux``, whatever it is called through."""

FORBIDDEN_NAMES = {"util", "utils", "helper", "helpers", "manager", "managers", "misc", "common"}
LONGEST = 460
IMPORT_THE_FACE = {"cli", "book", "guest", "jupyter", "views"}
"""Those above it, for its version or its names."""
COSTLY = {"dataclasses", "enum", "re", "pathlib", "typing", "inspect", "logging"}
NOTEBOOK = {"IPython", "ipykernel", "ipywidgets", "anywidget", "traitlets", "matplotlib"}


def test_nothing_imports_upwards() -> None:
    wrong = []
    for module in modules().values():
        assert module.floor in MAY_IMPORT, f"{module.where}: a floor that MAY_IMPORT does not know"
        allowed = MAY_IMPORT[module.floor] | {module.floor}
        for what in imports(module):
            if what.module.split(".")[0] != "nsbook" or (module.name == "nsbook" and what.typing_only):
                continue
            floor = modules()[what.module].floor if what.module in modules() else what.module
            if floor == "nsbook" and module.floor in IMPORT_THE_FACE:
                continue
            if floor not in allowed:
                wrong.append(f"{module.where}:{what.line}: {module.floor} may not import {what.module}")
    assert not wrong, "\n".join(wrong)


def test_no_circles() -> None:
    """Among imports that run when a module is loaded."""
    graph = {
        name: {i.module for i in imports(module) if not i.late and not i.typing_only and i.module in modules()} - {name}
        for name, module in modules().items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("a circle of imports: " + " <- ".join(error.args[1]))


def test_views_are_hung_in_by_name_only() -> None:
    """By the face, as strings; a model knows no widget."""
    wrong = [m.where for m in modules().values() if m.floor not in ("views", "nsbook") and "nsbook.views" in m.text]
    assert not wrong


def test_ctypes_is_linux_s_alone() -> None:
    wrong = [
        f"{module.where}:{what.line} imports {what.module}"
        for module in modules().values()
        for what in imports(module)
        if what.module.split(".")[0] in ("ctypes", "_ctypes", "cffi") and module.floor != "linux"
    ]
    assert not wrong, "\n".join(wrong)


def starts(module: Module) -> list[str]:
    """Where the module starts processes, or changes its own process's namespaces."""
    found = [
        f"{module.where}:{what.line} imports {what.module}"
        for what in imports(module)
        if not what.typing_only and what.module in FORKING_MODULES
    ]
    for call, line in calls(module):
        if call in FORKING_CALLS or call.rpartition(".")[2] in FORKING_CALLS:
            found.append(f"{module.where}:{line} calls {call}")
    return found


def test_only_spawn_starts_processes() -> None:
    wrong = [
        line
        for module in modules().values()
        if module.floor not in ("spawn", "linux") and not {module.floor, module.name} & STARTS_PROCESSES.keys()
        for line in starts(module)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", sorted(STARTS_PROCESSES))
def test_the_exceptions_are_needed(name: str) -> None:
    """An exception that is no longer used goes."""
    assert any(starts(m) for m in modules().values() if name in (m.floor, m.name)), f"{name} starts no process: off the list"


def test_pyroute2_is_loaded_when_a_network_is_asked_for() -> None:
    """It costs 95 to 170 ms and 5 to 11 MiB, and it does not work in the thread of a notebook cell."""
    wrong = [
        f"{module.where}:{what.line}"
        for module in modules().values()
        for what in imports(module)
        if what.module.split(".")[0] == "pyroute2" and not (module.floor == "linux" and (what.late or what.typing_only))
    ]
    assert not wrong, "netlink is linux's, and imported inside functions: " + ", ".join(wrong)


def test_the_cold_start_is_lean() -> None:
    """These cost more to load than the OCI runtime's command line may take in all."""
    wrong = [
        f"{module.where}:{what.line} loads {what.module}"
        for module in modules().values()
        if module.floor in ("linux", "spawn")
        for what in imports(module)
        if not what.late and not what.typing_only and what.module.split(".")[0] in COSTLY
    ]
    assert not wrong, "\n".join(wrong)


def test_only_views_and_jupyter_know_the_notebook() -> None:
    wrong = [
        f"{module.where}:{what.line} imports {what.module}"
        for module in modules().values()
        if module.floor not in ("jupyter", "views")
        for what in imports(module)
        if what.module.split(".")[0] in NOTEBOOK
    ]
    assert not wrong, "\n".join(wrong)


def sources() -> list[Path]:
    folders = ("nsbook", "tests", "binder")
    return sorted(p for f in folders for kind in ("*.py", "*.js", "*.mjs", "*.css") for p in (ROOT / f).rglob(kind))


def test_files_are_short() -> None:
    """One subject each."""
    long = {
        str(p.relative_to(ROOT)): n for p in sources() if ROOT / "nsbook" in p.parents and (n := len(p.read_text().splitlines())) > LONGEST
    }
    assert not long, f"over {LONGEST} lines: {long}"


def test_names_say_something() -> None:
    for path in sources():
        stems = {part.removesuffix(path.suffix) for part in path.relative_to(ROOT).parts}
        assert not stems & FORBIDDEN_NAMES, f"{path.relative_to(ROOT)}: what is in it?"


def test_every_module_says_what_it_is() -> None:
    texts = {module: ast.get_docstring(module.tree) or "" for module in modules().values()}
    assert not [module.where for module, text in texts.items() if len(text) < 20]
    short = [m.where for m, text in texts.items() if m.path.parent.parent == PACKAGE and is_package(m) and len(text) < 120]
    assert not short, f"what is this floor, whom may it import, what does it follow? {short}"


def is_package(module: Module) -> bool:
    return module.path.name == "__init__.py"
