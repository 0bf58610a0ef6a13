"""The kernel's verdicts on calls, without one of them being carried out: see seccomp_child.py."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from nsbook.linux import bpf

MAGIC = 0x5EC0
FIRST = 1000
"""Verdict number n of a program is turned into errno FIRST + n."""

UNASKED = (335, 336)
"""uretprobe and uprobe of x86_64: the kernel (since 6.14) puts them to no filter, and ends with SIGILL whoever calls them."""

Call = tuple[int, tuple[int, ...]]


def harmless(program: bytes) -> tuple[bytes, list[int]]:
    """The same program with every verdict made an errno of its own, and the verdicts in that order."""
    verdicts: list[int] = []
    out = []
    for code, jt, jf, k in bpf.disassemble(program):
        if code == bpf.RET:
            if k not in verdicts:
                verdicts.append(k)
            k = bpf.RET_ERRNO | FIRST + verdicts.index(k)
        out.append((code, jt, jf, k))
    return bpf.assemble(out), verdicts


def child(filters: Sequence[dict[str, object]]) -> list[object]:
    """Run the script in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-I", str(Path(__file__).with_name("seccomp_child.py"))],
        input=json.dumps({"filters": filters}),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    answers: list[object] = json.loads(done.stdout)
    return answers


def verdicts_of_kernel(programs: Sequence[bytes], calls: Sequence[Sequence[Call]]) -> list[list[int]]:
    """For each program, what the kernel's run of it returned for each call (args without the sixth, which is MAGIC)."""
    prepared = [harmless(p) for p in programs]
    asked = [
        {"program": base64.b64encode(code).decode(), "calls": [[nr, *args, MAGIC] for nr, args in wanted]}
        for (code, _), wanted in zip(prepared, calls, strict=True)
    ]
    out = []
    for answer, (_, verdicts) in zip(child(asked), prepared, strict=True):
        assert isinstance(answer, list), answer
        out.append([verdicts[errno - FIRST] for errno in answer])
    return out
