"""mountinfo: awkward lines, and parity with findmnt and with what was mounted."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from needs import requires
from nsbook.linux.mountinfo import MountEntry, covering, mountinfo, parse, unescape

Inside = Callable[..., dict[str, Any]]


def test_every_field() -> None:
    line = r"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 shared:7 - ext3 /dev/ro\134ot rw,errors=continue,x=a\054b"
    (row,) = parse(line + "\n")
    assert row == MountEntry(
        id=36,
        parent=35,
        device="98:0",
        root="/mnt1",
        mountpoint="/mnt 2",
        options=("rw", "noatime"),
        optional=("master:1", "shared:7"),
        fstype="ext3",
        source="/dev/ro\\ot",
        super_options=("rw", "errors=continue", "x=a,b"),
    )


def test_a_source_may_be_empty_or_a_dash() -> None:
    rows = parse("1 0 0:1 / / rw - tmpfs  rw\n2 1 0:2 / /- rw - tmpfs - rw\n3 2 0:3 / /x rw shared:1 - - - ro\n")
    assert [r.source for r in rows] == ["", "-", "-"]
    assert rows[2].fstype == "-"


@pytest.mark.parametrize("bad", ["", "nonsense", "1 2 0:1 / / rw tmpfs tmpfs rw", "a b 0:1 / / rw - x y z"])
def test_what_is_no_line(bad: str) -> None:
    if not bad:
        assert parse(bad) == ()
        return
    with pytest.raises(ValueError, match="not a line of mountinfo"):
        parse(bad)


@given(st.binary(max_size=40).filter(lambda b: b"\0" not in b))
def test_unescape_undoes_the_kernels_escapes(raw: bytes) -> None:
    kernel = b"".join(b"\\%03o" % c if c in b" \t\n\\#" else bytes([c]) for c in raw)
    assert unescape(kernel.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape") == raw


def test_a_lone_backslash_stays() -> None:
    assert unescape(r"a\9b\04") == r"a\9b\04"


def test_parity_with_findmnt() -> None:
    shown = subprocess.run(["findmnt", "--json", "--list", "-o", "ID,PARENT,TARGET,FSTYPE,MAJ:MIN,FSROOT"], capture_output=True, check=True)
    table = [(f["id"], f["parent"], f["target"], f["fstype"], f["maj:min"], f["fsroot"]) for f in json.loads(shown.stdout)["filesystems"]]
    assert [(m.id, m.parent, m.mountpoint, m.fstype, m.device, m.root) for m in mountinfo()] == table


@requires("userns")
def test_mount_points_with_any_byte(inside: Inside) -> None:
    out = inside(
        r"""
        there = tempfile.mkdtemp()
        mount.mount("tmpfs", there, "tmpfs")
        names = ["a b", "tab\there", "new\nline", "back\\slash", "form\x0cfeed", "next\x85", "line\u2028sep", "cr\rhere",
                 "#hash", "\udcff\udcfe", "-", "\\040"]
        for name in names:
            os.mkdir(f"{there}/{name}")
            mount.mount(f"so{name}urce", f"{there}/{name}", "tmpfs")
        rows = [m for m in mountinfo.mountinfo() if m.mountpoint.startswith(there + "/")]
        out["points"] = [m.mountpoint[len(there) + 1:] for m in rows] == names
        out["sources"] = [m.source for m in rows] == [f"so{name}urce" for name in names]
        mount.umount2(there, C.MNT_DETACH); os.rmdir(there)
        """,
        unshare=("--mount", "--propagation", "private"),
    )
    assert out == {"points": True, "sources": True}


@requires("userns")
def test_propagation(inside: Inside) -> None:
    out = inside(
        """
        there = tempfile.mkdtemp()
        mount.mount("tmpfs", there, "tmpfs")
        for flag in (C.MS_SHARED, C.MS_SLAVE, C.MS_UNBINDABLE, C.MS_PRIVATE):
            mount.mount(None, there, None, C.MS_SHARED) if flag == C.MS_SLAVE else None
            mount.mount(None, there, None, flag)
            found = next(m for m in mountinfo.mountinfo() if m.mountpoint == there)
            out[C.flag_names(flag, "MS_")] = [word.partition(":")[0] for word in found.optional]
        mount.umount2(there); os.rmdir(there)
        """,
        unshare=("--mount", "--propagation", "private"),
    )
    assert out == {"MS_SHARED": ["shared"], "MS_SLAVE": [], "MS_UNBINDABLE": ["unbindable"], "MS_PRIVATE": []}


def test_covering() -> None:
    rows = parse("1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / /mnt rw - tmpfs b rw\n3 2 0:3 / /mnt rw - tmpfs c rw\n")
    assert [covering(rows, path).source for path in ("/", "/mnt", "/mnt/x/y", "/mnta")] == ["a", "c", "c", "a"]  # type: ignore[union-attr]
    assert covering((), "/") is None
