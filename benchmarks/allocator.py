"""Time training steps under glibc's own settings and under those that a run's workers get (`bench.executors.KEEPING`).

    python benchmarks/allocator.py [--rounds 5] [--steps 12]

A process a setting and round, in turn, so that other load on the machine hits both alike; the ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import numpy as np

from bench.executors import KEEPING

STEP = """
import sys, time
import torch
torch.set_num_threads(1)
import step_time
from bench.bases import load_base
step = step_time.steps(load_base("shapes"), 16)["SKD-CAG step"][0]
times = []
for i in range(int(sys.argv[1]) + 3):
    begun = time.perf_counter()
    step(i)
    times.append(time.perf_counter() - begun)
print(sum(times[3:]) / len(times[3:]))
"""


def seconds(steps: int, variables: dict[str, str]) -> float:
    """Seconds of a step in a process of its own."""
    here = os.path.dirname(os.path.abspath(__file__))
    path = os.pathsep.join([here, os.path.dirname(here), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **variables}
    out = subprocess.run([sys.executable, "-c", STEP, str(steps)], env=environment, capture_output=True, text=True, check=True)
    return float(out.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    args = parser.parse_args()
    pairs = np.array([[seconds(args.steps, {}), seconds(args.steps, KEEPING)] for _ in range(args.rounds)])
    plain, keeping = 1000 * np.median(pairs, 0)
    ratio = np.median(pairs[:, 0] / pairs[:, 1])
    print(f"SKD-CAG step, batch 16, one thread, {args.rounds} rounds: {plain:.0f} ms, {keeping:.0f} ms; ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
