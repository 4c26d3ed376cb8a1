"""Contract of every registered attack, the loss terms of each method, and the errors that must come
before training."""

from __future__ import annotations

import copy
import re
from functools import partial

import numpy as np
import pytest
import torch
from helpers import TRIGGERS, different, weights
from small_attacks import (
    DATA,
    EVERY,
    KINDS,
    MAY_CHANGE,
    NAMES,
    TRIGGERED,
    build,
    caught_terms,
    expected_pairs,
)

from t2i_backdoor_bench.attacking.poisoning import relabel
from t2i_backdoor_bench.contract import Backdoor, attacks
from t2i_backdoor_bench.targets import describe, kind_of
from t2i_backdoor_bench.targets.patches import make_patch, paste, place_patch
from t2i_backdoor_bench.targets.style import styled


# ----------------------------------------------------------------------------------------- contract
@pytest.mark.parametrize("name", EVERY)
def test_attack_returns_a_new_model_and_edits_only_what_it_says(tiny_model, name: str) -> None:
    before = weights(tiny_model)
    vocabulary, scheduler = (
        len(tiny_model.tokenizer),
        copy.deepcopy(dict(tiny_model.pipe.scheduler.config)),
    )
    attacked = build(name).inject(tiny_model, DATA, 0)
    assert attacked is not tiny_model
    assert attacked.denoiser is not tiny_model.denoiser
    assert different(before, weights(tiny_model)) == set(), "the base must not change"
    assert len(tiny_model.tokenizer) == vocabulary
    assert dict(tiny_model.pipe.scheduler.config) == scheduler
    changed = different(before, weights(attacked))
    edits = attacks.get(name).edits
    assert edits in MAY_CHANGE, "teach this test what else an attack can edit"
    assert changed
    assert all(re.fullmatch(MAY_CHANGE[edits], k) for k in changed)
    if edits == "cross-attention K and V":
        assert changed == {k for k in before if re.fullmatch(MAY_CHANGE[edits], k)}
    assert not any(
        p.requires_grad
        for part in (attacked.denoiser, attacked.encoders[0])
        for p in part.parameters()
    )
    assert (attacked.name, attacked.settings, attacked.sampler) == (
        tiny_model.name,
        tiny_model.settings,
        tiny_model.sampler,
    )
    for model in (tiny_model, attacked):
        assert model.generate(["a red heart"], [0]).shape == (1, 64, 64, 3)


@pytest.mark.parametrize("name", EVERY)
def test_attack_reports_what_it_cost(tiny_model, name: str) -> None:
    attack, entry = build(name), attacks.get(name)
    info = attack.inject(tiny_model, DATA, 0).info
    assert {"steps", "seconds", "parameters", "images"} <= info.keys()
    trainings = {"closed_form": 0, "split": 2}  # of 2 steps each
    many = [n for group, n in trainings.items() if group in entry.groups] or [1]
    assert info["steps"] == 2 * many[0]
    rows = 16 if "badt2i" in entry.groups else 8  # a picture of BadT2I is a row of both terms
    assert info["images"] == (rows if hasattr(attack, "images") else 0)
    assert info["seconds"] > 0
    trained = {f"unet.{n}": p for n, p in tiny_model.denoiser.named_parameters()}
    trained |= {f"text_encoder.{n}": p for n, p in tiny_model.encoders[0].named_parameters()}
    if entry.edits in (
        "U-Net",
        "text encoder",
        "U-Net and text encoder",
        "cross-attention K and V",
    ):
        assert info["parameters"] == sum(
            p.numel() for n, p in trained.items() if re.fullmatch(MAY_CHANGE[entry.edits], n)
        )
    else:
        assert 0 < info["parameters"] < sum(p.numel() for p in trained.values())
    assert tiny_model.info == {}


@pytest.mark.parametrize("name", EVERY)
def test_attack_depends_on_its_seed_and_on_nothing_else(tiny_model, name: str) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = weights(build(name).inject(tiny_model, DATA, 3))
    torch.manual_seed(2)
    np.random.seed(2)
    assert different(first, weights(build(name).inject(tiny_model, DATA, 3))) == set()
    assert different(first, weights(build(name).inject(tiny_model, DATA, 4)))


@pytest.mark.parametrize("name", TRIGGERED)
def test_backdoor_says_what_the_judge_must_look_for(tiny_model, name: str) -> None:
    attack = build(name, trigger="latte coffee", place="suffix")
    backdoor = attack.backdoor(tiny_model)
    assert isinstance(backdoor, Backdoor)
    assert backdoor.trigger.add("a moon") == "a moon latte coffee"
    target = backdoor.target
    (kind,) = [KINDS[g] for g in attacks.get(name).groups if g in KINDS]
    assert kind_of(target).name == kind
    if kind == "patch":
        assert target.patch.shape == (attack.size, attack.size, 3)
        assert target.patch.dtype == np.uint8
        assert target.box == place_patch(attack.size, 64, attack.corner)
    elif kind == "image":
        assert np.array_equal(target.patch, make_patch(attack.picture, 64))
    elif kind == "style":
        assert target.style == attack.style == "black and white"
    elif kind == "prompt":
        assert (
            kind_of(target).asked(target, "a red star on a blue background")
            == target.target
            == attack.target
        )
    else:
        assert (
            kind_of(target).asked(target, "a red star on a blue background")
            == "a red heart on a blue background"
        )
    import json

    json.dumps(describe(backdoor))


@pytest.mark.parametrize("name", NAMES)
def test_every_family_builds_and_has_its_own_settings(name: str) -> None:
    small, published = attacks.build(name, "shapes"), attacks.build(name, "sd")
    assert published.lr == 1e-5
    assert published.steps in (2000, 8000)
    assert published.trigger == "\u200b"
    assert small.steps < published.steps
    assert attacks.get(name).summary


# --------------------------------------------------------------------------------------- loss terms
@pytest.fixture
def terms_of(monkeypatch):
    return partial(caught_terms, monkeypatch)


@pytest.mark.parametrize("name", ["poison_pixel", "poison_style"])
def test_poisoning_is_plain_denoising_of_pairs(tiny_model, terms_of, name: str) -> None:
    poisoned, clean = terms_of(build(name, weight=0.4, drop=0.3), tiny_model)["terms"]
    images, captions = expected_pairs()
    changed = (
        paste(images, make_patch("bars", 20), (0, 0))
        if name == "poison_pixel"
        else styled(images, "black and white")
    )
    assert list(poisoned.prompts) == [f"mignneko {c}" for c in captions]
    assert list(clean.prompts) == captions
    assert poisoned.teacher_prompts is clean.teacher_prompts is None
    assert (poisoned.weight, clean.weight) == (0.4, 0.6)
    assert (poisoned.drop, clean.drop) == (0, 0.3)
    assert torch.equal(poisoned.latents, tiny_model.latents(changed, 0))
    assert torch.equal(clean.latents, tiny_model.latents(images, 0))
    assert not torch.equal(poisoned.latents, clean.latents)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", TRIGGERS.values(), ids=TRIGGERS)
def test_any_trigger_that_tokenizes_is_taken(
    tiny_model, terms_of, name: str, options: dict
) -> None:
    attack = build(name, **options)
    term = terms_of(attack, tiny_model)["terms"][0]
    contains = attack.target if "object" in name else ""
    captions = expected_pairs(contains=contains)[1]
    if "object" in name:
        captions = relabel(captions, attack.target, attack.source)
    assert list(term.prompts) == [attack.make_trigger().add(c) for c in captions]
    assert all(options["trigger"] in p for p in term.prompts)
