"""The caller's side of the launcher: start it, ask it, understand what comes back.

One launcher a process, started when first needed and started anew if it has died. Calls may come from any thread.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

from nsbook import trace
from nsbook.errors import CleanupError, Conflict, NsbookError, SetupError, StateError
from nsbook.spawn.channel import Channel, Gone, pair
from nsbook.spawn.ops import Op
from nsbook.spawn.plan import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_START = "import sys; sys.path.insert(0, sys.argv[2]); from nsbook.spawn.launcher import main; main(int(sys.argv[1]))"


class Launcher:
    """A running launcher process."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        with theirs:
            # -I -S: neither the environment nor site-packages can change what the forking process is; it starts in 30 ms.
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "-c", _START, str(theirs.fileno()), source],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
        self.owner = os.getpid()
        self.channel = Channel(ours)
        self._lock = threading.Lock()
        try:
            self.channel.receive(20)
        except (Gone, TimeoutError):
            self.process.kill()
            self.process.wait()
            raise NsbookError(f"the launcher process did not start ({sys.executable} -I -S, status {self.process.returncode})") from None

    @property
    def pid(self) -> int:
        """The launcher's process id."""
        return self.process.pid

    def alive(self) -> bool:
        """Is it there, and ours (not a forked parent's)?"""
        return self.owner == os.getpid() and self.process.poll() is None

    def request(self) -> Channel:
        """A channel to a new shepherd. Raises Gone."""
        ours, theirs = pair()
        try:
            with self._lock:
                self.channel.send({}, [theirs.fileno()])
        except Gone:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    def close(self) -> None:
        """End the launcher. Shepherds that still serve someone go on until their callers are done."""
        self.channel.close()
        if self.owner == os.getpid():
            self.process.wait()


_launcher: Launcher | None = None
_guard = threading.Lock()


def launcher() -> Launcher:
    """This process's launcher, started if need be."""
    global _launcher
    with _guard:
        if _launcher is None or not _launcher.alive():
            if _launcher is not None:
                _launcher.close()  # it was killed, or it is our parent's
            _launcher = Launcher()
        return _launcher


def running_launcher() -> Launcher | None:
    """This process's launcher if there is one now."""
    if _launcher is not None and not _launcher.alive():
        shutdown()  # it was killed: let go of what we have of it
    return _launcher


def shutdown() -> None:
    """End this process's launcher; the next request starts a new one."""
    global _launcher
    with _guard:
        if _launcher is not None and _launcher.owner == os.getpid():
            _launcher.close()
        _launcher = None


def request(message: dict[str, Any], fds: list[int]) -> Channel:
    """A channel to a shepherd that has taken this request. A launcher that has died, or dies with the request still on its
    way, is replaced once: the shepherd says that it has the request before it does anything. Raises Gone."""
    for last in (False, True):
        try:
            channel = launcher().request()
        except Gone:
            if last:
                raise
            shutdown()
            continue
        try:
            channel.send(message, fds)
            channel.receive()
            return channel
        except Gone:
            channel.close()
            if last:
                raise
            shutdown()
        except BaseException:
            channel.close()  # an interrupt: whoever keeps its traceback must not keep the shepherd
            raise
    raise AssertionError("not reached")


class Session:
    """One plan with its shepherd, as the caller sees it. Closing it takes everything back."""

    def __init__(
        self,
        plan: Plan,
        *,
        streams: dict[str, int] | None = None,
        interactive: bool = False,
        step: bool = False,
        keep: bool = False,
        observe: tuple[str, ...] = (),
        deadline: float | None = None,
        tagged: bool = False,
    ) -> None:
        self.plan = plan
        self.pid = 0
        self.pidfd = -1
        self.state = "made"
        self._torn = False
        """A message is being sent or received: if we are not there to finish it, what follows is garbage."""
        self.status: int | None = None
        self.observed: dict[str, str] = {}
        self.transcript = trace.Transcript()
        self.ops: list[Op] = list(plan.ops)
        self._recorder = trace.current.get()
        streams = streams or {}
        message = {
            "plan": plan.to_bytes().decode("utf-8", "surrogateescape"),
            "fds": list(streams),
            "record": self._recorder is not None,
            "interactive": interactive,
            "step": step,
            "keep": keep,
            "observe": list(observe),
            "deadline": deadline,
            "tagged": tagged,
        }
        try:
            self.channel = request(message, list(streams.values()))
        except Gone:
            raise self._lost() from None

    def number(self, op: Op) -> int:
        """An op's number in the transcript: its place in the plan, or after it for one that the plan has not."""
        if op not in self.ops:
            self.ops.append(op)
        return self.ops.index(op)

    def fileno(self) -> int:
        """For poll: something has happened."""
        return self.channel.fileno()

    def hear(self, timeout: float | None = None) -> dict[str, Any]:
        """The shepherd's next message, understood: state, pid and transcript follow it.

        Raises SetupError when an op failed, CleanupError when something could not be undone, TimeoutError.
        """
        self._torn = True
        try:
            message, fds = self.channel.receive(timeout)
        except Gone:
            raise self._lost() from None
        except TimeoutError:
            self._torn = False
            raise
        if fds:
            self._close_pidfd()
            self.pidfd = fds[0]
        if "conflict" in message:
            self.state = "ended"
            raise Conflict(message["conflict"])
        if "broken" in message:
            self.state = "ended"
            raise NsbookError(f"the shepherd failed: {message['broken']}\n{message.get('traceback', '')}")
        end = message.get("end")
        self._take(end if end is not None else message)
        if "held" in message:
            self.state, self.pid = "created", message["held"]
        elif "running" in message:
            self.state, self.pid = "running", message["running"]
        elif message.get("child"):
            self.pid = message["child"]
        self._torn = False
        if end is not None:
            self._ended(end)
        return message

    def _ended(self, end: dict[str, Any]) -> None:
        self.state = "ended"
        self.status = end.get("status")
        self.observed = end.get("observed", {})
        error = setup_error(self.plan, end["failed"], self.transcript) if "failed" in end else None
        if end["left"]:
            raise CleanupError("not all could be undone: " + "; ".join(end["left"]), original=error) from error
        if error is not None:
            raise error

    def _take(self, message: dict[str, Any]) -> None:
        rows = transcript_rows(tuple(self.ops), message.get("done", ()), message.get("calls", ()))
        self.transcript.extend(rows)
        if self._recorder is not None:
            self._recorder.extend(rows)

    def tell(self, message: dict[str, Any], fds: list[int] | tuple[int, ...] = ()) -> None:
        """Send the shepherd a message."""
        self._torn = True
        try:
            self.channel.send(message, fds)
        except Gone:
            raise self._lost() from None
        self._torn = False

    def _lost(self) -> NsbookError:
        self.state = "ended"
        return StateError(
            "the process that looked after this container has ended; `nsbook clean` takes back what it left",
            expected="running",
            actual="ended",
        )

    def end(self, timeout: float | None = None) -> None:
        """Wait until all has ended by itself and is undone."""
        while self.state != "ended":
            self.hear(timeout)

    def close(self) -> None:
        """End the child if there is one, undo everything, wait until it is undone. May be called twice."""
        try:
            if self.state != "ended" and self._torn:
                self._hang_up()
            elif self.state != "ended":
                self._torn = True
                try:
                    self.channel.send({"close": 1})
                except Gone:
                    pass  # it has ended by itself meanwhile: its last words may still be here to be read
                self.end()
        finally:
            self.channel.close()
            self._close_pidfd()

    def _hang_up(self) -> None:
        """After an interrupt in the middle of a message, which nobody can understand the rest of: our end is the sign to undo
        everything, the end of theirs that it is done, and the ledger says whether all of it was."""
        from nsbook.spawn import ledger

        self.state = "ended"
        sock = self.channel.sock
        try:
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 16):
                pass
        except OSError:
            pass  # it has ended already
        for entry in ledger.Ledger():
            if entry.run == self.plan.run and not entry.live:
                raise CleanupError(f"not all could be undone: {entry.error or 'the process that looked after it was killed'}")

    def _close_pidfd(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def transcript_rows(ops: tuple[Op, ...], done: Any, calls: Any) -> list[trace.Call]:
    """Results and calls as the rows of a transcript: each op, then the calls that it made."""
    by_op: dict[int, list[trace.Call]] = {}
    for values in calls:
        call = trace.Call(*values)
        by_op.setdefault(call.op, []).append(call)
    rows: list[trace.Call] = []
    for index, usec, number in done:
        op = ops[index]
        rows.append(trace.Call("op", op.name, op.what(), "0" if not number else "-1", number, usec, op.where, 0, index))
        rows += by_op.pop(index, [])
    for rest in by_op.values():
        rows += rest
    return rows


def setup_error(plan: Plan, data: dict[str, Any], transcript: trace.Transcript) -> SetupError:
    """The error of an op, with what the diagnoser says of it, and the OSError from the child as its cause."""
    index = data.get("index", -1)
    op = plan.ops[index] if 0 <= index < len(plan.ops) else None
    diagnosis = None
    if data.get("facts"):
        from nsbook.linux import diagnose

        diagnosis = diagnose.explain(data["facts"])
    where = f"{op.name} ({op.what()})" if op is not None else "building the container"
    text = f"{where}: {data['message']}"
    if data.get("filename"):
        text += f": {data['filename']}"
    if diagnosis is not None and diagnosis.why:
        text += f"\n  refused by: {diagnosis.layer}. {diagnosis.why}"
        if diagnosis.fix:
            text += f"\n  what helps: {diagnosis.fix}"
    error = SetupError(text, op=op, transcript=transcript, diagnosis=diagnosis)
    if data.get("errno"):
        cause = OSError(data["errno"], data["message"], data.get("filename") or None)
        for note in data.get("notes", ()):
            cause.add_note(note)
        error.__cause__ = cause
    return error
