"""Saliency unlearning, pruning, and the control of noise on the weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import PROMPTS, TRIGGER, different, weights

from t2i_backdoor_bench.contract import DefenderView
from t2i_backdoor_bench.defenses.concept_prune import ConceptPrune, chosen, input_norms, voted
from t2i_backdoor_bench.defenses.noise_weights import NoiseWeights
from t2i_backdoor_bench.defenses.salun import SalUn, saliency
from t2i_backdoor_bench.training.denoising import own_images
from t2i_backdoor_bench.training.loop import step_generator, step_rng
from t2i_backdoor_bench.training.parameters import choose_parameters


def changed(before: dict, model) -> set[str]:
    return different(before, weights(model))


# -------------------------------------------------------------------------------------------- SalUn
def test_saliency_keeps_the_largest_gradients() -> None:
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(5, 4)), torch.nn.Parameter(torch.randn(7))]
    x = torch.randn(3, 5)
    masks = saliency(
        params, lambda step: (x[step] @ params[0]).pow(2).sum() + params[1].pow(3).sum(), 3, 0.4
    )
    for p in params:
        p.grad = None
    sum((x[s] @ params[0]).pow(2).sum() + params[1].pow(3).sum() for s in range(3)).backward()
    flat = torch.cat([p.grad.abs().flatten() for p in params])
    kept = torch.cat([m.flatten() for m in masks]).bool()
    assert int(kept.sum()) == round(0.4 * 27)
    assert flat[kept].min() > flat[~kept].max()
    assert all(
        m.all() for m in saliency(params, lambda s: params[0].sum() + params[1].sum(), 1, 1.0)
    )


def test_salun_moves_the_salient_weights_alone(tiny_model, view) -> None:
    method = SalUn(share=0.3, steps=2, mask_steps=2, batch=4, prompts=3, lr=1e-2)
    student = tiny_model.clone()
    forget = method.loss(student, tiny_model, view, 0).forget
    masks = saliency(choose_parameters(student, "full"), forget, 2, 0.3)
    repaired = method.apply(tiny_model, view, 0)
    for a, b, mask in zip(
        tiny_model.denoiser.parameters(), repaired.denoiser.parameters(), masks, strict=True
    ):
        assert torch.equal(a[mask == 0], b[mask == 0])
    moved = sum(
        int((a != b).sum())
        for a, b in zip(
            tiny_model.denoiser.parameters(), repaired.denoiser.parameters(), strict=True
        )
    )
    assert moved > 0.9 * repaired.info["parameters"]


def test_salun_relabels_the_trigger_as_the_clean_prompt(pair, view) -> None:
    _, student = pair
    method = SalUn(prompts=3, alpha=0.0, batch=6)
    loss_fn = method.loss(student, student, view, 4)
    drawn = own_images(student, [TRIGGER.add(p) for p in PROMPTS], 4)

    def draw(seed: int):
        pick, generator = step_rng(seed, 1).integers(3, size=3), step_generator(seed, 1)
        t = (torch.rand(3, generator=generator) * 1000).long()
        noise = torch.randn((3, *student.latent_shape), generator=generator)
        a = student.noising.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        return pick, t, noise, a.sqrt() * drawn[pick] + (1 - a).sqrt() * noise

    def predict(texts: list[str], t, x):
        with torch.no_grad():
            return student.denoiser(x, t, student.encode(texts)).sample

    pick, t, _, x = draw(4)
    gap = predict([TRIGGER.add(PROMPTS[i]) for i in pick], t, x) - predict(
        [PROMPTS[i] for i in pick], t, x
    )
    assert float(loss_fn(1).detach()) == pytest.approx(float(gap.pow(2).mean()), rel=1e-4)
    pick, t, noise, x = draw(6)
    error = predict([TRIGGER.add(PROMPTS[i]) for i in pick], t, x) - noise
    assert float(loss_fn.forget(1).detach()) == pytest.approx(float(error.pow(2).mean()), rel=1e-4)


# ------------------------------------------------------------------------------------------ pruning
def test_chosen_weights_by_loops() -> None:
    torch.manual_seed(1)
    weight, concept, clean = torch.randn(6, 20), torch.rand(20), torch.rand(20)
    found = chosen(weight, concept, clean, 0.2)
    for i in range(6):
        scores = [abs(float(weight[i, j])) * float(concept[j]) for j in range(20)]
        top = sorted(range(20), key=lambda j: -scores[j])[:4]
        want = {j for j in top if scores[j] > abs(float(weight[i, j])) * float(clean[j])}
        assert set(found[i].nonzero().flatten().tolist()) == want
    assert 0 < int(found.sum()) < 24


def test_input_norms_are_those_of_the_prompts_own_calls(tiny_model) -> None:
    name = next(n for n, _ in tiny_model.denoiser.named_modules() if n.endswith(".ff.net.2"))
    layer = tiny_model.denoiser.get_submodule(name)
    (found,) = input_norms(tiny_model, [layer], PROMPTS, np.array([1, 2, 3]), 0.5)
    times, latents = tiny_model.trajectory(PROMPTS, [1, 2, 3])
    seen = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].double()))
    with torch.no_grad():
        for row in range(3):  # of two steps, the first half is one
            text = tiny_model.encode([PROMPTS[row]])
            tiny_model.denoiser(latents[0, row : row + 1], times[0], text)
    hook.remove()
    want = sum(s.pow(2).sum((0, 1)) for s in seen).sqrt()
    torch.testing.assert_close(found.double(), want[None], rtol=1e-4, atol=1e-6)
    assert len(input_norms(tiny_model, [layer], PROMPTS, np.array([1, 2, 3]), 1.0)[0]) == len(times)
    assert not layer._forward_pre_hooks


@pytest.mark.parametrize("votes", [0.0, 0.5, 0.8])
def test_a_weight_is_pruned_by_the_vote_of_the_steps(votes: float) -> None:
    torch.manual_seed(2)
    weight, concept, clean = torch.randn(6, 20), torch.rand(4, 20), torch.rand(4, 20)
    found = voted(weight, concept, clean, 0.2, votes)
    masks = [chosen(weight, concept[step], clean[step], 0.2) for step in range(4)]
    for i in range(6):
        for j in range(20):
            assert bool(found[i, j]) == (sum(int(m[i, j]) for m in masks) > 4 * votes)
    pooled = chosen(weight, concept.norm(dim=0), clean.norm(dim=0), 0.2)
    assert not torch.equal(found, pooled), "one norm over all steps is another mask"


def test_pruning_sets_feed_forward_weights_to_zero_and_nothing_else(tiny_model, view) -> None:
    before = weights(tiny_model)
    pruned = ConceptPrune(prompts=3, share=0.1).apply(tiny_model, view, 0)
    names = changed(before, pruned)
    assert names
    assert all(".ff.net.2.weight" in k for k in names)
    for key in names:
        a, b = before[key], weights(pruned)[key]
        assert torch.all((a == b) | (b == 0))


# ---------------------------------------------------------------------------------------- a control
def test_noise_is_relative_to_each_tensor(tiny_model, view) -> None:
    noisy = NoiseWeights(sigma=0.3).apply(tiny_model, DefenderView((), PROMPTS), 0)
    checked = 0
    for (name, a), b in zip(
        tiny_model.denoiser.named_parameters(), noisy.denoiser.parameters(), strict=True
    ):
        if a.numel() > 2000:
            assert float((b - a).std() / a.std()) == pytest.approx(0.3, rel=0.1), name
            checked += 1
    assert checked > 10
