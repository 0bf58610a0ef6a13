"""``make bench``: how fast it is, beside crun and runc. Medians of interleaved runs in one go; ratios are printed, not asserted.

    make bench ARGS='--runs 40 --row 1000'

What is compared is the same work: the same root file system, the same namespaces, limits and mounts, and the same
system-call rules (nsbook's default profile, written as the runtime specification has it). Each is measured with its state
on a file system in memory (/dev/shm) and on the disk that TMPDIR is on: removing a directory waits for a disk's journal.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

BIN = Path(sys.executable).parent
HEAVY = ("ipywidgets", "anywidget", "matplotlib", "pyroute2", "IPython", "nbformat", "rich")


def bundle(place: Path) -> Path:
    """An OCI bundle of the embedded image, with nsbook's own configuration and its profile written out."""
    import nsbook
    from nsbook.container.prepare import prepare
    from nsbook.container.spec import options

    made = place / "bundle"
    (made / "rootfs").mkdir(parents=True)
    for layer in nsbook.Image.base().layers:
        layer.apply(str(made / "rootfs"))
    config = prepare("base", ("true",), options(memory="64M", cpus=1, pids=100)).config
    config["root"] = {"path": "rootfs", "readonly": False}
    config["linux"]["seccomp"] = nsbook.SeccompFilter.default().to_oci()
    config["linux"]["cgroupsPath"] = "nsbook-bench"
    (made / "config.json").write_text(json.dumps(config))
    return made


def crun(state: Path) -> list[str]:
    """crun refuses the hybrid layout: it runs in a mount namespace of its own without that mount."""
    words = ["crun", "--root", str(state / "crun"), "--cgroup-manager=cgroupfs", "run"]
    if not Path("/sys/fs/cgroup/unified").is_dir():
        return words
    return ["nsenter", f"--mount=/proc/{hidden().pid}/ns/mnt", "--wd=.", *words]


_hidden: list[subprocess.Popen[bytes]] = []


def hidden() -> subprocess.Popen[bytes]:
    """A process that holds such a mount namespace."""
    if not _hidden:
        script = "umount -l /sys/fs/cgroup/unified && echo && exec sleep infinity"
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout is not None
        process.stdout.readline()
        _hidden.append(process)
    return _hidden[0]


def command(words: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> Callable[[], None]:
    def run() -> None:
        done = subprocess.run(words, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}: status {done.returncode}: {done.stderr.decode(errors='replace')[-600:]}")

    return run


def interleaved(contenders: dict[str, Callable[[], None]], runs: int) -> dict[str, list[float]]:
    """Each once to warm up, then all in turn."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        run()
    for _ in range(runs):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) * 1000)
    return times


def table(title: str, times: dict[str, list[float]], ratios: tuple[tuple[str, str, float], ...]) -> None:
    print(f"\n{title}")
    for name, values in times.items():
        print(f"  {name:24} median {statistics.median(values):8.2f} ms   min {min(values):8.2f}   max {max(values):8.2f}")
    for one, other, goal in ratios:
        if one in times and other in times:
            ratio = statistics.median(times[one]) / statistics.median(times[other])
            print(f"  {one} / {other}: {ratio:.2f} (goal: at most {goal}) {'ok' if ratio <= goal else 'MISSED'}")


def containers(place: Path, runs: int) -> None:
    os.environ["NSBOOK_ROOT"] = str(place / "nsbook")
    import nsbook
    from nsbook import spawn

    made = bundle(place)
    contenders: dict[str, Callable[[], None]] = {
        "nsbook, warm": lambda: _ok(nsbook.Container.run("base", ["true"], memory="64M", cpus=1, pids=100).exit_code),
        "nsbook-runtime": command([str(BIN / "nsbook-runtime"), "run", "nsbook-bench-own"], made),
        "nsbook run, cold": command([str(BIN / "nsbook"), "run", "--memory", "64M", "--cpus", "1", "--pids-limit", "100", "base", "true"]),
    }
    if shutil.which("runc"):
        contenders["runc"] = command(["runc", "--root", str(place / "runc"), "run", "nsbook-bench-runc"], made)
    if shutil.which("crun"):
        contenders["crun"] = command([*crun(place), "nsbook-bench-crun"], made)
    ratios = (("nsbook, warm", "crun", 0.5), ("nsbook, warm", "runc", 0.2), ("nsbook-runtime", "runc", 2.5))
    table(f"one container that runs true, state on {place}", interleaved(contenders, runs), ratios)
    spawn.shutdown()


def _ok(code: int) -> None:
    if code:
        raise SystemExit(f"a container ended with {code}")


def imports(runs: int) -> None:
    code = f"import sys, time; a = time.perf_counter(); import nsbook; b = time.perf_counter(); print((b - a) * 1000, [m for m in {HEAVY} if m in sys.modules])"
    seen = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split(" ", 1) for _ in range(runs)
    ]
    times = sorted(float(ms) for ms, _ in seen)
    print(
        f"\nimport nsbook: median {statistics.median(times):.1f} ms (goal: under 100); heavy packages loaded: {seen[0][1].strip()} (goal: none)"
    )


def memory(pid: int) -> int:
    """Anonymous memory of a process in KiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1])
    return 0


def row(count: int) -> None:
    """Many in a row: the launcher's memory stays, and nothing is left."""
    import nsbook
    from nsbook import spawn

    start = time.perf_counter()
    early = 0
    for number in range(count):
        _ok(nsbook.Container.run("base", ["true"], memory="64M").exit_code)
        if number == count // 10:
            early = memory(spawn.statistics()["launcher"])
    late = memory(spawn.statistics()["launcher"])
    seconds = time.perf_counter() - start
    left = len(nsbook.ledger())
    print(
        f"\n{count} containers in a row: {seconds / count * 1000:.1f} ms each; the launcher's own memory {early} KiB after a tenth, {late} at the end;"
    )
    print(f"left in the ledger: {left} (goal: memory flat, nothing left)")
    spawn.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=30, help="of each contender")
    parser.add_argument("--row", type=int, default=1000, help="containers in a row; 0: leave out")
    args = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("make bench compares with crun and runc as root does: run it as root")
    imports(args.runs)
    places = [Path(tempfile.mkdtemp(prefix="nsbook-bench-", dir=where)) for where in ("/dev/shm", None)]
    try:
        for place in places:
            containers(place, args.runs)
        os.environ["NSBOOK_ROOT"] = str(places[0] / "nsbook")
        if args.row:
            row(args.row)
    finally:
        for process in _hidden:
            process.kill()
            process.wait()
        for place in places:
            shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
