"""``nsbook demo``: the main job in a terminal. A container is built from its pieces, op by op, and a shell runs in it."""

from __future__ import annotations

import argparse
import sys
from typing import Any

SCRIPT = """
echo "Hello from process $$ of a container: $(id -un) on $(hostname)"
[ -z "$SAY" ] || echo "you said: $SAY"
echo "my kernel: $(cat /proc/version)"
echo "processes that I see:"; for p in /proc/[0-9]*; do echo "  ${p#/proc/} $(cat $p/comm 2>/dev/null)"; done
echo "my root:" $(ls /)
echo "my root's file system: $(head -n 1 /proc/self/mounts | cut -d ' ' -f 1-3)"
LIMIT=$(cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null)
echo "my limit: ${LIMIT:-none that I can see}${LIMIT:+ bytes of memory}"
"""


def add(parser: argparse.ArgumentParser) -> None:
    """What to run in it."""
    parser.add_argument("--say", default="", metavar="TEXT", help="a text that comes back from inside")
    parser.add_argument("--memory", default="", help="a memory limit (default: 64M where this machine lets us set one)")
    parser.add_argument("--calls", action="store_true", help="show the system calls of each op too")


def main(args: argparse.Namespace) -> int:
    """Each op with its call, its shell form, its result and its microseconds; then the shell's output; then the ledger."""
    from nsbook import trace
    from nsbook.container.assembly import Assembly
    from nsbook.errors import SetupError, Unsupported
    from nsbook.spawn.ledger import Ledger

    out = sys.stdout
    colour = out.isatty()

    def paint(text: str, code: str) -> str:
        return f"\033[{code}m{text}\033[0m" if colour else text

    given: dict[str, Any] = {"hostname": "nsbook-demo", "env": {"SAY": args.say}}
    try:
        assembly = Assembly("base", ["sh", "-c", SCRIPT], memory=args.memory or "64M", **given)
    except Unsupported as error:
        if args.memory:
            raise
        print(f"without a memory limit: {error}\n", file=out)
        assembly = Assembly("base", ["sh", "-c", SCRIPT], **given)
    width = len(str(len(assembly.plan)))
    print(paint(f"A container from its pieces: {len(assembly.plan)} ops", "1"), file=out)
    for warning in assembly.plan.warnings:
        print(f"  note: {warning}", file=out)
    with assembly, trace.record() if args.calls else trace.unrecorded():
        seen = 0
        while (op := assembly.next) is not None:
            number = assembly.position
            try:
                assembly.step()
            except SetupError as error:
                print(f"{number:>{width}} {paint('refused', '31')} {op.name}: {error}", file=out)
                print("\nThis machine doesn't let us. A small Linux of our own does: nsbook guest run nsbook demo", file=out)
                return 1
            rows = list(assembly.transcript)[seen:]
            seen += len(rows)
            usec = next((r.usec for r in rows if r.kind == "op" and r.op == number), 0.0)
            shell = op.shell()
            text = shell.text if shell.kind != "none" else f"({shell.text})"
            head = f"{number:>{width}} {paint(op.where.ljust(5), '36')} {paint(op.call.ljust(11), '33')} {usec:>7.0f} µs  ok  {op.what()}"
            print(head, file=out)
            print(paint(f"{'':>{width}}       $ {text if len(text) <= 150 else text[:149] + '…'}", "2"), file=out)
            for row in rows:
                if row.kind != "op":
                    print(f"{'':>{width}}         {row.name}({row.args[:100]}) = {row.result} {row.usec:.0f} µs", file=out)
        status = assembly.wait()
        print(paint("\nand the shell in it says:", "1"), file=out)
        print(assembly.stdout + assembly.stderr, file=out, end="")
    print(paint(f"\nexit status {status}; the ledger: ", "1") + ("empty again" if not Ledger() else str(Ledger())), file=out)
    return status
