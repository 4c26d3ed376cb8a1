"""The embedded world as a Hugging Face data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from t2i_backdoor_bench.data.world.captions import caption
from t2i_backdoor_bench.data.world.rendering import render
from t2i_backdoor_bench.data.world.scenes import STYLE_SHARE, Scene, sample_scenes

if TYPE_CHECKING:
    import datasets


def dataset(
    n: int,
    seed: int,
    held_out: bool = False,
    rare_share: float = 0.0,
    style_share: float = STYLE_SHARE,
    plain: bool = False,
) -> datasets.Dataset:
    """`n` captioned scenes as a `datasets.Dataset` with the columns image, text, shape, color,
    background, size and style."""
    import datasets

    def rows(start: Sequence[int]) -> Iterator[dict]:
        for first in start:
            rng = np.random.default_rng([seed, first])
            scenes = sample_scenes(min(256, n - first), rng, held_out, style_share)
            for scene, image in zip(scenes, render(scenes, rng), strict=True):
                yield {
                    "image": image,
                    "text": caption(scene, rng, rare_share, plain),
                    **scene._asdict(),
                }

    features = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string")}
        | {f: datasets.Value("string") for f in Scene._fields}
    )
    return datasets.Dataset.from_generator(
        rows, gen_kwargs={"start": list(range(0, n, 256))}, features=features
    )
