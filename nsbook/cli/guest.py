"""``nsbook guest``: a small Linux of our own, where everything is allowed."""

from __future__ import annotations

import argparse


def add(parser: argparse.ArgumentParser) -> None:
    """Declared by the guest floor, which knows its engines."""
    from nsbook.guest.command import add as declare

    declare(parser)


def main(args: argparse.Namespace) -> int:
    """Boot it and run the command there."""
    from nsbook.guest.command import main as run

    return run(args)
