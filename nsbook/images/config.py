"""An image's configuration: how a container of it is to be started.

Source: OCI image-spec, ``config.md``. The document that :meth:`ImageConfig.document` makes is canonical (sorted keys,
no blanks), so the same configuration has the same image_id.
"""

from __future__ import annotations

from nsbook.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "ppc64le": "ppc64le", "s390x": "s390x"}
"""uname's names of machines, in the words of images (which are Go's GOARCH)."""

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ImageConfig(Frozen):
    """``env`` is ``NAME=VALUE``, ``labels`` are pairs, ``user`` is ``uid[:gid]`` or names; ``created`` is RFC 3339 text.

    The command of a container is ``entrypoint`` followed by what it was given, or else by ``cmd``.
    """

    env: tuple[str, ...] = (PATH,)
    cmd: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    workdir: str = "/"
    user: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    architecture: str = "amd64"
    os: str = "linux"
    created: str = ""

    def argv(self, args: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The command line of a container that is given ``args``."""
        return (*self.entrypoint, *(args or self.cmd))

    def document(self, diff_ids: tuple[str, ...]) -> bytes:
        """The configuration as JSON, with the layers that it belongs to. Its sha256 is the image_id."""
        config: dict[str, Any] = {
            "User": self.user,
            "ExposedPorts": {port: {} for port in self.exposed_ports},
            "Env": list(self.env),
            "Entrypoint": list(self.entrypoint),
            "Cmd": list(self.cmd),
            "Volumes": {volume: {} for volume in self.volumes},
            "WorkingDir": self.workdir,
            "Labels": dict(self.labels),
            "StopSignal": self.stop_signal,
        }
        whole: dict[str, Any] = {
            "architecture": self.architecture,
            "os": self.os,
            "config": {key: value for key, value in config.items() if value},
            "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        }
        if self.created:
            whole["created"] = self.created
        return canonical(whole)


def canonical(value: Any) -> bytes:
    """JSON with one way to write each value."""
    import json

    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256(content: bytes) -> str:
    """The digest of ``content``, as the specifications write it."""
    import hashlib

    return "sha256:" + hashlib.sha256(content).hexdigest()
