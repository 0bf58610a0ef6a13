"""Run one container from a process that has just begun and does nothing else: the command line.

A launcher would be a second Python. A cold command line has one thread, so it is its own shepherd: the same code, the same
plan, the same ledger. Signals are the container's: they are passed on. The kernel drops a signal that process 1 of a pid
namespace has no handler for, so after an interrupt the container gets a moment to end by itself, and is then killed.
"""

from __future__ import annotations

import gc
import signal
import time

from nsbook.container.prepare import Prepared, oom_killed
from nsbook.errors import CleanupError
from nsbook.spawn.client import setup_error, transcript_rows
from nsbook.spawn.result import exit_code
from nsbook.spawn.shepherd import Failure, Shepherd
from nsbook.trace import Transcript

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

PATIENCE = 1.0
"""Seconds between an interrupt that was passed on and the kill."""
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCONT)
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Stopped(BaseException):
    """A signal came while the container was being built."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run(prepared: Prepared, *, streams: tuple[int, int, int] = (0, 1, 2)) -> tuple[int, bool]:
    """Build, run, wait, undo. The exit code as a shell gives it, and whether the kernel killed for lack of memory.

    Raises SetupError when an op failed, CleanupError when something could not be undone. For the main thread of a process
    with one thread.
    """
    gc.disable()  # a short-lived process, and the fork need not copy what a collection would touch
    slots = dict(zip(("stdin", "stdout", "stderr"), streams, strict=True))
    # A signal while the ledger is opened, or between the release and the exec, waits: in between it stops the building, and
    # once the command runs it is the command's.
    phase, ending, waiting = "opening", 0.0, list[int]()
    old = {number: signal.getsignal(number) for number in PASSED_ON}
    shepherd: Shepherd | None = None

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal ending
        again = phase == "starting" and number in ENDING and number in waiting
        if (phase == "building" and number in ENDING) or again:
            raise Stopped(number)
        if phase in ("opening", "building", "starting"):
            waiting.append(number)
        elif phase == "running" and shepherd is not None:
            shepherd.kill(number)
            if number in ENDING and not ending:
                ending = time.monotonic() + PATIENCE

    for number in PASSED_ON:
        signal.signal(number, handler)
    status, failure, stopped, observed = 0, None, 0, {}
    try:
        shepherd = Shepherd(prepared.plan, slots=slots, tagged=prepared.tagged)
        phase = "building"
        if early := [number for number in waiting if number in ENDING]:
            raise Stopped(early[0])
        running = shepherd.advance()
        phase = "starting"
        while not running:
            running = shepherd.advance(release=True)
        phase = "running"
        for missed in waiting:
            handler(missed, None)
        while shepherd.poll(timeout=0.05 if ending else 1.0) != "child":
            if ending and time.monotonic() > ending:
                shepherd.kill()
        status = shepherd.wait()
        observed = shepherd.observe(list(prepared.observe))
    except Failure as error:
        failure = error
    except Stopped as stop:
        stopped = stop.number
    finally:
        phase = "ended"
        left = shepherd.undo() if shepherd is not None else []
        for number, was in old.items():
            signal.signal(number, was)
    transcript = Transcript(transcript_rows(prepared.plan.ops, shepherd.done, shepherd.calls)) if shepherd is not None else Transcript()
    refused = setup_error(prepared.plan, failure.data, transcript) if failure is not None else None
    if left:
        raise CleanupError("not all could be undone: " + "; ".join(left), original=refused) from refused
    if refused is not None:
        raise refused
    if stopped:
        return 128 + stopped, False
    return exit_code(status), oom_killed(observed)
