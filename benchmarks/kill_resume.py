"""Kill a small matrix of real runs at random moments (SIGKILL to every process), resume it each
time, and compare the result with an uninterrupted run.

    python benchmarks/kill_resume.py --kills 50

The runs are `python run_bench.py` on the embedded base with two workers: two attacks of a few
steps, three defenses, four prompts, and a checkpoint of every training each half second. Each
moment is drawn uniformly from the time that an uninterrupted run takes, so kills hit the start,
training, drawing and writing. A run that finishes before its kill is compared, and the next one
begins in an empty folder. Checked: tables, pictures and images are equal to the byte, apart from
measured times; no temporary file, no lock and no checkpoint remains; no file of a finished cell is
written again. The exit status is 1 if a check fails.
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
MEASURED = (
    "seconds",
    "seconds_attack",
    "seconds_per_step",
    "seconds_picture",
    "seconds_picture_before",
    "peak_memory_mb",
    "detection_ms",
)
CELLS = 6
FLAGS = (
    "--scale smoke --n 4 --attacks badt2i_pixel,badt2i_style"
    " --defenses none,noise_weights,finetune_reversal --metrics asr,kid,drift"
    " --set badt2i_pixel.steps=12 --set badt2i_style.steps=12 --set finetune_reversal.steps=12"
    " --checkpoint-every 0.5"
)


def start_run(folder: Path, workers: int) -> subprocess.Popen:
    """Start the run in its own process group, so that all of its processes can be killed."""
    words = [sys.executable, str(ROOT / "run_bench.py"), *FLAGS.split()]
    return subprocess.Popen(
        [*words, "--workers", str(workers), "--out", str(folder)],
        cwd=ROOT,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def run_and_kill(folder: Path, workers: int, after: float) -> bool:
    """Start the run and kill all of its processes after so many seconds. False if it finished
    before that."""
    process = start_run(folder, workers)
    try:
        status = process.wait(after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    if status != 0:
        raise SystemExit(f"the run failed by itself: exit status {status}")
    return False


def finished_files(folder: Path) -> dict[Path, int]:
    """The record and the images of every finished cell, with the time when each was written."""
    found = {}
    for path in (folder / "cells").glob("*.json"):
        if json.loads(path.read_text())["payload"]["status"] == "done":
            images = folder / "samples" / f"{path.stem}.safetensors"
            found |= {p: p.stat().st_mtime_ns for p in (path, images)}
    return found


def outcome(folder: Path) -> dict[str, object]:
    """What a run wrote, without measured times: the last two columns of table.md and table.tex."""
    with (folder / "table.csv").open() as file:
        rows = [{k: v for k, v in r.items() if k not in MEASURED} for r in csv.DictReader(file)]
    found: dict[str, object] = {"table.csv": rows}
    for name, separator, last in (("table.md", "|", 3), ("table.tex", "&", 2)):
        lines = (folder / name).read_text().splitlines()
        found[name] = [line.rsplit(separator, last)[0] for line in lines]
    weights = (folder / "models").glob("*.safetensors")
    for path in [folder / "rows.csv", *folder.glob("*.png"), *weights]:
        found[path.name] = path.read_bytes()
    return found


def differences(folder: Path, whole: Path) -> list[str]:
    """What differs from the uninterrupted run, and the temporary files and locks that remain."""
    ours, expected = outcome(folder), outcome(whole)
    wrong = [f"{name} differs" for name, value in expected.items() if ours.get(name) != value]
    left = [
        p
        for p in folder.rglob("*")
        if p.suffix in (".partial", ".lock") or p.name in ("locks", "training")
    ]
    return wrong + [f"{p.name} remains" for p in left]


def written_again(written: dict[Path, int]) -> list[str]:
    """The files of finished cells that are gone or were written again."""
    changed = [p for p, t in written.items() if not p.exists() or p.stat().st_mtime_ns != t]
    return [f"{p.name}, of a finished cell, was written again" for p in changed]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, kills, runs, trainings, wrong = random.Random(args.seed), 0, 0, 0, []
    with tempfile.TemporaryDirectory() as place:
        whole, folder = Path(place) / "whole", Path(place) / "run"
        begun = time.perf_counter()
        if start_run(whole, args.workers).wait() != 0:
            raise SystemExit("the uninterrupted run failed")
        length = time.perf_counter() - begun
        print(f"an uninterrupted run takes {length:.0f} s", flush=True)
        written: dict[Path, int] = {}
        while True:
            moment = rng.uniform(0, length) if kills < args.kills else 3600.0
            killed = run_and_kill(folder, args.workers, moment)
            wrong += written_again(written)
            written |= finished_files(folder)
            if killed:
                kills += 1
                partial = len(list(folder.rglob("*.partial")))
                unfinished = len(list((folder / "training").glob("*/*.safetensors")))
                trainings += unfinished
                done = f"{len(written) // 2} of {CELLS} cells are finished"
                print(
                    f"kill {kills} after {moment:.1f} s: {done}, {partial} partial files,"
                    f" {unfinished} checkpoints of trainings",
                    flush=True,
                )
                continue
            runs += 1
            wrong += differences(folder, whole)
            result = "; ".join(wrong) or "equal to the uninterrupted run"
            print(f"run {runs} finished: {result}", flush=True)
            shutil.rmtree(folder)
            written = {}
            if kills >= args.kills or wrong:
                break
    print(
        f"{kills} kills, {runs} runs, {trainings} checkpoints of trainings to resume,"
        f" {len(wrong)} differences"
    )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
