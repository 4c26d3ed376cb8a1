"""Methods run on a family with other networks, other names and another conditioning, and train the
parts that it names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import PROMPTS, TRIGGER, different, weights
from second_family import second_model

from t2i_backdoor_bench.contract import NEEDS, DefenderView, registry
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.models.families.conditioning import Conditioning, cat
from t2i_backdoor_bench.models.families.family import TRAIN
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.capture import Capture
from t2i_backdoor_bench.training.parameters import choose_parameters, finish_training

FEW = {"steps": "2", "batch": "4", "lr": "1e-3"}
KEYS = (".look.index.", ".look.content.")
DEFENSES = {  # options, and of which parameters those that change are
    "skd": (FEW | {"prompts": "3"}, (".look.",)),
    "skdcag": (FEW | {"prompts": "3"}, (".look.",)),
    "skdcag_random_words": (FEW | {"prompts": "3", "train": "kv"}, KEYS),
    "skdcag_text": (FEW | {"prompts": "3"}, ("reader.",)),
    "esd_x": (FEW | {"prompts": "3", "refresh": "1", "draws": "2"}, (".look.",)),
    "esd_u": (FEW | {"prompts": "3", "refresh": "1", "draws": "2"}, ("mind.",)),
    "uce": ({"prompts": "3"}, tuple(f"{k}weight" for k in KEYS)),
    "clean_finetune": (FEW, ("mind.",)),
    "concept_prune": ({"prompts": "3"}, (".narrow.",)),
    "finetune_reversal": (FEW | {"prompts": "3", "train": "lora"}, (".look.",)),
}


@pytest.fixture
def model(tiny_model) -> T2IModel:
    return second_model(tiny_model)


@pytest.fixture
def view(model) -> DefenderView:
    pictures = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    clean = model.clone()
    with torch.no_grad():
        for p in clean.denoiser.parameters():
            p += 0.05
    return DefenderView(
        NEEDS,
        PROMPTS,
        trigger=TRIGGER,
        clean_model=clean,
        clean_text_encoder=clean.encoders,
        clean_pairs=(pictures, PROMPTS * 2),
        stream=PROMPTS + [TRIGGER.add(p) for p in PROMPTS],
    )


@pytest.mark.parametrize("name", DEFENSES)
def test_defenses_change_the_parts_that_the_family_names(name: str, model, view) -> None:
    options, parts = DEFENSES[name]
    before = weights(model)
    repaired = registry.defenses.build(name, "shapes", options).apply(model, view, 0)
    assert different(before, weights(model)) == set()
    moved = different(before, weights(repaired))
    assert moved
    assert all(any(part in k for part in parts) for k in moved), moved
    assert name != "esd_u" or not any(".look." in k for k in moved)
    assert not any(p.requires_grad for n in repaired.edited.values() for p in n.parameters())
    assert repaired.generate(PROMPTS, [1, 2, 3]).shape == (3, 64, 64, 3)


@pytest.mark.parametrize(
    ("name", "options", "part"),
    [
        ("badt2i_pixel", {"steps": "2", "images": "4", "batch": "4"}, "mind."),
        (
            "rickrolling_tpa",
            {"steps": "2", "prompts": "4", "clean": "2", "poisoned": "2", "trigger": "mignneko"},
            "reader.",
        ),
        ("eviledit", {"prompts": "2"}, ".look."),
    ],
)
def test_attacks_change_the_parts_that_the_family_names(name, options, part, model) -> None:
    before = weights(model)
    attacked = registry.attacks.build(name, "shapes", options).inject(model, WorldData(), 0)
    moved = different(before, weights(attacked))
    assert moved
    assert all(part in k for k in moved), moved
    assert different(before, weights(model)) == set()


def test_a_detector_reads_the_attention_of_the_family(model, view) -> None:
    options = {"walk": "2", "size": "8", "prompts": "3"}
    guarded = registry.defenses.build("t2ishield_ftt", "shapes", options).apply(model, view, 0)
    scores = guarded.screen.scores(PROMPTS)
    assert np.isfinite(scores).all()
    assert len(set(scores.tolist())) > 1


def test_captured_maps_are_the_softmax_of_its_attention(model) -> None:
    told = model.condition(PROMPTS)
    x = torch.randn(3, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([10, 400, 900])
    kept: list[torch.Tensor] = []
    look = model.denoiser.blocks[0].look
    hook = look.register_forward_pre_hook(lambda _, given: kept.extend(given))
    with torch.no_grad(), Capture(model) as seen:
        out = model.denoise(x, t, told)
    hook.remove()
    assert torch.equal(out, model.denoise(x, t, told))
    q, k = (
        y.unflatten(-1, (4, -1)).transpose(1, 2).double()
        for y in (look.ask(kept[0]), look.index(kept[1]))
    )
    probs = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1).mean(1)
    torch.testing.assert_close(seen.probs["blocks.0.look"].double(), probs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("train", TRAIN)
def test_gradients_flow_into_the_part_and_nowhere_else(train: str, model) -> None:
    student = model.clone(train=train)
    chosen = choose_parameters(student, train)
    x = torch.randn(3, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    told = student.condition(PROMPTS)
    with Capture(student) as seen:
        out = student.denoise(x, torch.tensor([10, 400, 900]), told)
    (out.pow(2).mean() + seen.maps().pow(2).mean()).backward()
    reached = [p for p in student.denoiser.parameters() if p.grad is not None]
    assert {id(p) for p in reached} == {id(p) for p in chosen}
    assert all(
        p.grad is None for p in [*model.denoiser.parameters(), *model.encoders[0].parameters()]
    )
    finish_training(student.denoiser)
    assert not any(p.requires_grad for p in student.denoiser.parameters())


def test_the_second_tensor_of_the_conditioning_reaches_the_denoiser(model) -> None:
    told = model.condition(PROMPTS)
    assert torch.equal(told.more["pooled"], told.states.mean(1))
    other = Conditioning(told.states, {"pooled": told.more["pooled"].flip(0)})
    x = torch.randn(3, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    a, b = (model.denoise(x, torch.tensor(500), c) for c in (told, other))
    assert not torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])


def test_a_conditioning_keeps_its_tensors_together() -> None:
    a = Conditioning(torch.arange(12.0).view(3, 2, 2), {"ids": torch.tensor([1, 2, 3])})
    b = Conditioning(-torch.ones(1, 2, 2), {"ids": torch.tensor([9])})
    assert len(a) == 3
    assert a[torch.tensor([2, 0])].more["ids"].tolist() == [3, 1]
    assert cat([a, b]).more["ids"].tolist() == [1, 2, 3, 9]
    mixed = a.where(torch.tensor([True, False, True]), b)
    assert mixed.more["ids"].tolist() == [1, 9, 3]
    assert mixed.states[1].tolist() == [[-1, -1], [-1, -1]]
    assert b.expand(4).more["ids"].tolist() == [9] * 4
    half = a.to(torch.float16)
    assert (half.states.dtype, half.more["ids"].dtype) == (torch.float16, torch.int64)
    assert [len(p) for p in a.split(2)] == [2, 1]


def test_it_is_saved_and_read_back(model, tmp_path) -> None:
    changed = model.clone(encoders=True)
    with torch.no_grad():
        changed.denoiser.blocks[1].look.give.weight += 0.1
    changed.save_weights(tmp_path / "w.safetensors")
    back = model.with_weights(tmp_path / "w.safetensors")
    assert different(weights(changed), weights(back)) == set()
    assert np.array_equal(back.generate(PROMPTS, [1, 2, 3]), changed.generate(PROMPTS, [1, 2, 3]))
