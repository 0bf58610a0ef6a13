"""``nsbook doctor``: what this machine allows, found out by trying."""

from __future__ import annotations

import argparse


def add(parser: argparse.ArgumentParser) -> None:
    """One option."""
    parser.add_argument("--json", action="store_true", help="as JSON")


def main(args: argparse.Namespace) -> int:
    """Print the report."""
    from nsbook.doctor import doctor

    report = doctor()
    if args.json:
        import json

        print(json.dumps(report.to_dict(), indent=2))
    else:
        print(report)
    return 0
