"""Of which recipe a model of the zoo is: what its weights depend on, as a key, so that what was
measured of other weights is told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import zoo_models
from development import Development
from tuning import SIZE

from t2i_backdoor_bench.contract.hashing import digest
from t2i_backdoor_bench.running.plan import Plan, plan
from t2i_backdoor_bench.running.settings import Config

METRICS = "asr,false_trigger_rate,fidelity_before,prompt_fidelity"
SCALE = replace(SIZE.resized(16), name="zoo", training=1.0, metrics=METRICS, decoys=0)
ATTACK_SEED = 0
Row = Mapping[str, Any]


def config(folder: Path, **machine: Any) -> Config:
    """The run that makes the attacked models."""
    names = ",".join(name for name, _ in zoo_models.attacked())
    return Config(names, "none", scale=SCALE, out=folder, **machine)


def planned(folder: Path = Path("unused")) -> Plan:
    """That run as it would be today. Nothing is made."""
    return plan(config(folder, device="cpu"), Development())


@cache
def today() -> dict[str, str]:
    """The key of each model of the zoo, by its name. An attacked one's is that of its weights in a
    run folder; a clean one's is of the base's weights and of how it is made."""
    asked = planned()
    base = asked.shared["base"]["weights"]
    bad = {n: asked.attack_key(n, ATTACK_SEED) for n, _ in zoo_models.attacked()}
    good = {m.name: digest({"base": base, "made": m.identity}) for m in zoo_models.clean()}
    return bad | good


def of_today(rows: Sequence[Row], keys: Mapping[str, str]) -> tuple[list[Row], str]:
    """The records of models as they are made today, and a sentence on the others. Where there is
    none of today they are all of an older recipe, and stay."""
    kept = [r for r in rows if r.get("key") == keys.get(r["model"], "")]
    old = len(rows) - len(kept)
    if not old:
        return kept, ""
    if not kept:
        return list(rows), (
            f"All {old} records are of an older recipe: these models would be made in another way"
            " today. `make` and `score` make them and their records anew."
        )
    return kept, (
        f"{old} records are left out: their models are of an older recipe and would be made in"
        " another way today."
    )
