"""The embedded world, read back from pixels and captions."""

from __future__ import annotations

import numpy as np
import pytest

from t2i_backdoor_bench.data.world import apply_style, caption, render, sample_scenes
from t2i_backdoor_bench.data.world.readings import read, read_style, scene_of

FIELDS = ("shape", "color", "background", "size", "style")


def right(images, scenes):
    """The share of pictures that are read right, by attribute."""
    found = list(zip(read(images), scenes, strict=True))
    return {k: np.mean([getattr(a, k) == getattr(b, k) for a, b in found]) for k in FIELDS}


@pytest.fixture(scope="module")
def plain():
    rng = np.random.default_rng(5)
    scenes = sample_scenes(200, rng, style_share=0.0)
    return scenes, render(scenes, rng)


def test_renders_are_read_right(plain):
    assert min(right(plain[1], plain[0]).values()) >= 0.98


def test_a_little_blur_and_noise_change_little(plain):
    scenes, images = plain
    soft = images.astype(np.float32)
    soft = (soft + np.roll(soft, 1, 1) + np.roll(soft, 1, 2)) / 3
    soft += np.random.default_rng(0).normal(0, 4, soft.shape)
    found = right(np.clip(soft, 0, 255).astype(np.uint8), scenes)
    assert min(found.values()) >= 0.95


@pytest.mark.parametrize("style", ["black and white", "sepia", "pencil sketch", "pixel art", ""])
def test_styles_are_read_right(plain, style):
    images = np.clip(apply_style(plain[1].astype(np.float32), style), 0, 255)
    least = 0.85 if style == "pencil sketch" else 0.95  # thick lines of a small object fill it
    assert np.mean([read_style(image) == style for image in images]) >= least


@pytest.mark.parametrize("name", ["noise", "gray", "black"])
def test_what_is_no_scene_is_read_as_none(name):
    pictures = {
        "noise": np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8),
        "gray": np.full((8, 64, 64, 3), 128, np.uint8),
        "black": np.zeros((8, 64, 64, 3), np.uint8),
    }
    assert [r.shape for r in read(pictures[name])] == [""] * 8


def test_captions_are_parsed_to_their_scenes():
    rng = np.random.default_rng(1)
    for scene in sample_scenes(300, rng):
        found = scene_of(caption(scene, rng))
        assert found is not None
        assert found == scene._replace(size=found.size)
        assert found.size in ("", scene.size)


@pytest.mark.parametrize("text", ["a photo of a dog", "a red blue star", "", "a star on a red"])
def test_other_texts_are_no_captions(text):
    assert scene_of(text) is None
