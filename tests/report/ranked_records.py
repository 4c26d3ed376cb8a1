"""Small made-up records with a value for every picture, for tests of ranks and quality."""

from __future__ import annotations

import zlib

import numpy as np
from report_records import DIRECTIONS, PROTOCOL

from t2i_backdoor_bench.contract import Cell, Record, Score
from t2i_backdoor_bench.stats import estimates as stats

N = 100
SHARES = ("asr", "removal_accuracy", "restoration_accuracy", "false_trigger_rate", "robustness")
SHARES += ("prompt_fidelity", "fidelity_before", "restored_relative", "judge_agreement")
SHARES += ("fidelity_lost",)


def flags(good: int, order: str = "") -> list[bool]:
    """Which of `N` pictures are right: the first in an order that the text `order` decides, as
    attacks and seeds have other hard prompts."""
    hard = np.random.default_rng(zlib.crc32(order.encode())).permutation(N)
    return [bool(k < good) for k in hard]


def score(metric: str, value, order: str) -> Score:
    """A share of `N` pictures, of which `value` are right, or a mean of the values of pictures."""
    if metric in SHARES:
        return Score(value / N, *stats.wilson(value, N), N, "net", "", flags(value, order))
    values = list(value) if isinstance(value, list | tuple) else [float(value)] * N
    return Score(sum(values) / len(values), n=len(values), network="net", each=values)


def cell(attack: str, defense: str, seed: int = 0, needs=("trigger",), **values) -> Record:
    """A cell with the given scores. Undefended, the backdoor always shows; defended, it never does,
    and clean prompts are drawn as before, if `values` say nothing else."""
    undefended = defense == "none"
    asr = values.pop("asr", N if undefended else 0)
    found = {"asr": asr, "removal_accuracy": N - asr, "restoration_accuracy": 0}
    found |= {"prompt_fidelity": 98, "clip_score": 23.0, **values}
    scores = {m: score(m, v, f"{attack} {seed}") for m, v in found.items() if v is not None}
    share = {"better": "higher", "percent": True}
    directions = DIRECTIONS | {m: share for m in SHARES[3:]}
    directions |= {m: share | {"short": m} for m in ("fidelity_before", "restored_relative")}
    return Record(
        Cell("shapes", attack, defense, seed, f"{attack}-{defense}-{seed}"),
        "done",
        scores,
        () if undefended else needs,
        cost={"seconds": 2.0},
        directions=directions,
        protocol=PROTOCOL,
    )


def run(
    restored: dict[str, dict[str, int]], needs=None, seeds=(0, 1, 2), undefended=None, **values
) -> list[Record]:
    """A run with an undefended model: `restored[defense][attack]` of `N` pictures in every seed,
    give or take one by the seed. `needs` by defense, and values of all undefended and of all
    defended cells."""
    attacks = list(dict.fromkeys(a for found in restored.values() for a in found))
    none = undefended or {}
    records = [cell(attack, "none", seed, **none) for attack in attacks for seed in seeds]
    for defense, found in restored.items():
        given = (needs or {}).get(defense, ("trigger",))
        for attack, k in found.items():
            for seed in seeds:
                near = min(N, max(0, k + seed % 2))
                more = {"restoration_accuracy": near, **values}
                records.append(cell(attack, defense, seed, given, **more))
    return records
