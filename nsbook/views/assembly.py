"""The live view of an :class:`~nsbook.Assembly`: its ops, and what the kernel says between them.

The page (``assembly.js``) sends what was clicked as messages and draws two traits: ``plan``, sent once, and ``state``, sent
after every click and after every cell that moved the assembly. An assembly has one view model, however often it is shown,
and a cell that is run again ends the model that it had made for an assembly before: neither comms nor threads pile up.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet, WeakValueDictionary

from anywidget import AnyWidget
from IPython.core.getipython import get_ipython
from traitlets import Dict, List, Unicode

from nsbook.container import Assembly
from nsbook.inspectable import mimebundle
from nsbook.views import assembly_state
from nsbook.views.style import css, script


class AssemblyView(AnyWidget):
    """A live view of ``assembly``. It does what is clicked at once, in the kernel's main thread, and refuses nothing that
    the assembly does not refuse; an error is shown in the view and never raised into the kernel."""

    _esm = Unicode(script("assembly")).tag(sync=True)
    _css = Unicode(css("palette", "assembly")).tag(sync=True)
    title = Unicode().tag(sync=True)
    plan: List[Any] = List().tag(sync=True)
    state = Dict().tag(sync=True)

    def __init__(self, assembly: Assembly) -> None:
        self.assembly = assembly
        self.cells: dict[str, str] = {}
        self._serial = 0
        self._at: tuple[Any, ...] = ()
        super().__init__(title=" ".join(assembly.plan.ops[-1].to_dict().get("argv", ())), plan=assembly_state.plan(assembly))
        self.on_msg(self._asked)
        self.refresh()

    def refresh(self, refused: dict[str, str] | None = None, *, by: str = "") -> None:
        """Look again, and say what has changed since the last look. ``by``: the click that it answers."""
        before = dict(self.state)
        try:
            state = assembly_state.look(self.assembly)
        except Exception as error:
            state = {**before, "error": refused or assembly_state.refusal(error)}
        else:
            moved = state["done"] != before.get("done") or state["phase"] != before.get("phase")
            changes = assembly_state.changes(before, state)
            state["changes"] = changes if moved or changes or by else before.get("changes", [])
            state["error"] = refused
            self._at = self._where()
        self._serial += 1
        self.state = {**state, "serial": self._serial}

    def keep_up(self) -> None:
        """Refresh if the assembly has moved since the last look, or if its command may have written something."""
        at = self._where()
        if at != self._at or at[0] == "running":
            self.refresh()

    def _where(self) -> tuple[Any, ...]:
        assembly = self.assembly
        return assembly.state, assembly.done, assembly.pid

    def _asked(self, _: Any, asked: Any, __: Any) -> None:
        """A click. Nothing that it brings about may end the kernel's loop."""
        assembly, refused, what = self.assembly, None, asked.get("do", "")
        try:
            match what:
                case "step":
                    assembly.step()
                case "run_to":
                    assembly.run_to(int(asked["to"]))
                case "undo":
                    assembly.undo()
                case "start over":
                    assembly.undo(len(assembly.plan) + len(assembly.done))
                case "close":
                    assembly.close()
        except Exception as error:
            refused = assembly_state.refusal(error)
        self.refresh(refused, by=what)

    def close(self) -> None:
        """End the view, not the assembly."""
        _views.pop(id(self.assembly), None)
        self.layout.close()  # a widget with a comm of its own, which ipywidgets leaves open
        super().close()

    def __repr__(self) -> str:
        state, plan = self.assembly.state, self.assembly.plan
        return f"<AssemblyView: {len(self.assembly.done)} of {len(plan)} ops done, {state}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The live view; where there is none (a page without a kernel) the assembly's own table."""
        live = super()._repr_mimebundle_(**kwargs)
        data, metadata = live if isinstance(live, tuple) else (live or {}, {})
        return {**data, **mimebundle(self.assembly.sheet())}, metadata


_views: WeakValueDictionary[int, AssemblyView] = WeakValueDictionary()
"""Views by the id of their assembly, which lives as long as its view does."""
_shells: WeakSet[Any] = WeakSet()
"""Shells that tell us when a cell has run."""


def view(assembly: Assembly) -> AssemblyView:
    """The view of this assembly: the one that there is, or a new one."""
    found = _views.get(id(assembly))
    if found is None:
        found = _views[id(assembly)] = AssemblyView(assembly)
    cell, execution = _cell()
    if cell:
        for other in list(_views.values()):
            if other is not found and other.cells.get(cell, execution) != execution:
                del other.cells[cell]  # its output has been replaced
                if not other.cells:
                    other.close()
        found.cells[cell] = execution
    return found


def _cell() -> tuple[str, str]:
    """The cell that is being run and which run of it this is; empty outside of a notebook."""
    shell = get_ipython()
    parent = getattr(shell, "parent_header", None)
    if shell is None or not parent:
        return "", ""
    if shell not in _shells:
        _shells.add(shell)
        shell.events.register("post_run_cell", _cell_has_run)
    return str(parent.get("metadata", {}).get("cellId", "")), str(parent.get("header", {}).get("msg_id", ""))


def _cell_has_run(_: Any) -> None:
    for each in list(_views.values()):
        try:
            each.keep_up()
        except Exception as error:
            each.refresh(assembly_state.refusal(error))
