"""``nsbook guest run`` and ``nsbook guest shell``: a guest for one command line.

Exit status: the command's; 124 when its time was up; 125 when the guest failed. The one line of progress goes to standard
error, and only if that is a terminal.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time

from nsbook.errors import NsbookError
from nsbook.guest.guest import Guest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from nsbook.guest.process import GuestProcess
    from nsbook.progress import Event

FAILED = 125
TIMED_OUT = 124
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What both verbs take."""
    parser.add_argument("-m", "--memory", default="1G", metavar="SIZE", help="the guest's memory (default 1G)")
    parser.add_argument("--engine", choices=("auto", "uml", "qemu"), default="auto", help="User Mode Linux or QEMU")
    parser.add_argument("--cgroup", choices=("v2", "v1", "hybrid"), default="v2", help="its cgroup layout (default v2)")
    parser.add_argument(
        "--share", action="append", default=[], metavar="DIR", help="show DIR although the guest has its own /tmp or /run (repeatable)"
    )
    parser.add_argument("--writable", action="append", default=[], metavar="DIR", help="let changes in DIR arrive on the host (repeatable)")
    parser.add_argument("--user", metavar="NAME", help="who runs the command: made in the guest if need be (default root)")
    parser.add_argument("--cwd", metavar="DIR", help="its working directory (default: this one)")
    parser.add_argument("-e", "--env", action="append", default=[], metavar="NAME[=VALUE]", help="set a variable (repeatable)")
    parser.add_argument("--timeout", type=float, metavar="S", help="kill the command after S seconds")


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs of ``nsbook guest``."""
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    text = "run one command: as root, with this machine's files; what it writes is thrown away"
    run = verbs.add_parser("run", help=text, description=text[0].upper() + text[1:] + ".")
    add_options(run)
    run.add_argument("-t", "--tty", action="store_true", help="give the command a terminal")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND [ARG...]")
    shell = verbs.add_parser("shell", help="a shell on this terminal", description="A shell on this terminal.")
    add_options(shell)


def main(options: argparse.Namespace) -> int:
    """Boot as told, run what was asked for, return its exit status."""
    if options.action == "shell":
        if not os.isatty(0):
            print("nsbook guest shell: standard input is no terminal; use nsbook guest run", file=sys.stderr)
            return FAILED
        return serve(options, [os.environ.get("SHELL") or "/bin/sh", "-i"], tty=True)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        print("nsbook guest run: no command", file=sys.stderr)
        return FAILED
    return serve(options, command, tty=options.tty)


def cli_run(args: Sequence[str]) -> int:
    """``nsbook guest run`` with these words after it."""
    return invoke("run", args)


def cli_shell(args: Sequence[str]) -> int:
    """``nsbook guest shell`` with these words after it."""
    return invoke("shell", args)


def invoke(action: str, args: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="nsbook guest")
    add(parser)
    return main(parser.parse_args([action, *args]))


def serve(options: argparse.Namespace, command: list[str], *, tty: bool) -> int:
    """Boot as told, and be the command's standard streams."""
    from nsbook.guest import terminal

    raw = tty and os.isatty(0)
    reads = raw or not os.isatty(0)
    try:
        with (
            Guest.boot(
                memory=options.memory,
                engine=options.engine,
                cgroup=options.cgroup,
                share=options.share,
                writable=options.writable,
                user=options.user,
                progress=show,
            ) as guest,
            guest.open_stream(
                command,
                cwd=options.cwd,
                env=environment(guest, options.env),
                tty=tty,
                size=terminal.size() if raw else (24, 80),
                stdin="pipe" if reads else "null",
            ) as process,
            terminal.raw(process) if raw else terminal.as_it_is(),
            passing_on(process),
        ):
            if reads and not process.refusal:
                threading.Thread(target=feed, args=(process,), daemon=True).start()
            return carry(process, options.timeout)
    except NsbookError as error:
        print(f"nsbook guest: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        return 128 + signal.SIGPIPE


def environment(guest: Guest, assignments: list[str]) -> dict[str, str]:
    """The command's, with ``NAME=VALUE`` set and ``NAME`` taken from ours."""
    env = guest.environment()
    for item in assignments:
        name, given, value = item.partition("=")
        if given:
            env[name] = value
        elif name in os.environ:
            env[name] = os.environ[name]
    return env


def show(event: Event) -> None:
    """The one line, gone when the guest is up."""
    if sys.stderr.isatty():
        text = "\r\033[K" if event.done else f"nsbook guest: booting {event.item} ..."
        print(text, end="", file=sys.stderr, flush=True)


def feed(process: GuestProcess) -> None:
    """Our standard input to the command's, in a thread of its own."""
    try:
        while data := os.read(0, 1 << 16):
            process.write(data)
        process.close_stdin()
    except (OSError, NsbookError):
        pass  # it has ended


def carry(process: GuestProcess, timeout: float | None) -> int:
    """Its output to ours, until its end."""
    if process.refusal:
        print(f"nsbook guest: {process.refusal}", file=sys.stderr)
        return process.exit_code or FAILED
    deadline = None if timeout is None else time.monotonic() + timeout
    errors = threading.Thread(target=pour, args=(process.read_stderr, 2, None), daemon=True)
    errors.start()
    try:
        pour(process.read, 1, deadline)
        errors.join()
        return process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except TimeoutError:
        process.kill()
        pour(process.read, 1, None)
        errors.join()
        return TIMED_OUT


def pour(read: Callable[..., bytes], fd: int, deadline: float | None) -> None:
    """All of one stream to a descriptor."""
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        data = memoryview(read(timeout=left))
        if not data:
            return
        while data:
            data = data[os.write(fd, data) :]


class passing_on:
    """Signals to us are signals to the command, while the block lasts."""

    def __init__(self, process: GuestProcess) -> None:
        self._process = process

    def __enter__(self) -> None:
        def pass_on(number: int, frame: FrameType | None) -> None:
            self._process.send_signal(number)

        self._before = {number: signal.signal(number, pass_on) for number in PASSED_ON}

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
