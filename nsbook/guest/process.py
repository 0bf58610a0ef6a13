"""A command that runs in the guest, seen from the host: its streams, signals and end."""

from __future__ import annotations

import signal
import struct
import threading
import time
from collections import deque
from functools import partial

from nsbook.errors import SetupError, StateError
from nsbook.frozen import Frozen
from nsbook.guest import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from nsbook.guest.channel import Channel

    Sink = Callable[[bytes], object]

GRACE = 5.0
"""Seconds that an interrupted command has to end before it is killed."""


class GuestResult(Frozen):
    """What a command left. ``exit_code`` as a shell gives it (126, 127, 128 + signal; 125: it could not be started for a
    reason of the guest's); ``seconds`` as measured in the guest; ``timed_out``: killed because its time was up."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    seconds: float
    timed_out: bool = False


class GuestProcess:
    """A full-duplex stream to a command. Reading, writing and waiting may be done from different threads.

    What is not read stays in the guest: after :data:`~nsbook.guest.frames.WINDOW` bytes the command waits. Use it as a context
    manager, so that a command that is still running is killed.
    """

    def __init__(self, channel: Channel, argv: tuple[str, ...]) -> None:
        self.argv = argv
        self.pid = 0
        """Its process id in the guest; 0 before it has started."""
        self.exit_code: int | None = None
        self.seconds = 0.0
        self.refusal = ""
        """Why it could not be started."""
        self._channel = channel
        self._change = threading.Condition()
        self._came: dict[int, deque[bytes]] = {frames.OUT: deque(), frames.ERR: deque()}
        self._room = frames.WINDOW
        self._lost = ""
        self._stream = channel.open(self)

    def __repr__(self) -> str:
        state = f"exit {self.exit_code}" if self.exit_code is not None else self._lost or f"running as {self.pid}"
        return f"<GuestProcess {' '.join(self.argv)!r}: {state}>"

    # --- from the channel's thread

    def deliver(self, kind: int, payload: bytes) -> None:
        """A frame for this stream."""
        with self._change:
            if kind in self._came:
                self._came[kind].append(payload)
            elif kind == frames.ACK:
                self._room += int.from_bytes(payload, "big")
            elif kind == frames.STARTED:
                self.pid = int(payload)
            elif kind == frames.REFUSED:
                code, _, self.refusal = payload.decode("utf-8", "replace").partition(" ")
                self._end(int(code))
            elif kind == frames.END:
                code, _, usec = payload.decode().partition(" ")
                self.seconds = int(usec) / 1e6
                self._end(int(code))
            self._change.notify_all()

    def lose(self, reason: str) -> None:
        """The line is gone."""
        with self._change:
            self._lost = reason
            self._change.notify_all()

    def _end(self, code: int) -> None:
        self.exit_code = code
        self._channel.forget(self._stream)

    # --- for everybody

    def start(self, request: bytes) -> None:
        """Ask the guest to start it; returns when it has been (or has been refused)."""
        self._channel.send(frames.START, self._stream, request)
        with self._change:
            self._change.wait_for(lambda: self.pid or self._over())
        self._must_live()

    def write(self, data: bytes) -> None:
        """Give it standard input. Waits while it has much unread; a command that has closed its input swallows it."""
        view = memoryview(data)
        while view:
            with self._change:
                self._change.wait_for(lambda: self._room or self._over())
                if self.exit_code is not None:
                    return
                self._must_live()
                view = self._give(view)

    def _give(self, view: memoryview) -> memoryview:
        part = view[: min(self._room, frames.CHUNK)]
        if part:
            self._room -= len(part)
            self._channel.send(frames.STDIN, self._stream, bytes(part))
        return view[len(part) :]

    def close_stdin(self) -> None:
        """End of its standard input (at a terminal: the end-of-file character)."""
        self._channel.send(frames.STDIN_END, self._stream)

    def read(self, limit: int = 1 << 16, *, timeout: float | None = None) -> bytes:
        """Up to ``limit`` bytes of standard output as soon as there are any; ``b""`` at its end. TimeoutError after
        ``timeout`` seconds without."""
        return self._read(frames.OUT, limit, timeout)

    def read_stderr(self, limit: int = 1 << 16, *, timeout: float | None = None) -> bytes:
        """The same of standard error. At a terminal there is only one output."""
        return self._read(frames.ERR, limit, timeout)

    def _read(self, kind: int, limit: int, timeout: float | None) -> bytes:
        queue = self._came[kind]
        with self._change:
            if not self._change.wait_for(lambda: queue or self._over(), timeout):
                raise TimeoutError(f"no output of {self.argv[0]} in {timeout} s")
            if not queue:
                if self.exit_code is None:
                    self._must_live()
                return b""
            data = queue.popleft()
            if len(data) > limit:
                queue.appendleft(data[limit:])
                data = data[:limit]
        self._acknowledge(len(data))
        return data

    def _acknowledge(self, count: int) -> None:
        if self.exit_code is None:
            self._channel.send(frames.ACK, self._stream, count.to_bytes(4, "big"))

    def send_signal(self, number: int) -> None:
        """Signal the command's process group; SIGKILL kills all in its cgroup."""
        if self.exit_code is None:
            self._channel.send(frames.SIGNAL, self._stream, bytes([number]))

    def kill(self) -> None:
        """End it and all that it started."""
        self.send_signal(signal.SIGKILL)

    def resize(self, rows: int, columns: int) -> None:
        """Its terminal's size."""
        self._channel.send(frames.RESIZE, self._stream, struct.pack("!HH", rows, columns))

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self.exit_code

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, when it has ended. TimeoutError if it has not after ``timeout`` seconds (it goes on).

        A command whose output nobody reads may wait for that: see :meth:`communicate`.
        """
        with self._change:
            if not self._change.wait_for(self._over, timeout):
                raise TimeoutError(f"{self.argv[0]} is still running after {timeout} s")
        if self.exit_code is None:
            self._must_live()
        assert self.exit_code is not None
        return self.exit_code

    def communicate(
        self, stdin: bytes = b"", *, timeout: float | None = None, on_stdout: Sink | None = None, on_stderr: Sink | None = None
    ) -> GuestResult:
        """Feed it ``stdin``, gather (or pass on) what it says, wait for its end. After ``timeout`` seconds it is killed.

        Ctrl-C reaches the command as SIGINT; it has :data:`GRACE` seconds to end, then KeyboardInterrupt goes its way.
        """
        out, err = bytearray(), bytearray()
        sinks: dict[int, Sink] = {frames.OUT: on_stdout or out.extend, frames.ERR: on_stderr or err.extend}
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            in_time = self._converse(memoryview(stdin), sinks, deadline)
            if not in_time:
                self.kill()
                self._converse(memoryview(b""), sinks, None)
        except KeyboardInterrupt:
            self.send_signal(signal.SIGINT)
            self._converse(memoryview(b""), sinks, time.monotonic() + GRACE)
            self.close()
            raise
        except BaseException:
            self.close()
            raise
        assert self.exit_code is not None
        return GuestResult(self.exit_code, bytes(out), bytes(err), self.seconds, not in_time)

    def _converse(self, feed: memoryview, sinks: dict[int, Sink], deadline: float | None) -> bool:
        """Until it has ended and all has been read; False if the deadline came first."""
        fed = not feed
        while True:
            with self._change:
                left = None if deadline is None else deadline - time.monotonic()
                ready = left is None or left > 0
                if ready:
                    ready = self._change.wait_for(partial(self._stirred, bool(feed)), left)
                if not ready:
                    return False
                came = [(kind, data) for kind, queue in self._came.items() for data in queue]
                for queue in self._came.values():
                    queue.clear()
                over = self._over()
                feed = feed[:0] if over else self._give(feed)
            if not fed and not feed:
                self.close_stdin()
                fed = True
            for kind, data in came:
                sinks[kind](data)
            if came:
                self._acknowledge(sum(len(data) for _, data in came))
            if over:
                if self.exit_code is None:
                    self._must_live()
                return True

    def _stirred(self, feeding: bool) -> bool:
        return any(self._came.values()) or self._over() or (feeding and self._room > 0)

    def _over(self) -> bool:
        return self.exit_code is not None or bool(self._lost)

    def _must_live(self) -> None:
        if self._lost:
            raise StateError(f"{self.argv[0]}: {self._lost}", expected="running", actual=self._lost)

    def close(self) -> None:
        """Kill it if it still runs. More than once does no harm."""
        if self.exit_code is None and not self._lost:
            self.kill()
            with self._change:
                self._change.wait_for(self._closed, GRACE)

    def _closed(self) -> bool:
        dropped = 0
        for queue in self._came.values():
            dropped += sum(map(len, queue))
            queue.clear()
        if dropped:
            self._acknowledge(dropped)  # it may be waiting for room
        return self._over()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class Answer:
    """One question to the guest itself, and what it says."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._change = threading.Condition()
        self._said: bytes | None = None
        self._lost = ""
        self._stream = channel.open(self)

    def deliver(self, kind: int, payload: bytes) -> None:
        """The answer."""
        with self._change:
            self._said = payload
            self._change.notify_all()
        self._channel.forget(self._stream)

    def lose(self, reason: str) -> None:
        """There will be none."""
        with self._change:
            self._lost = reason
            self._change.notify_all()

    def ask(self, question: str, timeout: float) -> str:
        """Ask, and wait. SetupError if the guest says no, StateError if it is gone, TimeoutError if it does not answer."""
        self._channel.send(frames.ASK, self._stream, question.encode("utf-8", "surrogateescape"))
        with self._change:
            self._change.wait_for(lambda: self._said is not None or self._lost, timeout)
        if self._said is None:
            self._channel.forget(self._stream)
            if self._lost:
                raise StateError(f"guest: {self._lost}", expected="running", actual=self._lost)
            raise TimeoutError(f"the guest has not answered {question!r} in {timeout} s")
        verdict, _, rest = self._said.decode("utf-8", "replace").partition("\n")
        if verdict != "yes":
            raise SetupError(f"guest: {question}: {rest}")
        return rest
