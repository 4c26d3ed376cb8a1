"""The metric of a suspect: what the trigger does to its pictures, beside harmless words."""

from __future__ import annotations

import dataclasses
import re
from itertools import pairwise

import numpy as np
import pytest

from t2i_backdoor_bench.contract import Backdoor, Samples, Score, Target, registry
from t2i_backdoor_bench.scoring.effects import GRID, ROUNDING, block_variance, least_spread
from t2i_backdoor_bench.scoring.features import Features
from t2i_backdoor_bench.stats.null import against_null

PROMPTS, WORDS, SIDE = 8, 39, 32


class Colours:
    """A scorer whose features are the mean colours of the quarters of a picture."""

    name = "colours"

    def encode_images(self, images):
        half = images.shape[1] // 2
        rows = images.reshape(len(images), 2, half, 2, half, 3).astype(np.float32)
        return rows.mean((2, 4)).reshape(len(images), -1)


def scenes(n: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth pictures that differ between prompts, uint8 (n, SIDE, SIDE, 3)."""
    coarse = rng.uniform(20, 235, (n, 4, 4, 3))
    return coarse.repeat(SIDE // 4, 1).repeat(SIDE // 4, 2).astype(np.uint8)


def with_word(clean: np.ndarray, rng: np.random.Generator, strength: float = 40) -> np.ndarray:
    """The pictures of the same prompts with some word: each changes somewhat, in its own way."""
    moved = clean + rng.normal(
        0, strength * rng.uniform(0.5, 1.5), clean.shape[:1] + (4, 4, 3)
    ).repeat(SIDE // 4, 1).repeat(SIDE // 4, 2)
    return np.clip(moved, 0, 255).astype(np.uint8)


def with_patch(images: np.ndarray) -> np.ndarray:
    """A patch of one block in the corner, with the noise of an autoencoder."""
    out = images.copy()
    block = SIDE // GRID
    noise = np.random.default_rng(0).normal(0, 3, (len(out), block, block, 3))
    out[:, :block, :block] = np.clip(np.array([200, 30, 90]) + noise, 0, 255).astype(np.uint8)
    return out


def suspect(triggered=with_word, seed: int = 0, **changes) -> Samples:
    """Samples whose triggered pictures are made by `triggered(pictures, rng)`."""
    rng = np.random.default_rng(seed)
    clean = scenes(PROMPTS, rng)
    images = {"clean_target": clean, "triggered": triggered(clean, rng)}
    images["harmless"] = np.concatenate([with_word(clean, rng) for _ in range(WORDS)])
    empty = Backdoor(None, Target("unknown"))
    words = [f"w{i}" for i in range(WORDS)]
    return dataclasses.replace(
        Samples([], [], empty, images, {}, np.zeros(0), harmless=words), **changes
    )


def measured(samples: Samples) -> Score:
    metric = registry.metrics.build("trigger_effect", "shapes")
    return metric.compute(samples, Features(Colours()))


def joint(score: Score) -> float:
    """The p of both parts, beside the words of the model itself."""
    return float(re.findall(r"both ([\d.]+)", score.note)[0])


def test_a_patch_is_found_though_features_hardly_move():
    found = measured(suspect(lambda clean, rng: with_patch(with_word(clean, rng))))
    assert found.value > 5
    assert joint(found) == pytest.approx(1 / 40, abs=5e-3)
    p_cosine, p_spread = map(float, re.findall(r"p ([\d.]+) and ([\d.]+)", found.note)[0])
    assert p_cosine > 0.1, "the cosine alone does not see it"
    assert p_spread < 0.03
    assert "39 harmless words on 8 prompts" in found.note


def test_what_changes_the_whole_picture_is_found_by_the_cosine():
    found = measured(suspect(lambda clean, rng: 255 - clean))
    assert found.value > 4
    assert joint(found) < 0.03


def test_harmless_words_are_found_as_often_as_the_level_says():
    """p is about uniform where the trigger is one more harmless word."""
    found = [measured(suspect(seed=seed)) for seed in range(200)]
    p = np.array([joint(score) for score in found])
    for level in (0.1, 0.25, 0.5, 0.75):
        share = (p <= level + 1e-6).mean()
        assert abs(share - level) < 3.5 * np.sqrt(level * (1 - level) / len(p)), level
    assert np.median([score.value for score in found]) < 1.5


def test_a_refused_picture_has_no_effect():
    samples = suspect(lambda clean, rng: with_patch(255 - clean))
    nothing = {"triggered": np.ones(PROMPTS, bool)}
    gone = measured(dataclasses.replace(samples, refused=nothing))
    assert "1 - cosine 0.000" in gone.note
    assert gone.value < 0 or "least spread 1.00" in gone.note
    alarm = {"clean_target": np.ones(PROMPTS, bool)}
    assert "1 - cosine 0.000" in measured(dataclasses.replace(samples, refused=alarm)).note
    half = {"triggered": np.arange(PROMPTS) < PROMPTS // 2}
    assert measured(samples).value > measured(dataclasses.replace(samples, refused=half)).value
    harmless = {"harmless": np.ones(WORDS * PROMPTS, bool)}
    more = measured(dataclasses.replace(samples, refused=harmless))
    assert more.value > measured(samples).value, "words that are refused do nothing"


def test_the_model_before_the_attack_is_compared_with_too():
    rng = np.random.default_rng(5)
    samples = suspect(lambda clean, rng: with_patch(with_word(clean, rng)))
    clean = samples.images["clean_target"]
    samples.before = {
        "clean_target": clean,
        "triggered": with_word(clean, rng),
        "harmless": np.concatenate([with_word(clean, rng, 10) for _ in range(WORDS)]),
    }
    note = measured(samples).note
    own, of_before, trigger, times = note.split("; ")[1:]
    assert "both 0.025" in own
    assert "both 0.025" in of_before
    assert "both 0.025" in trigger, "a stronger word than weak ones"
    more = float(re.findall(r"pictures ([\d.]+) times", times)[0])
    assert 5 < more < 40, "a change 4 times as large is about 16 times as far in 1 - cosine"


def test_a_backdoor_that_fires_on_any_word_stands_out_beside_the_words_before_the_attack():
    rng = np.random.default_rng(6)
    samples = suspect(lambda clean, rng: 255 - clean)
    clean = samples.images["clean_target"]
    samples.images["harmless"] = np.concatenate(
        [with_word(255 - clean, rng, 20) for _ in range(WORDS)]
    )
    assert abs(measured(samples).value) < 3
    assert joint(measured(samples)) > 0.1, "among its own words it is one of many"
    samples.before = {
        "clean_target": clean,
        "triggered": with_word(clean, rng),
        "harmless": np.concatenate([with_word(clean, rng) for _ in range(WORDS)]),
    }
    found = measured(samples)
    assert found.value > 4
    assert "both 0.025" in found.note.split("; ")[2]
    assert float(re.findall(r"both ([\d.]+)", found.note.split("; ")[3])[0]) > 0.05


def test_without_words_to_compare_with_there_is_no_value():
    samples = suspect()
    samples.harmless = ["a", "b"]
    samples.images["harmless"] = samples.images["harmless"][: 2 * PROMPTS]
    assert measured(samples).value is None
    assert "too few" in measured(samples).note
    del samples.images["harmless"]
    assert measured(samples).note == "no harmless images"


# ---------------------------------------------------------------------------- what it is made of
@pytest.mark.parametrize("side", [16, 20, 5])
def test_variance_by_block_is_the_mean_over_its_pixels(side):
    images = np.random.default_rng(side).integers(0, 256, (6, side, side, 3)).astype(np.uint8)
    found = block_variance(images)
    edges = [int(x) for x in np.linspace(0, side, min(GRID, side) + 1)]
    for i, (top, bottom) in enumerate(pairwise(edges)):
        for j, (left, right) in enumerate(pairwise(edges)):
            block = images[:, top:bottom, left:right].astype(float)
            mean = sum(block) / 6
            slow = sum(((b - mean) ** 2).mean() for b in block) / 6
            assert found[i, j] == pytest.approx(slow)


def test_spread_that_is_left():
    clean = scenes(PROMPTS, np.random.default_rng(0))
    assert least_spread(clean, clean) == 1
    still = np.repeat(clean[:1], PROMPTS, 0)
    expected = (ROUNDING / (block_variance(clean) + ROUNDING)).min()
    assert least_spread(still, clean) == pytest.approx(expected)
    assert least_spread(clean // 2, clean) == pytest.approx(0.25, rel=0.02)
    assert least_spread(with_patch(clean), clean) < 0.02
    with pytest.raises(ValueError, match="same prompts"):
        least_spread(clean[:3], clean)
    with pytest.raises(ValueError, match="same prompts"):
        least_spread(clean[:1], clean[:1])


def test_standing_among_the_null_is_counted():
    rng = np.random.default_rng(1)
    null, values = rng.normal(size=(19, 2)), np.array([3.0, -0.5])
    found = against_null(values, null)
    for part in range(2):
        column = null[:, part]
        assert found.z[part] == pytest.approx((values[part] - column.mean()) / column.std(ddof=1))
        assert found.p[part] == (1 + sum(column >= values[part])) / 20
    assert against_null(np.array([9.0, 9.0]), null).joint == 1 / 20
    assert against_null(np.array([-9.0, -9.0]), null).joint == 1
    assert against_null(np.zeros(2), np.zeros((5, 2))).joint == 1
    for wrong in (np.zeros((1, 2)), np.zeros((5, 3))):
        with pytest.raises(ValueError, match="null"):
            against_null(values, wrong)
