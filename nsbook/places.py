"""Where nsbook keeps things.

Two places: the **data root** for what must outlive a reboot (images, unpacked layers, containers), the **run root** for
what must not (the ledger, sockets, pid files). For root they are ``/var/lib/nsbook`` and ``/run/nsbook``; for a user
``$XDG_DATA_HOME/nsbook`` and ``$XDG_RUNTIME_DIR/nsbook`` (XDG Base Directory Specification). ``NSBOOK_ROOT`` moves
both: to its ``data`` and its ``run``.

The environment is read at each call, so a test or a notebook cell can move them.
"""

from __future__ import annotations

import os


def data_root() -> str:
    """The directory of what outlives a reboot. It need not exist yet."""
    moved = os.environ.get("NSBOOK_ROOT")
    if moved:
        return os.path.join(os.path.abspath(moved), "data")
    if os.geteuid() == 0:
        return "/var/lib/nsbook"
    home = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(home):  # the specification: a relative path is to be ignored
        home = os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(home, "nsbook")


def run_root() -> str:
    """The directory of what dies with the boot. It need not exist yet.

    A user without a runtime directory gets ``/tmp/nsbook-UID``, which is made here and must be a real directory, theirs
    alone: anyone may write to ``/tmp``, so another user could have put something there first. PermissionError if so.
    """
    moved = os.environ.get("NSBOOK_ROOT")
    if moved:
        return os.path.join(os.path.abspath(moved), "run")
    user = os.geteuid()
    if user == 0:
        return "/run/nsbook"
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and _owned(runtime, user):
        return os.path.join(runtime, "nsbook")
    path = _temporary(user)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        found = os.lstat(path)
        if found.st_mode != 0o040700 or found.st_uid != user:
            raise PermissionError(
                f"{path} is not a directory of uid {user} with mode 0700: someone else may have made it. "
                "Set XDG_RUNTIME_DIR or NSBOOK_ROOT to a directory of your own."
            ) from None
    return path


def _temporary(user: int) -> str:
    return f"/tmp/nsbook-{user}"


def _owned(path: str, user: int) -> bool:
    try:
        return os.stat(path).st_uid == user
    except OSError:
        return False
