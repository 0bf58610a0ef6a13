"""``nsbook-runtime``: the OCI runtime command line (runtime-spec, runtime.md), as podman and conmon call it.

    create ID --bundle DIR [--pid-file F] [--console-socket S] [--no-pivot] [--preserve-fds N]
    start ID | run ID | state ID | kill ID [SIGNAL] | delete [--force] ID | list | features

``create`` makes the container up to the last barrier and leaves: its first process is then the caller's (conmon's, by its
subreaper) to wait for, and waits itself on a socket in the state directory until ``start`` connects. Between the two calls
nothing of nsbook runs. The state is a directory of its own below the run-time data: ``state.json`` and the socket.

Every import here is paid by each container, so they are few, and ``argparse`` is not among them.
"""

from __future__ import annotations

import os
import sys

from nsbook.errors import ContainerNotFound, InvalidOption, NsbookError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VALUED = (
    "--bundle",
    "-b",
    "--pid-file",
    "--console-socket",
    "--preserve-fds",
    "--root",
    "--log",
    "--log-format",
    "--log-level",
    "--cgroup-manager",
    "--process",
    "-p",
    "--resources",
    "-r",
)
SWITCHES = (
    "--force",
    "-f",
    "--no-pivot",
    "--no-new-keyring",
    "--systemd-cgroup",
    "--debug",
    "--all",
    "-a",
    "--detach",
    "-d",
    "--version",
    "-v",
    "--help",
    "-h",
    "--keep",
    "--tty",
    "-t",
)
VERBS = ("create", "start", "run", "state", "kill", "delete", "list", "features", "exec", "pause", "resume", "ps")


class Arguments:
    """Options by their long name, and the words that are none."""

    def __init__(self, words: list[str]) -> None:
        short = {
            "-b": "--bundle",
            "-f": "--force",
            "-a": "--all",
            "-d": "--detach",
            "-v": "--version",
            "-h": "--help",
            "-p": "--process",
            "-r": "--resources",
            "-t": "--tty",
        }
        self.options: dict[str, str] = {}
        self.words: list[str] = []
        queue = list(words)
        while queue:
            word = queue.pop(0)
            name, equals, value = word.partition("=")
            if not word.startswith("-") or word == "-":
                self.words.append(word)
                if len(self.words) == 2 and self.words[0] == "exec":
                    self.words += queue
                    return
            elif name in VALUED:
                if not equals:
                    if not queue:
                        raise InvalidOption(f"{name} needs a value")
                    value = queue.pop(0)
                self.options[short.get(name, name)] = value
            elif name in SWITCHES:
                self.options[short.get(name, name)] = value or "true"
            else:
                raise InvalidOption(f"no option {name}")

    def get(self, name: str, default: str = "") -> str:
        """An option's value."""
        return self.options.get(name, default)

    def number(self, name: str) -> int:
        """An option's value as a number, 0 without one. Raises InvalidOption."""
        text = self.get(name) or "0"
        if not text.isdigit():
            raise InvalidOption(f"{name} {text!r}: a number")
        return int(text)

    def id(self) -> str:
        """The container's id: the word after the verb."""
        if len(self.words) < 2:
            raise InvalidOption("which container? Its id comes after the verb")
        return self.words[1]


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 with a message (in the log file too, if one was named)."""
    args: Arguments | None = None
    try:
        args = Arguments(sys.argv[1:] if argv is None else argv)
        if "--version" in args.options:
            from nsbook import __version__

            print(f"nsbook-runtime {__version__}\nspec: 1.0.2")
            return 0
        if "--help" in args.options or not args.words:
            print(__doc__)
            return 0
        return dispatch(args)
    except NsbookError as error:
        return _fail(args, str(error))
    except OSError as error:
        return _fail(args, f"{error} {'; '.join(getattr(error, '__notes__', ()))}".strip())


def dispatch(args: Arguments) -> int:
    """One verb."""
    from nsbook.container import oci

    verb = args.words[0]
    root = args.get("--root") or oci.default_root()
    if verb in ("create", "run"):
        container = oci.create(
            root,
            args.id(),
            args.get("--bundle") or os.getcwd(),
            console=args.get("--console-socket"),
            preserve_fds=args.number("--preserve-fds"),
            detach=verb == "create" or "--detach" in args.options,
        )
        if args.get("--pid-file"):
            _write(args.get("--pid-file"), str(container.pid))
        return 0 if verb == "create" else container.run_to_end("--detach" in args.options)
    if verb == "start":
        oci.load(root, args.id()).start()
    elif verb == "state":
        import json

        print(json.dumps(oci.load(root, args.id()).state(), indent=2))
    elif verb == "kill":
        oci.load(root, args.id()).kill(args.words[2] if len(args.words) > 2 else "TERM", everyone="--all" in args.options)
    elif verb == "delete":
        try:
            oci.load(root, args.id()).delete(force="--force" in args.options)
        except ContainerNotFound:
            if "--force" not in args.options:
                raise
            oci.forget(root, args.id())
    elif verb in ("pause", "resume"):
        oci.load(root, args.id()).freeze(verb == "pause")
    elif verb == "exec":
        status: int = oci.load(root, args.id()).exec(
            args.words[2:],
            process=args.get("--process"),
            pid_file=args.get("--pid-file"),
            console=args.get("--console-socket"),
            detach="--detach" in args.options,
        )
        return status
    elif verb == "list":
        for state in oci.states(root):
            print(f"{state['id']}\t{state['pid']}\t{state['status']}\t{state['bundle']}")
    elif verb == "features":
        import json

        from nsbook.container.oci_config import features

        print(json.dumps(features(), indent=2))
    else:
        raise InvalidOption(f"no verb {verb!r}; there are: {', '.join(VERBS)}")
    return 0


def _write(path: str, text: str) -> None:
    """Whole or not at all: the caller may be waiting for the file."""
    partial = f"{path}.{os.getpid()}"
    with open(partial, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.rename(partial, path)


def _fail(args: Arguments | None, text: str) -> int:
    print(f"nsbook-runtime: {text}", file=sys.stderr)
    log = args.get("--log") if args is not None else ""
    if log:
        entry: Any = f"{text}\n"
        if args is not None and args.get("--log-format") == "json":
            import json

            entry = json.dumps({"level": "error", "msg": text}) + "\n"
        try:
            with open(log, "a", encoding="utf-8") as stream:
                stream.write(entry)
        except OSError:
            pass
    return 1


if __name__ == "__main__":
    sys.exit(main())
