"""Id maps, written and read back."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

from needs import requires
from nsbook.linux import idmaps
from nsbook.linux.idmaps import IdRange, SubIds

Inside = Callable[..., dict[str, Any]]


def test_the_own_maps() -> None:
    for read, name in ((idmaps.uid_map, "uid_map"), (idmaps.gid_map, "gid_map")):
        lines = Path(f"/proc/self/{name}").read_text().splitlines()
        assert [[r.inside, r.outside, r.count] for r in read()] == [[int(w) for w in line.split()] for line in lines]
    assert idmaps.setgroups() in ("allow", "deny")


@requires("root")
def test_written_and_read_back(inside: Inside) -> None:
    out = inside(
        """
        ready, go = os.pipe(), os.pipe()
        pid, fd = process.clone3(C.CLONE_NEWUSER)
        if pid == 0:
            os.close(go[1]); os.write(ready[1], b"x"); os.read(go[0], 1)
            os._exit(0 if os.getresuid() == (0, 0, 0) else 1)
        os.read(ready[0], 1)
        out["empty"] = len(idmaps.uid_map(pid))
        files.write_file(f"/proc/{pid}/setgroups", "deny")
        files.write_file(f"/proc/{pid}/uid_map", "0 0 1\\n1 100000 65535\\n")
        files.write_file(f"/proc/{pid}/gid_map", "0 0 1")
        out["uids"] = [r.to_dict() for r in idmaps.uid_map(pid)]
        out["gids"] = [r.to_dict() for r in idmaps.gid_map(pid)]
        out["setgroups"] = idmaps.setgroups(pid)
        os.write(go[1], b"x")
        out["status"] = process.waitid_pidfd(fd, C.WEXITED)[1]
        """
    )
    assert out["empty"] == 0
    assert out["uids"] == [IdRange(0, 0, 1).to_dict(), IdRange(1, 100000, 65535).to_dict()]
    assert out["gids"] == [IdRange(0, 0, 1).to_dict()]
    assert out["setgroups"] == "deny"
    assert out["status"] == 0


def test_subids_by_name_and_by_number(tmp_path: Path) -> None:
    name = pwd.getpwuid(os.getuid()).pw_name
    table = tmp_path / "subuid"
    table.write_text(f"{name}:100000:65536\nother:1:2\n{os.getuid()}:300000:10\n# {name}:1:1\nbroken:line\n{name}:x:1\n")
    both = (SubIds(name, 100000, 65536), SubIds(str(os.getuid()), 300000, 10))
    assert idmaps.subids(name, str(table)) == both
    assert idmaps.subids(os.getuid(), str(table)) == both
    assert idmaps.subids("other", str(table)) == (SubIds("other", 1, 2),)
    assert idmaps.subids("nobody-of-that-name", str(table)) == ()
    assert idmaps.subids(name, str(tmp_path / "none")) == ()
