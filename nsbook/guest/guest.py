"""The guest as an object: boot it, run commands in it, look at it, close it."""

from __future__ import annotations

import marshal
import os
import shlex
import socket
import sys
import threading
import time
import weakref

from nsbook.errors import InvalidOption, SetupError, StateError, Unsupported
from nsbook.guest import frames, session
from nsbook.guest.channel import Channel
from nsbook.guest.engine import choose
from nsbook.guest.process import Answer, GuestProcess, GuestResult
from nsbook.inspectable import Inspectable, Sheet, Snapshot, Volatile, now
from nsbook.progress import Event, silent
from nsbook.trace import Call, Transcript

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from nsbook.guest.engine import Starter
    from nsbook.guest.inside.tree import Plan
    from nsbook.guest.process import Sink
    from nsbook.progress import Progress

HOSTNAME = "nsbook-guest"
BOOT_TIME = 60.0
SYNC_TIME = 10.0
SPOOLED = 64 << 10
LEFT_OUT = frozenset({"_", "SHLVL", "PWD", "OLDPWD", "TMPDIR", "TMP", "TEMP", "XDG_RUNTIME_DIR", "INVOCATION_ID", "NOTIFY_SOCKET"})
"""Variables that mean something on the host only."""


class GuestSnapshot(Snapshot):
    """A guest at one moment. Sizes in bytes, ``uptime`` in seconds; ``kernel`` is its own /proc/version; ``pid`` is the
    engine's process on the host; ``running`` the commands that were asked for; ``processes`` all that it has."""

    engine: str
    kernel: str
    release: str
    hostname: str
    memory: int
    available: int
    uptime: float
    pid: int
    cgroup: str
    scratch: str
    processes: int
    running: tuple[str, ...]


class Control:
    """Stream 0: whether the guest is up, or why not."""

    def __init__(self) -> None:
        self.change = threading.Condition()
        self.ready: dict[str, str] = {}
        self.failure = ""

    def deliver(self, kind: int, payload: bytes) -> None:
        """It is up, or has failed."""
        with self.change:
            if kind == frames.READY:
                self.ready = facts(payload.decode("utf-8", "replace"))
            elif kind == frames.FAILED:
                self.failure = payload.decode("utf-8", "replace")
            self.change.notify_all()

    def lose(self, reason: str) -> None:
        """It has stopped."""
        with self.change:
            self.failure = self.failure or reason
            self.change.notify_all()


def facts(text: str) -> dict[str, str]:
    """What the guest says of itself: a name, a tab and a value each line."""
    return dict(line.split("\t", 1) for line in text.splitlines() if "\t" in line)


class Guest(Inspectable):
    """A small Linux of our own: a kernel, root, cgroups and this machine's files, with no privilege on the host.

    Make one with :meth:`boot`; it ends with :meth:`close`, with its ``with`` block, or with this process.
    """

    def __init__(self, engine: str, cgroup: str, user: str | None, where: session.Session) -> None:
        self.engine = engine
        self.cgroup = cgroup
        self.user = user
        self.transcript = Transcript(actor="guest")
        self.boot_seconds = 0.0
        self.pid = 0
        """The engine's process on the host."""
        self._session = where
        self._running: list[GuestProcess] = []
        self._control = Control()
        self._channel: Channel | None = None
        self._writable = False
        self._end: weakref.finalize[..., Guest] = weakref.finalize(self, where.remove)

    @classmethod
    def boot(
        cls,
        *,
        memory: str | int = "1G",
        engine: str = "auto",
        share: Iterable[str | os.PathLike[str]] = (),
        writable: Iterable[str | os.PathLike[str]] = (),
        cgroup: str = "v2",
        user: str | None = None,
        timeout: float = BOOT_TIME,
        progress: Progress = silent,
    ) -> Guest:
        """Boot one, and return when it answers.

        ``engine``: ``uml``, ``qemu``, or ``auto`` (the first that is there). ``share``: directories of the host to be shown
        although they lie below ``/tmp``, ``/var/tmp`` or ``/run``, where the guest has its own (the working directory and the
        Python environment are shown anyway). ``writable``: directories whose changes shall arrive on the host; all others are
        thrown away with the guest. ``cgroup``: ``v2``, ``v1`` or ``hybrid``. ``user``: who runs commands, unless said
        otherwise there. ``timeout`` in seconds.

        Raises :class:`Unsupported` where this machine lacks what the engine needs, :class:`SetupError` (with the console's last
        words) if the guest does not come up.
        """
        size = in_bytes(memory)
        if size < 64 << 20:
            raise InvalidOption(f"a guest needs at least 64 MiB of memory, not {memory}")
        if cgroup not in ("v2", "v1", "hybrid"):
            raise InvalidOption(f"cgroup is v2, v1 or hybrid, not {cgroup!r}")
        began = time.monotonic()
        starter = choose(engine)
        progress(Event("boot", starter.engine, unit="s"))
        where = session.Session()
        guest = cls(starter.engine, cgroup, user, where)
        try:
            where.make_disk()
            plan: Plan = {
                "engine": starter.engine,
                "root": "/",
                "modules": starter.modules,
                "disk": starter.disk if where.disk else "",
                "cgroup": cgroup,
                "hostname": HOSTNAME,
                "shares": session.shown(os.fspath(s) for s in share),
                "writable": [os.path.realpath(w) for w in writable],
                "reach": session.reachable(),
                "wire": starter.wire,
                "python": session.interpreter(),
                "path": session.import_path(),
            }
            guest._writable = bool(plan["writable"])
            where.write(plan)
            guest._start(starter, size)
            guest._await(timeout)
        except BaseException:
            guest.close()
            raise
        guest.boot_seconds = time.monotonic() - began
        guest._note("boot", f"{starter.engine}, {size >> 20} MiB, cgroup {cgroup}", "up", guest.boot_seconds)
        progress(Event("boot", starter.engine, 1, 1, "s"))
        return guest

    def _start(self, starter: Starter, memory: int) -> None:
        ours, theirs = socket.socketpair()
        control, keeper_end = socket.socketpair()
        self._starter = starter
        with theirs, keeper_end:  # the keeper has its own: what is closed there must be closed
            order = {
                "owner": os.getpid(),
                "command": starter.command(self._session, memory=memory, cgroup=self.cgroup, wire=theirs.fileno()),
                "environment": starter.environment(self._session, memory),
                "console": self._session.console,
                "session": self._session.path,
                "keep": [theirs.fileno()],
            }
            keeper = session.launch_keeper(keeper_end, theirs)
        self._channel = Channel(ours, self._control)
        self._end.detach()
        self._end = weakref.finalize(self, session.finish, os.getpid(), keeper, control, self._session, self._channel)
        data = marshal.dumps(order)
        try:
            control.sendall(len(data).to_bytes(4, "big") + data)
            said = control.recv(256).decode()
        except OSError:
            said = ""
        word, _, rest = said.partition("\n")[0].partition(" ")
        if word != "pid":
            raise SetupError(f"guest: the engine could not be started: {rest or 'its keeper ended'}")
        self.pid = self._session.engine_pid = int(rest)

    def _await(self, timeout: float) -> None:
        control = self._control
        with control.change:
            answered = control.change.wait_for(lambda: control.ready or control.failure, timeout)
        if control.ready and not control.failure:
            return
        why = f"it has not answered in {timeout:g} s" if not answered else control.failure
        console = self._session.console_tail()
        reason, fix = self._starter.why_not(console)
        if reason:
            raise Unsupported(f"a guest by {self.engine}", reason, fix)
        raise SetupError(f"guest: it did not come up: {why}\n--- its console\n{console}")

    # --- commands

    def open_stream(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        tty: bool = False,
        size: tuple[int, int] = (24, 80),
        stdin: str = "pipe",
    ) -> GuestProcess:
        """Start a command and return at once, with a full-duplex stream to it.

        ``cwd``: its directory (default: this process's). ``env``: its whole environment (default: this process's, but for what
        has a meaning on the host only). ``user``: a name or number; made in the guest if need be, with a home, sub-ids and a
        cgroup of its own (default: the guest's ``user``, else root). ``tty``: give it a terminal of ``size`` (rows, columns).
        """
        if not argv:
            raise InvalidOption("no command")
        channel = self._live()
        who = user or self.user or ""
        words = [os.fspath(a) for a in argv]
        request = {
            "argv": words,
            "cwd": os.path.abspath(cwd or os.getcwd()),
            "env": dict(env) if env is not None else self.environment(),
            "user": who,
            "stdin": stdin,
            "size": size,
            "tty": tty,
        }
        process = GuestProcess(channel, tuple(words))
        self._running = [p for p in self._running if p.exit_code is None]
        self._running.append(process)
        process.start(marshal.dumps(request))
        return process

    def run(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout: float | None = None,
        user: str | None = None,
        tty: bool = False,
        on_stdout: Sink | None = None,
        on_stderr: Sink | None = None,
    ) -> GuestResult:
        """Run a command to its end. Several may run at once, from several threads.

        ``on_stdout`` and ``on_stderr`` are called with bytes as they come, which are then not gathered in the result. After
        ``timeout`` seconds it is killed with all that it started, and the result says so. For the rest see :meth:`open_stream`.
        """
        by_file = self._starter.spools and len(stdin) > SPOOLED and not tty
        name = self._session.spool(stdin) if by_file else ""
        began = time.monotonic()
        try:
            process = self.open_stream(argv, cwd=cwd, env=env, user=user, tty=tty, stdin=name or ("pipe" if stdin or tty else "null"))
        finally:
            if name:
                self._session.drop(name)
        if process.refusal:
            result = GuestResult(process.exit_code or 125, b"", f"nsbook guest: {process.refusal}\n".encode(), 0.0)
            if on_stderr is not None:
                on_stderr(result.stderr)
        else:
            result = process.communicate(b"" if by_file else stdin, timeout=timeout, on_stdout=on_stdout, on_stderr=on_stderr)
        self._note("run", shlex.join(process.argv), f"exit {result.exit_code}", time.monotonic() - began)
        return result

    def environment(self) -> dict[str, str]:
        """What a command's environment is unless another is given."""
        env = {k: v for k, v in os.environ.items() if k not in LEFT_OUT}
        # The host's own data may be closed to whoever runs the guest, even to its root: it sees the files by their eyes.
        env["NSBOOK_ROOT"] = "/var/tmp/nsbook"
        # nsbook's own programs are found there too, whether or not the environment is activated.
        env["PATH"] = os.path.dirname(sys.executable) + ":" + env.get("PATH", "/usr/local/bin:/usr/bin:/bin")
        path = env.get("PATH", os.defpath).split(":")
        env["PATH"] = ":".join([*path, *(d for d in ("/usr/local/sbin", "/usr/sbin", "/sbin") if d not in path)])
        env.update(NSBOOK_GUEST=self.engine, HOSTNAME=HOSTNAME, USER="root", LOGNAME="root")
        return env

    def share(self, path: str | os.PathLike[str], *, writable: bool = False) -> None:
        """Show another directory of the host's; with ``writable``, what is written there arrives on the host."""
        real = os.path.realpath(path)
        self._writable = self._writable or writable
        self._ask(f"{'write' if writable else 'share'} {real}")

    # --- looking

    def inspect(self) -> GuestSnapshot:
        """What it says of itself now. StateError if it is gone."""
        said = facts(self._ask("status"))
        return GuestSnapshot(
            taken=now(),
            engine=self.engine,
            kernel=said["version"],
            release=said["version"].split()[2],
            hostname=HOSTNAME,
            memory=int(said["MemTotal"]),
            available=int(said["MemAvailable"]),
            uptime=float(said["uptime"].split()[0]),
            pid=self.pid,
            cgroup=self.cgroup,
            scratch=said["scratch"],
            processes=int(said["processes"]),
            running=tuple(shlex.join(p.argv) for p in list(self._running) if p.exit_code is None),
        )

    @property
    def console(self) -> str:
        """What the guest's kernel has said lately."""
        return self._session.console_tail()

    @property
    def closed(self) -> bool:
        """Whether it is gone, in whatever way."""
        return self._channel is None or bool(self._channel.lost)

    def sheet(self) -> Sheet:
        """What it is, and what has been run in it."""
        rows: list[tuple[str, str]] = [("engine", self.engine), ("cgroup", self.cgroup), ("boot", Volatile(f"{self.boot_seconds:.2f} s"))]
        if self.closed:
            rows.append(("state", "closed"))
        else:
            state = self.inspect()
            rows += [
                ("kernel", state.release),
                ("memory", f"{state.memory >> 20} MiB"),
                ("available", Volatile(f"{state.available >> 20} MiB")),
                ("uptime", Volatile(f"{state.uptime:.1f} s")),
                ("pid on the host", Volatile(state.pid)),
                ("scratch", state.scratch),
            ]
        rows += [("ran", f"{c.args}: {c.result}") for c in self.transcript if c.name == "run"][-10:]
        return Sheet("Guest", ("", ""), tuple(rows), (), "guest")

    def __repr__(self) -> str:
        return f"<Guest: {self.engine}, {'closed' if self.closed else f'pid {self.pid}'}>"

    def _note(self, name: str, args: str, result: str, seconds: float) -> None:
        self.transcript.extend([Call("op", name, args, result, 0, seconds * 1e6, "guest", self.pid)])

    def _live(self) -> Channel:
        if self._channel is None:
            raise StateError("the guest is closed", expected="running", actual="closed")
        if self._channel.lost:
            raise StateError(f"guest: {self._channel.lost}", expected="running", actual=self._channel.lost)
        return self._channel

    def _ask(self, question: str, timeout: float = 30.0) -> str:
        return Answer(self._live()).ask(question, timeout)

    # --- the end

    def close(self) -> None:
        """End it, with all that runs in it; returns when nothing of it is left. More than once does no harm."""
        channel, self._channel = self._channel, None
        if channel is not None and self._writable and not channel.lost and self._control.ready:
            try:
                Answer(channel).ask("sync", SYNC_TIME)
            except (StateError, SetupError, TimeoutError):
                pass  # it is gone, and its writes are where they got to
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def in_bytes(size: str | int) -> int:
    """``1G``, ``512m``, ``1.5 GiB`` or a number of bytes."""
    if isinstance(size, int):
        return size
    text = size.strip().lower().removesuffix("b").removesuffix("i").strip()
    factor = {"k": 10, "m": 20, "g": 30, "t": 40}.get(text[-1:], 0)
    try:
        return int(float(text[:-1] if factor else text) * (1 << factor))
    except ValueError:
        raise InvalidOption(f"not a size: {size!r}") from None


def supported() -> bool:
    """Whether this machine has what a guest needs."""
    if sys.platform != "linux":
        return False
    try:
        choose("auto")
    except Unsupported:
        return False
    return True
