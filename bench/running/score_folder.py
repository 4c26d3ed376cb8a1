"""Scores of pictures that another tool drew: the metrics that need no more than pictures, prompts
and a reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from t2i_backdoor_bench.contract import Backdoor, Samples, Score, Target, UserError, registry
from t2i_backdoor_bench.contract.registry import Entry
from t2i_backdoor_bench.data.drawn import Drawn, read_drawn, read_reference
from t2i_backdoor_bench.models.embedded import SCORER as EMBEDDED_SCORER
from t2i_backdoor_bench.running.devices import find_device
from t2i_backdoor_bench.running.scores import checked
from t2i_backdoor_bench.scoring.features import Features
from t2i_backdoor_bench.scoring.inception import Inception
from t2i_backdoor_bench.scoring.networks import Lpips
from t2i_backdoor_bench.scoring.scorer import Scorer, load_second

SCORER = "ViT-L-14:openai"


def score_folder(
    folder: Path,
    prompts: Path | None = None,
    reference: Path | None = None,
    metrics: str = "all",
    clip: str = SCORER,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> list[tuple[Entry, Score]]:
    """Every metric of `metrics` on the pictures of a folder (`data.drawn.read_drawn`). A score
    without a value says in its note what is missing, such as the pictures of triggered prompts.
    Raises UserError for what cannot be read, before any network is loaded."""
    names = registry.metrics.select(metrics)
    device = find_device(device)
    drawn = read_drawn(folder, prompts, say)
    real = np.zeros((0, drawn.side, drawn.side, 3), np.uint8)
    if reference is not None:
        real = read_reference(reference, drawn, say)
    spec = str(EMBEDDED_SCORER) if clip == "shapes" else clip
    features = Features(
        Scorer.load(spec, device),
        Inception.load(device=device),
        lpips=Lpips.load(device),
        second=load_second(spec, device),
    )
    samples = _samples(drawn, real)
    entries = [registry.metrics.get(name) for name in names]
    found = [(e, checked(e.cls().compute(samples, features))) for e in entries]
    if all(score.value is None for _, score in found):
        why = found[0][1].note
        raise UserError(f"none of {', '.join(names)} can be measured on these pictures: {why}")
    return found


def _samples(drawn: Drawn, real: np.ndarray) -> Samples:
    images = {"clean": drawn.images}
    if len(drawn.diverse):
        images["diverse"] = drawn.diverse
    nothing = Backdoor(None, Target("unknown"))
    return Samples(
        drawn.prompts, drawn.prompts, nothing, images, {}, real, per_prompt=drawn.per_prompt
    )
