"""What changes a process is tried in a process of its own: :func:`inside`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

SOURCE = str(Path(__file__).parents[2])

PRELUDE = """
import json, os, sys, tempfile, threading
from nsbook.linux import (bpf, cgroups, constants as C, credentials, diagnose, files, host, idmaps, mount, mountinfo,
                          network, nsfs, process, seccomp, status)
from nsbook.trace import record
out = {}

def error_of(action):
    "The errno, the notes and the class of what the action raises."
    try:
        action()
    except OSError as error:
        return {"errno": error.errno, "notes": error.__notes__, "class": type(error).__name__, "filename": error.filename}
    raise AssertionError("it was not refused")

def why(action):
    "The diagnosis of what the action raises, by way of JSON, as between two processes."
    try:
        action()
    except OSError as error:
        facts = json.loads(json.dumps(diagnose.capture(error)))
        return diagnose.explain(facts).to_dict() | {"missed": facts.get("missed", [])}
    raise AssertionError("it was not refused")

def in_child(action):
    "What the action returns, in a forked child."
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        answer = {"raised": "?"}
        try:
            answer = {"value": action()}
        except BaseException as error:
            answer = {"raised": repr(error)}
        finally:
            os.write(writable, json.dumps(answer).encode())
            os._exit(0)
    os.close(writable)
    with open(readable, "rb") as pipe:
        answer = json.loads(pipe.read())
    os.waitpid(pid, 0)
    if "raised" in answer:
        raise AssertionError(answer["raised"])
    return answer["value"]

def become(uid):
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)

def rows(transcript):
    return [[c.kind, c.name, c.args, c.result, c.errno] for c in transcript]
"""


def run_inside(
    body: str,
    *,
    unshare: tuple[str, ...] = (),
    python: str = sys.executable,
    flags: tuple[str, ...] = (),
    args: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Run ``body`` in a new Python, in new namespaces if asked, and return the ``out`` that it filled.

    Without root the namespaces come with a user namespace, in which the process is root.
    """
    prefix = ["unshare", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")), *unshare] if unshare else []
    code = f"{PRELUDE}\n{dedent(body)}\nprint(json.dumps(out))"
    done = subprocess.run(
        [*prefix, python, *flags, "-c", code, *args],
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": SOURCE, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    result: dict[str, Any] = json.loads(done.stdout.decode().splitlines()[-1])
    return result


@pytest.fixture(scope="session")
def inside() -> Callable[..., dict[str, Any]]:
    return run_inside
