"""One plan's run, from the ledger entry to the last inverse: the host's side.

A shepherd is synchronous and serves one plan. It is the same in all three ways in: forked from the launcher for each
request, in the process of a cold command line, or in the OCI runtime, where it leaves when the container is made. It
writes the ledger, runs the host's ops, clones the child, meets it at the barriers, waits for its end, and undoes.
"""

from __future__ import annotations

import os
import select
import signal
import time

from nsbook import trace
from nsbook.errors import Conflict, StateError
from nsbook.linux import constants as C
from nsbook.linux import files
from nsbook.linux import process as sys_process
from nsbook.spawn import child as child_side
from nsbook.spawn import ledger
from nsbook.spawn.channel import Channel, Gone, pair
from nsbook.spawn.ops import Barrier, Clone, Exec, Op, Place, RemoveCgroup, vocabulary
from nsbook.spawn.ops.host import half_built_name
from nsbook.spawn.ops.namespaces import namespace_bits
from nsbook.spawn.plan import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SETUP_SECONDS = 30.0
"""How long the set-up of one container may take before it is given up."""


class Failure(Exception):
    """An op failed. ``data`` is what :func:`nsbook.spawn.child.failure` made of the error."""

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__(data.get("message", ""))
        self.data = data


def _give_up(number: int, frame: object) -> None:
    raise TimeoutError(110, "the set-up took too long and was given up")


class Shepherd:
    """Runs one plan."""

    def __init__(
        self,
        plan: Plan,
        *,
        slots: dict[str, Any] | None = None,
        recording: bool = False,
        step: bool = False,
        deadline: float = SETUP_SECONDS,
        tagged: bool = False,
        private: tuple[Channel, ...] = (),
        owner: int = 0,
    ) -> None:
        self.plan = plan
        self.at = Place(slots)
        self.step = step
        self.tagged = tagged
        self.recording = recording
        self.until = time.monotonic() + deadline
        self.index = 0
        self.pid = 0
        self.pidfd = -1
        self.status: int | None = None
        self.control: Channel | None = None
        self.done: list[tuple[int, float, int]] = []
        self.calls: list[list[Any]] = []
        self.doer = child_side.Doer("host", recording)
        self._last = -1
        self._private = private
        self._made: list[Op] = []
        for op in plan.ops:
            if taken := op.taken():
                raise Conflict(f"{taken} is there already, and not by this plan")
        self.entry = ledger.open_entry(plan.run, plan.title, plan.undo(), tagged=tagged, owner=owner)

    # ---- building

    def advance(self, *, release: bool = False) -> bool:
        """Go on until the command runs (True) or a barrier that holds (False). ``release`` passes the one we are held at.

        Raises Failure; nothing is undone yet then.
        """
        ops = self.plan.ops
        while self.index < len(ops):
            op = ops[self.index]
            if isinstance(op, Barrier):
                if not release:
                    if self.pid:
                        self._meet()
                    if op.hold:
                        return False
                release = False
                if self.pid:
                    self._tell({"go": 1})
            elif op.where == "host":
                self.do_host(self.index, op)
            self.index += 1
        if self.pid:
            self._await_exec()
        return True

    def expect(self, op: Op) -> None:
        """Write an op's inverses into the ledger, if it is not one of the plan's. Raises Failure if it would make what is there."""
        new = tuple([inverse for inverse in op.undo() if inverse not in self.entry.inverses])
        if new and (taken := op.taken()):
            raise Failure(child_side.failure(-1, FileExistsError(17, os.strerror(17), taken)))
        if new:
            self.entry = self.entry.replace(inverses=new + self.entry.inverses)
            self.entry.write()

    def do_host(self, index: int, op: Op) -> None:
        """One op of ours. Raises Failure."""
        try:
            if isinstance(op, Clone):
                self._clone(index, op)
            else:
                self._in_time(index, op)
        except (OSError, LookupError) as error:
            raise Failure(child_side.failure(index, error)) from error
        finally:
            self._collect(self.doer.report())

    def _in_time(self, index: int, op: Op) -> None:
        """A host op that the kernel keeps waiting is given up at the deadline, too: by an alarm, raised as ETIMEDOUT."""
        try:
            signal.signal(signal.SIGALRM, _give_up)
        except ValueError:  # not in the main thread: only a caller of our own code's does that
            self.doer.do(index, op, self.at)
            return
        signal.setitimer(signal.ITIMER_REAL, max(0.001, self.until - time.monotonic()))
        try:
            self.doer.do(index, op, self.at)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _clone(self, index: int, op: Clone) -> None:
        if self.pid:
            raise LookupError("there is a child already")
        flags = namespace_bits(op.namespaces)
        cgroup = -1
        if op.cgroup:
            cgroup = os.open(op.cgroup, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            flags |= C.CLONE_INTO_CGROUP
        self._import_for_child(index)
        mine, theirs = pair()
        begin = time.perf_counter()
        if self.doer.transcript is not None:
            self.doer.transcript.op = index
        try:
            pid, pidfd = sys_process.clone3(flags, cgroup=cgroup)
        except OSError as error:
            mine.close()
            theirs.close()
            self.doer.done.append((index, (time.perf_counter() - begin) * 1e6, error.errno or 0))
            raise
        finally:
            if cgroup >= 0:
                os.close(cgroup)
        if pid == 0:
            if self.tagged:
                sys_process.prctl(C.PR_SET_NAME, half_built_name(self.plan.run))
            mine.close()
            for channel in self._private:
                channel.close()
            child_side.main(self.plan.ops, index + 1, theirs, self.at, recording=self.recording, step=self.step)
        theirs.close()
        self.pid, self.pidfd, self.control = pid, pidfd, mine
        self.at.slots["child"] = pid
        self.doer.done.append((index, (time.perf_counter() - begin) * 1e6, 0))

    def _import_for_child(self, index: int) -> None:
        """What its ops need: once the child has its own root, there is nothing to import from. (In step mode any op may come.)"""
        needs: set[str] = {"nsbook.linux.diagnose"}
        for kind in vocabulary.values() if self.step else {type(op) for op in self.plan.ops[index + 1 :]}:
            needs.update(kind.needs)
        for module in needs:
            __import__(module)

    def _collect(self, message: dict[str, Any]) -> None:
        self.done += [(int(i), u, e) for i, u, e in message.get("done", ())]
        self.calls += message.get("calls", ())

    def _tell(self, message: dict[str, Any]) -> None:
        assert self.control is not None
        try:
            self.control.send(message)
        except Gone:
            raise Failure(self._died()) from None

    def hear(self) -> tuple[dict[str, Any], list[int]]:
        """The child's next message. Raises Failure when it failed, died or took too long."""
        assert self.control is not None
        while True:
            try:
                message, fds = self.control.receive(max(0.0, self.until - time.monotonic()))
            except Gone:
                raise Failure(self._died()) from None
            except TimeoutError:
                raise Failure(
                    {
                        "index": self.index,
                        "errno": 110,
                        "message": "the set-up took too long and was given up",
                        "notes": [],
                        "facts": {},
                    }
                ) from None
            self._collect(message)
            if "forked" in message:
                self._follow(message["forked"])
            elif "failed" in message:
                raise Failure(message["failed"])
            elif "last" in message:
                self._last = message["last"]
                self._last_at = time.perf_counter()
                if self.step:
                    return message, fds
            else:
                return message, fds

    def _follow(self, pid: int) -> None:
        """The child went on in a child of its own, which is our child too; the one we knew has ended."""
        self.wait()
        self.status = None
        if self.pidfd >= 0:
            os.close(self.pidfd)
        self.pid, self.pidfd = pid, sys_process.pidfd_open(pid, 0)
        self.at.slots["child"] = pid

    def _died(self) -> dict[str, Any]:
        status = self.wait()
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return {
            "index": self.index,
            "errno": 0,
            "message": f"the container's process ended while it was built ({how})",
            "notes": [],
            "facts": {},
        }

    def _meet(self) -> None:
        while True:
            message, _ = self.hear()
            if message.get("at") == self.index:
                return

    def _await_exec(self) -> None:
        """The channel's end is the exec's success."""
        assert self.control is not None
        try:
            while True:
                message, _ = self.control.receive(max(0.0, self.until - time.monotonic()))
                self._collect(message)
                if "forked" in message:
                    self._follow(message["forked"])
                elif "failed" in message:
                    raise Failure(message["failed"])
                elif "last" in message:
                    self._last, self._last_at = message["last"], time.perf_counter()
        except TimeoutError:
            raise Failure(
                {"index": self._last, "errno": 110, "message": "the command did not start in time", "notes": [], "facts": {}}
            ) from None
        except Gone:
            if self._last < 0:
                raise Failure(self._died()) from None
            self.done.append((self._last, (time.perf_counter() - self._last_at) * 1e6, 0))
        self.control.close()
        self.control = None

    # ---- an op at a time

    def do_child(self, index: int, op: Op, fds: dict[str, int]) -> bool:
        """Have the child do one op. True when it has become the command. Raises Failure."""
        self.until = time.monotonic() + SETUP_SECONDS
        self.index = index
        if self.control is None:
            raise Failure(child_side.failure(index, LookupError("there is no child: Clone comes first")))
        try:
            self.control.send({"op": op.to_json(), "index": index, "fds": list(fds)}, list(fds.values()))
        except Gone:
            raise Failure(self._died()) from None
        message, _ = self.hear()
        if isinstance(op, Exec) and "last" in message:
            self._await_exec()
            return True
        return False

    def ask(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        """Ask the child something. Raises Failure."""
        self.until = time.monotonic() + SETUP_SECONDS
        if self.control is None:
            raise Failure(child_side.failure(-1, LookupError("there is no half-built child to ask")))
        try:
            self.control.send(message, fds)
        except Gone:
            raise Failure(self._died()) from None
        return self.hear()[0]

    # ---- running and ending

    def poll(self, also: Channel | None = None, timeout: float | None = None) -> str:
        """Wait for the child's end or for a message on ``also``: "child", "channel" or "" after ``timeout`` seconds."""
        poll = select.poll()
        if self.pidfd >= 0 and self.status is None:
            poll.register(self.pidfd, select.POLLIN)
        if also is not None:
            poll.register(also.fileno(), select.POLLIN)
        ready = dict(poll.poll(None if timeout is None else max(0, int(timeout * 1000) + 1)))
        if self.pidfd in ready:
            return "child"
        return "channel" if ready else ""

    def wait(self) -> int:
        """The child's exit status; negative: the signal that ended it."""
        if self.status is None:
            if self.pidfd < 0:
                raise StateError("there is no child to wait for", expected="running", actual="made")
            info = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
            assert info is not None
            self.status = info.si_status if info.si_code == os.CLD_EXITED else -info.si_status
        return self.status

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send the child a signal; nothing happens when it has ended."""
        if self.pidfd >= 0 and self.status is None:
            try:
                sys_process.pidfd_send_signal(self.pidfd, number)
            except ProcessLookupError:
                pass

    def observe(self, paths: list[str]) -> dict[str, str]:
        """The contents of (control group) files, as they are before everything is undone."""
        seen = {}
        for path in paths:
            try:
                seen[path] = files.read_file(path)
            except OSError:
                continue
        return seen

    def undo(self) -> list[str]:
        """End the child if it still runs, and take everything back. What could not be is returned as text."""
        if self.control is not None:
            self.control.close()
            self.control = None
        if self.pidfd >= 0:
            if self.status is None:
                self.kill()
                if not self.poll(timeout=0.1):
                    for op in self.entry.inverses:
                        if isinstance(op, RemoveCgroup):
                            op.thaw()  # version 1: what is frozen doesn't die
                self.wait()
            os.close(self.pidfd)
            self.pidfd = -1
        token = trace.current.set(None)
        try:
            return self.entry.undo()
        finally:
            trace.current.reset(token)

    def results(self) -> dict[str, Any]:
        """What was done: for the transcript."""
        return {"done": self.done, "calls": self.calls}
