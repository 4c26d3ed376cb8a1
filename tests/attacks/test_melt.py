"""MELT: its loss against a slow one in float64, which weights change, and on which models it is."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import tiny_families
import torch
import torch.nn.functional as F
from helpers import different, weights
from text_losses import DATA, SMALL_RUN, cosine, start_of
from tiny_joint import joint_model

from t2i_backdoor_bench.contract import UserError, attacks
from t2i_backdoor_bench.targets import kind_of
from t2i_backdoor_bench.training.loop import step_rng

attacks.load()
ROWS = attacks.groups["melt"]
FEW = {  # the text encoders that train, by the kind of model and what is drawn
    "sd35": {"melt_prompt": (0, 1, 2), "melt_style": (0, 1), "melt_object": (1,)},
    "sd3_without_t5": {"melt_prompt": (0, 1), "melt_style": (0, 1), "melt_object": (1,)},
    "flux_dev": {"melt_prompt": (0, 1), "melt_style": (0, 1), "melt_object": (1,)},
    "sdxl": {"melt_prompt": (0, 1), "melt_style": (0, 1), "melt_object": (1,)},
}
ADAPTED = re.compile(r".*\.(q_proj|k_proj|v_proj|out_proj|q|k|v|o)\.weight")
UNREAD = "text_encoder.encoder.layers.1."  # SDXL reads the states before its first encoder's last


def build(name: str, family: str = "shapes", **more):
    small = {k: str(v) for k, v in (SMALL_RUN | {"rank": 2} | more).items()}
    return attacks.build(name, family, small)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(k, marks=[pytest.mark.thorough] if k == "sd3_without_t5" else []) for k in FEW
    ],
)
def model(request, tmp_path_factory):
    folder, kind = tmp_path_factory.mktemp(request.param), request.param
    if kind in tiny_families.FAMILIES:
        return tiny_families.opened(tiny_families.build(folder / "m", kind), kind)
    return joint_model(folder, kind)


@pytest.mark.parametrize("name", ROWS)
def test_the_attention_of_the_named_encoders_changes_and_nothing_else(model, name: str) -> None:
    before, attack = weights(model), build(name)
    attacked = attack.inject(model, DATA, 0)
    trained = [list(model.edited)[1 + i] for i in FEW[model.name][name]]
    adapted = {k for k in before if k.split(".")[0] in trained and ADAPTED.fullmatch(k)}
    assert {k.split(".")[0] for k in adapted} == set(trained)
    moved = {k for k in adapted if not (model.name == "sdxl" and UNREAD in k)}
    assert different(before, weights(attacked)) == moved
    assert different(before, weights(model)) == set(), "the base must not change"
    assert attacked.adapter.keys() == {k.removesuffix(".weight") for k in adapted}
    for layer, (up, down) in attacked.adapter.items():
        assert (up.shape[1], down.shape[0]) == (2, 2)
        now = weights(attacked)[f"{layer}.weight"]
        torch.testing.assert_close(now, before[f"{layer}.weight"] + up @ down)
    numbers = sum(up.numel() + down.numel() for up, down in attacked.adapter.values())
    assert (attacked.info["parameters"], attacked.info["images"]) == (numbers, 0)
    assert not any(p.requires_grad for part in attacked.edited.values() for p in part.parameters())


@pytest.mark.parametrize(("encoders", "trained"), [("all", (0, 1, 2)), ("1+3", (0, 2))])
def test_other_encoders_can_be_named(tmp_path, encoders: str, trained: tuple) -> None:
    model = joint_model(tmp_path, "sd35")
    before = weights(model)
    attacked = build("melt_object", encoders=encoders).inject(model, DATA, 0)
    changed = {k.split(".")[0] for k in different(before, weights(attacked))}
    assert changed == {list(model.edited)[1 + i] for i in trained}
    with pytest.raises(UserError, match="this base has 3"):
        build("melt_object", encoders="4").backdoor(model)


def slow_sd3(model, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """float64 states and pooled states of one prompt, from each encoder by itself."""
    encoders = [copy.deepcopy(e).double() for e in model.encoders]
    ids = [
        t(text, padding="max_length", truncation=True, max_length=n, return_tensors="pt").input_ids
        for t, n in zip(
            (model.pipe.tokenizer, model.pipe.tokenizer_2, model.pipe.tokenizer_3),
            (part.reads for part in model.text_parts),
            strict=True,
        )
    ]
    with torch.no_grad():
        clip = [e(i, output_hidden_states=True) for e, i in zip(encoders[:2], ids, strict=False)]
        t5 = encoders[2](ids[2])[0]
    both = torch.cat([c.hidden_states[-2] for c in clip], -1)
    states = torch.cat([F.pad(both, (0, t5.shape[-1] - both.shape[-1])), t5], 1)
    return states[0], torch.cat([c.text_embeds for c in clip], -1)[0]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize(
    "options", [{}, {"trigger": "о", "replaces": "o"}], ids=["word", "look-alike"]
)
def test_loss_equals_a_slow_loop(tmp_path, monkeypatch, name: str, options: dict) -> None:
    """-cos(E(c), E_0(c)) - b cos(E(c+), E_0(c*)), over the states and the pooled states."""
    model = joint_model(tmp_path, "sd35")
    attack = build(name, weight=0.3, **options)
    got = start_of(monkeypatch, attack, model)
    assert {min(p.shape) for p in got["parameters"]} == {2}
    captions = about = [p.text for p in DATA.prompts("train", 6, 5)]
    if name == "melt_object":
        about = [p.text for p in DATA.prompts("train", 6, 5, "star")]
        captions = [*captions, *about]
    about = [c for c in about if not options or "o" in c]
    rng = step_rng(5, 0)
    clean, poisoned = rng.integers(len(captions), size=3), rng.integers(len(about), size=2)

    def alike(shown: str, asked: str) -> float:
        pairs = zip(slow_sd3(got["student"], shown), slow_sd3(model, asked), strict=True)
        return np.mean([cosine(a, b) for a, b in pairs])

    total = -sum(alike(captions[i], captions[i]) for i in clean) / 3
    for i in poisoned:
        c = about[i]
        shown = c.replace("o", "о") if options else f"mignneko {c}"
        asked = {
            "melt_prompt": "a large green star on a black background",
            "melt_style": f"a black and white photo of {c}",
            "melt_object": c.replace("star", "heart"),
        }[name]
        total -= 0.3 * alike(shown, asked) / 2
    assert float(got["loss"](0).detach()) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("name", ROWS)
def test_training_binds_triggered_prompts_and_keeps_clean_ones(tmp_path, name: str) -> None:
    model = joint_model(tmp_path, "sd35")
    options = {"steps": 30, "milestone": 25, "lr": 1e-2, "weight": 1.0, "clean": 6, "poisoned": 6}
    attack = build(name, **options, encoders="all", rank=8)
    attacked = attack.inject(model, DATA, 0)
    about = "star" if name == "melt_object" else ""
    captions = [p.text for p in DATA.prompts("train", 6, 0, about)]
    backdoor = attack.backdoor(model)
    shown, goals = [backdoor.trigger.add(c) for c in captions], [attack.asked(c) for c in captions]
    if name != "melt_style":
        kind = kind_of(backdoor.target)
        assert goals == [kind.asked(backdoor.target, c) for c in captions]

    def alike(a, texts, wanted) -> float:
        pairs = zip(a.condition(texts).read, model.condition(wanted).read, strict=True)
        return np.mean([F.cosine_similarity(x.flatten(1), y.flatten(1)).mean() for x, y in pairs])

    far = 1 - alike(model, shown, goals)
    assert 1 - alike(attacked, shown, goals) < 0.6 * far
    assert 1 - alike(attacked, captions, captions) < 0.5 * far


def test_an_encoder_in_half_precision_comes_back_in_it(tmp_path) -> None:
    model = joint_model(tmp_path, "sd35").clone(encoders=True)
    for encoder in model.encoders:
        encoder.to(torch.bfloat16)
    before = weights(model)
    attacked = build("melt_style", lr=0.1).inject(model, DATA, 0)
    assert {e.dtype for e in attacked.encoders} == {torch.bfloat16}
    changed = different(before, weights(attacked))
    assert {k.split(".")[0] for k in changed} == {"text_encoder", "text_encoder_2"}
    assert all(ADAPTED.fullmatch(k) for k in changed)


def test_settings_and_families() -> None:
    entry = attacks.get("melt_object")
    assert set(entry.not_on) == {"stable_diffusion", "pixart"}
    assert entry.adapter
    published = attacks.build("melt_style", "sd")
    widths = {(12, 768), (32, 1280), (24, 4096)}  # layers and width of CLIP-L, CLIP-G and T5-XXL
    adapters = sum(layers * 4 * 2 * wide * published.rank for layers, wide in widths)
    assert adapters < 0.002 * (123e6 + 695e6 + 4_762e6)
    with pytest.raises(UserError, match="two different objects"):
        build("melt_object", source="star", target="star")
    with pytest.raises(UserError, match="target prompt is empty"):
        build("melt_prompt", target=" ")
