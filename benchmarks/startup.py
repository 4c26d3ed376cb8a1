"""How long the command takes to answer `--help` and `list`.

    python benchmarks/startup.py --runs 7

Prints the median of several runs, and exits with status 1 where one is over its limit. Measure on a
quiet machine.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMITS = {"--help": 0.5, "list": 2.0}  # seconds


def seconds(words: str) -> float:
    """The time of one run of the command."""
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, str(ROOT / "run_bench.py"), words],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    slow = False
    for words, limit in LIMITS.items():
        found = statistics.median(seconds(words) for _ in range(runs))
        slow |= found > limit
        print(f"{words:8} {found:.2f} s (median of {runs}; limit {limit} s)")
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
