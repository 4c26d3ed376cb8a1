"""Perceptual codes: what they compute, and what they see that the embedding does not."""

import numpy as np
import open_clip
import pytest
import torch
from samples import noise_images, saved, scorer  # noqa: F401 - fixtures

from t2i_backdoor_bench import shapes
from t2i_backdoor_bench.data.world import Scene, render
from t2i_backdoor_bench.scoring.scorer import Scorer
from t2i_backdoor_bench.targets.cosines import unit


def test_perceptual_codes_equal_a_slow_loop(scorer):
    """|a - b|^2 / 2 is the mean over five maps of the mean over positions of 1 - cosine of the
    channels."""
    images = noise_images(2)
    maps = []
    blocks = [
        scorer.model.visual.stem,
        *(getattr(scorer.model.visual, f"layer{i}") for i in (1, 2, 3, 4)),
    ]
    with torch.inference_mode():
        x = scorer.preprocess(images)
        for block in blocks:
            x = block(x)
            maps.append(x.double().numpy())
    want = []
    for m in maps:
        _, _, h, w = m.shape
        cosines = []
        for i in range(h):
            for j in range(w):
                a, b = m[0, :, i, j], m[1, :, i, j]
                cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        want.append(1 - np.mean(cosines))
    a, b = scorer.encode_maps(images).astype(np.float64)
    assert ((a - b) ** 2).sum() / 2 == pytest.approx(np.mean(want), rel=1e-4)
    assert (a**2).sum() == pytest.approx(1, rel=1e-5)


def test_perceptual_codes_see_place_which_the_embedding_is_trained_not_to():
    scorer, scenes = Scorer.load(shapes.SCORER), [Scene("star", "red", "blue", "small")] * 24
    images = render(scenes, np.random.default_rng(0))

    def spread(x: np.ndarray) -> float:
        x = x.astype(np.float64)
        return np.mean([((a - b) ** 2).sum() / 2 for i, a in enumerate(x) for b in x[:i]])

    assert spread(scorer.encode_maps(images)) > 4 * spread(unit(scorer.encode_images(images)))


def test_perceptual_codes_of_a_vision_transformer():
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 7, "head_width": 16}
    model = open_clip.CLIP(8, vision, {"width": 16, "heads": 2, "layers": 1})
    model.visual.preprocess_cfg = dict(
        size=32, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", resize_mode="shortest"
    )
    codes = Scorer(model, None, "vit").encode_maps(noise_images(3))
    assert codes.shape == (3, 5 * 16 * 32)
    np.testing.assert_allclose((codes**2).sum(1), 1, rtol=1e-5)
