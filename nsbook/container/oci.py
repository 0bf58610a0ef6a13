"""The OCI runtime's containers: made by one process, started by a second, deleted by a third. runtime-spec, runtime.md.

What they have in common is a directory: ``state.json``, written when the container is made, and ``start.sock``, where its
first process waits. All else is asked of the kernel each time; a pid is believed only with its start time.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from contextlib import ExitStack

from nsbook.container.compile import Ground, compile_exec, compile_spec
from nsbook.container.oci_config import VERSION, cgroup_of, without_idle_copies
from nsbook.errors import Conflict, ContainerNotFound, InvalidOption, InvalidSpec, NsbookError, StateError
from nsbook.linux import process as sys_process
from nsbook.linux import status as proc_status
from nsbook.places import run_root
from nsbook.primitives.cgroup_design import Design
from nsbook.spawn import ledger, ops
from nsbook.spawn.channel import Channel, Gone
from nsbook.spawn.client import setup_error
from nsbook.spawn.shepherd import Failure, Shepherd
from nsbook.trace import Transcript

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def default_root() -> str:
    """Where the state of this user's containers lies."""
    return os.path.join(run_root(), "runtime")


class Container:
    """One container by its state directory."""

    def __init__(self, root: str, state: dict[str, Any], shepherd: Shepherd | None = None) -> None:
        self.directory = os.path.join(root, state["id"])
        self.record = state
        self.shepherd = shepherd

    # ---- asking

    @property
    def pid(self) -> int:
        """Its first process."""
        return int(self.record["pid"])

    def alive(self) -> bool:
        """Is that process still there, and no zombie?"""
        try:
            if proc_status.start_time(self.pid) != self.record["start"]:
                return False
            return proc_status.status(self.pid).state[:1] not in ("Z", "X")
        except OSError:
            return False

    @property
    def status(self) -> str:
        """created, running, paused or stopped."""
        if not self.alive():
            return "stopped"
        if not self.record.get("started") and os.path.exists(f"{self.directory}/start.sock"):
            return "created"
        return "paused" if self._frozen() else "running"

    def state(self) -> dict[str, Any]:
        """As runtime.md, "State", has it."""
        status = self.status
        state = {
            "ociVersion": VERSION,
            "id": self.record["id"],
            "status": status,
            "bundle": self.record["bundle"],
            "annotations": self.record["annotations"],
        }
        return state | ({"pid": self.pid} if status != "stopped" else {"pid": 0})

    def config(self) -> dict[str, Any]:
        """Its configuration, as it was when it was made."""
        with open(f"{self.directory}/config.json", encoding="utf-8") as stream:
            return dict(json.load(stream))

    # ---- acting

    def start(self) -> None:
        """Let the command begin; returns when it has been executed, or raises what the container's side says."""
        if self.status != "created":
            raise StateError(f"the container {self.record['id']} is {self.status}", expected="created", actual=self.status)
        channel = Channel(_connect(self.directory))
        try:
            channel.send({"go": 1})
            os.unlink(f"{self.directory}/start.sock")
            while True:
                message, _ = channel.receive(30)
                if "failed" in message:
                    raise NsbookError(f"{message['failed']['message']}: {message['failed']['filename']}".rstrip(": "))
        except Gone:
            pass
        finally:
            channel.close()
        run_hooks(self.config(), "poststart", self.state())

    def kill(self, name: str, *, everyone: bool = False) -> None:
        """Send a signal to the first process, or to all of its control group."""
        number = signal_number(name)
        if not self.alive():
            raise StateError(f"the container {self.record['id']} is stopped", expected="created or running", actual="stopped")
        if everyone:
            for pid in self._members():
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
            return
        pidfd = sys_process.pidfd_open(self.pid, 0)
        try:
            if self.alive():
                sys_process.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)

    def delete(self, *, force: bool = False) -> None:
        """Take everything back. Raises StateError for one that still runs, unless ``force`` kills it."""
        if self.alive():
            if not force:
                raise StateError(
                    f"the container {self.record['id']} is {self.status}: stop it first", expected="stopped", actual=self.status
                )
            self._end()
        config = self.config()
        path = os.path.join(ledger.directory(), f"{self.record['run']}.json")
        if os.path.exists(path):
            left = ledger.read(path).undo()
            if left:
                raise NsbookError("not all could be undone: " + "; ".join(left))
        state = {**self.state(), "status": "stopped"}
        _remove_state(self.directory)
        run_hooks(config, "poststop", state)

    def _end(self) -> None:
        pidfd = sys_process.pidfd_open(self.pid, 0)
        try:
            sys_process.pidfd_send_signal(pidfd, signal.SIGKILL)
            if self._frozen():
                self.freeze(False)
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(10_000):
                raise StateError("the container did not die: its first process waits in the kernel", expected="stopped", actual="running")
        except ProcessLookupError:
            pass
        finally:
            os.close(pidfd)

    def freeze(self, on: bool) -> None:
        """Pause, or go on."""
        from nsbook.primitives.cgroup import Cgroup

        where = self.record["cgroups"]
        group = Cgroup(self.record["cgroup_version"], where, tuple(dict.fromkeys(where.values())))
        (group.freeze if on else group.thaw)()

    def _frozen(self) -> bool:
        where = self.record["cgroups"].get("freezer")
        if not where:
            return False
        try:
            name = "cgroup.freeze" if self.record["cgroup_version"] == 2 else "freezer.state"
            with open(f"{where}/{name}", encoding="ascii") as stream:
                return stream.read().strip() in ("1", "FROZEN", "FREEZING")
        except OSError:
            return False

    def _members(self) -> list[int]:
        for path in self.record["cgroups"].values():
            with open(f"{path}/cgroup.procs", encoding="ascii") as stream:
                return [int(p) for p in stream.read().split()]
        return [self.pid]

    def run_to_end(self, detach: bool) -> int:
        """``run``: start, and (unless detached) wait, delete, and return the exit status as a shell gives it."""
        shepherd = self.shepherd
        if shepherd is None or detach:
            self.start()
            return 0

        def pass_on(number: int, frame: Any) -> None:
            shepherd.kill(number)

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH):
            signal.signal(number, pass_on)
        try:
            _build(shepherd, release=True)
            while shepherd.poll() != "child":
                pass
            status = shepherd.wait()
        finally:
            left = shepherd.undo()
            _remove_state(self.directory)
        if left:
            raise NsbookError("not all could be undone: " + "; ".join(left))
        return 128 - status if status < 0 else status

    def exec(self, argv: list[str], *, process: str, pid_file: str, console: str, detach: bool) -> int:
        """One more process; ``process`` names a file with a ``process`` object (config.md), else ``argv`` is run as the first's."""
        if self.status != "running":
            raise StateError(f"the container {self.record['id']} is {self.status}", expected="running", actual=self.status)
        config = self.config()
        if process:
            with open(process, encoding="utf-8") as stream:
                given = json.load(stream)
            config["process"] = {**given, "env": given.get("env") or config["process"].get("env")}
        elif argv:
            config["process"] = {**config["process"], "args": argv, "terminal": bool(console)}
        design = Design(
            self.record["cgroup_version"],
            tuple(dict.fromkeys(self.record["cgroups"].values())),
            join=tuple([ops.from_json(op) for op in self.record["join"]]),
            cgroup_directory=self.record["cgroup_directory"],
        )
        from nsbook.spawn.plan import new_run_id

        plan = compile_exec(config, _ground(config, new_run_id(), "/", design, f"exec in {self.record['id']}"))
        target = sys_process.pidfd_open(self.pid, 0)
        slots: dict[str, Any] = {"stdin": 0, "stdout": 1, "stderr": 2, "target": target}
        if console:
            slots["console"] = _console(console).detach()
        shepherd = Shepherd(plan, slots=slots)
        try:
            _build(shepherd)
        except BaseException:
            shepherd.undo()
            raise
        if pid_file:
            with open(pid_file, "w", encoding="ascii") as stream:
                stream.write(str(shepherd.pid))
        if detach:
            shepherd.entry.forget()
            return 0
        status = shepherd.wait()
        shepherd.undo()
        return 128 - status if status < 0 else status


def create(root: str, id: str, bundle: str, *, console: str = "", preserve_fds: int = 0, detach: bool = True) -> Container:
    """Make a container from a bundle, up to its last step. Raises Conflict, InvalidSpec, Unsupported, SetupError."""
    _check_id(id)
    bundle = os.path.abspath(bundle)
    try:
        with open(f"{bundle}/config.json", "rb") as stream:
            text = stream.read()
        config = json.loads(text)
    except FileNotFoundError:
        raise InvalidSpec(f"no config.json in the bundle {bundle}") from None
    except ValueError as error:
        raise InvalidSpec(f"{bundle}/config.json is no JSON: {error}") from None
    rootfs = os.path.normpath(os.path.join(bundle, (config.get("root") or {}).get("path") or "rootfs"))
    if not os.path.isdir(rootfs):
        raise InvalidSpec(f"root.path: there is no directory {rootfs}")
    os.makedirs(root, 0o700, exist_ok=True)
    directory = os.path.join(root, id)
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        raise Conflict(f"there is a container {id} already") from None
    shepherd: Shepherd | None = None
    try:
        with open(f"{directory}/config.json", "wb") as out:
            out.write(text)
        design = cgroup_of(config)
        run = f"runtime-{id}"
        plan = compile_spec(without_idle_copies(config, rootfs), _ground(config, run, rootfs, design, f"Container {id}", preserve_fds))
        slots: dict[str, Any] = {"stdin": 0, "stdout": 1, "stderr": 2}
        with ExitStack() as open_sockets:  # closed too early, their numbers would name something else
            slots["listener"] = open_sockets.enter_context(_listen(directory)).fileno()
            if console:
                slots["console"] = open_sockets.enter_context(_console(console)).fileno()
            shepherd = Shepherd(plan, slots=slots)
            _build(shepherd)
        record = _record(id, bundle, config, run, design, shepherd.pid)
        with open(f"{directory}/state.json", "w", encoding="utf-8") as stream_out:
            json.dump(record, stream_out)
        container = Container(root, record, shepherd)
        # From here on the ledger's owner is the container itself: whoever made it is about to leave.
        shepherd.entry = shepherd.entry.replace(owner=shepherd.pid, owner_start=record["start"])
        shepherd.entry.write()
        for hook in ("prestart", "createRuntime", "createContainer"):
            run_hooks(config, hook, {**container.state(), "status": "creating"})
        if detach:
            assert shepherd.control is not None
            shepherd.control.send({"detach": 1})
        return container
    except BaseException:
        if shepherd is not None:
            shepherd.undo()
        _remove_state(directory)
        raise


def _build(shepherd: Shepherd, *, release: bool = False) -> None:
    try:
        shepherd.advance(release=release)
    except Failure as failure:
        raise setup_error(shepherd.plan, failure.data, Transcript()) from None


def _record(id: str, bundle: str, config: dict[str, Any], run: str, design: Design, pid: int) -> dict[str, Any]:
    return {
        "id": id,
        "bundle": bundle,
        "pid": pid,
        "start": proc_status.start_time(pid),
        "created": time.time(),
        "annotations": config.get("annotations") or {},
        "run": run,
        "cgroups": dict(design.by_controller),
        "cgroup_version": design.version,
        "cgroup_directory": design.cgroup_directory,
        "join": [op.to_json() for op in design.join],
    }


def _ground(config: dict[str, Any], run: str, rootfs: str, design: Design, title: str, preserve_fds: int = 0) -> Ground:
    program, flags = "", 0
    profile = (config.get("linux") or {}).get("seccomp")
    if profile:
        from binascii import b2a_base64

        from nsbook.primitives.seccomp import SeccompFilter

        chosen = SeccompFilter.from_profile(profile)
        program, flags = b2a_base64(chosen.program, newline=False).decode(), chosen.flag_bits
    return Ground(
        run,
        rootfs,
        cgroup=design if design.version else None,
        seccomp=program,
        seccomp_name="of the bundle" if program else "",
        seccomp_flags=flags,
        title=title,
        create_cwd=True,
        preserve_fds=preserve_fds,
    )


def forget(root: str, id: str) -> None:
    """Take back what a ``create`` that was killed half-way has left. Raises StateError while one is still at work."""
    _check_id(id)
    path = os.path.join(ledger.directory(), f"runtime-{id}.json")
    if os.path.exists(path):
        entry = ledger.read(path)
        if entry.live:
            raise StateError(f"the container {id} is being created", expected="stopped", actual="creating")
        left = entry.undo()
        if left:
            raise NsbookError("not all could be undone: " + "; ".join(left))
    _remove_state(os.path.join(root, id))


def _check_id(id: str) -> None:
    if not id or id[0] in ".-" or not all(c.isalnum() or c in "-_.+" for c in id):
        raise InvalidOption(f"container id {id!r}: letters, digits, '-', '_', '+' and '.'")


def load(root: str, id: str) -> Container:
    """The container of that id. Raises ContainerNotFound."""
    try:
        with open(os.path.join(root, id, "state.json"), encoding="utf-8") as stream:
            return Container(root, json.load(stream))
    except (FileNotFoundError, NotADirectoryError):
        raise ContainerNotFound(f"no container {id}") from None


def states(root: str) -> Iterator[dict[str, Any]]:
    """The states of all."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return
    for name in names:
        try:
            yield load(root, name).state()
        except ContainerNotFound:
            continue


def signal_number(name: str) -> int:
    """9, ``KILL`` and ``SIGKILL`` are the same. Raises InvalidOption."""
    if name.isdigit():
        return int(name)
    number = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", None)
    if number is None:
        raise InvalidOption(f"no signal {name!r}: see signal(7)")
    return int(number)


def run_hooks(config: dict[str, Any], name: str, state: dict[str, Any]) -> None:
    """Run the hooks of one kind, the state on their standard input. Raises NsbookError when one fails."""
    for hook in (config.get("hooks") or {}).get(name) or ():
        from nsbook.spawn.hooks import run_hook

        run_hook(hook, json.dumps(state).encode())


def _listen(directory: str) -> socket.socket:
    """The socket where the container waits for its start. A socket's path has at most 107 bytes, so it is bound by a short one."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    here = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{here}/start.sock")
        listener.listen(1)
    finally:
        os.close(here)
    return listener


def _connect(directory: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    here = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{here}/start.sock")
    except OSError:
        sock.close()
        raise
    finally:
        os.close(here)
    return sock


def _console(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(path)
    return sock


def _remove_state(directory: str) -> None:
    for name in ("state.json", "config.json", "start.sock"):
        try:
            os.unlink(f"{directory}/{name}")
        except FileNotFoundError:
            pass
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        pass
