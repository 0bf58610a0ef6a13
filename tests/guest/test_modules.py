"""What modprobe knows of dependencies and aliases, held against a small module directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from nsbook.guest.inside import modules


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str]]:
    """A module directory, and the list of what would be loaded from it."""
    (tmp_path / "modules.dep").write_text(
        "kernel/net/bridge/bridge.ko: kernel/net/802/stp.ko kernel/net/llc/llc.ko\n"
        "kernel/net/802/stp.ko: kernel/net/llc/llc.ko\nkernel/net/llc/llc.ko:\n"
        "kernel/net/ipv4/netfilter/ip_tables.ko.xz:\nkernel/drivers/char/snd-pcm.ko:\n"
    )
    (tmp_path / "modules.alias").write_text(
        "# Aliases\nalias rtnl-link-bridge bridge\nalias pci:v00008086d* snd_pcm\nalias net-pf-4 snd_pcm\n"
    )
    (tmp_path / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    loaded: list[str] = []
    monkeypatch.setattr(modules, "_insert", loaded.append)
    return str(tmp_path), loaded


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("bridge", ["net/llc/llc.ko", "net/802/stp.ko", "net/bridge/bridge.ko"]),
        ("rtnl-link-bridge", ["net/llc/llc.ko", "net/802/stp.ko", "net/bridge/bridge.ko"]),
        ("ip-tables", ["net/ipv4/netfilter/ip_tables.ko.xz"]),
        ("snd_pcm", ["drivers/char/snd-pcm.ko"]),
        ("pci:v00008086d00001234", ["drivers/char/snd-pcm.ko"]),
        ("ext4", []),
    ],
)
def test_what_is_loaded_and_in_which_order(directory: tuple[str, list[str]], name: str, files: list[str]) -> None:
    root, loaded = directory
    modules.load(root, name)
    assert loaded == [f"{root}/kernel/{file}" for file in files]


def test_what_there_is_not(directory: tuple[str, list[str]]) -> None:
    with pytest.raises(LookupError, match="nosuch"):
        modules.load(directory[0], "nosuch")


def test_a_closure_has_each_file_once(directory: tuple[str, list[str]]) -> None:
    root, _ = directory
    assert modules.closure(root, ["stp", "bridge", "ext4"]) == [
        f"{root}/kernel/{file}" for file in ("net/llc/llc.ko", "net/802/stp.ko", "net/bridge/bridge.ko")
    ]
