"""images: content. What an image is, where it comes from, and how a layer becomes a directory.

No root, no namespaces, no mounts: everything here works in a pod that forbids the rest. Imports the ground and, of
``nsbook.linux``, only openat2(2) and its kin.

* :mod:`.image`: Image and Layer, immutable, known by their digests; :mod:`.config`
* :mod:`.base`: the embedded image, from the host's own files; :mod:`.elf` tells what those need
* :mod:`.sources`: images from a tar, a directory, a name
* :mod:`.layer`: ``apply``, safe against hostile archives through :mod:`.rooted`; :mod:`.pack`, from a directory to a layer
* :mod:`.tar`: the format; :mod:`.stream`: inflating and hashing
* :mod:`.store`: blobs and unpacked layers on disk

Sources: OCI image-spec 1.1; tar(5); pax(1) of POSIX; openat2(2); elf(5), ld.so(8).

The names below are imported when first used, so that a warm start reads no more than it runs.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nsbook.images.config import ImageConfig as ImageConfig
    from nsbook.images.image import Image as Image
    from nsbook.images.image import ImageSnapshot as ImageSnapshot
    from nsbook.images.image import Layer as Layer
    from nsbook.images.image import LayerSnapshot as LayerSnapshot
    from nsbook.images.sources import resolve as resolve
    from nsbook.images.store import unpacked as unpacked
    from nsbook.images.store import unpacked_layers as unpacked_layers
    from nsbook.places import data_root as data_root

_names = {
    "Image": "nsbook.images.image",
    "ImageConfig": "nsbook.images.config",
    "ImageSnapshot": "nsbook.images.image",
    "Layer": "nsbook.images.image",
    "LayerSnapshot": "nsbook.images.image",
    "data_root": "nsbook.places",
    "resolve": "nsbook.images.sources",
    "unpacked": "nsbook.images.store",
    "unpacked_layers": "nsbook.images.store",
}


def __getattr__(name: str) -> Any:
    module = _names.get(name)
    if module is None:
        raise AttributeError(f"nsbook.images has no {name!r}. It has: {', '.join(sorted(_names))}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_names})
