"""This machine."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from needs import requires
from nsbook.linux import host

Inside = Callable[..., dict[str, Any]]


def test_identity_and_release() -> None:
    assert str(uuid.UUID(host.boot_id())) == host.boot_id() == host.boot_id()
    assert host.kernel_release() == Path("/proc/sys/kernel/osrelease").read_text().strip()
    assert host.machine() == os.uname().machine
    assert host.kernel_version("6.18.44-fc-v669") == (6, 18)
    assert host.kernel_version("5-rc1") == (5, 0)
    assert host.kernel_version() >= (3, 8)


def test_limits_are_those_of_the_files() -> None:
    limits = host.namespace_limits()
    for kind, value in limits.items():
        assert Path(f"/proc/sys/user/max_{kind}_namespaces").read_text().strip() == str(value)
    assert "user" in limits


@requires("userns")
def test_limits_of_another_user_namespace(inside: Inside) -> None:
    out = inside(
        """
        process.unshare(C.CLONE_NEWUSER)
        files.write_file("/proc/sys/user/max_net_namespaces", "3")
        out["net"] = host.namespace_limits()["net"]
        """
    )
    assert out["net"] == 3


def test_switches_and_the_profile() -> None:
    for name, read in (
        ("unprivileged_userns_clone", host.unprivileged_userns_clone),
        ("apparmor_restrict_unprivileged_userns", host.apparmor_restrict_unprivileged_userns),
    ):
        path = Path("/proc/sys/kernel", name)
        assert read() == (path.read_text().strip() != "0" if path.exists() else None)
    enabled = Path("/sys/module/apparmor/parameters/enabled")
    if not enabled.exists() or enabled.read_text().strip() != "Y":
        assert host.apparmor() == ""
    else:
        assert host.apparmor() != ""
