"""``make test``: the linters, the tests and the notebooks in one go, then what was skipped and what it lacks.

All steps run even when an early one fails; the exit status is 0 only if none did. Arguments are handed to pytest, and
then nothing else is run. ``--only-lint`` and ``--quick`` (for other Python versions) choose a part.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import apart

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
WORKERS = "2"
CELL_TIMEOUT = "60"  # nbval's own default is 2,000 s

LINTERS: tuple[tuple[str, list[str | Path]], ...] = (
    ("ruff check", [BIN / "ruff", "check", "."]),
    ("ruff format", [BIN / "ruff", "format", "--check", "."]),
    ("mypy", [BIN / "mypy"]),
)
QUICK = "not requires and not slow"
"""The tests that need nothing special of the machine."""


class Tally:
    """What came of the steps."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, bool, float]] = []
        self.counts: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()

    def step(self, title: str, command: Sequence[str | Path], **env: str) -> None:
        print(f"\n── {title}", flush=True)
        start = time.monotonic()
        ok = subprocess.run([str(word) for word in command], cwd=ROOT, env=os.environ | env, check=False).returncode == 0
        self.steps.append((title, ok, time.monotonic() - start))

    def pytest(self, title: str, *arguments: str | Path, wrapped: bool = False) -> None:
        """One run of pytest. ``wrapped``: apart as a whole, with its own data (no conftest is there that does so)."""
        with tempfile.TemporaryDirectory() as there:
            report = Path(there, "report.xml")
            words: list[str] = [str(BIN / "pytest"), *map(str, arguments), f"--junitxml={report}"]
            if wrapped:
                self.step(title, apart.command(*words), NSBOOK_ROOT=there)
            else:
                self.step(title, words)
            if report.exists():
                self.read(report)
            else:
                self.counts["errors"] += 1

    def notebooks(self, *patterns: str) -> None:
        """nbval compares each cell's output with the stored one; its plugin is slow to load, so only here is it loaded."""
        if os.geteuid() != 0:
            self.skipped["needs root: the chapters' stored outputs are those of a run as root"] += 1
            return
        chapters = sorted(path for pattern in patterns for path in (ROOT / "notebooks").glob(pattern))
        options = ["-q", "-o", "addopts=", "-o", "filterwarnings=", "--nbval", "--nbval-cell-timeout", CELL_TIMEOUT]
        options += ["--nbval-sanitize-with", str(ROOT / "tests/notebooks/sanitize.cfg"), "--rootdir", str(ROOT)]
        if chapters:
            self.pytest("notebooks", *options, *chapters, wrapped=True)

    def read(self, report: Path) -> None:
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            for name in ("tests", "failures", "errors", "skipped"):
                self.counts[name] += int(suite.get(name, 0))
            self.skipped.update(skip.get("message") or "" for skip in suite.iter("skipped"))

    def show(self) -> bool:
        """Print it all; whether all is well."""
        if self.skipped:
            print("\nNot run here, for lack of:")
            for reason, count in sorted(self.skipped.items()):
                print(f"  {count:4}  {reason.removeprefix('needs ')}")
        print("\nSteps:")
        for title, ok, seconds in self.steps:
            print(f"  {'ok    ' if ok else 'FAILED'}  {seconds:6.1f} s  {title}")
        failed = self.counts["failures"] + self.counts["errors"]
        passed = self.counts["tests"] - failed - self.counts["skipped"]
        if self.counts:
            print(f"\ntests: {passed} passed, {failed} failed, {self.counts['skipped']} skipped")
        return all(ok for _, ok, _ in self.steps)


def main(arguments: list[str]) -> int:
    tally = Tally()
    if arguments == ["--quick"]:
        tally.pytest("the quick tests", "-q", "-n", WORKERS, "-m", QUICK, "tests")
        tally.notebooks("00-*.ipynb", "13-*.ipynb")
    elif arguments and arguments != ["--only-lint"]:
        tally.pytest("tests", *arguments)
    else:
        for title, command in LINTERS:
            tally.step(title, command)
        if not arguments:
            tally.pytest("tests", "-n", WORKERS, "--dist=loadscope", "-q", "--durations=10", "tests")
            tally.notebooks("[0-9][0-9]-*.ipynb")
    return 0 if tally.show() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
