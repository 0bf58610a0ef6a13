"""The only floor that forks: ops, plans, the ledger, and the three ways to run a plan.

* :mod:`nsbook.spawn.ops`: the vocabulary, a frozen op for each step of building a container.
* :mod:`nsbook.spawn.plan`: ops in order; canonical JSON, a table, a shell script.
* :mod:`nsbook.spawn.shepherd`: runs one plan (ledger, host ops, clone, barriers, wait, undo), and
  :mod:`nsbook.spawn.child`: the other side, up to the exec.
* :mod:`nsbook.spawn.launcher`, :mod:`nsbook.spawn.client`: a process that forks a shepherd for each request, for callers
  who must not fork (a notebook kernel has threads). A cold command line is its own shepherd instead, and the OCI runtime
  is one that leaves when the container is made.
* :mod:`nsbook.spawn.ledger`: what is on the host, and how to take it back.

Imports :mod:`nsbook.linux` and the ground. Follows namespaces(7), clone(2), pivot_root(2), pid_namespaces(7), unix(7).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def shutdown() -> None:
    """End this process's launcher; the next request starts a new one."""
    import sys

    client = sys.modules.get("nsbook.spawn.client")
    if client is not None:
        client.shutdown()


def statistics() -> dict[str, Any]:
    """The launcher of this process, if it runs: its pid and our descriptor to it."""
    import sys

    client = sys.modules.get("nsbook.spawn.client")
    running = client.running_launcher() if client is not None else None
    if running is None:
        return {"launcher": 0, "descriptors": ()}
    return {"launcher": running.pid, "descriptors": (running.channel.fileno(),)}
