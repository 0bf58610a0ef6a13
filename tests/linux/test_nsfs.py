"""Namespaces as files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import pytest

from needs import requires
from nsbook.linux import constants as C
from nsbook.linux import nsfs

Inside = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("kind", C.NAMESPACES)
def test_identity_is_that_of_the_link(kind: str) -> None:
    if not os.path.exists(f"/proc/self/ns/{kind}"):
        pytest.skip(f"needs {kind} namespaces: this kernel has none")
    inode = int(re.findall(r"\[(\d+)\]", os.readlink(f"/proc/self/ns/{kind}"))[0])
    found = nsfs.namespace_of("self", kind)
    assert (found.ino, found.kind) == (inode, kind)
    assert nsfs.namespace_at(f"/proc/self/ns/{kind}") == found
    fd = os.open(f"/proc/self/ns/{kind}", os.O_RDONLY)
    try:
        assert nsfs.ns_type(fd) == C.NAMESPACES[kind]
        assert nsfs.kind_of(fd) == kind
        assert nsfs.namespace_at(fd) == found
        os.fstat(fd)  # still open: it was lent
    finally:
        os.close(fd)


def test_for_children_is_the_same_kind() -> None:
    assert nsfs.namespace_of("self", "pid_for_children") == nsfs.namespace_of("self", "pid")


@requires("userns")
def test_owners_and_parents(inside: Inside) -> None:
    out = inside(
        """
        outer = nsfs.namespace_of("self", "user")
        process.unshare(C.CLONE_NEWUSER)
        inner = nsfs.namespace_of("self", "user")
        fd = os.open("/proc/self/ns/user", os.O_RDONLY)
        out["outside"] = error_of(lambda: nsfs.ns_parent(fd))
        uts = os.open("/proc/self/ns/uts", os.O_RDONLY)
        out["foreign"] = error_of(lambda: nsfs.ns_owner(uts))
        process.unshare(C.CLONE_NEWUTS)
        uts = os.open("/proc/self/ns/uts", os.O_RDONLY)
        with record() as t:
            owner = nsfs.ns_owner(uts)
        out["owner"] = nsfs.namespace_at(owner) == inner != outer
        out["rows"] = [r[1:3] for r in rows(t)] == [["ioctl", f"{uts}, NS_GET_USERNS"]]
        out["uid"] = nsfs.ns_owner_uid(owner)
        out["no_namespace"] = error_of(lambda: nsfs.ns_type(os.open("/", os.O_RDONLY)))
        """,
        unshare=("--user", "--map-root-user"),
    )
    assert out["outside"]["errno"] == out["foreign"]["errno"] == 1
    assert out["owner"] is True
    assert out["rows"] is True
    assert out["uid"] == 65534, "not mapped: the owner is an id of the outer user namespace"
    assert out["no_namespace"]["errno"] == 25


@requires("root")
def test_the_parent_of_a_child_namespace(inside: Inside) -> None:
    out = inside(
        """
        outer = nsfs.namespace_of("self", "user")
        hold = os.pipe()
        pid, pidfd = process.clone3(C.CLONE_NEWUSER)
        if pid == 0:
            os.close(hold[1]); os.read(hold[0], 1); os._exit(0)
        fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
        out["parent"] = nsfs.namespace_at(nsfs.ns_parent(fd)) == outer
        out["uid"] = nsfs.ns_owner_uid(fd)
        os.write(hold[1], b"x"); process.waitid_pidfd(pidfd, C.WEXITED)
        """
    )
    assert out == {"parent": True, "uid": 0}
