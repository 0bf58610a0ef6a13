"""nsbook: take a container apart in a notebook, and put it together again.

The names below are imported when they are first used: the launcher and the OCI runtime import this package too, and it
must cost them nothing.
"""

from __future__ import annotations

from nsbook import inspectable as _inspectable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nsbook.container import Assembly as Assembly
    from nsbook.container import Container as Container
    from nsbook.doctor import doctor as doctor
    from nsbook.images import Image as Image
    from nsbook.primitives import Capabilities as Capabilities
    from nsbook.primitives import Cgroup as Cgroup
    from nsbook.primitives import Mount as Mount
    from nsbook.primitives import MountTable as MountTable
    from nsbook.primitives import Namespace as Namespace
    from nsbook.primitives import Overlay as Overlay
    from nsbook.primitives import Process as Process
    from nsbook.primitives import SeccompFilter as SeccompFilter
    from nsbook.spawn.ledger import ledger as ledger
    from nsbook.trace import record as record

__version__ = "0.1.0"

_names = {
    "Assembly": "container",
    "Container": "container",
    "doctor": "doctor",
    "Image": "images",
    "Capabilities": "primitives",
    "Cgroup": "primitives",
    "Mount": "primitives",
    "MountTable": "primitives",
    "Namespace": "primitives",
    "Overlay": "primitives",
    "Process": "primitives",
    "SeccompFilter": "primitives",
    "ledger": "spawn.ledger",
    "record": "trace",
}

_inspectable.renderers.update(
    {
        "html": "nsbook.views.sheet:html",
        "widget:Assembly": "nsbook.views.assembly:view",
    }
)


def __getattr__(name: str) -> Any:
    module = _names.get(name)
    if module is None:
        raise AttributeError(f"nsbook has no {name!r}. It has: {', '.join(sorted(_names))}")
    from importlib import import_module

    value = getattr(import_module(f"nsbook.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_names})
