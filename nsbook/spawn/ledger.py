"""The ledger: whatever nsbook makes on the host is written down before it is made, with how to take it back.

One file a run in ``<run-time data>/ledger``, written in one go before the first op: the boot id, the owner (pid and start
time), and the ops that undo. When all is undone the file goes. What a killed process left behind is found here:
``nsbook.ledger()`` shows it and ``nsbook clean`` runs the inverses, each of which may be run twice, or for nothing.
"""

from __future__ import annotations

import json
import os
import time

from nsbook.errors import CleanupError, Conflict
from nsbook.frozen import Frozen
from nsbook.inspectable import Inspectable, Sheet, Volatile
from nsbook.linux import host
from nsbook.linux import status as proc_status
from nsbook.linux.files import read_bytes
from nsbook.places import run_root
from nsbook.spawn.ops import KillRun, Op, Place, RemoveTree, from_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


PF_EXITING = 0x4
"""In the flags of proc_pid_stat(5): the process was killed, or ends, and does nothing more (include/linux/sched.h)."""


class Entry(Frozen):
    """One run's line in the ledger."""

    run: str
    title: str
    boot_id: str
    owner: int
    owner_start: int
    made: float
    inverses: tuple[Op, ...]
    error: str = ""

    @property
    def live(self) -> bool:
        """Is the process still there that will undo this by itself?"""
        if self.boot_id != host.boot_id():
            return False
        try:
            fields = read_bytes(f"/proc/{self.owner}/stat").rpartition(b")")[2].split()
        except OSError:
            return False
        return int(fields[19]) == self.owner_start and fields[0] not in (b"Z", b"X") and not int(fields[6]) & PF_EXITING

    @property
    def path(self) -> str:
        """Its file."""
        return os.path.join(directory(), f"{self.run}.json")

    def write(self, *, new: bool = False) -> None:
        """One write to a new file, then its name: never half an entry. ``new``: raises Conflict if there is such a run."""
        body = {k: v for k, v in self.to_dict().items() if k != "inverses"}
        body["inverses"] = [op.to_json() for op in self.inverses]
        data = json.dumps(body, separators=(",", ":")).encode()
        partial = f"{self.path}.{os.getpid()}"
        try:
            fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(partial), 0o700, exist_ok=True)
            fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
        if not new:
            os.rename(partial, self.path)
            return
        try:
            os.link(partial, self.path)
        except FileExistsError:
            raise Conflict(f"{self.run} is in the ledger already: what it made is still there, or was left behind") from None
        finally:
            os.unlink(partial)

    def forget(self) -> None:
        """All of it is undone."""
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass

    def undo(self) -> list[str]:
        """Run the inverses; what could not be undone comes back as text and stays in the ledger."""
        ops: tuple[Op, ...] = self.inverses
        if self.boot_id != host.boot_id():
            # The machine has been started anew: only what lies on a disk can still be there.
            ops = tuple(op for op in ops if isinstance(op, RemoveTree))
        left: list[Op] = []
        said: list[str] = []
        for op in ops:
            try:
                op.execute(Place())
            except OSError as error:
                left.append(op)
                said.append(f"{op.what()}: {error.strerror or error}")
        if left:
            self.replace(inverses=tuple(left), error="; ".join(said)).write()
        else:
            self.forget()
        return said


def directory() -> str:
    """Where the ledger lies."""
    return os.path.join(run_root(), "ledger")


def open_entry(run: str, title: str, inverses: tuple[Op, ...], *, owner: int = 0, tagged: bool = False) -> Entry:
    """Write a run down before it begins. ``tagged``: its processes carry the run id in their environment. Raises Conflict."""
    owner = owner or os.getpid()
    ops = ((KillRun(run),) if tagged else ()) + inverses
    entry = Entry(run, title, host.boot_id(), owner, proc_status.start_time(owner), time.time(), ops)
    entry.write(new=True)
    return entry


def read(path: str) -> Entry:
    """One entry from its file."""
    with open(path, encoding="utf-8") as stream:
        body = json.load(stream)
    body["inverses"] = tuple(from_json(op) for op in body["inverses"])
    return Entry(**body)


class Ledger(Inspectable):
    """What is written down now. Falsy when empty; iterate over its entries."""

    def __init__(self) -> None:
        entries, unreadable = [], []
        try:
            names = sorted(os.listdir(directory()))
        except FileNotFoundError:
            names = []
        for name in names:
            if name.endswith(".json"):
                try:
                    entries.append(read(os.path.join(directory(), name)))
                except FileNotFoundError:
                    continue  # undone while we were reading
                except (ValueError, LookupError, TypeError):
                    unreadable.append(name)
        self.entries = tuple(sorted(entries, key=lambda e: e.made))
        self.unreadable = tuple(unreadable)
        """Files that are no entry of this version of nsbook's. They are left alone."""

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def sheet(self) -> Sheet:
        """One row a thing that is on the host."""
        rows = []
        for entry in self.entries:
            state = "in use" if entry.live else "left behind"
            for op in entry.inverses:
                rows.append((Volatile(entry.run), entry.title, state, op.what(), op.shell().text))
        notes: tuple[str, ...] = ("the ledger is empty: nothing of nsbook is on this host",) if not rows and not self.unreadable else ()
        notes += tuple([f"{name} can't be read, and is left alone" for name in self.unreadable])
        if any(not e.live for e in self.entries):
            notes += ("`nsbook clean` takes back what was left behind",)
        return Sheet("Ledger", ("run", "what for", "state", "to undo", "in a shell"), tuple(rows), notes, "ledger")

    def __repr__(self) -> str:
        return f"<Ledger: {len(self.entries)} runs, {sum(not e.live for e in self.entries)} left behind>"

    def clean(self, *, force: bool = False) -> list[Entry]:
        """Undo what was left behind (``force``: also what is in use). Raises CleanupError for what can't be undone."""
        done, said = [], []
        for entry in self.entries:
            if entry.live and not force:
                continue
            said += entry.undo()
            done.append(entry)
        _sweep()
        if said:
            raise CleanupError("not all could be undone: " + "; ".join(said))
        return done


def _sweep() -> None:
    """Remove half-written files of processes that are no more."""
    try:
        names = os.listdir(directory())
    except FileNotFoundError:
        return
    for name in names:
        pid = name.rpartition(".")[2]
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            try:
                os.unlink(os.path.join(directory(), name))
            except FileNotFoundError:
                pass


def ledger() -> Ledger:
    """What nsbook has on this host now."""
    return Ledger()
