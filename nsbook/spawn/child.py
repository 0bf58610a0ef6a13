"""The half-built container's side: from the clone to the exec.

The child runs its share of the plan, op by op, and meets the shepherd at the barriers. In step mode (an Assembly) it is
told each op instead, and between them it answers questions about what it sees. When the channel ends, whoever wanted
this container is gone: the child ends too. The channel closes at exec, and that is how the shepherd learns of success.
"""

from __future__ import annotations

import os
import time

from nsbook import trace
from nsbook.spawn.channel import Channel, Gone
from nsbook.spawn.ops import Barrier, Exec, Op, Place, from_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

FAILED = 125
"""Exit status of a child that could not be made into a container (as docker and podman use it)."""


class Doer:
    """Executes ops and keeps their results: (number, microseconds, errno)."""

    def __init__(self, actor: str, recording: bool) -> None:
        self.done: list[tuple[int, float, int]] = []
        self.transcript = trace.Transcript(actor=actor) if recording else None
        trace.current.set(self.transcript)

    def do(self, index: int, op: Op, at: Place) -> None:
        """Run one op. Raises what it raises."""
        if self.transcript is not None:
            self.transcript.op = index
        begin = time.perf_counter()
        try:
            op.execute(at)
        except OSError as error:
            self.done.append((index, (time.perf_counter() - begin) * 1e6, error.errno or 0))
            raise
        self.done.append((index, (time.perf_counter() - begin) * 1e6, 0))

    def report(self) -> dict[str, Any]:
        """What was done since the last report."""
        out: dict[str, Any] = {"done": self.done}
        self.done = []
        if self.transcript is not None and len(self.transcript):
            out["calls"] = [call._values() for call in self.transcript]
            self.transcript._calls.clear()
        return out


def failure(index: int, error: BaseException) -> dict[str, Any]:
    """An error as data, with the facts that the diagnoser needs, taken now and here."""
    from nsbook.linux import diagnose

    facts = diagnose.capture(error) if isinstance(error, OSError) else {}
    return {
        "index": index,
        "errno": getattr(error, "errno", 0) or 0,
        "message": (getattr(error, "strerror", "") or str(error)) if isinstance(error, OSError) else f"{type(error).__name__}: {error}",
        "filename": str(getattr(error, "filename", "") or ""),
        "notes": list(getattr(error, "__notes__", ())),
        "facts": facts,
    }


def main(ops: tuple[Op, ...], index: int, control: Channel, at: Place, *, recording: bool, step: bool) -> NoReturn:
    """Never returns: it ends in an exec, or in an exit."""
    try:
        at.slots["control"] = control
        doer = Doer("child", recording)
        if step:
            _told(control, at, doer)
        else:
            _by_plan(ops, index, control, at, doer)
    except Gone:
        pass
    except BaseException as error:
        try:
            control.send({"failed": failure(index, error)})
        except Gone:
            pass
    os._exit(FAILED)


def _by_plan(ops: tuple[Op, ...], index: int, control: Channel, at: Place, doer: Doer) -> None:
    while index < len(ops):
        op = ops[index]
        if isinstance(op, Barrier):
            doer.done.append((index, 0.0, 0))
            control.send({"at": index, **doer.report()})
            message, _ = control.receive()
            if message.get("detach"):
                # Nobody of ours stays: whoever starts us comes by a socket of its own (the OCI runtime's start).
                control = _wait_for_start(control, at)
        elif op.where == "child":
            if isinstance(op, Exec):
                control.send({"last": index, **doer.report()})
            try:
                doer.do(index, op, at)
            except BaseException as error:
                control.send({"failed": failure(index, error), **doer.report()})
                os._exit(FAILED)
        index += 1


def _wait_for_start(control: Channel, at: Place) -> Channel:
    import socket

    listener = socket.socket(fileno=at.bind("$listener"))
    control.close()
    while True:
        connection, _ = listener.accept()
        channel = Channel(connection)
        try:
            message, _ = channel.receive()
        except Gone:
            continue  # it only looked whether we are there
        if message.get("go"):
            listener.close()
            at.slots["control"] = channel
            return channel


def _told(control: Channel, at: Place, doer: Doer) -> None:
    while True:
        message, fds = control.receive()
        if "op" in message:
            index, op = message["index"], from_json(message["op"])
            for name, fd in zip(message.get("fds", ()), fds, strict=True):
                at.slots[name] = fd
            if isinstance(op, Exec):
                control.send({"last": index, **doer.report()})
            try:
                doer.do(index, op, at)
            except Exception as error:
                control.send({"failed": failure(index, error), **doer.report()})
                continue
            control.send({"ok": index, **doer.report()})
        elif "look" in message:
            try:
                control.send({"seen": _look(message["look"], message.get("path", ""))})
            except OSError as error:
                control.send({"failed": failure(-1, error)})
        elif "try" in message:
            control.send({"status": _try(message["try"], message.get("env", ()), fds)})


def _look(what: str, path: str) -> Any:
    """What the child sees."""
    if what == "file":
        with open(path, "rb") as stream:
            return stream.read(1 << 20).decode("utf-8", "surrogateescape")
    if what == "list":
        return sorted(os.listdir(path or "."))
    if what == "exists":
        return os.path.lexists(path)
    if what == "hostname":
        return os.uname().nodename
    if what == "ids":
        return {"pid": os.getpid(), "uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(), "cwd": os.getcwd()}
    raise OSError(22, f"can't look at {what!r}")


def _try(argv: list[str], env: list[str], fds: list[int]) -> int:
    """Run a command as a child of the half-built container; its exit status as a shell gives it."""
    from nsbook.spawn.ops import ConnectStreams

    pid = os.fork()
    if pid == 0:
        try:
            ConnectStreams().execute(Place({"stdin": fds[0], "stdout": fds[1], "stderr": fds[2]}))
            Exec(tuple(argv), tuple(env)).execute(Place())
        except OSError as error:
            os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
            os._exit(127 if error.errno == 2 else 126)
        finally:
            os._exit(FAILED)
    for fd in fds:
        os.close(fd)
    return shell_status(os.waitpid(pid, 0)[1])


def shell_status(status: int) -> int:
    """A wait status as a shell gives it: 128+n for a command that signal n ended."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
