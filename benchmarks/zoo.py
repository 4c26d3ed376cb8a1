"""A zoo of models, attacked and clean, to tell how well a verdict on a model is to be trusted.

    python benchmarks/zoo.py make                   # hours; a killed command goes on
    python benchmarks/zoo.py make --only clean      # of one kind alone
    python benchmarks/zoo.py score                  # minutes a model; a killed command goes on
    python benchmarks/zoo.py report                 # results/zoo/README.md, roc.png, calibration

Attacked models: every attack, with its own trigger and with others, cheap attacks first. Clean
models: fine-tuned, with adapters, with a new word, merged, rounded, with noise (`zoo_clean`). The
weights stay in the ignored folder results/run-zoo; the records, results/zoo, are committed. An
attack that did not take hold (success below HOLDS on its own triggered prompts) is no attacked
model, and is named in the report.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import zoo_clean
from zoo_report import report

from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.detecting.inversion import Room, Search, bare, unused
from t2i_backdoor_bench.detecting.verdict import examine
from t2i_backdoor_bench.models.catalog import load_base
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.run import run as make_cells
from t2i_backdoor_bench.running.scales import SCALES
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.work import ready
from t2i_backdoor_bench.store.atomic import write_text
from t2i_backdoor_bench.store.folder import Store

ROOT = Path(__file__).resolve().parents[1]
FOLDER, WORK = ROOT / "results" / "zoo", ROOT / "results" / "run-zoo"
HOLDS = 0.5  # ASR, of an attacked model
WAYS = ("trusted", "alone")  # with the clean model beside it, and without
PROMPTS = 100
CHEAP = (
    "eviledit",
    "rickrolling_tpa",
    "rickrolling_taa",
    "sembd",
    "paas_ti",
    "iba",
    "bagm_shallow",
)
TRAINED = (
    "badt2i_style",
    "badt2i_pixel",
    "badt2i_object",
    "paas_db",
    "villan_cond",
    "masqlora",
    "poison_style",
    "poison_pixel",
    "poison_lora",
    "naive_lora",
    "natural_poison",
    "split",
    "badblocks",
    "bagm_deep",
    "bibaddiff",
    "composite_bias",
)
# a rare word, two of them, a character that cannot be seen, and an ordinary phrase
OTHER_TRIGGERS = ("quovex", "brelvo zint", "\u200b", "in summer")
OWN_TRIGGER = ("iba", "sembd", "bagm_shallow", "bagm_deep", "bibaddiff", "composite_bias")


def attacks() -> list[str]:
    """Every attack with its own trigger, and those whose trigger is free with one other each; with
    the cheap ones, two others."""
    found = list(CHEAP)
    free = [a for a in (*CHEAP, *TRAINED) if a not in OWN_TRIGGER]
    turn = {a: OTHER_TRIGGERS[i % len(OTHER_TRIGGERS)] for i, a in enumerate(free)}
    next_ = {a: OTHER_TRIGGERS[(i + 1) % len(OTHER_TRIGGERS)] for i, a in enumerate(free)}
    found += [f"{a}[trigger={turn[a]}]" for a in CHEAP if a in turn]
    found += [f"{a}[trigger={next_[a]}]" for a in CHEAP if a in next_]
    return [*found, *TRAINED, *(f"{a}[trigger={turn[a]}]" for a in TRAINED if a in turn)]


def config(names: Sequence[str], **machine: Any) -> Config:
    return Config(
        ",".join(names),
        "none",
        scale=replace(SCALES["smoke"].resized(24), training=SCALES["quick"].training),
        seeds=(0,),
        metrics="asr",
        out=WORK,
        **machine,
    )


def make_attacked(**machine: Any) -> int:
    return make_cells(config(attacks(), **machine))


def attacked(base: T2IModel) -> Iterator[tuple[str, float, T2IModel]]:
    """Name, ASR and model of those that are made."""
    store = Store(WORK, print, read_only=True)
    for name in attacks():
        plan_ = plan(ready(config([name], device="cpu")))
        record = store.read_result(plan_.cells[0].key)
        path = store.find_file(f"models/{plan_.attack_key(plan_.cells[0].attack, 0)}.safetensors")
        if record is not None and record.status == "done" and path is not None:
            yield name, float(record.scores["asr"].value), base.with_weights(path)


def score(ways: Sequence[str], only: Sequence[str]) -> int:
    base = load_base("shapes")
    prompts = [p.text for p in WorldData().prompts("defender", PROMPTS, 0)]
    for kind, name, asr, model in models(base):
        for way in ways:
            path = FOLDER / "scores" / f"{way}-{kind}-{slug(name)}.json"
            if path.is_file() or (only and kind not in only):
                continue
            known = base if way == "trusted" else None
            allowed = unused(model, prompts, known is not None)
            found = examine(Room(bare(model), known, prompts, allowed, 0), Search())
            texts = [
                {
                    "text": s.standing.text,
                    "origin": s.origin,
                    "score": round(s.standing.score, 3),
                    "parts": [round(p, 3) for p in s.standing.parts],
                    "beyond": [round(p, 3) for p in s.standing.beyond],
                }
                for s in found.suspicions
            ]
            row = {"kind": kind, "name": name, "way": way, "asr": asr, "score": found.score}
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(row | {"texts": texts}, ensure_ascii=False, indent=1))
            print(f"{way} {kind} {name}: {found.score:.1f} by {texts[0]['text']!r}", flush=True)
    return 0


def models(base: T2IModel) -> Iterator[tuple[str, str, float | None, T2IModel]]:
    """In turn one attacked and one clean, so that a part of the scores is of both."""
    first, second = attacked(base), zoo_clean.made(base, WORK)
    while True:
        a, b = next(first, None), next(second, None)
        if a is None and b is None:
            return
        if a is not None:
            yield "attacked", a[0], a[1], a[2]
        if b is not None:
            yield "clean", b[0], None, b[1]


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else f"-{ord(c):x}-" if not c.isascii() else "-" for c in name)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("make", "score", "report"))
    parser.add_argument("--only", choices=("attacked", "clean"), help="models of one kind")
    parser.add_argument("--ways", default=",".join(WAYS), help="separated by commas")
    parser.add_argument("--workers", type=int, help="as of run_bench.py")
    args = parser.parse_args()
    if args.what == "report":
        return report(FOLDER, HOLDS)
    if args.what == "score":
        return score(args.ways.split(","), [args.only] if args.only else [])
    status = 0
    if args.only != "clean":
        status = make_attacked(device="cpu", workers=args.workers, threads=1)
    if status == 0 and args.only != "attacked":
        zoo_clean.make(load_base("shapes"), WORK)
    return status


if __name__ == "__main__":
    sys.exit(main())
