"""Ops that make control groups, move processes between them, and remove them."""

from __future__ import annotations

import errno
import os
import time

from nsbook.linux import files
from nsbook.spawn.ops.base import Op, Place, Shell, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class MakeCgroup(Op):
    """Make a control group: a directory in each hierarchy."""

    where: ClassVar[str] = "host"
    call: ClassVar[str] = "mkdir"
    man: ClassVar[str] = "cgroups(7)"

    paths: tuple[str, ...]
    enable: tuple[str, ...] = ()
    """Version 2: controllers to be switched on for the parent's children, where they are not."""
    leaf: str = ""
    """Version 2: the parent's own processes are in this leaf; another container's end may just have moved them back."""

    def execute(self, at: Place) -> None:
        for path in self.paths:
            files.mkdir(path, 0o755)  # first: from now on nobody moves the parent's processes back
        if self.enable:
            self._share_out(os.path.dirname(self.paths[0]))

    def _share_out(self, parent: str) -> None:
        end = time.monotonic() + 2
        while True:
            on = files.read_file(f"{parent}/cgroup.subtree_control").split()
            try:
                for controller in self.enable:
                    if controller not in on:
                        files.write_file(f"{parent}/cgroup.subtree_control", f"+{controller}")
                return
            except OSError as error:
                if error.errno != errno.EBUSY or not self.leaf or time.monotonic() > end:
                    raise
            LeaveForLeaf(parent, self.leaf).execute(Place())

    def shell(self) -> Shell:
        lines = ["mkdir " + " ".join(map(quote, self.paths))]
        if self.enable:
            parent = os.path.dirname(self.paths[0])
            words = " ".join(f"+{c}" for c in self.enable)
            lines.append(f"echo {quote(words)} > {quote(parent + '/cgroup.subtree_control')}")
        return Shell("statement", "; ".join(lines))

    def what(self) -> str:
        return f"make the control group {os.path.basename(self.paths[0])} in {len(self.paths)} hierarchies"

    def taken(self) -> str:
        return next((path for path in self.paths if os.path.lexists(path)), "")

    def undo(self) -> tuple[Op, ...]:
        return (RemoveCgroup(self.paths),)


class MakeCgroupParents(Op):
    """Make the groups above the container's, which other containers may share."""

    where: ClassVar[str] = "host"
    call: ClassVar[str] = "mkdir"
    man: ClassVar[str] = "cgroups(7)"

    paths: tuple[str, ...]
    """Outermost first."""
    enable: tuple[str, ...] = ()

    def execute(self, at: Place) -> None:
        for path in self.paths:
            try:
                files.mkdir(path, 0o755)
            except FileExistsError:
                pass
            for controller in self.enable:
                files.write_file(f"{path}/cgroup.subtree_control", f"+{controller}")

    def shell(self) -> Shell:
        return Shell("statement", "mkdir -p " + " ".join(map(quote, self.paths)))

    def undo(self) -> tuple[Op, ...]:
        return (RemoveEmptyCgroups(tuple(reversed(self.paths))),)


class RemoveEmptyCgroups(Op):
    """Remove groups that nobody uses any more."""

    where: ClassVar[str] = "host"
    call: ClassVar[str] = "rmdir"
    man: ClassVar[str] = "cgroups(7)"

    paths: tuple[str, ...]

    def execute(self, at: Place) -> None:
        for path in self.paths:
            try:
                files.rmdir(path)
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.ENOENT):
                    raise

    def shell(self) -> Shell:
        return Shell("statement", "rmdir --ignore-fail-on-non-empty " + " ".join(map(quote, self.paths)))


class LeaveForLeaf(Op):
    """Version 2: move the processes of a control group to a leaf below it, so that it may share out its controllers."""

    where: ClassVar[str] = "host"
    call: ClassVar[str] = "write"
    man: ClassVar[str] = "cgroups(7)"

    path: str
    leaf: str = "nsbook-leaf"

    def execute(self, at: Place) -> None:
        leaf = f"{self.path}/{self.leaf}"
        try:
            files.mkdir(leaf, 0o755)
        except FileExistsError:
            pass
        _move_all(self.path, leaf)

    def shell(self) -> Shell:
        leaf = quote(f"{self.path}/{self.leaf}")
        return Shell(
            "statement",
            f"mkdir -p {leaf}; for p in $(cat {quote(self.path)}/cgroup.procs); do echo $p > {leaf}/cgroup.procs; done",
        )

    def what(self) -> str:
        return f"move this control group's processes to {self.leaf}: a group with processes can't share out controllers"

    def undo(self) -> tuple[Op, ...]:
        return (MoveBack(self.path, self.leaf),)


class MoveBack(Op):
    """Move processes back from the leaf, when nobody needs it any more."""

    where: ClassVar[str] = "host"
    call: ClassVar[str] = "write"
    man: ClassVar[str] = "cgroups(7)"

    path: str
    leaf: str

    def execute(self, at: Place) -> None:
        leaf = f"{self.path}/{self.leaf}"
        if not os.path.isdir(leaf):
            return
        others = [e for e in os.listdir(self.path) if e != self.leaf and os.path.isdir(f"{self.path}/{e}")]
        if others:
            return  # another container of ours still lives beside the leaf; the last one moves back
        try:
            for controller in files.read_file(f"{self.path}/cgroup.subtree_control").split():
                files.write_file(f"{self.path}/cgroup.subtree_control", f"-{controller}")
            _move_all(leaf, self.path)
            files.rmdir(leaf)
        except OSError as error:
            # Somebody begins to use the leaf at this moment (EBUSY), or has moved back before us (ENOENT): it is theirs.
            if error.errno not in (errno.EBUSY, errno.ENOENT):
                raise

    def shell(self) -> Shell:
        leaf = quote(f"{self.path}/{self.leaf}")
        return Shell("statement", f"for p in $(cat {leaf}/cgroup.procs); do echo $p > {quote(self.path)}/cgroup.procs; done; rmdir {leaf}")


def _move_all(source: str, target: str) -> None:
    for _ in range(20):  # a process may fork while we move it
        pids = files.read_file(f"{source}/cgroup.procs").split()
        if not pids:
            return
        for pid in pids:
            try:
                files.write_file(f"{target}/cgroup.procs", pid)
            except ProcessLookupError:
                continue


class RemoveCgroup(Op):
    """End whatever runs in a control group, then remove it."""

    where: ClassVar[str] = "host"
    call: ClassVar[str] = "rmdir"
    man: ClassVar[str] = "cgroups(7)"

    paths: tuple[str, ...]

    def execute(self, at: Place) -> None:
        deadline = time.monotonic() + 5.0
        for path in self.paths:
            wait = 0.0005
            while True:
                try:
                    files.rmdir(path)
                    break
                except FileNotFoundError:
                    break
                except OSError as error:
                    if error.errno == errno.EROFS and not os.path.lexists(path):
                        break  # the kernel says so before it looks whether the directory is there: it was never made
                    # EBUSY: there are processes in it, zombies that nobody has reaped yet included.
                    if error.errno != errno.EBUSY or time.monotonic() > deadline:
                        raise
                    self.thaw()
                    for inner in _cgroups_below(path):
                        kill_cgroup(inner)
                        try:
                            os.rmdir(inner)
                        except OSError:
                            pass
                    kill_cgroup(path)
                    time.sleep(wait)
                    wait = min(wait * 2, 0.05)

    def thaw(self) -> None:
        """Version 1: a frozen process doesn't die before it is thawed, whatever it was sent."""
        for path in self.paths:
            try:
                files.write_file(f"{path}/freezer.state", "THAWED")
            except OSError:
                continue  # another hierarchy's, or gone

    def shell(self) -> Shell:
        return Shell("statement", "rmdir " + " ".join(map(quote, self.paths)))

    def what(self) -> str:
        return f"remove the control group {os.path.basename(self.paths[0])}"


def _cgroups_below(path: str) -> list[str]:
    return [d for d, _, _ in os.walk(path, topdown=False) if d != path]


def kill_cgroup(path: str) -> None:
    """SIGKILL to all in one cgroup: ``cgroup.kill`` where there is one (version 2, Linux 5.14), else one by one."""
    try:
        files.write_file(f"{path}/cgroup.kill", "1")
        return
    except OSError:
        pass
    try:
        pids = [int(p) for p in files.read_file(f"{path}/cgroup.procs").split()]
    except OSError:
        return
    for pid in pids:
        if pid > 0 and pid != os.getpid():
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass
    try:  # a frozen task doesn't die before it is thawed (version 1)
        files.write_file(f"{path}/freezer.state", "THAWED")
    except OSError:
        pass


class JoinCgroup(Op):
    """Move into the control group, before anything else is done."""

    where: ClassVar[str] = "child"
    call: ClassVar[str] = "write"
    man: ClassVar[str] = "cgroups(7)"

    paths: tuple[str, ...]
    version: int = 1

    def execute(self, at: Place) -> None:
        # Version 1's `tasks` with "0" moves the caller alone: the kernel then needs no lock over all thread groups, whose
        # first taker waits for an RCU grace period (milliseconds). `cgroup.procs` always takes it.
        name = "tasks" if self.version == 1 else "cgroup.procs"
        for path in self.paths:
            files.write_file(f"{path}/{name}", "0")

    def shell(self) -> Shell:
        name = "tasks" if self.version == 1 else "cgroup.procs"
        return Shell("statement", "; ".join(f"echo 0 > {quote(path + '/' + name)}" for path in self.paths))

    def what(self) -> str:
        return "move into the control group"
