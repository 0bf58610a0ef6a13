"""The launcher: the process that forks, so that nobody else has to.

A notebook kernel has threads. There ``unshare(CLONE_NEWUSER)`` fails, ``unshare(CLONE_NEWNS)`` silently changes one thread
alone, and a fork may deadlock. So all of that happens in this process: exec'd, single-threaded, in a session of its own,
shared by all that one process wants. Each request comes with a channel of its own; the launcher forks a shepherd for it and
goes back to listening, so requests overlap and a slow one holds up nobody. When its socket ends, the launcher ends; each
shepherd learns of its caller's end by its own channel, and takes back what it made.

    python -I -S -c '...' FD     (see client.py for how it is started)
"""

from __future__ import annotations

import gc
import os
import signal
import socket

from nsbook.errors import Conflict
from nsbook.spawn.channel import Channel, Gone, close_all
from nsbook.spawn.shepherd import SETUP_SECONDS, Failure, Shepherd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


def main(fd: int) -> NoReturn:
    """Listen on ``fd`` until it ends."""
    from nsbook.spawn.plan import Plan  # noqa: F401 - loaded once here, for all shepherds

    os.closerange(3, fd)
    os.closerange(fd + 1, 4096)
    os.set_inheritable(fd, False)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # shepherds are reaped by the kernel
    _warm()
    listener = Channel(socket.socket(fileno=fd))
    listener.send({"ready": os.getpid()})
    gc.collect()
    gc.freeze()  # what is there now is never looked at again, so forks don't copy its pages
    gc.disable()
    while True:
        try:
            _, fds = listener.receive()
        except Gone:
            os._exit(0)
        if os.fork() == 0:
            listener.close()
            _serve(Channel(socket.socket(fileno=fds[0])))
        close_all(fds)


def _warm() -> None:
    """Import what every request needs, before the first."""
    import binascii  # noqa: F401
    import resource  # noqa: F401

    from nsbook.linux import diagnose  # noqa: F401
    from nsbook.spawn import init  # noqa: F401


def _serve(channel: Channel) -> NoReturn:
    """The life of one shepherd."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    status = 0
    try:
        message, fds = channel.receive()
        channel.send({"taken": 1})
        Request(channel, message, fds).run()
    except Gone:
        pass
    except Conflict as error:
        try:
            channel.send({"conflict": str(error)})
        except Gone:
            pass
    except BaseException as error:
        import traceback

        try:
            channel.send({"broken": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()})
        except Gone:
            pass
        status = 1
    os._exit(status)


class Request:
    """What one caller wants: run a plan, hold one, or take one op at a time."""

    def __init__(self, channel: Channel, message: dict[str, Any], fds: list[int]) -> None:
        from nsbook.spawn.plan import Plan

        self.channel = channel
        self.message = message
        self.shepherd = Shepherd(
            Plan.from_bytes(message["plan"].encode("utf-8", "surrogateescape")),
            slots=dict(zip(message.get("fds", ()), fds, strict=True)),
            recording=message.get("record", False),
            step=message.get("step", False),
            deadline=message.get("deadline") or SETUP_SECONDS,
            tagged=message.get("tagged", False),
            private=(channel,),
        )
        self.observe: list[str] = message.get("observe", [])

    def run(self) -> None:
        """From the first op to the last inverse; whatever happens, all is undone and the caller told."""
        end: dict[str, Any] = {}
        try:
            if self.message.get("step"):
                self._steps()
            else:
                self._whole()
        except Gone:
            pass
        except Failure as failure:
            end["failed"] = failure.data
        shepherd = self.shepherd
        if shepherd.status is not None:
            end["status"] = shepherd.status
            end["observed"] = shepherd.observe(self.observe)
        end["left"] = shepherd.undo()
        end.update(shepherd.results())
        try:
            self.channel.send({"end": end})
        except Gone:
            pass

    def _whole(self) -> None:
        shepherd = self.shepherd
        interactive = self.message.get("interactive", False)
        running = shepherd.advance()
        while not running and not interactive:
            running = shepherd.advance(release=True)
        if interactive:
            pidfds = [shepherd.pidfd] if shepherd.pid else []
            self.channel.send({"running" if running else "held": shepherd.pid, **self._news()}, pidfds)
        elif not shepherd.pid:
            return
        self._close_streams()
        while True:
            if shepherd.status is None and shepherd.poll(self.channel) == "child":
                status = shepherd.wait()
                if not self.message.get("keep"):
                    return
                self.channel.send({"exited": status, "observed": shepherd.observe(self.observe)})
            message, fds = self.channel.receive()
            close_all(fds)
            if message.get("start") and not running:
                running = shepherd.advance(release=True)
                self.channel.send({"running": shepherd.pid, **self._news()}, [shepherd.pidfd])
            elif message.get("close"):
                return

    def _news(self) -> dict[str, Any]:
        news = self.shepherd.results()
        self.shepherd.done, self.shepherd.calls = [], []
        return news

    def _close_streams(self) -> None:
        """The child has them now; a pipe ends only when every copy of its writing end is closed."""
        for name in self.message.get("fds", ()):
            fd = self.shepherd.at.slots.pop(name)
            os.close(fd)
        self.message["fds"] = ()

    def _steps(self) -> None:
        from nsbook.spawn.ops import from_json

        shepherd = self.shepherd
        while True:
            if shepherd.status is None and shepherd.control is None and shepherd.poll(self.channel) == "child":
                status = shepherd.wait()
                if not self.message.get("keep"):
                    return
                self.channel.send({"exited": status, "observed": shepherd.observe(self.observe)})
            message, fds = self.channel.receive()
            reply: dict[str, Any] = {}
            try:
                if "op" in message:
                    op = from_json(message["op"])
                    if op.where == "host":
                        shepherd.expect(op)
                        shepherd.do_host(message["index"], op)
                    elif op.where == "child" and shepherd.do_child(message["index"], op, dict(zip(message["fds"], fds, strict=True))):
                        reply["running"] = shepherd.pid
                    elif op.where == "both":
                        shepherd.done.append((message["index"], 0.0, 0))
                    reply["ok"] = 1
                elif "look" in message or "try" in message:
                    reply = shepherd.ask(message, fds)
                elif message.get("close"):
                    return
            except Failure as failure:
                reply["failed"] = failure.data
            close_all(fds)
            reply.update(self._news())
            pidfds = [shepherd.pidfd] if shepherd.pidfd >= 0 and "op" in message else []
            self.channel.send({**reply, "child": shepherd.pid}, pidfds)
