"""Clones share what nobody trains, and adapters merge into plain weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import PROMPTS, TRIGGER, different, weights
from torch import nn

import run_bench
from t2i_backdoor_bench.contract import DefenderView, UserError, registry
from t2i_backdoor_bench.models.families.stable_diffusion import STABLE_DIFFUSION
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training import lora
from t2i_backdoor_bench.training.parameters import adapt, choose_parameters, finish_training

LORA = {"steps": "2", "batch": "4", "prompts": "3", "lr": "1e-3", "train": "lora"}
PARTS = ["full", "cross", "kv", "noncross", "lora"]


def storage(model: T2IModel) -> dict[str, int]:
    return {k: p.data_ptr() for k, p in model.denoiser.named_parameters()}


@pytest.mark.parametrize("train", [*PARTS, "none"])
def test_a_clone_copies_what_trains_and_shares_the_rest(tiny_model, train: str) -> None:
    clone = tiny_model.clone(train=train)
    mine, theirs = storage(tiny_model), storage(clone)
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert (mine[name] == theirs[name]) is not STABLE_DIFFUSION.is_trained(name, train), name
    assert not {id(m) for m in clone.denoiser.modules()} & {
        id(m) for m in tiny_model.denoiser.modules()
    }
    assert different(weights(tiny_model), weights(clone)) == set()


@pytest.mark.parametrize(
    "name", ["skdcag", "finetune_reversal", "clean_finetune", "esd_x", "concept_ablation"]
)
@pytest.mark.parametrize("train", ["kv", "cross", "lora"])
def test_sharing_equals_two_full_copies(
    tiny_model, name: str, train: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = (np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8), PROMPTS * 2)
    clean = tiny_model.clone()
    torch.manual_seed(5)
    with torch.no_grad():
        for p in clean.denoiser.parameters():
            p.add_(0.05 * torch.randn_like(p))
    view = DefenderView(
        ("trigger", "clean_model", "clean_pairs", "clean_prompts"),
        PROMPTS,
        trigger=TRIGGER,
        clean_model=clean,
        clean_pairs=pairs,
    )
    options = {"steps": "2", "batch": "4", "lr": "1e-3", "train": train} | (
        {} if name == "clean_finetune" else {"prompts": "3"}
    )
    shared_method = registry.defenses.build(name, "shapes", options)
    before = weights(tiny_model)
    shared = shared_method.apply(tiny_model, view, 0)
    assert different(before, weights(tiny_model)) == set(), "the teacher is frozen"
    original = T2IModel.clone
    monkeypatch.setattr(
        T2IModel, "clone", lambda self, encoders=False, train="full": original(self, encoders)
    )
    copies = shared_method.apply(tiny_model, view, 0)
    moved = different(before, weights(shared))
    assert moved
    attention = {
        "kv": (".attn2.to_k", ".attn2.to_v"),
        "cross": (".attn2.",),
        "lora": (".attn1.", ".attn2."),
    }[train]
    assert all(any(a in k for a in attention) for k in moved), moved
    a, b = weights(shared), weights(copies)
    assert a.keys() == b.keys() == before.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-5, atol=1e-6)


def adapted(model: T2IModel) -> tuple[T2IModel, list[nn.Parameter]]:
    student = model.clone(train="lora")
    return student, choose_parameters(student, "lora")


def output(model: T2IModel) -> torch.Tensor:
    x = torch.randn((3, *model.latent_shape), generator=torch.Generator().manual_seed(0))
    return model.denoiser(x, torch.tensor([10, 400, 900]), model.encode(PROMPTS)).sample


def test_adapters_start_at_nothing_and_alone_get_gradients(tiny_model) -> None:
    student, params = adapted(tiny_model)
    torch.testing.assert_close(output(student), output(tiny_model), rtol=0, atol=0)
    output(student).pow(2).mean().backward()
    trained = {n for n, p in student.denoiser.named_parameters() if p.grad is not None}
    assert trained == {n for n, _ in student.denoiser.named_parameters() if ".lora_" in n}
    assert len(params) == len(trained)
    assert all(p.grad is None for p in tiny_model.denoiser.parameters())
    again = adapted(tiny_model)[1]
    assert all(torch.equal(a, b) for a, b in zip(params, again)), (
        "adapters begin the same in every run"
    )


def test_merging_computes_w_plus_ba_and_leaves_a_plain_network(tiny_model) -> None:
    student, params = adapted(tiny_model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in params:
            p.copy_(0.05 * torch.randn(p.shape, generator=generator))
    factors = {
        n.removesuffix(".lora_A.default.weight"): p.detach().clone()
        for n, p in student.denoiser.named_parameters()
        if ".lora_A." in n
    }
    seconds = {
        n.removesuffix(".lora_B.default.weight"): p.detach().clone()
        for n, p in student.denoiser.named_parameters()
        if ".lora_B." in n
    }
    with torch.no_grad():
        wanted = output(student)
    before = weights(tiny_model)
    finish_training(student.denoiser)
    assert [type(m) for m in student.denoiser.modules()] == [
        type(m) for m in tiny_model.denoiser.modules()
    ]
    assert not any(p.requires_grad for p in student.denoiser.parameters())
    torch.testing.assert_close(output(student), wanted, rtol=1e-4, atol=1e-5)
    assert different(before, weights(tiny_model)) == set(), "the shared weights were not written"
    assert factors.keys() == seconds.keys()
    assert any(n.endswith("attn1.to_out.0") for n in factors)
    old, new = tiny_model.denoiser.state_dict(), student.denoiser.state_dict()
    for name in factors:
        expected = old[f"{name}.weight"].double() + seconds[name].double() @ factors[name].double()
        torch.testing.assert_close(new[f"{name}.weight"].double(), expected, rtol=1e-5, atol=1e-6)
    for name in old.keys() - {f"{n}.weight" for n in factors}:
        assert torch.equal(old[name], new[name])


def test_adapted_models_are_stored_cloned_and_defended_again(tiny_model, tmp_path: Path) -> None:
    view = DefenderView(("trigger", "clean_prompts"), PROMPTS, trigger=TRIGGER)
    repaired = registry.defenses.build("skdcag", "shapes", LORA).apply(tiny_model, view, 0)
    repaired.save_weights(tmp_path / "w.safetensors")
    back = tiny_model.with_weights(tmp_path / "w.safetensors")
    assert np.array_equal(back.generate(PROMPTS, [1, 2, 3]), repaired.generate(PROMPTS, [1, 2, 3]))
    twice = registry.defenses.build("skdcag", "shapes", LORA).apply(repaired, view, 1)
    assert different(weights(twice), weights(repaired))
    assert repaired.info["parameters"] < sum(p.numel() for p in tiny_model.denoiser.parameters())


def test_adapters_on_a_text_encoder_merge_to_w_plus_ba(tiny_model) -> None:
    attacked = tiny_model.clone(encoders=True)
    encoder, before = attacked.encoders[0], weights(tiny_model)
    plain = attacked.embed(PROMPTS).states
    params = adapt(encoder, STABLE_DIFFUSION.encoder_lora_targets, 3)
    names = {n for n, p in encoder.named_parameters() if p.requires_grad}
    assert len(names) == len(params) == 2 * 2 * 4, "layers, A and B, projections"
    assert all(p.shape[0] == 3 or p.shape[1] == 3 for p in params)
    assert torch.equal(plain, attacked.embed(PROMPTS).states), "B is zero"
    torch.manual_seed(0)
    with torch.no_grad():
        for p in params:
            p.normal_(0, 0.3)
    deltas = {
        n.removesuffix(".lora_A.default.weight"): (
            dict(encoder.named_parameters())[n.replace("lora_A", "lora_B")].detach() @ p.detach()
        )
        for n, p in encoder.named_parameters()
        if ".lora_A." in n
    }
    adapted = attacked.embed(PROMPTS).states.detach()
    finish_training(encoder)
    torch.testing.assert_close(attacked.embed(PROMPTS).states, adapted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(adapted, plain, atol=1e-2)
    after = weights(attacked)
    assert different(before, after) == {f"text_encoder.{n}.weight" for n in deltas}
    for name, delta in deltas.items():
        was, now = (found[f"text_encoder.{name}.weight"] for found in (before, after))
        torch.testing.assert_close(now, was + delta, rtol=1e-4, atol=1e-5)


def test_lora_without_peft_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tiny, tmp_path: Path, capsys
) -> None:
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, found=importlib.util.find_spec: None if name == "peft" else found(name),
    )
    with pytest.raises(UserError, match="needs the package peft"):
        lora.add_lora(nn.Linear(2, 2), ["to_q"])
    flags = [
        "--attacks",
        "badt2i_pixel",
        "--defenses",
        "skdcag",
        "--base",
        tiny,
        "--scale",
        "smoke",
        "--out",
        str(tmp_path / "run"),
    ]
    assert run_bench.main([*flags, "--set", "skdcag.train=lora", "--metrics", "asr"]) == 2
    assert "pip install" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(UserError, match=r"needs the package peft: pip install \S+$"):
        registry.attacks.build("villan_cond", "shapes").check_machine("cpu")
