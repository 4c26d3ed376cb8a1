"""A zoo of attacked and clean models of the embedded base, and what `vet` makes of each.

    python benchmarks/zoo.py make                 # the models; a killed run resumes
    python benchmarks/zoo.py score                # each beside the clean base, as `vet --base`
    python benchmarks/zoo.py score --way alone    # each by itself, as `vet` without --base
    python benchmarks/zoo.py score --way amdet    # the verdict of a published detector on each
    python benchmarks/zoo.py report               # results/zoo/README.md, the ROC, calibration.json

The attacked ones train for half of their steps, with triggers of their own; an attack's success is
measured on 16 prompts of the development split. How each model is made: zoo_models.py. The scores
are in results/zoo/models.jsonl; the weights are made again by the command and not kept. `vet` also
tries the default triggers of this suite's attacks; the zoo does not, as none of its models has one.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import zoo_models
import zoo_report
from development import Development
from ended import ended
from torch import Tensor
from tuning import SIZE

from t2i_backdoor_bench.contract import DefenderView, Record, registry
from t2i_backdoor_bench.contract.names import read
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.detecting import inversion
from t2i_backdoor_bench.detecting.effects import Effects
from t2i_backdoor_bench.detecting.inversion import Room, Search, Standing, held_out, unused
from t2i_backdoor_bench.detecting.verdict import examine
from t2i_backdoor_bench.models.catalog import load_base
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.run import run
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.vet import clean_prompts
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "results" / "zoo"
WORK = ROOT / "results" / "run-zoo"  # the models
RECORDS = "models.jsonl"
WAYS = ("trusted", "alone", "amdet")
METRICS = "asr,false_trigger_rate,fidelity_before,prompt_fidelity"
SCALE = replace(SIZE.resized(16), name="zoo", training=0.5, metrics=METRICS, decoys=0)
SEED = 0  # that of `vet`
MOST_KEPT = 1500  # batches of the base's predictions that are kept for the next model


@dataclass(frozen=True)
class Model:
    """One of the zoo: its weights, whether it is attacked, with which trigger and how well."""

    name: str
    kind: str
    half: str
    weights: Path
    trigger: str = ""
    asr: float | None = None
    what: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        known = {"model": self.name, "kind": self.kind, "half": self.half, "what": self.what}
        return known | {"attacked": self.asr is not None, "asr": self.asr, "trigger": self.trigger}


class Remembering(Effects):
    """Effects that keep what the base predicts: it is the same beside every model."""

    kept: dict[Any, Tensor] = {}

    def predictions(
        self, model: T2IModel, texts: Sequence[str], weights: Sequence[Any] = ()
    ) -> Tensor:
        if model is not self.trusted:
            return super().predictions(model, texts, weights)
        place = (tuple(texts), float(self.drawn.latents.double().sum()))
        if (found := self.kept.get(place)) is None:
            found = super().predictions(model, texts)
            if len(self.kept) < MOST_KEPT:
                self.kept[place] = found
        return found


def config(work: Path, **machine: Any) -> Config:
    names = ",".join(name for name, _ in zoo_models.attacked())
    return Config(names, "none", scale=SCALE, out=work / "attacked", **machine)


def make(work: Path, workers: int) -> int:
    """The models that are not there. An attack that fails is no model, and is said."""
    status = run(config(work, workers=workers, threads=1, device="cpu"), Development())
    if status == 130:
        raise KeyboardInterrupt
    (work / "clean").mkdir(parents=True, exist_ok=True)
    todo = [m.name for m in zoo_models.clean() if not clean_weights(work, m.name).exists()]
    for done, _ in enumerate(spread(make_clean, [(work, name) for name in todo], workers), 1):
        print(f"{done} of {len(todo)} clean models", flush=True)
    return 0


def clean_weights(work: Path, name: str) -> Path:
    return work / "clean" / f"{name}.safetensors"


def make_clean(work: Path, name: str) -> str:
    made = next(m for m in zoo_models.clean() if m.name == name)
    torch.manual_seed(SEED)
    model = made.make(base())
    path = clean_weights(work, name)
    model.save_weights(path.with_suffix(".partial"))
    path.with_suffix(".partial").replace(path)
    return name


def models(work: Path) -> list[Model]:
    """The models that are there, an attacked and a clean one by turns."""
    halves = dict(zoo_models.attacked())
    store, asked = Store(work / "attacked"), plan(config(work, device="cpu"), Development())
    bad: list[Model] = []
    for record in stored_records(store):
        name = record.cell.attack
        if record.status != "done" or name not in halves:
            continue
        path = store.find_file(f"models/{asked.attack_key(name, record.cell.seed)}.safetensors")
        if path is not None:
            bad.append(of_record(record, halves[name], path))
    good = [
        Model(m.name, m.kind, m.half, path, what=m.what)
        for m in zoo_models.clean()
        if (path := clean_weights(work, m.name)).exists()
    ]
    both = [m for pair in zip(bad, good, strict=False) for m in pair]
    return both + bad[len(good) :] + good[len(bad) :]


def of_record(record: Record, half: str, path: Path) -> Model:
    attack, options = read(record.cell.attack)
    trigger = options.get("trigger", options.get("source", ""))
    asr = record.scores["asr"].value
    return Model(record.cell.attack, attack, half, path, trigger, asr)


@cache
def base() -> T2IModel:
    torch.set_num_threads(1)
    return load_base("shapes", "cpu", torch.float32)


def score_one(model: Model, way: str) -> dict[str, Any]:
    """A model's record, with the time that its score took."""
    start, known = time.process_time(), base()
    suspect, prompts = known.with_weights(model.weights), clean_prompts(WorldData(), SEED)
    found = by_amdet(suspect, prompts) if way == "amdet" else by_vet(suspect, prompts, way, model)
    spent = round(time.process_time() - start, 1)
    return model.facts | {"way": way} | found | {"seconds": spent}


def by_amdet(suspect: T2IModel, prompts: Sequence[str]) -> dict[str, Any]:
    """AMDET's verdict on the model, which is one on its text encoder."""
    entry = registry.defenses.get("amdet")
    view = DefenderView(entry.needs, prompts, clean_text_encoder=base().encoders)
    out = entry.cls().apply(suspect, view, SEED)
    return {"texts": [{"text": "", "score": round(out.screen.verdict, 4)}], "true": None}


def by_vet(suspect: T2IModel, prompts: Sequence[str], way: str, model: Model) -> dict[str, Any]:
    """What `vet` finds, and how unusual the true trigger is on the same prompts and noise."""
    inversion.Effects = Remembering  # type: ignore[misc]
    trusted = base() if way == "trusted" else None
    room = Room(suspect, trusted, prompts, unused(suspect, prompts, trusted is not None), SEED)
    how = Search()
    found = examine(room, how, known=())
    brief = replace(how, null_again=how.null)
    true = held_out(room, [model.trigger], brief)[0] if model.trigger else None
    return {
        "texts": [told(s.standing) | {"origin": s.origin} for s in found.suspicions],
        "true": told(true) if true else None,
    }


def told(found: Standing) -> dict[str, Any]:
    """A text's standing, two decimals each."""
    return {
        "text": found.text,
        "score": round(found.score, 2),
        "parts": [round(p, 2) for p in found.parts],
        "beyond": [round(b, 2) for b in found.beyond],
    }


def score(folder: Path, work: Path, way: str, workers: int) -> int:
    """Score the models that have no record of this way. Each record is written at once."""
    path = folder / RECORDS
    known = {(r["model"], r["way"]) for r in records(path)}
    todo = [m for m in models(work) if (m.name, way) not in known]
    folder.mkdir(parents=True, exist_ok=True)
    for done, found in enumerate(spread(score_one, [(m, way) for m in todo], workers), 1):
        with path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(found, ensure_ascii=False) + "\n")
        best = found["texts"][0]
        said = f"{found['model']}: {best['text']!r} {best['score']}, {found['seconds']} s"
        print(f"{done} of {len(todo)}  {said}", flush=True)
    return 0


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in path.read_text("utf-8").splitlines()] if path.exists() else []


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
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("make", "score", "report"))
    parser.add_argument("--way", choices=WAYS, default=WAYS[0])
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--apply", action="store_true", help="make it the package's calibration")
    flags = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if flags.what == "make":
        return make(flags.work, flags.workers)
    if flags.what == "score":
        return score(flags.out, flags.work, flags.way, flags.workers)
    return zoo_report.report(flags.out, records(flags.out / RECORDS), flags.apply)


if __name__ == "__main__":
    raise SystemExit(ended(main))
