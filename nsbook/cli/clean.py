"""``nsbook clean``: take back what a killed process left behind."""

from __future__ import annotations

import argparse


def add(parser: argparse.ArgumentParser) -> None:
    """One option."""
    parser.add_argument("--force", action="store_true", help="also what is in use: ends every container of this user")


def main(args: argparse.Namespace) -> int:
    """Run the inverses."""
    from nsbook.spawn.ledger import Ledger

    done = Ledger().clean(force=args.force)
    for entry in done:
        print(f"undone: {entry.title} (run {entry.run}), {len(entry.inverses)} things")
    if not done:
        print("nothing to clean: nothing was left behind")
    return 0
