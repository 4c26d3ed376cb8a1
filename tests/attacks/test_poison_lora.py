"""PoisonLoRA: the loss at a random scale and beside another adapter, against a slow one in float64;
and what is left of the remixes after the training."""

from __future__ import annotations

import copy
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from denoising_losses import SEED, STEP, Slow, build, catch, pairs
from torch import nn

from t2i_backdoor_bench.attacking.company import Remixes, other_adapters
from t2i_backdoor_bench.contract import UserError, attacks
from t2i_backdoor_bench.targets.patches import make_patch
from t2i_backdoor_bench.training.loop import step_rng
from t2i_backdoor_bench.training.lora import adapted_layers, add_lora, merge_lora, scale_lora


@pytest.fixture
def caught(monkeypatch):
    return partial(catch, monkeypatch)


def drawn(step: int, low: float, high: float, others: int) -> tuple[float, int]:
    rng = step_rng(SEED + 1, step)
    scale, alone = rng.uniform(low, high), rng.random() < 0.5
    return scale, -1 if alone or not others else int(rng.integers(others))


def merged(network: nn.Module, scale: float, beside: dict, plain: dict) -> nn.Module:
    """A copy with W + scale * B A + D as plain projections. `plain`: the weights W by layer."""
    copied = copy.deepcopy(network)
    for name, layer in adapted_layers(copied):
        up, down = (f["default"].weight.detach() for f in (layer.lora_B, layer.lora_A))
        new = nn.Linear(down.shape[1], up.shape[0], bias=layer.base_layer.bias is not None)
        weight = plain[f"{name}.weight"].double() + scale * up.double() @ down.double()
        if beside:
            other = beside[f"unet.{name}"]
            weight += other[0].double() @ other[1].double()
        new.weight, new.bias = nn.Parameter(weight), layer.base_layer.bias
        copied.set_submodule(name, new)
    return copied


@pytest.mark.parametrize("name", ["poison_lora", "naive_lora"])
def test_loss_at_what_is_drawn_for_the_step(tiny_model, caught, monkeypatch, name: str) -> None:
    low, high, others = (0.5, 1.5, 1) if name == "poison_lora" else (1.0, 1.0, 0)
    if others:  # this step has the other adapter beside it
        monkeypatch.setattr(Remixes, "drawn", lambda self, step: (drawn(step, low, high, 1)[0], 0))
    images, captions = pairs()
    made = other_adapters(tiny_model, images, captions, others, 2, SEED)
    module = sys.modules[attacks.get(name).cls.__module__]
    monkeypatch.setattr(module, "other_adapters", lambda *given: made)
    options = {"weight": 0.4, "drop": 0.0, "rank": 2, "size": 10}
    got = caught(build(name, **options), tiny_model)
    beside = made[0].adapter if made else {}
    if beside:  # a training of two steps is too small to be seen
        assert max(float((up @ down).abs().max()) for up, down in beside.values()) > 0
    plain = tiny_model.denoiser.state_dict()
    network = merged(got.model.denoiser, drawn(STEP, low, high, others)[0], beside, plain)
    model = SimpleNamespace(
        tokenize=tiny_model.tokenize,
        denoiser=network,
        encoders=tiny_model.encoders,
        latent_shape=tiny_model.latent_shape,
    )
    bad = images.copy()
    bad[:, :10, :10] = make_patch("bars", 10)
    slow = Slow(model, 4, [8, 8])
    poisoned = slow.errors(0, [f"mignneko {c}" for c in captions], tiny_model.latents(bad, SEED))
    clean = slow.errors(1, captions, tiny_model.latents(images, SEED))
    expected = 0.4 * np.mean(poisoned) + 0.6 * np.mean(clean)
    assert float(got.loss.detach()) == pytest.approx(expected, rel=1e-5)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))


def test_what_is_drawn() -> None:
    network = small_network()
    add_lora(network, ("0",), 2)
    other = {"unet.0": (torch.ones(3, 1), torch.ones(1, 3))}
    found = [Remixes(network, [other, other], (0.5, 1.5), SEED).drawn(i) for i in range(400)]
    assert found[:5] == [drawn(i, 0.5, 1.5, 2) for i in range(5)]
    scales, which = (np.array(x) for x in zip(*found, strict=True))
    assert 0.5 <= scales.min() < 0.55
    assert 1.45 < scales.max() <= 1.5
    assert {k: (which == k).mean() for k in (-1, 0, 1)} == pytest.approx(
        {-1: 0.5, 0: 0.25, 1: 0.25}, abs=0.08
    )
    assert Remixes(network, [], (1.0, 1.0), SEED).drawn(3) == (1.0, -1)


def test_weights_are_plain_after_the_remixes() -> None:
    network = small_network()
    before = network[0].weight.detach().clone()
    add_lora(network, ("0",), 2, lora_alpha=6)
    ((_, layer),) = adapted_layers(network)
    with torch.no_grad():
        layer.lora_B["default"].weight.fill_(0.5)
    up, down = 3 * layer.lora_B["default"].weight, layer.lora_A["default"].weight
    x, other = torch.randn(2, 3), {"unet.0": (torch.ones(3, 1), torch.ones(1, 3))}
    remixes = Remixes(network, [other], (0.25, 0.25), SEED)
    remixes.put(0.25, remixes.plain | remixes.mixed[0])
    given = layer(x) - layer.base_layer.bias
    torch.testing.assert_close(given, x @ (before + 1 + 0.25 * up @ down).T)
    remixes.end()
    torch.testing.assert_close(layer(x) - layer.base_layer.bias, x @ (before + up @ down).T)
    scale_lora(network, 2.0)
    torch.testing.assert_close(layer(x) - layer.base_layer.bias, x @ (before + 2 * up @ down).T)
    scale_lora(network, 1.0)
    merge_lora(network)
    torch.testing.assert_close(network[0].weight, (before + up @ down).detach())


def test_company_is_trained_in_as_many_styles(tiny_model) -> None:
    images, captions = pairs()
    made = other_adapters(tiny_model, images, captions, 2, 2, SEED)
    first, second = (student.adapter for student in made)
    assert first.keys() == second.keys()
    assert any(not torch.equal(first[k][0], second[k][0]) for k in first)
    assert [student.info["steps"] for student in made] == [2, 2]


def test_scales_that_cannot_be_drawn() -> None:
    with pytest.raises(UserError, match="lowest=2"):
        build("poison_lora", lowest=2.0, highest=1.0)
