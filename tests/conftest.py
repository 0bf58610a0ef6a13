"""What holds around every test.

* Every pytest process stands apart from the machine (``apart.py``) and has a cgroup and directories of its own
  (``station.py``), so that leaks can be told from what a neighbour does, and nothing touches the user's own nsbook data.
* No test may leave anything behind (``leaks.py``).
* What a test needs and the machine lacks is said by name (``needs.py``); with ``NSBOOK_TESTS_MUST_RUN=1`` it is a failure.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from typing import Any

import pytest

import apart
import leaks
import needs
import station

DIST = "loadgroup"


def pytest_configure(config: pytest.Config) -> None:
    """Go apart: each worker is started so; a pytest without workers becomes one that was."""
    if hasattr(config, "workerinput"):
        station.enter(config.workerinput["workerid"])
        return
    if config.option.collectonly:
        return
    if config.getoption("numprocesses", None) or config.getoption("tx", None):
        if config.option.dist in ("no", "load"):
            config.option.dist = DIST
        return
    if not apart.is_apart():
        config.pluginmanager.getplugin("capturemanager").stop_global_capturing()
        sys.stdout.flush()
        os.execv(sys.executable, apart.command(sys.executable, *sys.orig_argv[1:]))
    station.enter("main")


def pytest_unconfigure(config: pytest.Config) -> None:
    station.leave()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[Any]) -> None:
    """Each worker gets a Python that has gone apart first."""
    import execnet

    python = " ".join(apart.command(sys.executable))
    specs[:] = [execnet.XSpec(f"popen//id={s.id}//execmodel=main_thread_only//python={python}") for s in specs]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("requires"):
        needs.need(*mark.args)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where all must run, a skip of any other origin is a failure, too."""
    report = yield
    if needs.must_run and report.skipped and not hasattr(report, "wasxfail") and not needs.may_skip(item, why(report)):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and NSBOOK_TESTS_MUST_RUN is set: {why(report)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if needs.must_run and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped whole, and NSBOOK_TESTS_MUST_RUN is set: {why(report)}"
    return report


def why(report: pytest.TestReport | pytest.CollectReport) -> str:
    """A skip's reason."""
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a mount, a link, a cgroup, a process, a descriptor, a ledger entry or a file behind."""
    before = leaks.look()
    yield
    left = leaks.left_since(before)
    if left:
        pytest.fail("left behind:\n" + "\n".join(f"  {line}" for line in left), pytrace=False)
