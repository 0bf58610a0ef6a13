"""Assembly: a container half built, one op at a time.

``Container`` runs a plan in one go. An Assembly holds the same plan and one child, and executes the same ops when it is told
to: a cell unshares, the next mounts the overlay, the next pivots, and between them the child can be looked at from outside
(its namespaces, mounts, control group) and from inside (what it sees itself). ``undo`` goes one op back: since a plan is a
value, a container half built is made again without its last op.
"""

from __future__ import annotations

import os

from nsbook.container.container import _words, signal_number
from nsbook.container.prepare import Prepared, prepare
from nsbook.container.spec import options
from nsbook.errors import InvalidOption, StateError
from nsbook.inspectable import Inspectable, Sheet, Snapshot, Volatile, now
from nsbook.linux import cgroups, credentials, idmaps, mountinfo, nsfs
from nsbook.linux import process as sys_process
from nsbook.linux import status as proc_status
from nsbook.spawn.client import Session, setup_error
from nsbook.spawn.ops import Exec, Op
from nsbook.spawn.plan import Plan
from nsbook.spawn.result import Result, exit_code
from nsbook.trace import Transcript

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from nsbook.images import Image

KINDS = ("user", "mnt", "pid", "uts", "ipc", "net", "cgroup", "time")


class AssemblySnapshot(Snapshot):
    """What the kernel says of the child, as it can be seen from outside. ``namespaces`` are (kind, inode, is it its own);
    ``mounts`` are "file system on place" lines; empty and 0 while there is no child."""

    state: str
    position: int
    pid: int = 0
    namespaces: tuple[tuple[str, int, bool], ...] = ()
    hostname: str = ""
    root: str = ""
    cgroups: tuple[str, ...] = ()
    uid_map: tuple[str, ...] = ()
    gid_map: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    bounding: tuple[str, ...] = ()
    no_new_privs: bool = False
    seccomp: int = 0


class Assembly(Inspectable):
    """A container half built. The arguments are those of :class:`~nsbook.Container`."""

    def __init__(
        self, image: Image | str | os.PathLike[str], argv: list[str] | tuple[str, ...] = (), *, id: str = "", **given: Any
    ) -> None:
        self._prepared: Prepared = prepare(image, _words(argv), options(**given), id=id, title="")
        self.plan: Plan = self._prepared.plan
        self._session: Session | None = None
        self._did: list[Op] = []
        self._output: dict[str, int] = {}
        self._state = "made"
        self._status: int | None = None
        self._kept = Transcript()

    # ---- going on

    @property
    def done(self) -> tuple[int, ...]:
        """The numbers of the plan's ops that are done."""
        left = list(self._did)
        out = []
        for number, op in enumerate(self.plan.ops):
            if op in left:
                left.remove(op)
                out.append(number)
        return tuple(out)

    @property
    def position(self) -> int:
        """The number of the plan's next op; the plan's length when all are done."""
        done = set(self.done)
        return next((n for n in range(len(self.plan)) if n not in done), len(self.plan))

    @property
    def next(self) -> Op | None:
        """The plan's next op."""
        position = self.position
        return self.plan.ops[position] if position < len(self.plan) else None

    def step(self, n: int = 1) -> Assembly:
        """Do the next ``n`` ops of the plan. Raises SetupError, with the diagnosis, when one is refused."""
        for _ in range(n):
            op = self.next
            if op is None:
                raise StateError("every op of the plan is done", expected="an op ahead", actual=self.state)
            self.do(op)
        return self

    def run_to(self, where: str | int) -> Assembly:
        """Go on until the op of that name (the first ahead) or number is done."""
        if isinstance(where, str):
            ahead = [n for n in range(self.position, len(self.plan)) if self.plan.ops[n].name == where]
            if not ahead:
                names = sorted({op.name for op in self.plan.ops[self.position :]})
                raise InvalidOption(f"no op {where!r} ahead; there are: {', '.join(names) or 'none'}")
            where = ahead[0]
        while self.position <= where and self.next is not None:
            self.step()
        return self

    def do(self, op: Op) -> Assembly:
        """Do one op, the plan's next or any other. Raises SetupError when it is refused; the child is then as it was."""
        if self._state in ("exited", "closed"):
            raise StateError(f"the assembly is {self._state}", expected="made or building", actual=self._state)
        session = self._open()
        index = session.number(op)
        slots = dict(self._streams()) if op.name == "ConnectStreams" else {}
        try:
            session.tell({"op": op.to_json(), "index": index, "fds": list(slots)}, list(slots.values()))
        finally:
            if "stdin" in slots:
                os.close(slots["stdin"])
        message = self._reply(session)
        self._did.append(op)
        self._state = "building"
        if isinstance(op, Exec) and "running" in message:
            self._state = "running"
        return self

    def undo(self, n: int = 1) -> Assembly:
        """Go ``n`` ops back (all, if there are fewer): the container is built anew without the last ones."""
        if not self._did:
            raise StateError("nothing is done yet", expected="an op done", actual="made")
        again = self._did[:-n] if n > 0 else self._did
        self._drop()
        self._state = "made"
        self._status = None
        for op in again:
            self.do(op)
        return self

    def _open(self) -> Session:
        if self._session is None:
            prepared = self._prepared
            self._session = Session(self.plan, step=True, keep=True, observe=prepared.observe, tagged=prepared.tagged)
            for name in ("stdout", "stderr"):
                self._output[name] = os.memfd_create(f"nsbook-{name}", os.MFD_CLOEXEC)
        return self._session

    def _streams(self) -> dict[str, int]:
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        return {"stdin": null, "stdout": self._output["stdout"], "stderr": self._output["stderr"]}

    def _reply(self, session: Session) -> dict[str, Any]:
        message = session.hear()
        while "exited" in message:
            self._note(message)
            message = session.hear()
        if "failed" in message:
            data = message["failed"]
            raise setup_error(session.plan.replace(ops=tuple(session.ops)), data, session.transcript)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        if "exited" in message:
            self._status = message["exited"]
            self._state = "exited"

    # ---- looking

    @property
    def state(self) -> str:
        """made (no op done), building, running (it has become the command), exited, closed."""
        if self._state == "running" and self._session is not None:
            from nsbook.spawn.channel import wait_readable

            while self._status is None and wait_readable(self._session.fileno(), 0):
                self._note(self._session.hear())
        return self._state

    @property
    def pid(self) -> int:
        """The host's pid of the child; 0 before Clone and after the end."""
        return self._session.pid if self._session is not None and self.state in ("building", "running") else 0

    @property
    def transcript(self) -> Transcript:
        """The ops that are done, with errno and microseconds (and, under ``record()``, their calls)."""
        return self._session.transcript if self._session is not None else self._kept

    def explain(self) -> Plan:
        """The whole plan: what is done and what is ahead."""
        return self.plan

    def inspect(self) -> AssemblySnapshot:
        """What the kernel says of the child, seen from outside."""
        state, position, pid = self.state, self.position, self.pid
        if not pid:
            return AssemblySnapshot(now(), state, position)
        namespaces = []
        for kind in KINDS:
            try:
                mine, own = nsfs.namespace_of("self", kind), nsfs.namespace_of(pid, kind)
            except OSError:
                continue
            namespaces.append((kind, own.ino, own != mine))
        seen = proc_status.status(pid)
        try:
            root = os.readlink(f"/proc/{pid}/root")
            mounts = tuple([f"{m.fstype} on {m.mountpoint}" for m in mountinfo.mountinfo(pid)])
        except OSError:
            root, mounts = "", ()
        return AssemblySnapshot(
            now(),
            state,
            position,
            pid,
            tuple(namespaces),
            self.inside("hostname") if state == "building" else "",
            root,
            tuple([f"{','.join(line.controllers) or 'v2'}:{line.path}" for line in cgroups.cgroup(pid)]),
            tuple([f"{r.inside} {r.outside} {r.count}" for r in idmaps.uid_map(pid)]),
            tuple([f"{r.inside} {r.outside} {r.count}" for r in idmaps.gid_map(pid)]),
            mounts,
            credentials.capability_names(seen.cap_eff),
            credentials.capability_names(seen.cap_bnd),
            bool(seen.no_new_privs),
            seen.seccomp,
        )

    def inside(self, what: str, path: str = "") -> Any:
        """What the child itself sees: ``"hostname"``, ``"ids"``, ``"list"`` (a directory), ``"file"`` (its text) or
        ``"exists"``. Raises SetupError with the child's errno as its cause."""
        session = self._half_built()
        session.tell({"look": what, "path": path})
        return self._reply(session)["seen"]

    def try_run(self, argv: list[str] | tuple[str, ...], *, env: dict[str, str] | None = None) -> Result:
        """Run a command as a child of the half-built container: with what it has got and has lost so far."""
        session = self._half_built()
        words = _words(argv)
        variables = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **(env or {})}
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        out, err = os.memfd_create("stdout", os.MFD_CLOEXEC), os.memfd_create("stderr", os.MFD_CLOEXEC)
        try:
            session.tell({"try": list(words), "env": [f"{k}={v}" for k, v in variables.items()]}, [null, out, err])
            status = self._reply(session)["status"]
            texts = [os.pread(fd, os.fstat(fd).st_size, 0) for fd in (out, err)]
        finally:
            for fd in (null, out, err):
                os.close(fd)
        return Result(words, status, texts[0], texts[1], 0.0, False, Transcript())

    def _half_built(self) -> Session:
        if self._session is None or self.state != "building" or not self._session.pid:
            raise StateError("there is no half-built child to ask: Clone makes it, Exec ends it", expected="building", actual=self.state)
        return self._session

    # ---- the command, once it runs

    def wait(self) -> int:
        """The exit code, when the command has ended."""
        if self.state not in ("running", "exited") or self._session is None:
            raise StateError(f"the command does not run: the assembly is {self.state}", expected="running", actual=self.state)
        while self._status is None:
            self._note(self._session.hear())
        return exit_code(self._status)

    def kill(self, signal: int | str = 9) -> None:
        """Send the child a signal."""
        if self._session is None or not self.pid:
            raise StateError("there is no child", expected="running", actual=self.state)
        sys_process.pidfd_send_signal(self._session.pidfd, signal_number(signal))

    @property
    def stdout(self) -> str:
        """What the command has written to standard output."""
        return self._written("stdout")

    @property
    def stderr(self) -> str:
        """What the command has written to standard error."""
        return self._written("stderr")

    def _written(self, name: str) -> str:
        fd = self._output.get(name)
        return "" if fd is None else os.pread(fd, os.fstat(fd).st_size, 0).decode("utf-8", "replace")

    # ---- display and end

    def sheet(self) -> Sheet:
        """Every op of the plan: done, next or ahead."""
        done, position = set(self.done), self.position
        times = {c.op: (c.usec, c.errno) for c in self.transcript.ops}
        rows = []
        for number, op in enumerate(self.plan.ops):
            mark = "done" if number in done else "next" if number == position else ""
            usec = times.get(number)
            rows.append((str(number), mark, op.where, op.name, op.what(), Volatile(f"{usec[0]:.0f} µs") if usec and number in done else ""))
        return Sheet(
            f"Assembly: {len(done)} of {len(self.plan)} ops done",
            ("#", "", "where", "op", "what it does", "took"),
            tuple(rows),
            self.plan.warnings,
            "assembly",
        )

    def __repr__(self) -> str:
        return f"<Assembly {self._prepared.id} {self.state}, {len(self.done)} of {len(self.plan)} ops done>"

    def _drop(self) -> None:
        self._did = []
        session, self._session = self._session, None
        output, self._output = self._output, {}
        try:
            if session is not None:
                session.close()
        finally:
            for fd in output.values():
                os.close(fd)

    def close(self) -> None:
        """End the child and take everything back. May be called twice."""
        if self._state != "closed":
            did = self._did
            transcript = self.transcript
            self._drop()
            self._did = did
            self._kept = transcript
            self._state = "closed"

    def __enter__(self) -> Assembly:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
