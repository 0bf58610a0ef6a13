"""Each thing of the kernel's that a container is made of, as one object that can be made, looked at, explained and undone.

Made: :class:`Namespace`, :class:`Cgroup`, :class:`Mount`, :class:`Overlay`. Values: :class:`Capabilities`,
:class:`SeccompFilter`. Observers: :class:`MountTable`, :class:`Process`. All keep the object protocol of
:mod:`nsbook.inspectable`. Imports spawn and linux; never images: ``container`` is where the two meet.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nsbook.primitives.capabilities import Capabilities as Capabilities
    from nsbook.primitives.cgroup import Cgroup as Cgroup
    from nsbook.primitives.mount import Mount as Mount
    from nsbook.primitives.mount import MountTable as MountTable
    from nsbook.primitives.namespace import Namespace as Namespace
    from nsbook.primitives.overlay import Overlay as Overlay
    from nsbook.primitives.process import Process as Process
    from nsbook.primitives.seccomp import SeccompFilter as SeccompFilter

_names = {
    "Capabilities": "capabilities",
    "Cgroup": "cgroup",
    "Mount": "mount",
    "MountTable": "mount",
    "Namespace": "namespace",
    "Overlay": "overlay",
    "Process": "process",
    "SeccompFilter": "seccomp",
}


def __getattr__(name: str) -> Any:
    if name not in _names:
        raise AttributeError(f"nsbook.primitives has no {name!r}")
    from importlib import import_module

    return getattr(import_module(f"nsbook.primitives.{_names[name]}"), name)
