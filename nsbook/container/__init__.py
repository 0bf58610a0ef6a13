"""Where content meets the kernel: an image and options become a plan, and the plan becomes a container.

* :mod:`nsbook.container.spec`: options -> an OCI runtime configuration (runtime-spec, config.md and config-linux.md).
* :mod:`nsbook.container.compile`: such a configuration, ours or podman's -> a plan.
* :mod:`nsbook.container.container`: one container's life. :mod:`nsbook.container.assembly`: one that is built op by op.

Imports primitives, images, spawn and linux; engine, API and command line stand above it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nsbook.container.assembly import Assembly as Assembly
    from nsbook.container.container import Container as Container
    from nsbook.spawn.result import Result as Result

_names = {"Assembly": "container.assembly", "Container": "container.container", "Result": "spawn.result"}


def __getattr__(name: str) -> Any:
    if name not in _names:
        raise AttributeError(f"nsbook.container has no {name!r}")
    from importlib import import_module

    return getattr(import_module(f"nsbook.{_names[name]}"), name)
