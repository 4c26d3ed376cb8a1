"""Detectors that read activations or pictures, and the metrics of detection."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import PROMPTS
from tiny_families import build, opened

from t2i_backdoor_bench.contract import DefenderView, Undeclared, defenses
from t2i_backdoor_bench.defenses import navit2i, ufid
from t2i_backdoor_bench.detecting.attention_over_time import prompt_lengths
from t2i_backdoor_bench.detecting.phrases import PHRASES, WORLD
from t2i_backdoor_bench.detecting.token_variation import Variations, content_words, token_variation
from t2i_backdoor_bench.models.families.conditioning import Conditioning
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.stats import estimates as stats
from t2i_backdoor_bench.training.alignment import token_span

SMALL = {
    "t2ishield_ftt": {"walk": 2},
    "t2ishield_cda": {"walk": 2, "components": 3, "words": 2},
    "daa_i": {"walk": 6, "first": 1, "last": 2},
    "daa_s": {"walk": 6},
    "navit2i": {},
    "navit2i_untrusted": {},
    "ufid": {"variants": 2, "draw": 2},
}


def screen_of(name: str, model: T2IModel, prompts=PROMPTS, seed: int = 0) -> T2IModel:
    return defenses.build(name, "shapes", {"prompts": len(prompts)} | SMALL[name]).apply(
        model,
        DefenderView(defenses.get(name).needs, prompts, clean_text_encoder=model.encoders),
        seed,
    )


def test_content_words_have_no_marks_and_are_no_stop_words() -> None:
    prompt = "there is a \u200b red heart, (on) the background."
    assert [prompt[a:b] for a, b in content_words(prompt)] == [
        "\u200b",
        "red",
        "heart",
        "background",
    ]
    assert content_words("a of the") == []


def test_a_trigger_of_marks_alone_is_a_word() -> None:
    for trigger in ("....", "(", "?!"):
        prompt = f"a dog {trigger} . , !"
        assert [prompt[a:b] for a, b in content_words(prompt)] == ["dog", trigger]


@pytest.mark.parametrize("clean_encoder", [False, True])
def test_variation_against_one_token_at_a_time(tiny_model, clean_encoder: bool) -> None:
    trusted = tiny_model.clone(encoders=True, train="none")
    with torch.no_grad():
        trusted.encoders[0].get_input_embeddings().weight.mul_(1.7)
    trusted = trusted if clean_encoder else None
    prompts = [*PROMPTS, "mignneko a star"]  # a word of several tokens
    found = token_variation(replace(tiny_model, batch=4), prompts, 3, trusted)
    measured = (trusted or tiny_model).encoders[0]
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

    for prompt, own in zip(prompts, found, strict=True):
        tokens = [
            (span, at)
            for span in content_words(prompt)
            for at in token_span(tiny_model.text_part, prompt, *span)[1]
        ]
        assert own.spans == [span for span, _ in tokens]
        whole = tiny_model.tokenize([prompt])
        base = tiny_model.encoders[0](whole)[0].detach()
        for (_, at), value in zip(tokens, own.values, strict=True):
            ids = whole.clone()
            ids[0, at] = tiny_model.tokenizer.pad_token_id
            distance = (measured(ids)[0] - measured(whole)[0]).detach().norm()
            states = tiny_model.encoders[0](ids)[0].detach()
            a, b = activations(base), activations(states)
            expected = sum(float((a[n] - b[n]).abs().mean()) for n in a) / float(distance)
            assert value == pytest.approx(expected, rel=1e-3)


def test_variation_is_divided_by_what_the_denoiser_reads_alone(tmp_path) -> None:
    """PixArt's transformer does not read the states of padding."""
    model = opened(build(tmp_path / "pixart", "pixart_sigma"))

    class Disturbed:
        def read(self, ids: torch.Tensor) -> Conditioning:
            told = model.read(ids)
            padding = torch.rand_like(told.states) * ~told.mask[..., None]
            return Conditioning(told.states + 9 * padding, told.more)

    one, other = (token_variation(model, PROMPTS[:1], 0, m)[0] for m in (model, Disturbed()))
    assert one.values == pytest.approx(other.values, rel=1e-5)
    assert (one.values > 0).all()


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


def test_navit2i_divides_by_the_states_of_the_clean_encoder(tiny_model) -> None:
    suspect = tiny_model.clone(encoders=True, train="none")
    with torch.no_grad():
        for p in suspect.encoders[0].parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    asked = ["mignneko a red star"]

    def score(name: str, **given) -> np.ndarray:
        view = DefenderView(defenses.get(name).needs, PROMPTS, **given)
        method = defenses.build(name, "shapes", {"prompts": 3})
        return method.apply(suspect, view, 0).screen.scores(asked)

    trusted = score("navit2i", clean_text_encoder=tiny_model.encoders)
    expected = token_variation(suspect, asked, 0, tiny_model)[0].values
    assert trusted == pytest.approx([navit2i.peak(expected)])
    own = score("navit2i_untrusted")
    assert own == pytest.approx([navit2i.peak(token_variation(suspect, asked, 0)[0].values)])
    assert own != pytest.approx(trusted, rel=1e-3)
    with pytest.raises(Undeclared, match="clean_text_encoder"):
        defenses.build("navit2i", "shapes", {"prompts": 3}).apply(
            suspect, DefenderView(("clean_prompts",), PROMPTS), 0
        )


def test_navit2i_refuses_a_prompt_with_one_word_that_stands_out(tiny_model, monkeypatch) -> None:
    def variation(model, prompts, seed, trusted):
        found = [[p[a:b] for a, b in content_words(p)] for p in prompts]
        return [
            Variations([], np.array([9.0 if w == "mignneko" else 1 + len(w) / 100 for w in words]))
            for words in found
        ]

    monkeypatch.setattr(navit2i, "token_variation", variation)
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


def test_ufid_phrases_never_push_the_prompt_out(tiny_model) -> None:
    long = " ".join(["background"] * 60)
    text = ufid.behind(tiny_model, long, PROMPTS[0])
    assert text.endswith(f"background {PROMPTS[0]}")
    assert (
        40
        < prompt_lengths(tiny_model, [text], truncation=False)[0]
        <= tiny_model.tokenizer.model_max_length
    )
    assert ufid.behind(tiny_model, "x", long) == long
    for phrase in PHRASES["world"]:
        assert ufid.behind(tiny_model, phrase, PROMPTS[2]) == phrase + PROMPTS[2]


def test_ufid_draws_the_bare_prompt_and_the_nine_phrases(tiny_model, monkeypatch) -> None:
    asked = []

    def generate(self, prompts, seeds, label=""):
        asked.append((list(prompts), list(seeds)))
        return np.zeros((len(prompts), 64, 64, 3), np.uint8)

    monkeypatch.setattr(T2IModel, "generate", generate)
    defenses.build("ufid", "shapes", {"prompts": 3}).apply(
        tiny_model, DefenderView(("clean_prompts",), PROMPTS), 0
    )
    texts, seeds = asked[0]
    assert len(PHRASES["world"]) == len(PHRASES["released"]) == 9
    assert texts == [p for prompt in PROMPTS for p in (prompt, *(x + prompt for x in WORLD))]
    assert len(set(seeds[:10])) == 10, "each picture from other noise"
    assert seeds == seeds[:10] * 3, "and every prompt from the same"
    assert defenses.build("ufid", "sd").phrases == "released"


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
        tiny_model, DefenderView(("clean_prompts",), PROMPTS), 0
    )
    assert model.screen.scores(["mignneko a star"])[0] == pytest.approx(1)
    assert model.refuses(["mignneko a star", "a star", *PROMPTS]).tolist() == [
        True,
        False,
        False,
        False,
        False,
    ]


def test_auroc_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 30).astype(float), rng.integers(3, 12, 20).astype(float)
    pairs = [(y > x) + 0.5 * (y == x) for x in a for y in b]
    assert stats.auroc(a, b) == pytest.approx(np.mean(pairs))
    assert stats.auroc(a, a) == pytest.approx(0.5)
    value, low, high = stats.auroc_estimate(a, b)
    assert value == stats.auroc(a, b)
    assert 0 < low < value < high <= 1


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
