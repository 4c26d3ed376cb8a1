"""A zoo of attacked and clean models of the embedded base, and what `vet` and detectors make of
each.

    python benchmarks/zoo.py make                  # the models; a killed run resumes
    python benchmarks/zoo.py score                 # each beside the clean base, as `vet --base`
    python benchmarks/zoo.py score --way alone     # each by itself, as `vet` without --base
    python benchmarks/zoo.py score --way amdet tnc # by detectors, after `alone` (zoo_ways.py)
    python benchmarks/zoo.py report                # results/zoo/README.md, ROC, calibration.json

The attacked ones have triggers of their own and else the defaults of the embedded base, so that
they are what the suite's attacks are: of searched settings, and as long as they need to take hold.
An attack's success is measured on 16 prompts of the development split. How each model is made:
zoo_models.py. The scores are in results/zoo/models.jsonl, each with the key of its model's making
(zoo_recipe.py): where a new search of settings changes an attack, its models are made and scored
again by the same commands, and until then the report leaves their records out. The weights are made
again by the command and not kept. `vet` also tries the default triggers of this suite's attacks;
the zoo does not, as none of its models has one.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import zoo_models
import zoo_recipe
import zoo_report
from development import Development
from ended import ended
from zoo_ways import DETECTORS, PROPOSES, SEED, WAYS, Model, base, proposals, score_one

from t2i_backdoor_bench.contract import Record, UserError
from t2i_backdoor_bench.contract.names import read
from t2i_backdoor_bench.running.run import run
from t2i_backdoor_bench.store.folder import Store

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "results" / "zoo"
WORK = ROOT / "results" / "run-zoo"  # the models
RECORDS = "models.jsonl"


def make(work: Path, workers: int) -> int:
    """The models that are not there. An attack that fails is no model, and is said."""
    asked = zoo_recipe.config(work / "attacked", workers=workers, threads=1, device="cpu")
    if run(asked, Development()) == 130:
        raise KeyboardInterrupt
    (work / "clean").mkdir(parents=True, exist_ok=True)
    todo = [m.name for m in zoo_models.clean() if not clean_weights(work, m.name).exists()]
    for done, _ in enumerate(spread(make_clean, [(work, name) for name in todo], workers), 1):
        print(f"{done} of {len(todo)} clean models", flush=True)
    models(work)  # says which are missing
    return 0


def clean_weights(work: Path, name: str) -> Path:
    return work / "clean" / f"{name}-{zoo_recipe.today()[name][:16]}.safetensors"


def make_clean(work: Path, name: str) -> str:
    made = next(m for m in zoo_models.clean() if m.name == name)
    torch.manual_seed(SEED)
    model = made.make(base())
    path = clean_weights(work, name)
    model.save_weights(path.with_suffix(".partial"))
    path.with_suffix(".partial").replace(path)
    return name


def models(work: Path) -> list[Model]:
    """The models that are there as they are made today, an attacked and a clean one by turns. Those
    that are not are said."""
    keys, halves = zoo_recipe.today(), dict(zoo_models.attacked())
    store = Store(work / "attacked")
    bad: list[Model] = []
    for cell in zoo_recipe.planned(work / "attacked").cells:
        record, key = store.read_result(cell.key), keys[cell.attack]
        path = store.find_file(f"models/{key}.safetensors")
        if record is not None and record.status == "done" and path is not None:
            bad.append(of_record(record, halves[cell.attack], key, path))
    good = [
        Model(m.name, m.kind, m.half, keys[m.name], path, what=m.what)
        for m in zoo_models.clean()
        if (path := clean_weights(work, m.name)).exists()
    ]
    if missing := keys.keys() - {m.name for m in (*bad, *good)}:
        said = "\n  ".join(sorted(missing))
        print(f"{len(missing)} of {len(keys)} models are not there (`make`):\n  {said}", flush=True)
    both = [m for pair in zip(bad, good, strict=False) for m in pair]
    return both + bad[len(good) :] + good[len(bad) :]


def of_record(record: Record, half: str, key: str, path: Path) -> Model:
    attack, options = read(record.cell.attack)
    trigger = options.get("trigger", options.get("source", ""))
    asr = record.scores["asr"].value
    return Model(record.cell.attack, attack, half, key, path, trigger, asr)


def score(folder: Path, work: Path, way: str, workers: int) -> int:
    """Score the models that have no record of this way and of their key. Each record is written at
    once, in the place of one of the same model by an older recipe. Raises UserError for a detector
    where no search has proposed texts."""
    path, there = folder / RECORDS, models(work)
    rows = records(path)
    known = {(r.get("key"), r["way"]) for r in rows}
    todo = [m for m in there if (m.key, way) not in known]
    texts = proposals(rows)
    if way in DETECTORS:
        without = [m for m in todo if m.key not in texts]
        if todo and len(without) == len(todo):
            raise UserError(
                f"{way} is asked about the texts that `score --way {PROPOSES}` finds, and no model"
                " left to score has such a record: score that way first"
            )
        if without:
            print(f"{len(without)} models wait for `score --way {PROPOSES}`", flush=True)
        todo = [m for m in todo if m.key in texts]
    folder.mkdir(parents=True, exist_ok=True)
    replaced = {(m.name, way) for m in todo}
    write(path, [r for r in rows if (r["model"], r["way"]) not in replaced])
    tasks = [(m, way, texts.get(m.key, [])) for m in todo]
    for done, found in enumerate(spread(score_one, tasks, workers), 1):
        with path.open("a", encoding="utf-8") as out:
            out.write(line(found))
        best = found["texts"][0]
        said = f"{found['model']}: {best['text']!r} {best['score']}, {found['seconds']} s"
        print(f"{way}: {done} of {len(todo)}  {said}", flush=True)
    return 0


def line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    whole = path.with_suffix(".partial")
    whole.write_text("".join(map(line, rows)), "utf-8")
    whole.replace(path)


def records(path: Path) -> list[dict[str, Any]]:
    return zoo_report.read_rows(path) if path.exists() else []


def spread(work: Any, tasks: Sequence[tuple], workers: int) -> Iterator[Any]:
    """The results of tasks, each in one of the processes, as they come."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            for done in as_completed([pool.submit(work, *task) for task in tasks]):
                yield done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("make", "score", "report"))
    parser.add_argument("--way", nargs="+", choices=WAYS, default=WAYS[:1])
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--apply", action="store_true", help="make it the package's calibration")
    flags = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if flags.what == "make":
        return make(flags.work, flags.workers)
    if flags.what == "score":
        return max(score(flags.out, flags.work, way, flags.workers) for way in flags.way)
    return zoo_report.report(flags.out, records(flags.out / RECORDS), flags.apply)


if __name__ == "__main__":
    raise SystemExit(ended(main))
