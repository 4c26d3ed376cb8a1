"""Pruning, masks, distillation and averages on clean pictures, and the alignment of text encoders:
against slow computations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import PROMPTS, TRIGGER, different, weights

from t2i_backdoor_bench.contract import DefenderView
from t2i_backdoor_bench.defenses.anp import ANP, Perturbed
from t2i_backdoor_bench.defenses.encoder_align import EncoderAlign
from t2i_backdoor_bench.defenses.fine_prune import FinePrune
from t2i_backdoor_bench.defenses.nad import NAD, distance
from t2i_backdoor_bench.defenses.weight_average import average
from t2i_backdoor_bench.training.clean_pairs import attended, kept, mean_activation
from t2i_backdoor_bench.training.loop import step_rng

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


@pytest.fixture
def pairs() -> DefenderView:
    return DefenderView(("clean_pairs",), clean_pairs=(IMAGES, PROMPTS))


def denoised(model, seed: int = 0) -> torch.Tensor:
    """A loss that passes through every layer."""
    x, t = model.draw_noise([seed, seed + 1]), torch.tensor([200, 700])
    return model.denoise(x, t, model.condition(PROMPTS[:2])).square().mean()


# ----- fine-pruning
def test_the_units_with_the_smallest_activity_are_pruned() -> None:
    assert kept(torch.tensor([0.3, 0.1, 0.2, 0.4]), 0.5).tolist() == [1, 0, 0, 1]
    assert kept(torch.ones(5), 0.0).all()


def test_mean_activation_against_the_inputs_themselves(tiny_model) -> None:
    layers = tiny_model.family.feed_forward(tiny_model.denoiser)
    found = mean_activation(layers, lambda step: denoised(tiny_model, step), 2)
    seen: list[torch.Tensor] = []
    hook = layers[1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        for step in (0, 1):
            denoised(tiny_model, step)
    hook.remove()
    rows = torch.cat([x.double().reshape(-1, x.shape[-1]) for x in seen])
    torch.testing.assert_close(found[1].double(), rows.abs().mean(0), rtol=1e-4, atol=1e-6)


def test_what_is_pruned_stays_zero_and_the_rest_trains(tiny_model, pairs) -> None:
    method = FinePrune(steps=2, batch=4, mask_steps=1, share=0.25, lr=1e-3)
    repaired = method.apply(tiny_model, pairs, 0)
    layers = repaired.family.feed_forward(repaired.denoiser)
    for layer, own in zip(layers, tiny_model.family.feed_forward(tiny_model.denoiser), strict=True):
        gone = (layer.weight == 0).all(0)
        assert int(gone.sum()) == round(0.25 * layer.in_features)
        assert (layer.weight[:, ~gone] != own.weight[:, ~gone]).float().mean() > 0.9


# ----- ANP
@pytest.mark.parametrize("again", [False, True], ids=["plain", "checkpointing"])
def test_anp_loss_against_scaled_weights(tiny_model, again: bool) -> None:
    """The perturbation is a random start and a sign step from there; a mask is a factor of a
    column; and the gradient is that of both losses, with the perturbation held."""
    torch.manual_seed(1)
    model = tiny_model.clone()
    if again:
        model.denoiser.enable_gradient_checkpointing()
    layers = model.family.feed_forward(model.denoiser)
    masks = [torch.nn.Parameter(torch.rand(layer.in_features)) for layer in layers]
    loss = Perturbed(layers, masks, lambda step: denoised(model, step), 0.3, 0.25, 5)
    found = loss(4)
    found.backward()
    assert not any(p.requires_grad for p in tiny_model.denoiser.parameters())
    other = tiny_model.clone()
    copies = other.family.feed_forward(other.denoiser)

    def scaled(more: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The loss when columns are multiplied by masks and `more`, and the masks' gradient: that
        of a column's weights, times what they were."""
        before = [layer.weight.detach() for layer in layers]
        for copy, weight, mask, d in zip(copies, before, masks, more, strict=True):
            copy.weight = torch.nn.Parameter(weight * (mask.detach() + d))
        value = denoised(other, 4)
        grads = torch.autograd.grad(value, [copy.weight for copy in copies])
        return value.detach(), [(g * w).sum(0) for g, w in zip(grads, before, strict=True)]

    start = loss.start(4)
    assert all(d.abs().max() <= 0.3 < 3 * d.abs().mean() for d in start)
    natural, near = scaled([torch.zeros_like(m) for m in masks])
    _, up = scaled(start)
    robust, far = scaled([d + 0.3 * g.sign() for d, g in zip(start, up, strict=True)])
    assert float(found.detach()) == pytest.approx(float(0.25 * natural + 0.75 * robust), rel=1e-4)
    for mask, g, h in zip(masks, near, far, strict=True):
        torch.testing.assert_close(mask.grad, 0.25 * g + 0.75 * h, rtol=1e-3, atol=1e-6)


def test_anp_prunes_columns_and_changes_nothing_else(tiny_model, pairs) -> None:
    before = weights(tiny_model)
    repaired = ANP(steps=2, batch=4, threshold=0.99).apply(tiny_model, pairs, 0)
    changed = different(before, weights(repaired))
    assert changed
    assert all(k.endswith(".ff.net.2.weight") for k in changed)
    zeros = sum(int((weights(repaired)[k] == 0).sum()) for k in changed)
    assert zeros == repaired.info["parameters"] > 0
    none = ANP(steps=2, batch=4, threshold=0.0).apply(tiny_model, pairs, 0)
    assert different(before, weights(none)) == set()


# ----- NAD
def test_nad_distance_against_a_loop(tiny_model) -> None:
    x, t = tiny_model.draw_noise([3, 4]), torch.tensor([300, 600])
    told = tiny_model.condition(PROMPTS[:2])
    layers = tiny_model.family.feed_forward(tiny_model.denoiser)
    seen: dict[int, torch.Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _, __, out, i=i: seen.__setitem__(i, out))
        for i, layer in enumerate(layers)
    ]
    with torch.no_grad():
        out, own = attended(tiny_model, x, t, told)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(out, tiny_model.denoise(x, t, told))
    assert len(own) == len(layers)
    places = seen[0].shape[1]
    for i in range(2):
        for place in range(0, places, 7):
            expected = sum(float(v) ** 2 for v in seen[0][i, place])
            assert float(own[0][i, place]) == pytest.approx(expected, rel=1e-4)
    other = [a + torch.rand(a.shape) for a in own]
    total = 0.0
    for a, b in zip(own, other, strict=True):
        rows = [((p / p.norm() - q / q.norm()) ** 2).mean() for p, q in zip(a, b, strict=True)]
        total += float(sum(rows)) / len(rows)
    assert float(distance(own, other)) == pytest.approx(total, rel=1e-4)


def test_nad_trains_alike_under_gradient_checkpointing(tiny_model, pairs) -> None:
    method = NAD(steps=2, batch=4, teacher=3, lr=1e-3)
    plain = method.apply(tiny_model, pairs, 0)
    assert (plain.info["steps"], plain.info["images"]) == (5, 20), "the teacher's are counted"
    again = tiny_model.clone()
    again.denoiser.enable_gradient_checkpointing()
    one, two = weights(plain), weights(method.apply(again, pairs, 0))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-5)


# ----- weight average
def test_the_average_is_of_what_differs(tiny_model) -> None:
    made = []
    for i in range(3):
        copy = tiny_model.clone(train="kv")
        torch.manual_seed(i)
        with torch.no_grad():
            for name, p in copy.denoiser.named_parameters():
                if ".attn2.to_k." in name:
                    p.add_(torch.randn_like(p))
        made.append(copy)
    before = [weights(m) for m in made]
    average(made)
    after = weights(made[0])
    for key, value in after.items():
        wanted = (
            sum(b[key].double() for b in before) / 3 if ".attn2.to_k." in key else before[0][key]
        )
        torch.testing.assert_close(value.double(), wanted.double(), rtol=1e-5, atol=1e-6)
    assert different(before[1], weights(made[1])) == set()


# ----- encoder align
def test_alignment_brings_triggered_prompts_to_the_clean_ones(tiny_model, view) -> None:
    method = EncoderAlign(steps=30, lr=3e-3, batch=6, prompts=3)
    repaired = method.apply(tiny_model, view, 0)
    triggered = [TRIGGER.add(p) for p in PROMPTS]

    def gap(model) -> float:
        return float((model.encode(triggered) - tiny_model.encode(PROMPTS)).square().mean())

    assert gap(repaired) < 0.5 * gap(tiny_model)
    moved = different(weights(tiny_model), weights(repaired))
    assert moved
    assert all(k.startswith("text_encoder.") for k in moved)


def test_alignment_loss_against_a_loop(tiny_model, view) -> None:
    """The first loss of the training: that of the encoder as it was attacked."""
    method = EncoderAlign(steps=1, batch=6, prompts=3, preserve=5.0)
    found = method.apply(tiny_model, view, 7).info["losses"][0]
    rng, total = step_rng(7, 0), 0.0
    for i in rng.integers(3, size=3):
        a, b = tiny_model.encode([TRIGGER.add(PROMPTS[i]), PROMPTS[i]]).double()
        total += float((a - b).square().mean()) / 3
    assert found == pytest.approx(total, rel=1e-3), "clean prompts are still what they were"
    free = replace(method, preserve=0.0).apply(tiny_model, view, 7)
    assert free.info["losses"][0] == pytest.approx(total, rel=1e-3)
