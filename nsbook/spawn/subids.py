"""Work as root of a sub-id range: for an ordinary user whose container wrote files under mapped ids.

A user who maps 65,536 ids into a container owns none of the files that its other users made. Only a process inside a
user namespace with the same map may remove them (user_namespaces(7)), so one is made for that.
"""

from __future__ import annotations

import os

from nsbook.linux import constants as C
from nsbook.linux import process as sys_process
from nsbook.spawn.ops.base import Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    Ranges = tuple[tuple[int, int, int], ...]


_START = "import sys; sys.path.insert(0, sys.argv[1]); from nsbook.spawn.subids import main; main(sys.argv[2])"


def as_root_of(uid_map: Ranges, gid_map: Ranges, path: str) -> None:
    """``rm -rf path`` as root of a new user namespace with these maps. Raises OSError."""
    if len(os.listdir("/proc/self/task")) > 1:
        _elsewhere(uid_map, gid_map, path)  # a process with threads must not fork: a notebook that cleans up
    else:
        _as_root_of(uid_map, gid_map, path)


def _elsewhere(uid_map: Ranges, gid_map: Ranges, path: str) -> None:
    import json
    import sys

    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    argv = [sys.executable, "-I", "-S", "-B", "-c", _START, source, json.dumps([uid_map, gid_map, path])]
    status = os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn(argv[0], argv, os.environ), 0)[1])
    if status:
        raise OSError(status if status > 0 else 5, os.strerror(status) if status > 0 else "killed", path)


def main(text: str) -> None:
    """In a process of its own: ends with errno."""
    import json

    try:
        _as_root_of(*json.loads(text))
    except OSError as error:
        os._exit(error.errno or 5)


def _as_root_of(uid_map: Ranges, gid_map: Ranges, path: str) -> None:
    from nsbook.spawn.ops.directories import remove_tree
    from nsbook.spawn.ops.host import WriteIdMap

    ready_read, ready_write = os.pipe()
    pid, pidfd = sys_process.clone3(C.CLONE_NEWUSER)
    if pid == 0:
        status = 1
        try:
            os.close(ready_write)
            os.read(ready_read, 1)
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            remove_tree(path)
            status = 0
        except OSError as error:
            status = error.errno or 1
        finally:
            os._exit(status)
    os.close(ready_read)
    place = Place({"child": pid})
    try:
        WriteIdMap("uid", uid_map, "newuidmap").execute(place)
        WriteIdMap("gid", gid_map, "newgidmap").execute(place)
        os.write(ready_write, b"x")
    finally:
        os.close(ready_write)
        os.close(pidfd)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        raise OSError(status, os.strerror(status) if status > 0 else "killed", path)
