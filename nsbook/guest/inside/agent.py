"""The guest's first process once all is set up: starts what the host asks for, carries its bytes, reaps everything.

One thread and one loop: the serial line, the commands' pipes and SIGCHLD. Writing to the line may block; that is harmless,
because the host has a thread that does nothing but read it. When the line goes dead (the host's process is gone, in
whatever way), the machine switches itself off.
"""

from __future__ import annotations

import errno
import marshal
import os
import select
import signal
import struct
import termios
import time

from nsbook.guest import frames
from nsbook.guest.inside import job as jobs
from nsbook.guest.inside.cgroups import Cgroups
from nsbook.guest.inside.users import User, find, open_way

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from nsbook.guest.inside.tree import Tree

IN, OUT = select.EPOLLIN | select.EPOLLHUP, select.EPOLLOUT


class LineDead(Exception):
    """Nobody listens any more."""


class Agent:
    """Owns the line and the commands."""

    def __init__(self, wire: int, session: int, tree: Tree, cgroups: Cgroups, reach: list[str]) -> None:
        self.wire = wire
        self.session = session
        self.tree = tree
        self.cgroups = cgroups
        self.reach = reach
        self.parser = frames.Parser()
        self.jobs: dict[int, jobs.Job] = {}
        self.pids: dict[int, jobs.Job] = {}
        self.users: dict[str, User] = {}
        self.epoll = select.epoll()
        self.ready: dict[int, Callable[[], None]] = {}

    def run(self) -> None:
        """Until the line goes dead."""
        woken, waking = os.pipe()
        os.set_blocking(woken, False)
        os.set_blocking(waking, False)
        signal.set_wakeup_fd(waking)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._watch(woken, IN, lambda: self._reap(woken))
        self._watch(self.wire, IN, self._listen)
        self.send(frames.READY, 0, self.tree.describe())
        while True:
            for fd, _ in self.epoll.poll():
                act = self.ready.get(fd)
                if act is not None:
                    act()

    def send(self, kind: int, stream: int, payload: bytes = b"") -> None:
        """One frame to the host, whole."""
        data = memoryview(frames.pack(kind, stream, payload))
        while data:
            try:
                data = data[os.write(self.wire, data) :]
            except OSError as error:
                raise LineDead from error

    def _watch(self, fd: int, events: int, act: Callable[[], None]) -> None:
        if fd in self.ready:
            self.epoll.modify(fd, events)
        else:
            self.epoll.register(fd, events)
        self.ready[fd] = act

    def _ignore(self, fd: int) -> None:
        if self.ready.pop(fd, None) is not None:
            self.epoll.unregister(fd)

    def _listen(self) -> None:
        try:
            data = os.read(self.wire, 65536)
        except OSError as error:
            raise LineDead from error
        if not data:
            raise LineDead
        self.send(frames.PACE, 0, len(data).to_bytes(4, "big"))
        for kind, stream, payload in self.parser.feed(data):
            job = self.jobs.get(stream)
            if kind == frames.START:
                self._start(stream, payload)
            elif kind == frames.ASK:
                self._answer(stream, payload)
            elif job is None:
                continue  # it has ended, and what the host sent crossed the news of it
            elif kind == frames.STDIN:
                job.pending += payload
                self._feed(job)
            elif kind == frames.STDIN_END:
                job.end_of_input = True
                self._feed(job)
            elif kind == frames.ACK:
                job.credit += int.from_bytes(payload, "big")
                self._carry(job)
            elif kind == frames.SIGNAL:
                self._signal(job, payload[0])
            elif kind == frames.RESIZE and job.tty and job.out >= 0:
                termios.tcsetwinsize(job.out, struct.unpack("!HH", payload))

    def _start(self, stream: int, payload: bytes) -> None:
        request: jobs.Request = marshal.loads(payload)
        job = jobs.Job(stream, frames.WINDOW)
        job.tty = request["tty"]
        try:
            user = self._user(request)
            job.cgroups = self.cgroups.make(stream, user.uid if user else 0, user.gid if user else 0)
            self.cgroups.enter(job.cgroups)
            try:
                jobs.start(job, request, user, self.session)
            finally:
                self.cgroups.come_back()
        except (jobs.Refused, OSError, KeyError) as error:
            self.cgroups.remove(job.cgroups)
            status = error.status if isinstance(error, jobs.Refused) else 125
            self.send(frames.REFUSED, stream, f"{status} {error}".encode())
            return
        job.began = time.monotonic()
        self.jobs[stream] = self.pids[job.pid] = job
        self.send(frames.STARTED, stream, str(job.pid).encode())
        self._carry(job)

    def _user(self, request: jobs.Request) -> User | None:
        name = request["user"]
        if name in ("", "root", "0"):
            return None
        user = self.users.get(name)
        if user is None:
            user = self.users[name] = find(name)
            open_way(self.reach)
        open_way([request["cwd"]])
        env = request["env"]
        for variable, value in (("HOME", user.home), ("USER", user.name), ("LOGNAME", user.name)):
            env[variable] = value
        env["XDG_RUNTIME_DIR"] = user.runtime
        return user

    def _feed(self, job: jobs.Job) -> None:
        """Its standard input: as much as it takes."""
        done = 0
        while job.into >= 0 and job.pending:
            try:
                taken = os.write(job.into, job.pending[:65536])
            except BlockingIOError:
                break
            except OSError:  # it does not read any more
                taken = len(job.pending)
                self._close_input(job)
            del job.pending[:taken]
            done += taken
        if job.into < 0 and job.pending:
            done += len(job.pending)
            job.pending.clear()
        if done:
            self.send(frames.ACK, job.stream, done.to_bytes(4, "big"))
        if job.into < 0:
            return
        if job.pending:
            self._watch(job.into, OUT, lambda: self._feed(job))
            return
        self._ignore(job.into)
        if job.end_of_input and not job.tty:
            self._close_input(job)
        elif job.end_of_input:
            job.end_of_input = False
            job.pending += termios.tcgetattr(job.out)[6][termios.VEOF]
            self._feed(job)

    def _close_input(self, job: jobs.Job) -> None:
        self._ignore(job.into)
        os.close(job.into)
        job.into = -1

    def _carry(self, job: jobs.Job) -> None:
        """Its output: as much as there is, while the host has room for it."""
        for kind in (frames.OUT, frames.ERR):
            fd = job.out if kind == frames.OUT else job.err
            if fd < 0:
                continue
            open_ = True
            if job.credit:
                open_ = self._carry_one(job, kind, fd)
            if not open_:
                self._ignore(fd)
                os.close(fd)
                if kind == frames.OUT:
                    job.out = -1
                else:
                    job.err = -1
            elif job.credit:
                self._watch(fd, IN, lambda: self._carry(job))
            else:
                self._ignore(fd)  # until the host says that it has room
        if job.status is not None and job.out < 0 and job.err < 0:
            self._end(job)

    def _carry_one(self, job: jobs.Job, kind: int, fd: int) -> bool:
        """Whether more may come. What a command has left running may hold the pipe: its output ends with the command."""
        for _ in range(8):
            if not job.credit:
                return True
            try:
                data = os.read(fd, min(frames.CHUNK, job.credit))
            except BlockingIOError:
                return job.status is None
            except OSError as error:
                if error.errno == errno.EIO:  # a terminal that nobody has open any more
                    return False
                raise
            if not data:
                return False
            job.credit -= len(data)
            self.send(kind, job.stream, data)
        return True

    def _reap(self, woken: int) -> None:
        try:
            os.read(woken, 4096)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            job = self.pids.pop(pid, None)
            if job is not None:
                job.status = status
                self._carry(job)

    def _end(self, job: jobs.Job) -> None:
        if self.jobs.pop(job.stream, None) is None:
            return
        if job.into >= 0:
            self._close_input(job)
        self.cgroups.remove(job.cgroups)
        status = job.status or 0
        code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        usec = int((time.monotonic() - job.began) * 1e6)
        self.send(frames.END, job.stream, f"{code} {usec}".encode())

    def _signal(self, job: jobs.Job, number: int) -> None:
        if number == signal.SIGKILL:
            self.cgroups.kill(job.cgroups)
        try:
            os.killpg(job.pid, number)
        except ProcessLookupError:
            pass

    def _answer(self, stream: int, payload: bytes) -> None:
        """``status``, ``sync``, ``share PATH``, ``write PATH``."""
        question, _, path = payload.decode("utf-8", "surrogateescape").partition(" ")
        try:
            if question == "share":
                self.tree.share(path)
            elif question == "write":
                self.tree.share_for_writing(path)
            elif question == "sync":
                os.sync()
            said = b"yes\n" + (self.tree.describe() if question == "status" else b"")
        except OSError as error:
            said = f"no\n{error}".encode()
        self.send(frames.ANSWER, stream, said)
