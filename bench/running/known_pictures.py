"""Pictures on disk, each drawn once: a screen or a purifier around a model does not change what the
model draws for the same words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.store.arrays import scratch
from t2i_backdoor_bench.store.atomic import storing

Known = Mapping[tuple[str, int], np.ndarray]  # (prompt, noise seed) -> its picture
Asked = Mapping[str, tuple[list[str], list[int]]]  # condition -> prompts and noise seeds


def draw(
    root: Path,
    model: T2IModel,
    label: str,
    prompts: Sequence[str],
    seeds: Sequence[int],
    known: Known | None = None,
) -> np.ndarray:
    """Pictures uint8 (n, H, W, 3) of prompts, in a file below `root` that goes with them. A picture
    that `known` has for the words that the model is given is taken from it; a prompt that the model
    refuses is black all the same."""
    with storing(root):
        out = scratch(root, (len(prompts), model.resolution, model.resolution, 3))
    if not known:
        return model.generate(prompts, seeds, label=label, out=out)
    texts = [model.rewrite(p) if model.rewrite else p for p in prompts]
    served = [int(i) for i in np.flatnonzero(~model.refuses(prompts))]
    for i in served:
        if (texts[i], seeds[i]) in known:
            out[i] = known[texts[i], seeds[i]]
    new = [i for i in served if (texts[i], seeds[i]) not in known]
    if new:
        out[new] = draw(root, model, label, [prompts[i] for i in new], [seeds[i] for i in new])
    return out


def draws_as(model: T2IModel, other: T2IModel) -> bool:
    """Whether both draw the same picture where they are given the same words and noise."""
    return (
        model.pipe is other.pipe
        and model.sampler == other.sampler
        and model.repair is other.repair
        and type(model) is type(other)
    )


def known_from(asked: Asked, pictures: Mapping[str, np.ndarray]) -> Known:
    """The pictures of every condition by what was asked for. Another cell may have drawn the first
    ones only, or more."""
    return {
        pair: picture
        for c, pairs in asked.items()
        for pair, picture in zip(zip(*pairs, strict=True), pictures[c], strict=False)
    }
