"""``nsbook doctor``: what this machine allows, found out by trying."""

from __future__ import annotations

import argparse


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--deep", action="store_true", help="boot the guest's kernel as well (some seconds)")
    parser.add_argument("feature", nargs="*", help="try only these")


def main(args: argparse.Namespace) -> int:
    """Print the report. The status is 0 whatever is refused: to say so is the job."""
    from nsbook.doctor import doctor, needs
    from nsbook.doctor.report import table

    if args.feature:
        found = needs(*args.feature)
        data, text = {"findings": [f.to_dict() for f in found]}, table("", found).text()
    else:
        report = doctor(deep=args.deep)
        data, text = report.to_json(), str(report)
    if args.json:
        import json

        text = json.dumps(data, indent=2, ensure_ascii=False)
    print(text)
    return 0
