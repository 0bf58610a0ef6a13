"""Ctrl-C at any moment: the container ends, the caller gets KeyboardInterrupt, and nothing is left.

A Python of its own runs containers in a loop, and is sent SIGINT at random moments, hundreds of times.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

import leaks
import nsbook
from needs import requires

pytestmark = requires("root", "overlay")

LOOP = """
import os, signal, sys
import nsbook
from nsbook.container.container import Container
from nsbook.spawn import shutdown

given = eval(sys.argv[1])
Container.run("base", ["true"], **given)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
print("ready", flush=True)
interrupted = 0
while True:
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        while True:
            try:
                Container.run("base", ["sleep", "0.01"], **given)
            finally:
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    except KeyboardInterrupt:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    interrupted += 1
    print(interrupted, flush=True)
    if not sys.stdin.readline().strip():
        break
shutdown()
print("descriptors", len(os.listdir("/proc/self/fd")), flush=True)
"""


@pytest.mark.parametrize("given", [{}, {"userns": True, "memory": "64M"}, {"cgroup": False}], ids=["plain", "userns", "no-cgroup"])
def test_at_random_moments(given: dict[str, object]) -> None:
    dice = random.Random(4711)
    before = leaks.look()
    process = subprocess.Popen([sys.executable, "-c", LOOP, repr(given)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            assert process.stdout.readline() == "ready\n"
            for number in range(1, 151):
                time.sleep(dice.random() * 0.06)
                process.send_signal(signal.SIGINT)
                assert process.stdout.readline() == f"{number}\n"
                end = time.monotonic() + 5
                while nsbook.ledger():
                    assert time.monotonic() < end, f"interrupt {number}: {nsbook.ledger()}"
                    time.sleep(0.002)
                process.stdin.write("go on\n" if number < 150 else "\n")
                process.stdin.flush()
            # Three, and the one that counts. (Between a call's return and the name for its result an interrupt loses a
            # descriptor, and Python has no way around that: once in hundreds.)
            assert int(process.stdout.readline().split()[1]) <= 4 + 3
        finally:
            process.kill()
    assert not leaks.left_since(before)


def test_in_the_middle_of_a_wait() -> None:
    """From the keyboard: the whole process group is sent it, and the container has a session of its own."""
    code = """
import os, sys, nsbook
from nsbook.container.container import Container
try:
    Container.run("base", ["sh", "-c", "trap '' INT; sleep 30"])
except KeyboardInterrupt:
    print("interrupted", len(nsbook.ledger()), flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    with process:
        end = time.monotonic() + 20
        while not nsbook.ledger() and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=20)[0] == "interrupted 0\n"
