"""Capabilities and ids, given up in processes of the tests' own."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from needs import requires
from nsbook.linux import constants as C
from nsbook.linux import credentials, status

Inside = Callable[..., dict[str, Any]]
ADMIN, CHOWN, NET_RAW = (C.CAPABILITIES.index(name) for name in ("CAP_SYS_ADMIN", "CAP_CHOWN", "CAP_NET_RAW"))


def test_the_sets_are_those_of_proc() -> None:
    row = status.status()
    assert credentials.capget() == (row.cap_eff, row.cap_prm, row.cap_inh)
    with open("/proc/sys/kernel/cap_last_cap") as file:
        assert credentials.last_cap() == int(file.read())
    bounding = sum(1 << n for n in range(credentials.last_cap() + 1) if credentials.cap_bset_read(n))
    assert bounding == row.cap_bnd


def test_names() -> None:
    assert credentials.capability_names(1 << ADMIN | 1) == ("CAP_CHOWN", "CAP_SYS_ADMIN")
    assert credentials.capability_names(1 << 60) == ("CAP_60",)
    assert credentials.capability_names(0) == ()


@requires("userns")
def test_capset_bounding_and_ambient(inside: Inside) -> None:
    out = inside(
        f"""
        keep = 1 << {CHOWN} | 1 << {NET_RAW} | 1 << {C.CAPABILITIES.index("CAP_SETPCAP")}
        with record() as t:
            credentials.cap_bset_drop({ADMIN})
            credentials.capset(keep, keep, 1 << {CHOWN})
            credentials.cap_ambient_raise({CHOWN})
        row = status.status()
        out["sets"] = [row.cap_eff == keep, row.cap_prm == keep, row.cap_inh == 1 << {CHOWN}, row.cap_amb == 1 << {CHOWN}]
        out["bounded"] = credentials.cap_bset_read({ADMIN})
        out["regain"] = error_of(lambda: credentials.capset(keep | 1 << {ADMIN}, keep | 1 << {ADMIN}, 0))
        out["ambient"] = error_of(lambda: credentials.cap_ambient_raise({NET_RAW}))
        credentials.cap_ambient_clear()
        out["cleared"] = status.status().cap_amb
        out["rows"] = rows(t)
        out["unknown"] = error_of(lambda: credentials.cap_bset_read(63))
        """,
        unshare=("--mount",),
    )
    assert out["sets"] == [True] * 4
    assert out["bounded"] is False
    assert out["regain"]["errno"] == out["ambient"]["errno"] == errno.EPERM
    assert out["cleared"] == 0
    assert [row[1:3] for row in out["rows"]] == [
        ["prctl", "PR_CAPBSET_DROP, CAP_SYS_ADMIN"],
        ["capset", "0x2101, 0x2101, 0x1"],
        ["prctl", "PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN"],
    ]
    assert out["unknown"]["errno"] == errno.EINVAL


@requires("userns")
def test_without_proc_the_last_capability_is_found_by_trying(inside: Inside) -> None:
    out = inside(
        """
        out["proc"] = credentials.last_cap()
        mount.mount("tmpfs", "/proc", "tmpfs")
        out["tried"] = credentials.last_cap()
        """,
        unshare=("--mount", "--propagation", "private"),
    )
    assert out["tried"] == out["proc"]


def test_no_new_privs_and_securebits(inside: Inside) -> None:
    out = inside(
        """
        out["before"] = status.status().no_new_privs
        credentials.set_no_new_privs()
        out["after"] = status.status().no_new_privs
        out["bits"] = credentials.get_securebits()
        """
    )
    assert out["after"] == 1
    assert out["bits"] == 0


@requires("root")
def test_ids(inside: Inside) -> None:
    out = inside(
        """
        credentials.set_securebits(C.SECBIT_NO_SETUID_FIXUP)
        out["bits"] = credentials.show_securebits(credentials.get_securebits())
        with record() as t:
            credentials.setgroups([5, 6])
            credentials.setresgid(1000, 1000, -1)
            credentials.setresuid(1000, 1000, 1000)
        row = status.status()
        out["ids"] = [row.groups, row.gids, row.uids, row.cap_eff != 0]
        out["rows"] = [r[1:3] for r in rows(t)]
        """
    )
    assert out["bits"] == "SECBIT_NO_SETUID_FIXUP"
    assert out["ids"] == [[5, 6], [1000, 1000, 0, 1000], [1000] * 4, True]
    assert out["rows"] == [["setgroups", "[5, 6]"], ["setresgid", "1000, 1000, -1"], ["setresuid", "1000, 1000, 1000"]]
