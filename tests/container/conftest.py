"""What the container tests share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nsbook.container.container import Container
from nsbook.spawn.result import Result

Run = Callable[..., Result]


@pytest.fixture
def sh() -> Run:
    """Run a line of shell in a container of the embedded image."""

    def run(line: str, **given: Any) -> Result:
        return Container.run("base", ["sh", "-c", line], **given)

    return run


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """A root file system of one's own: the embedded image's, to be changed as one likes."""
    from nsbook.images import resolve, unpacked_layers

    (layer,) = unpacked_layers(resolve("base"))
    target = tmp_path / "rootfs"
    subprocess.run(["cp", "-a", layer, str(target)], check=True)
    return target
