"""Capabilities: names, masks, and what the kernel makes of the sets at execve and setuid."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from needs import requires
from nsbook.errors import InvalidOption
from nsbook.linux.constants import CAPABILITIES
from nsbook.primitives.capabilities import DEFAULT, MEANING, Capabilities, intersect_bounding, mask, names

MASKS = st.integers(0, (1 << 64) - 1)


@given(MASKS)
def test_masks_and_names(bits: int) -> None:
    assert mask(names(bits)) == bits


def test_names_as_people_write_them() -> None:
    assert Capabilities.parse(["chown", "CAP_KILL", "cap_chown", "Net_Raw"]) == ("CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW")
    assert Capabilities.parse(["ALL"]) == CAPABILITIES == tuple(MEANING)
    assert Capabilities.parse([]) == ()
    assert Capabilities.parse(DEFAULT) == DEFAULT
    assert len(DEFAULT) == 14
    for wrong in ("CAP_FLY", "64", "", "CAP_"):
        with pytest.raises(InvalidOption, match="is no capability"):
            Capabilities.parse([wrong])


def test_what_the_bounding_set_lacks_is_said() -> None:
    kept, dropped = intersect_bounding(["CAP_KILL", "CAP_SYS_RESOURCE", "CAP_BPF"], ["CAP_BPF", "CAP_KILL", "CAP_CHOWN"])
    assert kept == ("CAP_KILL", "CAP_BPF")
    assert dropped == ("CAP_SYS_RESOURCE",)


@requires("capsh")
def test_capsh_reads_masks_alike() -> None:
    bits = [*(1 << n for n in range(len(CAPABILITIES))), 0, mask(DEFAULT), (1 << len(CAPABILITIES)) - 1]
    for one in bits:
        done = subprocess.run(["capsh", f"--decode={one:x}"], capture_output=True, text=True, timeout=20, check=True)
        told = done.stdout.strip().partition("=")[2]
        assert tuple(n.upper() for n in told.split(",") if n) == names(one)


def test_of_this_process() -> None:
    mine = Capabilities.of()
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    keys = {"effective": "CapEff", "permitted": "CapPrm", "inheritable": "CapInh", "bounding": "CapBnd", "ambient": "CapAmb"}
    assert mine.masks() == {name: int(status[key], 16) for name, key in keys.items()}
    assert Capabilities.of(os.getpid()) == mine
    assert mine.inspect().effective == names(int(status["CapEff"], 16))
    assert not mine.diff(mine)
    with pytest.raises(FileNotFoundError):
        Capabilities.of(1 << 22)


def test_it_is_a_value_and_draws_itself() -> None:
    plain = Capabilities.granted()
    assert plain == Capabilities.granted(reversed(DEFAULT))
    assert plain.effective == plain.bounding == frozenset(DEFAULT)
    assert plain.ambient == frozenset()
    assert Capabilities.granted(["chown"], ambient=True).ambient == {"CAP_CHOWN"}
    changes = plain.diff(plain.replace(effective=frozenset(DEFAULT) - {"CAP_KILL"}))
    assert [c.where for c in changes.changes] == ["effective[CAP_KILL]"]
    text = plain.sheet().text()
    assert text.startswith("Capabilities: 14 effective of 41")
    assert "CAP_NET_RAW" in text
    assert "CAP_SYS_ADMIN" not in text
    assert plain._repr_mimebundle_()["text/plain"] == text
    assert json.loads(json.dumps(plain.inspect().to_dict()))["ambient"] == []


# What the child does: sets, then ids, then execve; it prints the sets before and after each step.
CHILD = """
import ctypes, json, os, sys
from nsbook.linux.credentials import capset, cap_bset_drop, cap_ambient_raise
from nsbook.linux.process import prctl
want = json.loads(sys.argv[1])
def sets():
    found = dict(l.split(":", 1) for l in open("/proc/self/status").read().splitlines())
    return [int(found[k], 16) for k in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")]
told = []
start = sets()  # inheritable first: what is no longer in the bounding set can't be added to it
capset(start[0], start[1], start[1] & want["inheritable"])
if want["keep"]:
    prctl(8, 1)
for n in range(want["last"] + 1):
    if not want["bounding"] >> n & 1:
        try:
            cap_bset_drop(n)
        except OSError:
            pass
if want["noroot"]:
    prctl(28, 1)
if want["nnp"]:
    prctl(38, 1)
told.append(sets())
os.setresgid(want["uid"], want["uid"], want["uid"])
os.setresuid(want["real"], want["uid"], want["uid"])
told.append(sets())
permitted = told[-1][1]
if permitted:
    held = permitted & want["permitted"]
    capset(held if want["uid"] == 0 else 0, held, told[-1][2])
    for n in range(want["last"] + 1):
        if want["ambient"] & held & want["inheritable"] & permitted & (1 << n):
            cap_ambient_raise(n)
told.append(sets())
sys.stdout.write(json.dumps(told) + "\\n"); sys.stdout.flush()
os.execv("/bin/grep", ["grep", "^Cap", "/proc/self/status"])
"""


def lived(**want: object) -> tuple[list[Capabilities], Capabilities]:
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    import nsbook

    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps({**want, "last": last})],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(nsbook.__file__).parents[1])},
    )
    first, *lines = done.stdout.splitlines()
    after = {line.split(":")[0]: int(line.split(":")[1], 16) for line in lines}
    order = ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")
    return [Capabilities(*map(names, row)) for row in json.loads(first)], Capabilities(*(names(after[k]) for k in order))


@requires("root")
@pytest.mark.parametrize(
    "want",
    [
        {"uid": 0},
        {"uid": 0, "bounding": mask(DEFAULT)},
        {"uid": 0, "bounding": mask(DEFAULT), "permitted": mask(["CAP_CHOWN"])},
        {"uid": 0, "bounding": mask(DEFAULT), "permitted": mask(["CAP_CHOWN"]), "nnp": True},
        {"uid": 0, "bounding": mask(["CAP_KILL", "CAP_SETPCAP"]), "inheritable": mask(["CAP_CHOWN"])},
        {"uid": 0, "noroot": True},
        {"uid": 0, "noroot": True, "inheritable": mask(["CAP_CHOWN"]), "ambient": mask(["CAP_CHOWN"])},
        {"uid": 1000},
        {"uid": 1000, "keep": True},
        {"uid": 1000, "keep": True, "inheritable": mask(["CAP_CHOWN", "CAP_KILL"]), "ambient": mask(["CAP_KILL"])},
        {"uid": 1000, "keep": True, "inheritable": mask(["CAP_KILL"]), "ambient": mask(["CAP_KILL"]), "nnp": True},
        {"uid": 1000, "real": 0, "bounding": mask(DEFAULT)},
    ],
    ids=lambda want: ",".join(f"{k}={v:#x}" if isinstance(v, int) and v > 1000 else f"{k}={v}" for k, v in want.items()),
)
def test_what_if_is_what_is(want: dict[str, int]) -> None:
    uid = want["uid"]
    everything = (1 << 64) - 1
    usual = {"real": uid, "bounding": everything, "permitted": everything, "inheritable": 0, "ambient": 0}
    flags = {"keep": False, "nnp": False, "noroot": False}
    (before, changed, held), after = lived(**{**usual, **flags, **want})
    if "real" not in want:
        assert before.after_setuid(0, uid, keep_caps=bool(want.get("keep"))) == changed
    nnp, noroot = bool(want.get("nnp")), bool(want.get("noroot"))
    assert held.after_exec(uid, real_uid=want.get("real"), no_new_privs=nnp, noroot=noroot) == after


def test_coming_back_to_root_makes_effective_what_is_permitted() -> None:
    some = Capabilities(permitted=frozenset(["CAP_KILL"]), bounding=frozenset(["CAP_KILL"]))
    assert some.after_setuid(1000, 0).effective == {"CAP_KILL"}
    assert some.after_setuid(1000, 1001) == some
