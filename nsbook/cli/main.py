"""``nsbook``: the command line."""

from __future__ import annotations

import argparse
import sys

from nsbook.errors import NsbookError

VERBS: dict[str, str] = {
    "run": "run a command in a new container",
    "demo": "build a container from its pieces and show every step",
    "ledger": "what nsbook has on this host now",
    "clean": "take back what a killed process left behind",
    "doctor": "what this machine allows, found out by trying",
    "guest": "a small Linux of our own, where everything is allowed",
}
"""Each is a module of this package."""


def parser(verb: str) -> argparse.ArgumentParser:
    """The parser, with the arguments of one verb: the other verbs' modules are not imported."""
    from importlib import import_module

    from nsbook import __version__

    top = argparse.ArgumentParser(
        prog="nsbook",
        description="Take a container apart, and put it together again.",
        epilog="`nsbook VERB --help` says more. `make lab` opens the notebooks.",
    )
    top.add_argument("--version", action="version", version=f"nsbook {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, text in VERBS.items():
        one = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", add_help=name != "run")
        if name == verb:
            import_module(f"nsbook.cli.{name}").add(one)
    return top


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status."""
    words = sys.argv[1:] if argv is None else argv
    verb = next((w for w in words if not w.startswith("-")), "")
    if verb and verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, 1)
        print(
            f"nsbook: no verb {verb!r}" + (f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(VERBS)}"), file=sys.stderr
        )
        return 125
    args = parser(verb).parse_args(words)
    from importlib import import_module

    try:
        status: int = import_module(f"nsbook.cli.{verb}").main(args)
        sys.stdout.flush()
        return status
    except NsbookError as error:
        print(f"nsbook {verb}: {error}", file=sys.stderr)
        return 125
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has enough (`nsbook ledger | head`); nothing more can be written, not even at exit.
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141


if __name__ == "__main__":
    sys.exit(main())
