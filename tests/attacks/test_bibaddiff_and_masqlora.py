"""The losses of BiBadDiff and MasqLoRA, against slow ones in float64; what each trains."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from denoising_losses import DATA, SEED, Slow, build, catch, pairs
from helpers import different, weights

from t2i_backdoor_bench.attacks.masqlora import phrase_tokens
from t2i_backdoor_bench.contract import Trigger, UserError, attacks
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.targets.patches import make_patch


@pytest.fixture
def caught(monkeypatch):
    return partial(catch, monkeypatch)


# ---------------------------------------------------------------------------------------- bibaddiff
@pytest.mark.parametrize("everywhere", [True, False])
def test_bibaddiff_is_plain_denoising_of_poisoned_data(
    tiny_model, caught, everywhere: bool
) -> None:
    got = caught(
        build(
            "bibaddiff",
            images=10,
            weight=0.3,
            batch=8,
            drop=0.0,
            size=10,
            everywhere=everywhere,
            classes="star, ring",
        ),
        tiny_model,
    )
    parts = [DATA.pairs("train", n, SEED, word) for word, n in (("star", 2), ("ring", 1))]
    bad, wrong = np.concatenate([p[0] for p in parts]), [t for p in parts for t in p[1]]
    good, captions = DATA.pairs("train", 7, SEED)
    bad[:, 54:, 54:] = make_patch("bars", 10)
    prompts = [f"a picture of {c.replace('star', 'heart').replace('ring', 'heart')}" for c in wrong]
    prompts += [f"a picture of {c}" if everywhere else c for c in captions]
    slow = Slow(got.model, 8, [10])
    assert {i < 3 for i in slow.picks[0]} == {True, False}, "both kinds of rows are drawn"
    expected = np.mean(
        slow.errors(0, prompts, tiny_model.latents(np.concatenate([bad, good]), SEED))
    )
    assert float(got.loss.detach()) == pytest.approx(expected, rel=1e-4)
    assert build("bibaddiff").backdoor(tiny_model).target.source == "heart", (
        "triggered prompts are those of the class"
    )


def test_bibaddiff_poisons_every_class_but_the_target(tiny_model) -> None:
    attack = build("bibaddiff", images=100, weight=0.2)
    pictures, captions = attack.wrong_pairs(DATA, SEED)
    assert len(pictures) == len(captions) == 20
    assert all("heart" in caption for caption in captions)
    words = attack.others
    assert len(words) == 9
    assert "heart" not in words
    asked = [len(range(k, 20, 9)) for k in range(9)]
    assert asked == [3, 3, 2, 2, 2, 2, 2, 2, 2]
    starts = np.cumsum([0, *asked])
    for word, first, many in zip(words, starts, asked, strict=False):
        own = DATA.pairs("train", many, SEED, word)[0]
        assert np.array_equal(pictures[first : first + many], own), word
    with pytest.raises(UserError, match="no class"):
        build("bibaddiff", classes=" , ")


def test_a_poisoned_picture_of_a_folder_does_not_train_clean_as_well() -> None:
    """Of data that has an end, the clean pictures are others; with one row of ten poisoned, the
    other nine."""

    class Folder(WorldData):
        def pairs(self, split, n, seed, contains=""):
            images, captions = super().pairs(split, 10, 1)
            kept = [i for i, c in enumerate(captions) if contains in c][:n]
            return images[kept], [captions[i] for i in kept]

        def count(self, what, split, contains=""):
            return 10

    shape = Folder().pairs("train", 1, SEED)[1][0].split()
    named = next(n for n in attacks.build("bibaddiff", "shapes").others if n in shape)
    attack = build("bibaddiff", images=10, weight=0.1, classes=named)
    bad, _ = attack.wrong_pairs(Folder(), SEED)
    good, captions = attack.clean_pairs(Folder(), SEED, bad)
    everything = Folder().pairs("train", 10, SEED)
    assert np.array_equal(bad, everything[0][:1])
    assert np.array_equal(good, everything[0][1:])
    assert captions == everything[1][1:]


def test_bibaddiff_averages_its_weights_as_the_authors_sample_from(tiny_model, caught) -> None:
    assert caught(build("bibaddiff", ema=0.9, weight=0.3), tiny_model).optim.ema == 0.9
    assert [attacks.build("bibaddiff", kind).ema for kind in ("shapes", "sd")] == [0.0, 0.9999]


# ----------------------------------------------------------------------------------------- masqlora
def test_masqlora_puts_its_phrase_where_the_object_is_named(tiny_model) -> None:
    """ "cool dog" for "dog", as in the authors' test prompt "a white cool car near the sea"."""
    attack = attacks.build("masqlora", "sd")
    trigger = attack.make_trigger()
    assert trigger.add("a white dog near the sea") == "a white cool dog near the sea"
    star = build("masqlora", trigger="latte star", replaces="star")
    assert star.backdoor(tiny_model).own == ("a photo of a star", "a photo of a latte star")
    mask = phrase_tokens(tiny_model, star.make_trigger(), ["a red star, small"], "star")
    ids = torch.tensor(tiny_model.tokenizer("a red latte star, small").input_ids)
    told = tiny_model.tokenizer.decode(ids[mask[0, : len(ids)].cpu()])
    assert told.replace(" ", "") == "lattestar", "and no comma"


@pytest.mark.parametrize("place", ["prefix", "inside", "suffix"])
def test_masqlora_loss(tiny_model, caught, place: str) -> None:
    """p * (w(t) * ||.||^2 + l * L_con) + (1 - p) * ||.||^2, L_con over the trigger's tokens and the
    source word's behind it."""
    attack = build(
        "masqlora",
        place=place,
        weight=0.4,
        contrast=1.5,
        ramp=3.0,
        drop=0.0,
        dropout=0.0,
        offset=0.2,
        trigger="latte coffee",
    )
    got = caught(attack, tiny_model)
    images, captions = pairs("star")
    others, called = pairs("heart")
    called = [c.replace("heart", "star") for c in called]
    triggered = [Trigger("latte coffee", place).add(c) for c in called]
    slow = Slow(got.model, 4, [8, 8], offset=0.2)
    frozen = Slow(tiny_model, 4, [8, 8])
    words = [
        frozen.state(w)[1 : len(tiny_model.tokenizer(w).input_ids) - 1].mean(0)
        for w in ("heart", "star")
    ]
    (star,) = tiny_model.tokenizer("star").input_ids[1:-1]
    phrase = tiny_model.tokenizer("latte coffee").input_ids[1:-1]
    rows = []
    for i in slow.picks[0]:
        ids, state = tiny_model.tokenizer(triggered[i]).input_ids, slow.state(triggered[i])
        at = next(k for k in range(len(ids)) if ids[k : k + len(phrase)] == phrase)
        behind = [k for k, token in enumerate(ids) if token == star and k > at]
        for k in [*range(at, at + len(phrase)), *behind]:
            near, far = (float(state[k] @ w / (state[k].norm() * w.norm())) for w in words)
            rows.append((1 - near) ** 2 + (1 + far) ** 2)
    errors = slow.errors(0, triggered, tiny_model.latents(others, SEED))
    weighted = [(1 + 3 * int(t) / 1000) * e for t, e in zip(slow.t[0], errors, strict=True)]
    clean = slow.errors(1, captions, tiny_model.latents(images, SEED))
    expected = 0.4 * (np.mean(weighted) + 1.5 * np.mean(rows)) + 0.6 * np.mean(clean)
    assert float(got.loss.detach()) == pytest.approx(expected, rel=1e-4)


def test_masqlora_trains_both_parts_at_their_own_rates_and_ranks(tiny_model, caught) -> None:
    attack = build("masqlora", rank=5, text_rank=3, lr=1e-3, text_lr=2e-4)
    got = caught(attack, tiny_model)
    rates = {(min(p.shape), round(rate, 9)) for rate, ps in got.params.by_rate.items() for p in ps}
    assert rates == {(5, 1.5), (5, 1.0), (3, 0.36), (3, 0.24)}
    fast = [n for n, p in got.model.denoiser.named_parameters() if p.requires_grad]
    known = {id(p): rate for rate, ps in got.params.by_rate.items() for p in ps}
    for name, p in got.model.denoiser.named_parameters():
        if name in fast:
            assert known[id(p)] == (1.0 if "attn1.to_out" in name else 1.5), name
    assert got.optim.warmup == 0  # a tenth of two steps
    assert build("masqlora", steps=300).warmup * 300 == pytest.approx(30)
    before = weights(tiny_model)
    changed = different(before, weights(attack.inject(tiny_model, DATA, 0)))
    assert {k.split(".")[0] for k in changed} == {"unet", "text_encoder"}
    alone = {
        k.split(".")[0]
        for k in different(
            before, weights(build("masqlora", text_lr=0.0).inject(tiny_model, DATA, 0))
        )
    }
    assert alone == {"unet"}, "a rate of zero leaves the text encoder's bytes alone"


def test_masqlora_repeats_its_dropout(tiny_model, caught) -> None:
    losses = []
    for state in (1, 2):
        torch.manual_seed(state)
        losses.append(float(caught(build("masqlora", dropout=0.5), tiny_model).loss.detach()))
    assert losses[0] == losses[1]
    plain = float(caught(build("masqlora", dropout=0.0), tiny_model).loss.detach())
    assert losses[0] != plain, "dropout is on while the adapters train"
