"""What a command that was run leaves: status, output, and how it was done."""

from __future__ import annotations

from nsbook.frozen import Frozen
from nsbook.inspectable import Inspectable, Sheet, Volatile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nsbook.errors import SetupError
    from nsbook.trace import Transcript


class Result(Inspectable, Frozen):
    """``exit_code`` is as a shell gives it: 128+n for a command that signal n ended, 126 and 127 for one that could not be
    executed or found. ``stdout`` and ``stderr`` are text (``*_bytes`` are what was written). ``seconds`` is wall time from
    the call to the end of the clean-up."""

    argv: tuple[str, ...]
    exit_code: int
    stdout_bytes: bytes
    stderr_bytes: bytes
    seconds: float
    oom_killed: bool
    transcript: Transcript
    warnings: tuple[str, ...] = ()

    @property
    def stdout(self) -> str:
        """Standard output as text."""
        return self.stdout_bytes.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """Standard error as text."""
        return self.stderr_bytes.decode("utf-8", "replace")

    def sheet(self) -> Sheet:
        """Status and output."""
        rows = [("exit code", str(self.exit_code)), ("stdout", self.stdout.rstrip("\n")), ("stderr", self.stderr.rstrip("\n"))]
        if self.oom_killed:
            rows.append(("memory", "killed by the kernel: out of the memory that its control group allows"))
        rows.append(("time", Volatile(f"{self.seconds * 1000:.1f} ms")))
        return Sheet(" ".join(self.argv), ("", ""), tuple(rows), self.warnings, "result")

    def __repr__(self) -> str:
        return f"<Result exit_code={self.exit_code} stdout={self.stdout[:60]!r}{' …' if len(self.stdout) > 60 else ''}>"


def exit_code(status: int) -> int:
    """A status with the signal as a negative number, as a shell gives it."""
    return 128 - status if status < 0 else status


def not_started(error: SetupError, argv: tuple[str, ...], seconds: float, warnings: tuple[str, ...] = ()) -> Result:
    """A command that isn't there, or is none, is the caller's affair: a shell's status. Everything else is raised."""
    cause = error.__cause__
    if error.op is None or error.op.name != "Exec" or not isinstance(cause, OSError):
        raise error
    code = 127 if cause.errno == 2 else 126
    said = f"nsbook: {argv[0]}: {cause.strerror}\n".encode()
    return Result(argv, code, b"", said, seconds, False, error.transcript, warnings)
