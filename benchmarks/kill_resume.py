"""Kill a small matrix of real runs at random moments (SIGKILL to every process of it), resume each
time, and compare with an unbroken run.

    python benchmarks/kill_resume.py --kills 30

The runs are `python run_bench.py` on the embedded base with two workers: two attacks of a few
steps, three defenses, four prompts. Moments are drawn uniformly from the time that an unbroken run
takes, so that they hit starts, trainings, drawings and writes. A run that is finished before its
kill is compared, and another begins in an empty folder. Checked: tables, pictures and images are
the same to the byte but for what the clock says; no temporary file and no lock is left; no file of
a finished cell is written again. Exit status 1 where one is not.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CLOCK = ("seconds", "seconds_attack", "seconds_per_step", "peak_memory_mb", "detection_ms")
FLAGS = (
    "--scale smoke --n 4 --attacks badt2i_pixel,badt2i_style --defenses"
    " none,noise_weights,finetune_reversal --metrics asr,kid,drift"
)
STEPS = "--set badt2i_pixel.steps=3 --set badt2i_style.steps=3 --set finetune_reversal.steps=2"


def command(folder: Path, workers: int) -> subprocess.Popen:
    words = [
        sys.executable,
        str(ROOT / "run_bench.py"),
        *FLAGS.split(),
        *STEPS.split(),
        "--workers",
        str(workers),
        "--out",
        str(folder),
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(
        words, cwd=ROOT, start_new_session=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, **quiet
    )


def killed(folder: Path, workers: int, after: float) -> bool:
    """Run, and kill all of its processes after so many seconds; False where it had finished by
    then."""
    process = command(folder, workers)
    try:
        if process.wait(after) != 0:
            raise SystemExit(f"the run failed by itself: exit status {process.returncode}")
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


def finished(folder: Path) -> dict[Path, int]:
    """When each file of a finished cell was written: its record and its images."""
    found = {}
    for path in (folder / "cells").glob("*.json"):
        if json.loads(path.read_text())["payload"]["status"] == "done":
            found |= {
                p: p.stat().st_mtime_ns
                for p in (path, folder / "samples" / f"{path.stem}.safetensors")
            }
    return found


def outcome(folder: Path) -> dict[str, object]:
    """All that a run gives, without what the clock says: the last column of table.md and table.tex
    is seconds."""
    with (folder / "table.csv").open() as file:
        found: dict[str, object] = {
            "table.csv": [
                {k: v for k, v in row.items() if k not in CLOCK} for row in csv.DictReader(file)
            ]
        }
    found["table.md"] = [
        line.rsplit("|", 2)[0] for line in (folder / "table.md").read_text().splitlines()
    ]
    found["table.tex"] = [
        line.rsplit("&", 1)[0] for line in (folder / "table.tex").read_text().splitlines()
    ]
    for path in [
        folder / "rows.csv",
        *folder.glob("*.png"),
        *(folder / "models").glob("*.safetensors"),
    ]:
        found[path.name] = path.read_bytes()
    return found


def compare(folder: Path, whole: Path) -> list[str]:
    wrong = [
        f"{name} differs"
        for name, value in outcome(whole).items()
        if outcome(folder).get(name) != value
    ]
    wrong += [
        f"{p.name} is left"
        for p in folder.rglob("*")
        if p.suffix in (".partial", ".lock") or p.name == "locks"
    ]
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, kills, runs, wrong = random.Random(args.seed), 0, 0, []
    with tempfile.TemporaryDirectory() as place:
        whole, folder = Path(place) / "whole", Path(place) / "run"
        begun = time.perf_counter()
        if command(whole, args.workers).wait() != 0:
            raise SystemExit("the unbroken run failed")
        length = time.perf_counter() - begun
        print(f"an unbroken run takes {length:.0f} s", flush=True)
        made: dict[Path, int] = {}
        while True:
            stop = rng.uniform(0, length) if kills < args.kills else 3600.0
            broken = killed(folder, args.workers, stop)
            again = [p.name for p, t in made.items() if not p.exists() or p.stat().st_mtime_ns != t]
            wrong += [f"{name}, of a finished cell, was written again" for name in again]
            made |= finished(folder)
            if broken:
                kills += 1
                partial = len(list(folder.rglob("*.partial")))
                print(
                    f"kill {kills} after {stop:.1f} s: {len(made) // 2} of 6 cells finished,"
                    f" {partial} half-written files",
                    flush=True,
                )
                continue
            runs += 1
            wrong += compare(folder, whole)
            print(
                f"run {runs} finished: {'; '.join(wrong) or 'the same as the unbroken one'}",
                flush=True,
            )
            shutil.rmtree(folder)
            made = {}
            if kills >= args.kills or wrong:
                break
    print(f"{kills} kills, {runs} runs, {len(wrong)} differences")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
