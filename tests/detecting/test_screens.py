"""Screens ask once, and are calibrated on clean prompts; a batch does not change scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import PROMPTS, TRIGGER

from t2i_backdoor_bench.contract import DefenderView, UserError, defenses
from t2i_backdoor_bench.detecting.attention_over_time import attention_over_time
from t2i_backdoor_bench.detecting.screening import ScoreScreen, screened
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.stats import estimates as stats
from t2i_backdoor_bench.training.capture import Capture

DETECTORS = (
    "t2ishield_ftt",
    "t2ishield_cda",
    "daa_i",
    "daa_s",
    "navit2i",
    "navit2i_untrusted",
    "ufid",
    "set",
    "tnc",
    "grainps",
    "amdet",
)
SMALL = {
    "t2ishield_ftt": {"walk": 2},
    "t2ishield_cda": {"walk": 2, "components": 3, "words": 2},
    "daa_i": {"walk": 6, "first": 1, "last": 2},
    "daa_s": {"walk": 6},
    "navit2i": {},
    "navit2i_untrusted": {},
    "ufid": {"variants": 2, "draw": 2},
    "set": {"walk": 2},
    "tnc": {"walk": 4, "segment": 2},
    "grainps": {},
    "amdet": {"steps": 2, "grid": 3},
}
HALVES = ("t2ishield_cda", "set", "tnc")  # half of the prompts set the threshold


def screen_of(name: str, model: T2IModel, prompts=PROMPTS, seed: int = 0) -> T2IModel:
    return defenses.build(name, "shapes", {"prompts": len(prompts)} | SMALL[name]).apply(
        model,
        DefenderView(defenses.get(name).needs, prompts, clean_text_encoder=model.encoders),
        seed,
    )


class Counting:
    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, prompts) -> np.ndarray:
        self.asked.append(list(prompts))
        return np.array([len(p) for p in prompts], float)


def test_a_prompt_is_scored_once_and_distinct_ones_together() -> None:
    score = Counting()
    screen = ScoreScreen(score, threshold=2)
    assert screen.refuses(["a", "bbb", "a"]).tolist() == [False, True, False]
    assert screen.refuses(["bbb"])[0]
    assert not screen.refuses(["a"])[0]
    assert screen.scores(["cc", "a"]).tolist() == [2.0, 1.0]
    assert score.asked == [["a", "bbb"], ["cc"]]
    assert screen.scored == 3


def test_a_screen_sees_the_prompt_that_the_model_reads_and_keeps_the_screen_before_it(
    tiny_model,
) -> None:
    first = replace(tiny_model, rewrite=lambda p: p * 2, screen=lambda p: p == "zz")
    score = Counting()
    model = screened(first, score, ["a", "bb"], 0.0)
    assert score.asked == [["aa", "bbbb"]]
    assert model.refuses(["a", "zz", "ccc"]).tolist() == [False, True, True]
    assert tiny_model.screen is None
    again = screened(model, Counting(), ["aaaa"], 0.0)
    assert again.refuses(["a", "zz", "ccc"]).tolist() == [False, True, True], (
        "screens of screens are asked all at once too"
    )


def test_scores_that_are_not_numbers_are_an_error() -> None:
    with pytest.raises(ValueError, match="finite"):
        ScoreScreen(lambda prompts: np.array([np.nan])).refuses(["a"])
    with pytest.raises(ValueError, match="2 finite"):
        ScoreScreen(lambda prompts: np.array([1.0])).refuses(["a", "b"])


@pytest.mark.parametrize(("n", "rate"), [(100, 0.05), (40, 0.05), (7, 0.3), (3, 0.05)])
def test_calibration_refuses_no_more_than_it_says(n: int, rate: float) -> None:
    scores = np.random.default_rng(n).permutation(n).astype(float)
    above = (scores > stats.threshold_at(scores, rate)).sum()
    assert rate * n - 1 < above <= rate * n


def test_the_model_asks_a_screen_for_all_prompts_at_once(tiny_model) -> None:
    score = Counting()
    model = replace(tiny_model, screen=ScoreScreen(score, threshold=6))
    images = model.generate(["a star", "one small moon"], [1, 2])
    assert images[0].any()
    assert not images[1].any()
    assert score.asked == [["a star", "one small moon"]]


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_score_prompts_one_by_one_as_together(tiny_model, name: str) -> None:
    model = screen_of(name, tiny_model)
    asked = [TRIGGER.add(p) for p in PROMPTS] + ["a star"]
    together = model.screen.scores(asked)
    assert together.dtype == np.float64
    alone = [float(model.screen.score([p])[0]) for p in asked]
    assert together == pytest.approx(alone, rel=2e-3, abs=1e-5)
    assert len(set(together)) > 1
    assert not model.refuses(PROMPTS[1::2] if name in HALVES else PROMPTS).any(), (
        "5 % of three prompts is none"
    )
    assert not any(p.requires_grad for p in model.denoiser.parameters())
    assert model.denoiser is tiny_model.denoiser


def test_a_side_that_no_layer_has_is_an_error(tiny_model) -> None:
    with pytest.raises(UserError, match="4, 8"):
        attention_over_time(tiny_model, PROMPTS, 0, 2, 16)


def test_the_walk_sees_what_the_sampler_sees(tiny_model) -> None:
    model = replace(tiny_model, sampler=replace(tiny_model.sampler, steps=3))
    maps, lengths = attention_over_time(model, PROMPTS, 5, 3, 8)
    assert lengths.tolist() == [len(model.tokenizer(p).input_ids) for p in PROMPTS]
    assert maps.shape == (3, 3, int(lengths.max()), 8, 8)
    times, latents = model.trajectory(PROMPTS, [5, 5, 5])
    for t, x, seen in zip(times, latents, maps, strict=True):
        with torch.no_grad(), Capture(model) as capture:
            model.denoiser(x, t, model.encode(PROMPTS))
        layers = [m for m in capture.layers() if m.shape[-1] == 8]
        assert len(layers) > 1
        expected = sum(layers) / len(layers)
        torch.testing.assert_close(seen, expected[:, : seen.shape[1]], rtol=1e-3, atol=1e-5)
    first, _ = attention_over_time(model, PROMPTS, 5, 3, 8, stop=1)
    torch.testing.assert_close(first[0], maps[0])
