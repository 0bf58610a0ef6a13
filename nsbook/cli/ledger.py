"""``nsbook ledger``: what nsbook has on this host now."""

from __future__ import annotations

import argparse


def add(parser: argparse.ArgumentParser) -> None:
    """One option."""
    parser.add_argument("--json", action="store_true", help="as JSON")


def main(args: argparse.Namespace) -> int:
    """Print the table."""
    from nsbook.spawn.ledger import Ledger

    ledger = Ledger()
    if args.json:
        import json

        print(json.dumps([{**e.to_dict(), "live": e.live, "inverses": [op.to_json() for op in e.inverses]} for e in ledger], indent=2))
    else:
        print(ledger)
    return 0
