"""Container: one container from its making to its end. The same ops, and no others, that a reader runs by hand in an Assembly."""

from __future__ import annotations

import os
import signal as signals
import time

from nsbook.container.prepare import Prepared, oom_killed, prepare
from nsbook.container.spec import Options, options
from nsbook.errors import InvalidOption, NsbookError, SetupError, StateError
from nsbook.inspectable import Inspectable, Sheet, Snapshot, Volatile, now
from nsbook.linux import process as sys_process
from nsbook.spawn import capture
from nsbook.spawn.client import Session
from nsbook.spawn.plan import Plan
from nsbook.spawn.result import Result, exit_code, not_started
from nsbook.trace import Transcript

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from nsbook.images import Image
    from nsbook.primitives import Cgroup, Process
    from nsbook.primitives.changes import Changes


class ContainerSnapshot(Snapshot):
    """A container at one moment. ``namespaces`` are (kind, inode) pairs; ``exit_code`` is None while it has not ended."""

    id: str
    state: str
    image: str
    argv: tuple[str, ...]
    hostname: str
    pid: int
    namespaces: tuple[tuple[str, int], ...]
    cgroup: tuple[str, ...]
    exit_code: int | None
    oom_killed: bool
    warnings: tuple[str, ...]


class Container(Inspectable):
    """A container. ``Container.run(image, argv)`` for one command; ``create``, ``start``, ``wait``, ``remove`` for one
    that is kept. Used as a context manager it is removed at the end of the block, whatever happens in it.

    ``image`` is an :class:`~nsbook.Image`, ``"base"`` (the embedded one), the path of a directory that holds a root file
    system (which is not changed: the container writes to a layer of its own) or of a tar of one. The options are those of
    :class:`~nsbook.container.spec.Options`.
    """

    def __init__(
        self, image: Image | str | os.PathLike[str], argv: list[str] | tuple[str, ...] = (), *, id: str = "", **given: Any
    ) -> None:
        self.options: Options = options(**given)
        self._prepared: Prepared = prepare(image, _words(argv), self.options, id=id)
        self._session: Session | None = None
        self._output: dict[str, int] = {}
        self._state = "made"
        self._status: int | None = None

    # ---- one command

    @classmethod
    def run(
        cls,
        image: Image | str | os.PathLike[str],
        argv: list[str] | tuple[str, ...] = (),
        *,
        input: bytes | str | None = None,
        timeout: float | None = None,
        id: str = "",
        **given: Any,
    ) -> Result:
        """Run one command in a new container, and take everything back.

        ``input`` is given to its standard input; after ``timeout`` seconds it is killed and TimeoutError raised. A command
        that can't be found gives exit code 127, one that can't be executed 126; whatever else goes wrong raises SetupError
        (an op failed), Unsupported or InvalidOption. An interrupt at any moment ends the container and leaves nothing.
        """
        begin = time.perf_counter()
        prepared = prepare(image, _words(argv), options(**given), id=id)
        data = input.encode() if isinstance(input, str) else input
        try:
            session, out, err = capture.run(prepared.plan, data=data, observe=prepared.observe, tagged=prepared.tagged, timeout=timeout)
        except SetupError as error:
            return not_started(error, tuple(prepared.config["process"]["args"]), time.perf_counter() - begin, prepared.plan.warnings)
        return _result(prepared.config["process"]["args"], session, out, err, time.perf_counter() - begin)

    # ---- one that is kept

    @classmethod
    def create(
        cls, image: Image | str | os.PathLike[str], argv: list[str] | tuple[str, ...] = (), *, id: str = "", **given: Any
    ) -> Container:
        """Make a container up to its last step: everything is there, and the command has not begun."""
        container = cls(image, argv, id=id, **given)
        container._create()
        return container

    def _create(self) -> None:
        prepared = self._prepared
        for name in ("stdout", "stderr"):
            self._output[name] = os.memfd_create(f"nsbook-{name}", os.MFD_CLOEXEC)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._session = Session(
                prepared.plan,
                streams={"stdin": null, "stdout": self._output["stdout"], "stderr": self._output["stderr"]},
                interactive=True,
                keep=True,
                observe=prepared.observe,
                tagged=prepared.tagged,
            )
            self._session.hear()
        except BaseException:
            self.remove()
            raise
        finally:
            os.close(null)
        self._state = "created"

    def start(self) -> Container:
        """Let the command begin. Raises SetupError if it can't be executed, StateError if the container is not ``created``."""
        session = self._expect("created")
        try:
            session.tell({"start": 1})
            message = session.hear()
            if "running" not in message:  # it was killed at this very moment
                self._note(message)
                raise StateError(f"the container {self.id} has ended before it began", expected="created", actual="exited")
        except BaseException:
            self._state = "exited"
            self.remove()
            raise
        self._state = "running"
        return self

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, when the command has ended. Raises TimeoutError after ``timeout`` seconds."""
        if self._status is None:
            session = self._expect("running", "paused", "exited")  # it may end while we ask
            end = None if timeout is None else time.monotonic() + timeout
            while self._status is None:
                message = session.hear(None if end is None else max(0.0, end - time.monotonic()))
                self._note(message)
        return exit_code(self._status)

    def kill(self, signal: int | str = signals.SIGKILL) -> None:
        """Send the container's first process a signal (a number, ``"TERM"`` or ``"SIGTERM"``)."""
        session = self._expect("created", "running", "paused")
        sys_process.pidfd_send_signal(session.pidfd, signal_number(signal))

    def pause(self) -> None:
        """Freeze every process of it where it is."""
        self._expect("running")
        self.cgroup.freeze()
        self._state = "paused"

    def unpause(self) -> None:
        """Let them go on."""
        self._expect("paused")
        self.cgroup.thaw()
        self._state = "running"

    def exec(
        self,
        argv: list[str] | tuple[str, ...],
        *,
        input: bytes | str | None = None,
        user: str = "",
        env: tuple[str, ...] | list[str] = (),
        workdir: str = "",
        timeout: float | None = None,
    ) -> Result:
        """Run one more command inside: in the same namespaces and control group, under the same restrictions."""
        from nsbook.container.enter import enter_plan

        session = self._expect("running")
        begin = time.perf_counter()
        words = _words(argv)
        if not words:
            raise InvalidOption("nothing to run")
        plan = enter_plan(self._prepared, words, user=user, env=tuple(env), workdir=workdir)
        data = input.encode() if isinstance(input, str) else input
        try:
            done, out, err = capture.run(plan, data=data, observe=(), tagged=False, timeout=timeout, slots={"target": session.pidfd})
        except SetupError as error:
            return not_started(error, words, time.perf_counter() - begin, self.warnings)
        return _result(words, done, out, err, time.perf_counter() - begin)

    def changes(self) -> Changes:
        """What the container has changed of its image: the content of its writable layer."""
        from nsbook.primitives.changes import changes

        self._expect("created", "running", "paused", "exited")
        return changes(f"{self._prepared.directory}/upper", self._prepared.lowerdirs)

    def remove(self) -> None:
        """End it if it runs, and take back everything that was made for it. May be called twice."""
        if self._state == "removed":
            return
        self._state = "removed"
        if self._session is not None:
            self._session.close()
        for fd in self._output.values():
            os.close(fd)
        self._output = {}

    close = remove

    def __enter__(self) -> Container:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.remove()

    # ---- asking

    @property
    def id(self) -> str:
        """Its id: also the run id in the ledger."""
        return self._prepared.id

    @property
    def state(self) -> str:
        """made, created, running, paused, exited or removed."""
        if self._state in ("created", "running", "paused") and self._session is not None:
            from nsbook.spawn.channel import wait_readable

            while self._status is None and wait_readable(self._session.fileno(), 0):
                self._note(self._session.hear())
        return self._state

    @property
    def pid(self) -> int:
        """The host's pid of its first process; 0 when there is none."""
        return self._session.pid if self._session is not None and self._state in ("created", "running", "paused") else 0

    @property
    def exit_code(self) -> int | None:
        """None until it has ended."""
        return None if self._status is None else exit_code(self._status)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What this host reduced."""
        return self._prepared.plan.warnings

    @property
    def config(self) -> dict[str, Any]:
        """Its OCI runtime configuration."""
        return self._prepared.config

    @property
    def stdout(self) -> str:
        """What it has written to standard output so far."""
        return self._written("stdout")

    @property
    def stderr(self) -> str:
        """What it has written to standard error so far."""
        return self._written("stderr")

    def _written(self, name: str) -> str:
        fd = self._output.get(name)
        if fd is None:
            return ""
        return os.pread(fd, os.fstat(fd).st_size, 0).decode("utf-8", "replace")

    @property
    def cgroup(self) -> Cgroup:
        """Its control group."""
        from nsbook.primitives import Cgroup

        made = self._prepared.cgroup
        return Cgroup(made.version, dict(made.by_controller), made.paths)

    @property
    def process(self) -> Process:
        """Its first process."""
        from nsbook.primitives import Process

        return Process(self.pid)

    @property
    def transcript(self) -> Transcript:
        """The ops (and, under ``record()``, the calls) that made it."""
        return self._session.transcript if self._session is not None else Transcript()

    def explain(self) -> Plan:
        """The plan: every op, with its call, its shell form and its man page. Runs nothing."""
        return self._prepared.plan

    def inspect(self) -> ContainerSnapshot:
        """What is true of it now."""
        from nsbook.linux import nsfs

        state, pid = self.state, self.pid
        namespaces = []
        if pid:
            for kind in ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"):
                try:
                    namespaces.append((kind, nsfs.namespace_of(pid, kind).ino))
                except OSError:
                    continue
        prepared = self._prepared
        observed = self._session.observed if self._session is not None else {}
        return ContainerSnapshot(
            now(),
            prepared.id,
            state,
            prepared.image,
            tuple(prepared.config["process"]["args"]),
            prepared.config["hostname"],
            pid,
            tuple(namespaces),
            prepared.cgroup.paths,
            self.exit_code,
            oom_killed(observed),
            prepared.plan.warnings,
        )

    def sheet(self) -> Sheet:
        """What is true of it now, a line each."""
        seen = self.inspect()
        rows: list[tuple[str, str]] = [
            ("state", seen.state + (f", exit code {seen.exit_code}" if seen.exit_code is not None else "")),
            ("image", seen.image),
            ("command", " ".join(seen.argv)),
            ("host name", Volatile(seen.hostname) if not self.options.hostname else seen.hostname),
            ("first process", Volatile(f"pid {seen.pid} on the host") if seen.pid else "none"),
        ]
        if seen.namespaces:
            rows.append(("namespaces", Volatile(", ".join(f"{kind}:[{number}]" for kind, number in seen.namespaces))))
        rows.append(("control group", f"version {self._prepared.cgroup.version}" if seen.cgroup else "none"))
        return Sheet("Container", ("", ""), tuple(rows), seen.warnings, "container")

    def __repr__(self) -> str:
        return f"<Container {self.id} {self.state}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Container) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    # ---- within

    def _expect(self, *states: str) -> Session:
        state = self.state
        if state not in states or self._session is None:
            raise StateError(f"the container {self.id} is {state}, not {' or '.join(states)}", expected=" or ".join(states), actual=state)
        return self._session

    def _note(self, message: dict[str, Any]) -> None:
        if "exited" in message:
            self._status = message["exited"]
            assert self._session is not None
            self._session.observed = message.get("observed", {})
            self._state = "exited"


def signal_number(signal: int | str) -> int:
    """9, ``"9"``, ``"KILL"`` and ``"SIGKILL"`` are the same. Raises InvalidOption."""
    if isinstance(signal, int):
        return int(signal)
    text = signal.upper()
    if text.isdigit():
        return int(text)
    try:
        return int(signals.Signals[text if text.startswith("SIG") else f"SIG{text}"])
    except KeyError:
        raise InvalidOption(f"no signal {signal!r}: see signal(7)") from None


def _words(argv: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    given: object = argv
    if isinstance(given, str):
        raise InvalidOption(f'the command is a list of words: ["sh", "-c", {argv!r}]')
    return tuple([str(word) for word in argv])


def _result(argv: list[str] | tuple[str, ...], session: Session, out: bytes, err: bytes, seconds: float) -> Result:
    if session.status is None:
        raise NsbookError("the container ended without a status")
    warnings = session.plan.warnings
    return Result(tuple(argv), exit_code(session.status), out, err, seconds, oom_killed(session.observed), session.transcript, warnings)
