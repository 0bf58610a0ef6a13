"""Flags and their names."""

from __future__ import annotations

import ctypes
import os
import resource
import signal

import pytest

from nsbook.linux import constants as C


@pytest.mark.parametrize(
    "value, prefixes, text",
    [
        (6, ("MS_",), "MS_NOSUID|MS_NODEV"),
        (0, ("MS_",), "0"),
        (C.MS_REC | C.MS_PRIVATE, ("MS_",), "MS_REC|MS_PRIVATE"),
        (C.CLONE_NEWTIME | C.CLONE_NEWUSER | C.CLONE_INTO_CGROUP, ("CLONE_",), "CLONE_NEWTIME|CLONE_NEWUSER|CLONE_INTO_CGROUP"),
        (1 << 40 | 2, ("MNT_", "UMOUNT_"), "MNT_DETACH|0x10000000000"),
        (C.UMOUNT_NOFOLLOW, ("MNT_", "UMOUNT_"), "UMOUNT_NOFOLLOW"),
        (C.AT_RECURSIVE | C.OPEN_TREE_CLONE, ("OPEN_TREE_", "AT_"), "OPEN_TREE_CLONE|AT_RECURSIVE"),
        (os.O_SYNC | os.O_WRONLY, ("O_",), "O_WRONLY|O_SYNC"),
        (C.MOUNT_ATTR_STRICTATIME, ("MOUNT_ATTR_",), "MOUNT_ATTR_STRICTATIME"),
    ],
)
def test_flag_names(value: int, prefixes: tuple[str, ...], text: str) -> None:
    assert C.flag_names(value, *prefixes) == text


def test_name_of() -> None:
    assert C.name_of(5, "FSCONFIG_") == "FSCONFIG_SET_FD"
    assert C.name_of(99, "FSCONFIG_") == "99"


def test_the_standard_library_agrees() -> None:
    for name, value in vars(C).items():
        for module in (os, resource, signal):
            if name.isupper() and isinstance(value, int) and isinstance(getattr(module, name, None), int):
                assert getattr(module, name) == value, name


def test_capabilities_are_numbered_by_their_place() -> None:
    assert C.CAPABILITIES[0] == "CAP_CHOWN"
    assert C.CAPABILITIES[21] == "CAP_SYS_ADMIN"
    assert C.CAPABILITIES.index("CAP_CHECKPOINT_RESTORE") == 40
    assert len(set(C.CAPABILITIES)) == 41


def test_libcap_names_them_alike() -> None:
    try:
        libcap = ctypes.CDLL("libcap.so.2")
    except OSError:
        pytest.skip("needs libcap: no libcap.so.2; apt install libcap2")
    libcap.cap_to_name.restype = ctypes.c_char_p
    assert [libcap.cap_to_name(n).decode().upper() for n in range(41)] == list(C.CAPABILITIES)
