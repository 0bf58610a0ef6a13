"""Run one session to its end while feeding its input and collecting its output."""

from __future__ import annotations

import os
import select
import time

from nsbook.spawn.client import Session
from nsbook.spawn.plan import Plan

CHUNK = 1 << 16


class Pipes:
    """Standard streams of a command: pipes for output, a pipe or /dev/null for input."""

    def __init__(self) -> None:
        self.out = self.err = self.inp = -1
        self.theirs: dict[str, int] = {}

    def open(self, data: bytes | None) -> None:
        """Apart from the making, so that what an interrupt in the middle of it leaves open can be closed."""
        self.out, self.theirs["stdout"] = os.pipe()
        self.err, self.theirs["stderr"] = os.pipe()
        if data:
            self.theirs["stdin"], self.inp = os.pipe()
            os.set_blocking(self.inp, False)
        else:
            self.theirs["stdin"] = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def hand_over(self) -> None:
        """The other side has its copies."""
        while self.theirs:
            os.close(self.theirs.popitem()[1])  # forgotten first: closed twice it might be somebody else's

    def close(self) -> None:
        """All that is still open here."""
        self.hand_over()
        mine, self.out, self.err, self.inp = (self.out, self.err, self.inp), -1, -1, -1
        for fd in mine:
            if fd >= 0:
                os.close(fd)


def run(
    plan: Plan, *, data: bytes | None, observe: tuple[str, ...], tagged: bool, timeout: float | None, slots: dict[str, int] | None = None
) -> tuple[Session, bytes, bytes]:
    """The ended session, standard output, standard error. Raises SetupError, TimeoutError; whatever is raised, all is undone."""
    pipes = Pipes()
    session: Session | None = None
    try:
        pipes.open(data)
        session = Session(plan, streams={**pipes.theirs, **(slots or {})}, observe=observe, tagged=tagged)
        pipes.hand_over()
        out, err = _collect(session, pipes, data or b"", None if timeout is None else time.monotonic() + timeout)
        return session, out, err
    finally:
        try:
            pipes.close()
        finally:
            if session is not None:
                session.close()


def _collect(session: Session, pipes: Pipes, data: bytes, until: float | None) -> tuple[bytes, bytes]:
    poll = select.poll()
    chunks: dict[int, list[bytes]] = {pipes.out: [], pipes.err: []}
    out, err = pipes.out, pipes.err
    for fd in (session.fileno(), out, err):
        poll.register(fd, select.POLLIN)
    if pipes.inp >= 0:
        poll.register(pipes.inp, select.POLLOUT)
    rest = memoryview(data)
    open_ends = {out, err}
    while open_ends or session.state != "ended":
        wait = None if until is None else int(max(0.0, until - time.monotonic()) * 1000) + 1
        ready = poll.poll(wait)
        if not ready and until is not None and time.monotonic() >= until:
            raise TimeoutError("the command did not end in time; it was killed, and all that it had was taken back")
        for fd, _ in ready:
            if fd == session.fileno():
                session.hear()
                if session.state == "ended":
                    poll.unregister(fd)
            elif fd == pipes.inp:
                try:
                    rest = rest[os.write(fd, rest[:CHUNK]) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    rest = rest[:0]
                if not rest:
                    poll.unregister(fd)
                    os.close(fd)
                    pipes.inp = -1
            else:
                part = os.read(fd, CHUNK)
                if part:
                    chunks[fd].append(part)
                else:
                    poll.unregister(fd)
                    open_ends.discard(fd)
    return b"".join(chunks[out]), b"".join(chunks[err])
