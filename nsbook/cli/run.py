"""``nsbook run``: one command in a new container."""

from __future__ import annotations

import argparse
import sys

from nsbook.errors import SetupError


def add(parser: argparse.ArgumentParser) -> None:
    """Docker's spelling, as far as the options go."""
    parser.epilog = (
        "IMAGE is `base` (the embedded image), a directory that holds a root file system, or a tar of one. "
        "Exit status: the command's; 125 nsbook failed, 126 can't be executed, 127 not found, 128+n ended by signal n."
    )
    option = parser.add_argument
    option("--help", action="help", help="show this and exit (-h is the host name, as Docker has it)")
    option("--rm", action="store_true", help="accepted for Docker's sake: a container of `run` is always removed at its end")
    option("-h", "--hostname", default="", help="its host name (default: its id)")
    option("-m", "--memory", help="the most memory, e.g. 64M")
    option("--cpus", type=float, help="the most CPU time, in CPUs, e.g. 0.5")
    option("--pids-limit", type=int, metavar="N", help="the most tasks")
    option("-e", "--env", action="append", default=[], metavar="NAME=VALUE", help="an environment variable (repeatable)")
    option("-w", "--workdir", default="", help="working directory")
    option("-u", "--user", default="", metavar="USER[:GROUP]", help="user, by name or number")
    option("-v", "--volume", action="append", default=[], metavar="/HOST:/INSIDE[:ro]", help="show a directory of the host (repeatable)")
    option("--tmpfs", action="append", default=[], metavar="/PATH[:OPTIONS]", help="an empty directory in memory (repeatable)")
    option("--network", default="none", choices=("none", "host"), help="none: a loopback alone (default)")
    option("--read-only", action="store_true", help="the root file system can't be written to")
    option("--cap-add", action="append", default=[], metavar="CAP", help="keep one more capability (repeatable)")
    option("--cap-drop", action="append", default=[], metavar="CAP", help="keep one less; ALL: none (repeatable)")
    option("--security-opt", action="append", default=[], metavar="OPT", help="seccomp=unconfined|FILE, no-new-privileges[=false]")
    option("--userns", action="store_true", help="a user namespace, also for root")
    option("--init", action="store_true", help="a small init as process 1: it reaps orphans and forwards signals")
    option("--ulimit", action="append", default=[], metavar="NAME=SOFT[:HARD]", help="a resource limit (repeatable)")
    option("--explain", action="store_true", help="print the plan and run nothing")
    option("--script", action="store_true", help="print the plan as a shell script and run nothing")
    option("image", metavar="IMAGE")
    option("command", metavar="CMD", nargs=argparse.REMAINDER, help="the command and its arguments")


def main(args: argparse.Namespace) -> int:
    """Run it in this process: see :mod:`nsbook.container.cold`."""
    from nsbook.container.prepare import prepare
    from nsbook.container.spec import options

    prepared = prepare(args.image, tuple(args.command), options(**_options(args)))
    for warning in prepared.plan.warnings:
        print(f"nsbook run: {warning}", file=sys.stderr)
    if args.explain:
        print(prepared.plan)
        return 0
    if args.script:
        print(prepared.plan.script())
        return 0
    from nsbook.container import cold

    try:
        status, oom = cold.run(prepared)
    except SetupError as error:
        cause = error.__cause__
        if error.op is not None and error.op.name == "Exec" and isinstance(cause, OSError):
            print(f"nsbook run: {prepared.config['process']['args'][0]}: {cause.strerror}", file=sys.stderr)
            return 127 if cause.errno == 2 else 126
        raise
    if oom:
        print("nsbook run: the kernel killed a process of it: out of the memory that --memory allows", file=sys.stderr)
    return status


def _options(args: argparse.Namespace) -> dict[str, object]:
    from nsbook.errors import InvalidOption
    from nsbook.primitives.capabilities import DEFAULT, Capabilities

    given: dict[str, object] = {
        "hostname": args.hostname,
        "memory": args.memory,
        "cpus": args.cpus,
        "pids": args.pids_limit,
        "env": args.env,
        "workdir": args.workdir,
        "user": args.user,
        "binds": args.volume,
        "tmpfs": [tuple(t.partition(":")[::2]) for t in args.tmpfs],
        "network": args.network,
        "read_only": args.read_only,
        "userns": True if args.userns else None,
        "init": args.init,
    }
    if args.cap_add or args.cap_drop:
        dropped = Capabilities.parse(args.cap_drop)
        kept = [c for c in DEFAULT if c not in dropped]
        given["capabilities"] = [*kept, *(c for c in Capabilities.parse(args.cap_add) if c not in kept)]
    for text in args.security_opt:
        key, _, value = text.partition("=")
        if key == "seccomp" and value:
            given["seccomp"] = value
        elif key == "no-new-privileges" and value in ("", "true", "false"):
            given["no_new_privileges"] = value != "false"
        else:
            raise InvalidOption(f"--security-opt {text!r}: seccomp=unconfined, seccomp=FILE or no-new-privileges[=false]")
    limits = []
    for text in args.ulimit:
        name, _, value = text.partition("=")
        soft, _, hard = value.partition(":")
        if not soft.lstrip("-").isdigit() or (hard and not hard.lstrip("-").isdigit()):
            raise InvalidOption(f"--ulimit {text!r}: NAME=SOFT[:HARD], e.g. nofile=1024:2048")
        limits.append((name, int(soft), int(hard or soft)))
    given["rlimits"] = tuple(limits)
    return given
