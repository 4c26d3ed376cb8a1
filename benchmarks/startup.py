"""How long the command takes to answer `--help` and `list`, and to find a run finished.

    python benchmarks/startup.py --runs 7 --finished results/run-quick

Prints the medians of several runs, of all seconds and of the processor's alone, and exits with
status 1 where one is over its limit. Measure on a quiet machine; the processor's seconds say most
where it is not. With `--finished`, the command that the folder's run.yaml repeats is given once
before, as it may not be the one that made the folder.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMITS = {"--help": 0.5, "list": 2.0}  # seconds
FINISHED = 3.0


def seconds(words: list[str]) -> tuple[float, float]:
    """The time of one run of the command, and the processor's for it."""
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, str(ROOT / "run_bench.py"), *words],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return time.perf_counter() - begun, used


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--finished", type=Path, metavar="FOLDER", help="a finished run")
    flags = parser.parse_args()
    commands = [([words], limit) for words, limit in LIMITS.items()]
    if flags.finished:
        again = ["--config", str(flags.finished / "run.yaml"), "--out", str(flags.finished)]
        seconds(again)
        commands.append((again, FINISHED))
    slow = False
    for words, limit in commands:
        taken = [seconds(words) for _ in range(flags.runs)]
        found, used = (statistics.median(column) for column in zip(*taken, strict=True))
        slow |= found > limit
        name = "finished" if len(words) > 1 else words[0]
        print(f"{name:8} {found:.2f} s, processor {used:.2f} s (of {flags.runs}; limit {limit} s)")
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
