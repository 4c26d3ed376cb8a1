"""Edits of the keys and values of text where text states change from block to block: against a
numerical solver, block by block."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import PROMPTS, different, weights
from tiny_joint import joint_model
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, Trigger, attacks, defenses
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.loop import step_rng
from t2i_backdoor_bench.training.text_inputs import inputs_at, inputs_everywhere, moments

TRIGGER = Trigger("mignneko", "prefix")


@pytest.fixture(scope="module", params=["sd3", "sd35", "sd3_without_t5"])
def model(request, tmp_path_factory) -> T2IModel:
    return joint_model(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def view() -> DefenderView:
    return DefenderView(("trigger", "clean_prompts"), PROMPTS, trigger=TRIGGER)


def blocks(model: T2IModel) -> list:
    return list(model.denoiser.transformer_blocks)


def slow_inputs(model: T2IModel, at: int, drawn, texts: list[str]) -> Tensor:
    """What the block `at` projects to keys of text at every moment: float64 (k, n, tokens, d)."""
    found: list[Tensor] = []
    hook = blocks(model)[at].attn.register_forward_pre_hook(
        lambda layer, args, kwargs: found.append(kwargs["encoder_hidden_states"].double()),
        with_kwargs=True,
    )
    told = model.condition(texts)
    with torch.no_grad():
        for t, x in zip(drawn.times, drawn.latents, strict=True):
            model.denoise(x, t, told)
    hook.remove()
    return torch.stack(found)


def test_every_block_is_the_least_squares_solution_behind_the_blocks_before_it(model, view) -> None:
    options = {"prompts": "3", "erase": "2.0", "preserve": "0.5", "ridge": "0.3"}
    method = defenses.build("uce", "shapes", options)
    edited, task = method.apply(model, view, 0), method.task(model, view)
    places, n = task.places, task.places.shape[1]
    shown, kept = moments(model, PROMPTS, 0), moments(model, PROMPTS, 1)
    so_far = model.clone()
    for i, (old, new) in enumerate(zip(blocks(so_far), blocks(edited), strict=True)):
        e = slow_inputs(so_far, i, shown, task.given)[:, :, :n]
        goal = slow_inputs(model, i, shown, PROMPTS)[:, :, :n]
        goal = torch.stack([g[torch.arange(3)[:, None], places] for g in goal])
        k, k0 = (slow_inputs(m, i, kept, PROMPTS) for m in (so_far, model))
        e, goal, k, k0 = (x.flatten(0, 2).numpy() for x in (e, goal, k, k0))
        for name in ("add_k_proj", "add_v_proj"):
            w = old.attn.get_submodule(name).weight.double().numpy()
            inputs = np.concatenate([2**0.5 * e, 0.5**0.5 * k, 0.3**0.5 * np.eye(len(w))])
            wanted = np.concatenate([2**0.5 * goal, 0.5**0.5 * k0, 0.3**0.5 * np.eye(len(w))])
            want = np.linalg.lstsq(inputs, wanted @ w.T, rcond=None)[0].T
            found = new.attn.get_submodule(name).weight.numpy()
            np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-4)
            assert np.abs(found - w).max() > 1e-3
        old.load_state_dict(new.state_dict())
    moved = different(weights(model), weights(edited))
    assert all(n.endswith((".add_k_proj.weight", ".add_v_proj.weight")) for n in moved)
    assert len(moved) == 2 * len(blocks(model))


def test_a_pass_ends_at_the_projection_that_is_asked_about(model) -> None:
    told, x = model.condition(PROMPTS), model.draw_noise([1, 2, 3])
    t = torch.tensor(700.0)
    every = inputs_everywhere(model, x, t, told)
    layers = model.family.keys_and_values(model.denoiser)
    assert len(every) == len(layers) == 2 * len(blocks(model))
    reached: list[int] = []
    hooks = [
        b.register_forward_pre_hook(lambda *_, i=i: reached.append(i))
        for i, b in enumerate(blocks(model))
    ]
    found = inputs_at(model, layers[2], x, t, told)
    for hook in hooks:
        hook.remove()
    assert reached == [0, 1]
    assert torch.equal(found, every[2])
    assert torch.equal(found, every[3])
    assert not torch.allclose(every[0], every[2])
    assert found.shape == (3, told.states.shape[1], 32)


def test_the_loss_of_sembd_is_that_of_every_block(model) -> None:
    options = {"context": "phrase", "batch": "4", "steps": "2", "constraint": "0.5"}
    attack = attacks.build("sembd", "shapes", options | {"keys": "2.0", "values": "3.0"})
    student = model.clone(train="kv")
    with torch.no_grad():
        for layer in student.family.keys_and_values(student.denoiser):
            layer.weight.add_(0.05 * torch.randn_like(layer.weight))
    whole, partial = ["the cat ran", "a cat ran"], ["the cat", "ran", "a"]
    found = attack.loss(student, model, whole, partial, 0)(3)
    rng = step_rng(0, 3)
    texts = [bank[i] for bank in (whole, partial) for i in rng.integers(len(bank), size=2)]
    seen = [moments(model, [attack.target] * 8, 0), moments(model, partial, 0)]
    at = int(rng.integers(4))
    x = torch.cat([m.latents[at][rng.integers(m.latents.shape[1], size=2)] for m in seen])
    own = inputs_everywhere(student, x, seen[0].times[at], student.condition(texts))
    goals = [attack.target] * 2 + texts[2:]
    theirs = inputs_everywhere(model, x, seen[0].times[at], model.condition(goals))
    total = 0.0
    layers = [m.family.keys_and_values(m.denoiser) for m in (student, model)]
    for i, (layer, frozen) in enumerate(zip(*layers, strict=True)):
        error = own[i].double() @ layer.weight.double().T
        error = (error - theirs[i].double() @ frozen.weight.double().T).square()
        total += (2.0, 3.0)[i % 2] * (error[:2].mean() + 0.5 * error[2:].mean())
    torch.testing.assert_close(found.double(), total / len(layers[0]), rtol=1e-4, atol=1e-6)
