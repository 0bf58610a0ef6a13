"""``nsbook``: the command line."""

from __future__ import annotations

import argparse
import sys

from nsbook.errors import InvalidOption, NsbookError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

VERBS: dict[str, str] = {
    "run": "run a command in a new container",
    "demo": "build a container from its pieces and show every step",
    "ledger": "what nsbook has on this host now",
    "clean": "take back what a killed process left behind",
    "doctor": "what this machine allows, found out by trying",
    "guest": "a small Linux of our own, where everything is allowed",
}
"""Each is a module of this package."""


class Parser(argparse.ArgumentParser):
    """An error of usage is an error of nsbook's like any other, with its exit status; no option may be shortened."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **given})

    def error(self, message: str) -> NoReturn:
        """Raises InvalidOption."""
        raise InvalidOption(f"{message}. See `{self.prog} --help`")


def parse(verb: str, words: list[str]) -> argparse.Namespace:
    """The arguments. Raises InvalidOption, which names the nearest option for one that doesn't exist."""
    args, unknown = parser(verb).parse_known_args(words)
    if not unknown:
        return args
    name = unknown[0].partition("=")[0]
    if not name.startswith("-"):
        raise InvalidOption(f"{name!r} is one word too many. See `nsbook {verb} --help`")
    import difflib
    from importlib import import_module

    one = Parser(add_help=False)
    import_module(f"nsbook.cli.{verb}").add(one)
    near = difflib.get_close_matches(name, [option for action in one._actions for option in action.option_strings], 1)
    raise InvalidOption(f"no option {name}" + (f"; did you mean {near[0]}?" if near else f". See `nsbook {verb} --help`"))


def parser(verb: str) -> Parser:
    """The parser, with the arguments of one verb: the other verbs' modules are not imported."""
    from importlib import import_module

    from nsbook import __version__

    top = Parser(
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
    from importlib import import_module

    try:
        args = parse(verb, words)
        status: int = import_module(f"nsbook.cli.{verb}").main(args)
        sys.stdout.flush()
        return status
    except NsbookError as error:
        print(f"nsbook {verb}".rstrip() + f": {error}", file=sys.stderr)
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
