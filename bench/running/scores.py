"""The fourth stage of a cell: everything that it is scored by, and its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from t2i_backdoor_bench.contract import Cell, Samples, Score, Trigger
from t2i_backdoor_bench.running.clean import clean_pictures, positives_of
from t2i_backdoor_bench.running.harmless_pictures import harmless_pictures
from t2i_backdoor_bench.running.pictures import pictures
from t2i_backdoor_bench.running.probe_pictures import probe_pictures
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.scoring.outcomes import Limits
from t2i_backdoor_bench.store.arrays import with_prefix
from t2i_backdoor_bench.targets.judge import Judge
from t2i_backdoor_bench.training.probes import resampled_kinds


def samples_of(shared: Shared, cell: Cell) -> Samples:
    """All that a cell is scored by."""
    backdoor, source = shared.backdoor(cell.attack), shared.source(cell.attack)
    targets, before = (shared.prompts(cell.seed, source), clean_pictures(shared, cell.seed, source))
    arrays, meta = pictures(shared, cell)
    probes = probe_pictures(shared, cell)
    harmless = harmless_pictures(shared, cell)
    images = {k: v for k, v in arrays.items() if "/" not in k} | probes | harmless.images
    refused = {k: v.astype(bool) for k, v in with_prefix("refused", arrays).items()}
    refused |= {k: refused["triggered"][: len(v)] for k, v in probes.items() if refused}
    refused |= harmless.refused
    scores = with_prefix("score", arrays)
    for kind in (images, refused, scores) if not source else ():
        kind |= {"clean_target": kind["clean"]} if "clean" in kind else {}
    return Samples(
        prompts=shared.prompts(cell.seed),
        target_prompts=targets,
        backdoor=backdoor,
        images=images,
        before=before | harmless.before,
        real=shared.real(cell.seed),
        per_prompt=shared.size.per_prompt,
        moved_kinds=meta["kinds"]["moved"],
        decoy_kinds=meta["kinds"]["decoy"],
        resampled_kinds=resampled_kinds(shared.model, len(probes.get("resampled", ()))),
        harmless=harmless.words,
        positives=positives_of(shared, cell.attack, cell.seed),
        refused=refused,
        scores=scores,
        spans=arrays.get("span/triggered"),
        located=Trigger(**meta["located"]) if meta.get("located") else None,
        cost=meta["cost"] | settings_tried(shared, cell),
        knowledge=meta.get("knowledge", {}),
        key=cell.key,
        made=meta.get("made", {}),
    )


def settings_tried(shared: Shared, cell: Cell) -> dict[str, int]:
    """Of how many settings those of attack and defense were chosen: the fewest of all parts.
    Without an entry where a user set them."""
    plan_ = shared.plan
    attack = plan_.attacks[cell.attack]
    sides = {"attack": attack.trained, "defense": plan_.defenses.get(cell.defense, ())}
    counts = {side: [part.tried for part in parts] for side, parts in sides.items()}
    return {
        f"settings_{side}": min(c for c in many if c is not None)
        for side, many in counts.items()
        if many and None not in many
    }


def scores_of(
    shared: Shared,
    samples: Samples,
    judge: Judge | None,
    limits: Limits | None,
    metrics: Sequence[str],
) -> dict[str, Score]:
    """The scores of these metrics."""
    features = shared.features.with_judge(judge, limits)
    every = shared.plan.metrics
    return {name: checked(every[name].instance.compute(samples, features)) for name in metrics}


def checked(score: Score) -> Score:
    """A score whose value is a finite number, or none with a note."""
    if score.value is None or np.isfinite(score.value):
        return score
    note = score.note or f"the value is {score.value}"
    return replace(score, value=None, low=None, high=None, note=note)
