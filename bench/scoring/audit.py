"""The judges, held against what pictures show by their pixels (`data.world.readings`), which shares
nothing with the scorer. Of a backdoor's target each kind says it itself (`Kind.truth`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from t2i_backdoor_bench.contract import Prompt
from t2i_backdoor_bench.data.world import Scene
from t2i_backdoor_bench.data.world.readings import Reading, scene_of, shows


def scenes_of(prompts: Sequence[Prompt]) -> list[Scene] | None:
    """The scene that each prompt asks for; None where one is no caption of the embedded world."""
    found = [scene_of(p.text) for p in prompts]
    return None if not found or None in found else found


def asked(readings: Sequence[Reading], scenes: Sequence[Scene]) -> np.ndarray:
    """Whether each picture shows everything that its caption names: bool (n,)."""
    return np.array([shows(r, s) for r, s in zip(readings, scenes, strict=True)], bool)
