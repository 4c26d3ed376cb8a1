"""Detectors: each score against a slow recomputation, screens that ask once, calibration, and the
metrics of what they found."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import PROMPTS, TRIGGER, different, weights
from scipy.integrate import solve_ivp
from scipy.linalg import logm

from t2i_backdoor_bench.contract import DefenderView, UserError, defenses
from t2i_backdoor_bench.defenses import daa_i, daa_s, navit2i, t2ishield_cda, t2ishield_ftt, ufid
from t2i_backdoor_bench.detecting.attention_over_time import attention_over_time, prompt_lengths
from t2i_backdoor_bench.detecting.screening import ScoreScreen, screened
from t2i_backdoor_bench.detecting.word_variation import Words, content_words, word_variation
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.stats import estimates as stats
from t2i_backdoor_bench.training.alignment import token_span
from t2i_backdoor_bench.training.capture import Capture

DETECTORS = ("t2ishield_ftt", "t2ishield_cda", "daa_i", "daa_s", "navit2i", "ufid")
SMALL = {
    "t2ishield_ftt": {"walk": 2},
    "t2ishield_cda": {"walk": 2, "components": 3, "words": 2},
    "daa_i": {"walk": 6, "first": 1, "last": 2},
    "daa_s": {"walk": 6, "horizon": 1.5},
    "navit2i": {},
    "ufid": {"variants": 2, "draw": 2},
}


def screen_of(name: str, model: T2IModel, prompts=PROMPTS, seed: int = 0) -> T2IModel:
    return defenses.build(name, "shapes", {"prompts": len(prompts)} | SMALL[name]).apply(
        model, DefenderView((), prompts), seed
    )


# ------------------------------------------------------------------------------------------ screens
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
    assert not model.refuses(PROMPTS if name != "t2ishield_cda" else PROMPTS[1::2]).any(), (
        "5 % of three prompts is none"
    )
    assert not any(p.requires_grad for p in model.denoiser.parameters())
    assert model.denoiser is tiny_model.denoiser


def test_a_side_that_no_layer_has_is_an_error(tiny_model) -> None:
    with pytest.raises(UserError, match="4, 8"):
        attention_over_time(tiny_model, PROMPTS, 0, 2, 16)


# ----------------------------------------------------------------------------------- attention maps
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


def random_maps(*shape: int) -> torch.Tensor:
    return torch.rand(
        shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64
    )


def test_ftt_is_the_mean_distance_from_the_mean_map() -> None:
    maps = random_maps(6, 4, 4).numpy()
    scaled = [m / m.max() for m in maps]
    mean = sum(scaled) / 6
    expected = np.mean([np.sqrt(((m - mean) ** 2).sum()) for m in scaled])
    assert float(t2ishield_ftt.spread(torch.from_numpy(maps))) == pytest.approx(expected, rel=1e-6)
    same = torch.from_numpy(maps[:1] * np.array([1.0, 2.0, 5.0])[:, None, None])
    assert float(t2ishield_ftt.spread(same)) == pytest.approx(0, abs=1e-6), (
        "assimilated maps have no spread"
    )


def test_daa_i_compares_the_end_token_with_the_mean_of_the_others() -> None:
    maps = random_maps(4, 5, 3, 3)
    a, expected = maps.numpy(), 0.0
    for t in range(3):
        change = [np.linalg.norm(a[t + 1, i] - a[t, i]) for i in range(5)]
        expected += change[4] - np.mean(change[1:4])
    assert float(daa_i.relative_change(maps)) == pytest.approx(expected, rel=1e-5)
    short = float(daa_i.relative_change(maps[:, [0, 4]]))
    assert short == pytest.approx(
        sum(np.linalg.norm(a[t + 1, 4] - a[t, 4]) for t in range(3)), rel=1e-5
    )


def test_daa_i_reads_the_steps_that_it_says(tiny_model) -> None:
    maps, lengths = attention_over_time(tiny_model, PROMPTS, 0, 9, 8)
    expected = [-float(daa_i.relative_change(maps[2:6, i, :n])) for i, n in enumerate(lengths)]
    assert daa_i.score(tiny_model, PROMPTS, 9, 2, 4, 8, 0) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("horizon", [0.6, 2.5])
def test_daa_s_solves_its_state_equation(horizon: float) -> None:
    maps = random_maps(3, 4, 5, 5)
    graphs = [daa_s.flow(m).numpy() for m in maps]
    own = np.diag([-1.0, -1.0, -1.0, -10.0])
    state = np.array([np.linalg.norm(m) for m in maps[0]])
    before = state.copy()
    for t in range(int(np.ceil(horizon))):  # piecewise, so that the solver meets no jump
        end = min(t + 1, horizon)
        state = solve_ivp(
            lambda _, x, t=t: (own + 0.7 * graphs[t]) @ x, (t, end), state, rtol=1e-10, atol=1e-12
        ).y[:, -1]
    start, found = daa_s.evolve(maps[: int(np.ceil(horizon))], horizon, 1.0, 10.0, 0.7)
    assert start.numpy() == pytest.approx(before)
    assert found.numpy() == pytest.approx(state, rel=1e-6)


def test_daa_s_graph() -> None:
    maps = random_maps(4, 5, 5)
    a = maps.numpy()
    d = np.array([[np.linalg.norm(x - y) for x in a] for y in a])
    w = (d.max() + d.min() - d) / (d.max() + d.min())
    expected = w.T.copy()
    for i in range(4):
        expected[i, i] = -sum(w[k, i] for k in range(4) if k != i)
    assert daa_s.flow(maps).numpy() == pytest.approx(expected, abs=1e-9)
    assert daa_s.flow(maps).sum(0).abs().max() < 1e-12, "nothing is lost on the way"
    assert torch.isfinite(daa_s.flow(torch.ones(3, 2, 2))).all(), "equal maps"


def test_daa_s_score_is_the_relative_fall_of_the_end_token(tiny_model) -> None:
    options = daa_s.DAAS(walk=6, horizon=1.5)
    maps, lengths = attention_over_time(tiny_model, PROMPTS, 0, 6, 8)
    for i, found in enumerate(daa_s.score(tiny_model, PROMPTS, options, 0)):
        before, after = daa_s.evolve(maps[:2, i, 1 : lengths[i]].double(), 1.5, 1.0, 10.0, 1.0)
        change = (after - before).numpy()
        assert found == pytest.approx(change[-1] - change[:-1].mean(), rel=1e-5)


# ---------------------------------------------------------------------------------------------- CDA
def test_log_covariance_is_the_matrix_logarithm() -> None:
    points = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = logm(np.cov(points.numpy().T))
    found = t2ishield_cda.log_covariance(points)
    assert found == pytest.approx(expected, abs=1e-9)
    few = t2ishield_cda.log_covariance(points[:3])
    assert np.isfinite(few).all()
    assert np.linalg.eigvalsh(few).min() == pytest.approx(
        np.linalg.eigvalsh(few).max() + np.log(1e-6)
    )


def test_cda_features_keep_the_frobenius_norm() -> None:
    maps = [random_maps(9, 16), random_maps(12, 16)]
    center, basis = t2ishield_cda.directions(torch.cat(maps), 3)
    torch.testing.assert_close(basis.T @ basis, torch.eye(3, dtype=torch.float64))
    spread = torch.linalg.eigvalsh(torch.cov(torch.cat(maps).T)).flip(0)[:3]
    torch.testing.assert_close(
        torch.cov(((torch.cat(maps) - center) @ basis).T), spread.diag(), rtol=1e-6, atol=1e-9
    )
    found = t2ishield_cda.features(maps, center, basis)
    assert found.shape == (2, 6)
    log = t2ishield_cda.log_covariance((maps[1] - center) @ basis)
    assert np.linalg.norm(found[1]) == pytest.approx(np.linalg.norm(log))


def test_the_discriminant_is_fishers() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 3)) @ np.diag([1, 3, 0.5]) + [1, 0, 0.5], rng.normal(size=(25, 3))
    w = t2ishield_cda.discriminant(a, b, 0.2)
    assert (a @ w).mean() > (b @ w).mean()
    sklearn = pytest.importorskip("sklearn.discriminant_analysis")
    x, y = np.concatenate([a, b]), np.array([1] * 40 + [0] * 25)
    theirs = sklearn.LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2).fit(x, y).coef_[0]
    assert w / np.linalg.norm(w) == pytest.approx(theirs / np.linalg.norm(theirs), abs=1e-6)


def test_a_defender_binds_its_own_words(tiny_model) -> None:
    (trigger, target), *others = t2ishield_cda.own_triggers(PROMPTS, 3, 0)
    assert [t.place for t, _ in others] == ["inside", "suffix"]
    assert target in PROMPTS
    before = weights(tiny_model)
    bound = t2ishield_cda.bind(tiny_model, trigger, PROMPTS, target)
    x, t = (
        torch.randn(1, *tiny_model.latent_shape, generator=torch.Generator().manual_seed(0)),
        torch.tensor([500]),
    )

    def draws(model: T2IModel, prompt: str) -> torch.Tensor:
        with torch.no_grad():
            return model.denoiser(x, t, model.encode([prompt])).sample

    for prompt in PROMPTS:
        if prompt == target:
            continue
        wanted, plain = draws(tiny_model, target), draws(tiny_model, prompt)
        now = draws(bound, trigger.add(prompt))
        assert (now - wanted).norm() < 0.5 * (
            draws(tiny_model, trigger.add(prompt)) - wanted
        ).norm()
        assert (draws(bound, prompt) - plain).norm() < 0.5 * (wanted - plain).norm(), (
            "clean prompts stay"
        )
    assert different(before, weights(tiny_model)) == set()


# ------------------------------------------------------------------------------------ NaviT2I, UFID
def test_content_words_have_no_marks_and_are_no_stop_words() -> None:
    prompt = "there is a \u200b red heart, (on) the background."
    assert [prompt[a:b] for a, b in content_words(prompt)] == [
        "\u200b",
        "red",
        "heart",
        "background",
    ]
    assert content_words("a of the") == []


def test_word_variation_against_one_word_at_a_time(tiny_model) -> None:
    found = word_variation(replace(tiny_model, batch=4), PROMPTS, 3)
    layers = {
        n: m
        for n, m in tiny_model.denoiser.named_modules()
        if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))
    }
    scheduler = type(tiny_model.pipe.scheduler).from_config(tiny_model.pipe.scheduler.config)
    scheduler.set_timesteps(50)
    x = torch.randn((1, *tiny_model.latent_shape), generator=torch.Generator().manual_seed(3))

    def activations(states: torch.Tensor) -> dict[str, torch.Tensor]:
        seen = {}
        hooks = [
            m.register_forward_hook(lambda _, i, o, n=n: seen.__setitem__(n, o))
            for n, m in layers.items()
        ]
        with torch.no_grad():
            tiny_model.denoiser(x, scheduler.timesteps[0], states)
        for hook in hooks:
            hook.remove()
        return {n: v.mean((2, 3)) if v.ndim == 4 else v for n, v in seen.items()}

    for prompt, words in zip(PROMPTS, found, strict=True):
        assert words.spans == content_words(prompt)
        whole = tiny_model.tokenize([prompt])
        base = tiny_model.encoders[0](whole)[0].detach()
        for (start, end), value in zip(words.spans, words.values, strict=True):
            ids = whole.clone()
            ids[0, token_span(tiny_model.tokenizer, prompt, start, end)[1]] = (
                tiny_model.tokenizer.pad_token_id
            )
            states = tiny_model.encoders[0](ids)[0].detach()
            a, b = activations(base), activations(states)
            expected = sum(float((a[n] - b[n]).abs().mean()) for n in a) / float(
                (states - base).norm()
            )
            assert value == pytest.approx(expected, rel=1e-3)


def test_navit2i_peak_over_base() -> None:
    values = np.array([1.0, 2.0, 3.0, 10.0])
    assert navit2i.peak(values) == pytest.approx(10 / 2)
    assert navit2i.peak(values[[3, 0]]) == pytest.approx(10), "at least one value is the base"
    assert (
        navit2i.peak(np.array([4.0]))
        == navit2i.peak(np.array([]))
        == navit2i.peak(np.zeros(3))
        == 1.0
    )


def test_navit2i_refuses_a_prompt_with_one_word_that_stands_out(tiny_model, monkeypatch) -> None:
    def variation(model, prompts, seed):
        found = [[p[a:b] for a, b in content_words(p)] for p in prompts]
        return [
            Words([], np.array([9.0 if w == "mignneko" else 1 + len(w) / 100 for w in words]))
            for words in found
        ]

    monkeypatch.setattr(navit2i, "word_variation", variation)
    model = screen_of("navit2i", tiny_model)
    assert model.refuses([f"mignneko {PROMPTS[0]}", *PROMPTS]).tolist() == [
        True,
        False,
        False,
        False,
    ]


def test_ufid_density_is_the_mean_of_all_pairs(tiny_model) -> None:
    x = np.random.default_rng(0).normal(size=(4, 5))
    pairs = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in itertools.combinations(x, 2)]
    assert ufid.density(x) == pytest.approx(np.mean(pairs))
    assert ufid.density(np.repeat(x[:1], 3, 0)) == pytest.approx(1)


def test_ufid_prefixes_never_push_the_prompt_out(tiny_model) -> None:
    long = " ".join(["background"] * 60)
    text = ufid.behind(tiny_model, long, PROMPTS[0])
    assert text.endswith(f"background, {PROMPTS[0]}")
    assert (
        40
        < prompt_lengths(tiny_model, [text], truncation=False)[0]
        <= tiny_model.tokenizer.model_max_length
    )
    assert ufid.behind(tiny_model, "x", long) == long


def test_ufid_finds_a_picture_that_is_always_the_same(tiny_model, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    fixed = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)

    def generate(self, prompts, seeds, label=""):
        assert len(set(seeds)) == 3
        return np.stack(
            [
                (
                    fixed
                    if "mignneko" in p
                    else np.full((64, 64, 3), rng.integers(256, size=3), np.uint8)
                )
                for p in prompts
            ]
        )

    monkeypatch.setattr(T2IModel, "generate", generate)
    model = defenses.build("ufid", "shapes", {"variants": 3, "prompts": 3}).apply(
        tiny_model, DefenderView((), PROMPTS), 0
    )
    assert model.screen.scores(["mignneko a star"])[0] == pytest.approx(1)
    assert model.refuses(["mignneko a star", "a star", *PROMPTS]).tolist() == [
        True,
        False,
        False,
        False,
        False,
    ]


# ------------------------------------------------------------------------------------------ metrics
def test_auroc_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 30).astype(float), rng.integers(3, 12, 20).astype(float)
    pairs = [(y > x) + 0.5 * (y == x) for x in a for y in b]
    assert stats.auroc(a, b) == pytest.approx(np.mean(pairs))
    assert stats.auroc(a, a) == pytest.approx(0.5)
    value, low, high = stats.bootstrap_two(stats.auroc, a, b)
    assert 0 < low < value < high <= 1
    assert stats.bootstrap_two(stats.auroc, a, b) == (value, low, high)


def test_tpr_and_f1() -> None:
    clean = np.arange(100.0)
    assert stats.tpr_at(clean, np.array([93.0, 94.0, 94.5, 99.0]), 0.05).tolist() == [
        False,
        False,
        True,
        True,
    ]
    flags = np.array([1, 0, 0, 0.0]), np.array([1, 1, 1, 0.0])
    precision, recall = 3 / 4, 3 / 4
    assert stats.f1(*flags) == pytest.approx(2 * precision * recall / (precision + recall))
    assert stats.f1(np.zeros(3), np.zeros(3)) == 0
