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
    root: Path, model: T2IModel, label: str, prompts: Sequence[str], seeds: Sequence[int]
) -> np.ndarray:
    """Pictures uint8 (n, H, W, 3) of prompts, in a file below `root` that goes with them."""
    with storing(root):
        out = scratch(root, (len(prompts), model.resolution, model.resolution, 3))
    return model.generate(prompts, seeds, label=label, out=out)


def draw_all(root: Path, model: T2IModel, asked: Asked, known: Known) -> dict[str, np.ndarray]:
    """The pictures of each condition, as `draw` gives them. What `known` has for the words that the
    model is given is taken from it; the rest is drawn together, so that few batches are small, and
    the same words from the same noise once. A prompt that the model refuses is black all the
    same."""
    every = {p for prompts, _ in asked.values() for p in prompts}
    words = {p: model.rewrite(p) if model.rewrite else p for p in every}
    served = {c: ~model.refuses(prompts) for c, (prompts, _) in asked.items()}
    new: dict[tuple[str, int], tuple[str, int]] = {}
    for condition, pairs in asked.items():
        for prompt, seed, may in zip(*pairs, served[condition], strict=True):
            if may and (words[prompt], seed) not in known:
                new.setdefault((words[prompt], seed), (prompt, seed))
    first = [p for p, _ in new.values()], [s for _, s in new.values()]
    pictures = dict(zip(new, draw(root, model, "generate", *first) if new else [], strict=True))
    found = {}
    for condition, pairs in asked.items():
        with storing(root):
            out = scratch(root, (len(pairs[0]), model.resolution, model.resolution, 3))
        for i, (prompt, seed, may) in enumerate(zip(*pairs, served[condition], strict=True)):
            if may:
                pair = words[prompt], seed
                out[i] = known[pair] if pair in known else pictures[pair]
        found[condition] = out
    return found


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
