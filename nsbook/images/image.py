"""Images and layers: immutable values, known by their digests.

An image is its configuration and its layers, base first (OCI image-spec, ``manifest.md``, ``config.md``). Four digests
are easily mixed up, so they keep the specification's names: a layer's **diff_id** is that of the uncompressed tar; a
**chain_id** that of a stack of layers; the **image_id** that of the configuration; the image's **digest** that of the
manifest, which names the configuration and the stored layers.
"""

from __future__ import annotations

import os

from nsbook.frozen import Frozen
from nsbook.images.config import ImageConfig, canonical, sha256
from nsbook.inspectable import Inspectable, Sheet, Snapshot, Volatile, now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from nsbook.images.layer import Applied
    from nsbook.images.tar import Limits
    from nsbook.progress import Progress


class EntrySnapshot(Frozen):
    """One entry of a layer. ``mode`` is octal text, ``mtime`` in ns."""

    path: str
    kind: str
    mode: str
    uid: int
    gid: int
    size: int
    mtime: int
    target: str = ""


class LayerRow(Frozen):
    """A layer as a row of its image's snapshot (which has the time stamp)."""

    diff_id: str
    size: int
    stored: int
    compression: str


class LayerSnapshot(Snapshot):
    """A layer as it is: its digest, bytes of the uncompressed tar, bytes as stored, and how it is compressed."""

    diff_id: str
    size: int
    stored: int
    compression: str


class ImageSnapshot(Snapshot):
    """An image as it is. ``layers`` are base first; ``size`` is the sum of the uncompressed tars."""

    name: str
    digest: str
    image_id: str
    config: ImageConfig
    layers: tuple[LayerRow, ...]
    size: int


class Layer(Inspectable, Frozen):
    """One layer: ``diff_id`` (sha256 of the uncompressed tar), ``size`` (bytes of it) and where its bytes lie (``path``; with
    ``compression``, ``stored`` bytes). Equal to any layer of the same diff_id."""

    diff_id: str
    size: int
    path: str
    stored: int
    compression: str = ""

    def __eq__(self, other: object) -> bool:
        return self.diff_id == other.diff_id if isinstance(other, Layer) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.diff_id)

    def apply(
        self,
        directory: str | os.PathLike[str],
        *,
        encoding: str = "plain",
        limits: Limits | None = None,
        progress: Progress | None = None,
    ) -> Applied:
        """Unpack it into an existing directory, and check its digest on the way: :func:`nsbook.images.layer.apply`."""
        from nsbook.images.layer import apply
        from nsbook.progress import silent

        return apply(self.path, directory, limits=limits, encoding=encoding, diff_id=self.diff_id, progress=progress or silent)

    def entries(self) -> tuple[EntrySnapshot, ...]:
        """What is in it, in the archive's order. Reads the whole layer; unpacks nothing."""
        from nsbook.images.stream import plain_stream
        from nsbook.images.tar import Reader

        with open(self.path, "rb", buffering=0) as file:
            read, _ = plain_stream(file)
            return tuple(
                EntrySnapshot(e.path, e.kind, f"{e.mode:04o}", e.uid, e.gid, e.size, e.mtime, e.target.decode("utf-8", "surrogateescape"))
                for e in Reader(read)
            )

    def inspect(self) -> LayerSnapshot:
        """Its digest and sizes."""
        return LayerSnapshot(now(), self.diff_id, self.size, self.stored, self.compression or "none")

    def sheet(self) -> Sheet:
        """Field by field."""
        rows = (
            ("diff_id", Volatile(self.diff_id)),
            ("size", Volatile(_bytes(self.size))),
            ("stored", Volatile(_bytes(self.stored))),
            ("compression", self.compression or "none"),
        )
        return Sheet("Layer", ("field", "value"), rows, (), "layer")


class Image(Inspectable, Frozen):
    """An image: ``Image.base()``, ``Image.from_tar(path)``, ``Image.from_directory(path)``. Equal to any image of the same
    digest; the name is only what it is called here."""

    name: str
    config: ImageConfig
    layers: tuple[Layer, ...]
    image_id: str
    digest: str

    @classmethod
    def of(cls, name: str, config: ImageConfig, layers: tuple[Layer, ...]) -> Self:
        """The image that is made of these; its digests are computed."""
        document = config.document(tuple(layer.diff_id for layer in layers))
        image_id = sha256(document)
        return cls(name, config, layers, image_id, sha256(manifest(image_id, len(document), layers)))

    @classmethod
    def base(cls) -> Image:
        """The embedded image, assembled from this host's own files: :mod:`nsbook.images.base`."""
        from nsbook.images.base import base

        return base()

    @classmethod
    def from_tar(cls, path: str | os.PathLike[str]) -> Image:
        """A rootfs in a tar, plain or in gzip (mmdebstrap makes them): :func:`nsbook.images.sources.from_tar`."""
        from nsbook.images.sources import from_tar

        return from_tar(path)

    @classmethod
    def from_directory(cls, path: str | os.PathLike[str]) -> Image:
        """A directory's content, packed into one layer: :func:`nsbook.images.sources.from_directory`."""
        from nsbook.images.sources import from_directory

        return from_directory(path)

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, Image) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def size(self) -> int:
        """Bytes of all layers, uncompressed."""
        return sum(layer.size for layer in self.layers)

    @property
    def chain_ids(self) -> tuple[str, ...]:
        """Of the stack up to each layer, base first: the first is the diff_id, and each next one the sha256 of the one
        before, a blank, and the layer's diff_id (``config.md``, "Layer ChainID")."""
        chain: list[str] = []
        for layer in self.layers:
            chain.append(layer.diff_id if not chain else sha256(f"{chain[-1]} {layer.diff_id}".encode()))
        return tuple(chain)

    @property
    def chain_id(self) -> str:
        """Of the whole stack; "" without a layer."""
        return self.chain_ids[-1] if self.layers else ""

    def inspect(self) -> ImageSnapshot:
        """All of it as plain data."""
        layers = tuple(LayerRow(x.diff_id, x.size, x.stored, x.compression or "none") for x in self.layers)
        return ImageSnapshot(now(), self.name, self.digest, self.image_id, self.config, layers, self.size)

    def sheet(self) -> Sheet:
        """Name, digests, configuration, layers."""
        config = self.config
        rows: list[tuple[str, str]] = [
            ("digest", Volatile(self.digest)),
            ("image_id", Volatile(self.image_id)),
            ("platform", f"{config.os}/{config.architecture}"),
            ("command", " ".join(config.argv()) or "(none)"),
            ("workdir", config.workdir),
            ("user", config.user or "root"),
        ]
        rows += [("env", item) for item in config.env]
        rows += [("label", f"{key}={value}") for key, value in config.labels]
        rows += [(f"layer {i}", Volatile(f"{layer.diff_id} {_bytes(layer.size)}")) for i, layer in enumerate(self.layers)]
        return Sheet(f"Image {self.name}", ("field", "value"), tuple(rows), (), "image")


def manifest(image_id: str, size: int, layers: tuple[Layer, ...]) -> bytes:
    """The manifest: descriptors of the configuration and of the layers, as uncompressed tars."""
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": image_id, "size": size},
        "layers": [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.diff_id, "size": layer.size} for layer in layers
        ],
    }
    return canonical(document)


def _bytes(size: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"
