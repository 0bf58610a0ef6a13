"""Run a hook of the OCI runtime specification (config.md, "POSIX-platform Hooks")."""

from __future__ import annotations

import subprocess

from nsbook.errors import NsbookError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run_hook(hook: dict[str, Any], state: bytes) -> None:
    """``hook`` has path, args, env and timeout (seconds). Raises NsbookError when it fails or takes too long."""
    env = dict(e.partition("=")[::2] for e in hook.get("env") or ())
    try:
        done = subprocess.run(
            hook.get("args") or [hook["path"]],
            executable=hook["path"],
            env=env,
            input=state,
            capture_output=True,
            timeout=hook.get("timeout"),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NsbookError(f"the hook {hook['path']} failed: {error}") from error
    if done.returncode:
        raise NsbookError(f"the hook {hook['path']} failed with status {done.returncode}: {done.stderr.decode(errors='replace').strip()}")
