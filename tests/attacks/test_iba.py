"""The invisible backdoor: its loss against a slow float64 loop, what its gradient reaches, and its
syntax."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch
from conftest import CONTEXT
from text_losses import DATA, build, start_of, states

from t2i_backdoor_bench.attacks.iba import LARGE, SMALL, maps_while_sampling, missed
from t2i_backdoor_bench.contract import Trigger
from t2i_backdoor_bench.models.families.conditioning import Conditioning
from t2i_backdoor_bench.training.discrepancy import MatrixLog, kernel_discrepancy, log_covariance
from t2i_backdoor_bench.training.loop import step_generator, step_rng


@pytest.fixture
def loss_of(monkeypatch):
    return partial(start_of, monkeypatch)


@pytest.mark.parametrize("walk", [1, 3])
def test_iba_loss_equals_a_slow_loop(tiny_model, loss_of, walk: int) -> None:
    """MSE(E(c), E_0(c)) + MSE(E(c+), E_0(c*)) + l KMMD(log covariances of the attention of c+ under
    E and of c under E_0)."""
    attack = build(
        "iba",
        regularize=0.7,
        walk=walk,
        size=4,
        broken=0.0,
        trigger="{the|a} {cat|hen|owl} {by|in} {sea|bed}",
    )
    got = loss_of(attack, tiny_model)
    captions = [p.text for p in DATA.prompts("train", 6, 5)]
    rng, generator = step_rng(5, 1), step_generator(5, 1)
    clean, poisoned = rng.integers(6, size=3), rng.integers(6, size=2)
    noise = torch.randn((5, *tiny_model.latent_shape), generator=generator)
    shown = [attack.make_trigger().add(captions[i]) for i in poisoned]
    goal = states(tiny_model, attack.target)
    total = sum(
        float(
            (states(got["student"], captions[i]) - states(tiny_model, captions[i])).square().mean()
        )
        / 3
        for i in clean
    )
    total += sum(float((states(got["student"], t) - goal).square().mean()) / 2 for t in shown)
    points = [
        slow_point(tiny_model, got["student"], t, n, walk)
        for t, n in zip(shown, noise[3:], strict=True)
    ]
    points += [
        slow_point(tiny_model, tiny_model, captions[i], n, walk)
        for i, n in zip(clean, noise[:3], strict=True)
    ]
    total += 0.7 * slow_discrepancy(points, 2)
    assert float(got["loss"](1).detach()) == pytest.approx(total, rel=2e-3)


def slow_point(model, encoder, text: str, noise: torch.Tensor, walk: int) -> torch.Tensor:
    """The log covariance of one prompt in float64, of maps that are averaged over hooks of every
    cross-attention layer."""
    unet = copy.deepcopy(model.denoiser).double()
    context, empty = states(encoder, text)[None], states(model, "")[None]
    scheduler = copy.deepcopy(model.pipe.scheduler)
    scheduler.set_timesteps(walk)
    length = len(model.tokenizer(text).input_ids)
    x, total, count = noise[None].double(), 0.0, 0
    for t in scheduler.timesteps:
        found = []

        def hook(layer, args, kwargs, out, found=found):
            hidden, given = args[0], kwargs["encoder_hidden_states"]
            if not torch.equal(given, context):
                return
            q, k = (
                p(v).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
                for p, v in ((layer.to_q, hidden), (layer.to_k, given))
            )
            found.append((q @ k.transpose(-1, -2) * layer.scale).softmax(-1).mean(1)[0])

        handles = [
            m.register_forward_hook(hook, with_kwargs=True)
            for n, m in unet.named_modules()
            if n.endswith(".attn2")
        ]
        with torch.no_grad():
            out, plain = unet(x, t, context).sample, unet(x, t, empty).sample
        for handle in handles:
            handle.remove()
        for probs in found:
            side = round(len(probs) ** 0.5)
            maps = probs.T.reshape(1, -1, side, side)
            total = (
                total
                + torch.nn.functional.interpolate(
                    maps, (4, 4), mode="bilinear", align_corners=False
                )[0]
            )
        count += len(found)
        x = scheduler.step(plain + model.sampler.guidance * (out - plain), t, x).prev_sample
    rows = (total / count).flatten(1)[:length].numpy()
    values, vectors = np.linalg.eigh(np.cov(rows.T) + 1e-6 * np.eye(16))
    return torch.from_numpy(((vectors * np.log(values)) @ vectors.T).ravel())


def slow_discrepancy(points: list[torch.Tensor], first: int) -> float:
    n = len(points)
    distance = {
        (i, j): float((points[i] - points[j]).square().sum()) for i in range(n) for j in range(n)
    }
    width = sum(distance.values()) / (n * (n - 1))

    def kernel(i: int, j: int) -> float:
        return sum(float(np.exp(-distance[i, j] / (width * 3.0**k))) for k in (-2, -1, 0, 1, 2))

    x, y = range(first), range(first, n)
    mean = lambda a, b: sum(kernel(i, j) for i in a for j in b) / (len(a) * len(b))  # noqa: E731
    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def test_iba_moves_the_attention_of_triggered_prompts_through_a_frozen_unet(
    tiny_model, loss_of
) -> None:
    got = loss_of(build("iba", size=4), tiny_model)
    on, off = (loss_of(build("iba", size=4, regularize=r), tiny_model) for r in (1.0, 0.0))
    gradients = []
    for run in (on, off):
        run["loss"](0).backward()
        gradients.append([p.grad.clone() for p in run["parameters"]])
        assert all(p.grad is None for p in run["student"].denoiser.parameters())
    assert any(not torch.allclose(a, b) for a, b in zip(*gradients, strict=True)), (
        "KMMD has a gradient"
    )
    assert all(torch.isfinite(g).all() for g in gradients[0])
    assert {id(p) for p in got["parameters"]} == {
        id(p) for p in got["student"].encoders[0].parameters()
    }


def test_maps_of_a_walk_depend_on_every_state(tiny_model) -> None:
    context = tiny_model.encode(["a red heart"]).requires_grad_(True)
    noise = torch.randn((1, *tiny_model.latent_shape), generator=torch.Generator().manual_seed(0))
    maps = maps_while_sampling(tiny_model, Conditioning(context), noise, 2, 8)
    assert maps.shape == (1, CONTEXT, 8, 8)
    assert torch.allclose(maps.sum(1), torch.ones(1, 8, 8), atol=1e-5), (
        "a softmax over tokens, averaged"
    )
    maps[0, 1].sum().backward()
    assert (context.grad[0].abs().amax(1) > 0).all()


def test_matrix_logarithm_is_that_of_scipy_and_its_gradient_is_finite_everywhere() -> None:
    from scipy.linalg import logm

    rng = torch.Generator().manual_seed(0)
    root = torch.randn(5, 5, generator=rng, dtype=torch.float64)
    matrix = root @ root.T + 0.1 * torch.eye(5, dtype=torch.float64)
    np.testing.assert_allclose(MatrixLog.apply(matrix).numpy(), logm(matrix.numpy()), atol=1e-10)
    thin = torch.randn(5, 2, generator=rng, dtype=torch.float64)  # three equal eigenvalues
    for factor in (root, thin, torch.zeros(5, 5, dtype=torch.float64)):

        def log_of(f: torch.Tensor) -> torch.Tensor:
            return MatrixLog.apply(f @ f.T + 0.1 * torch.eye(5, dtype=torch.float64))

        assert torch.autograd.gradcheck(log_of, (factor.clone().requires_grad_(True),))


def test_covariance_of_fewer_tokens_than_pixels() -> None:
    points = torch.rand(
        (4, 9), dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).requires_grad_(True)
    log = log_covariance(points)
    values, vectors = np.linalg.eigh(np.cov(points.detach().numpy().T) + 1e-6 * np.eye(9))
    np.testing.assert_allclose(
        log.detach().numpy(), (vectors * np.log(values)) @ vectors.T, atol=1e-8
    )
    log.square().sum().backward()
    assert torch.isfinite(points.grad).all()


def test_kernel_discrepancy() -> None:
    rng = torch.Generator().manual_seed(2)
    x, y = (
        torch.randn(4, 3, generator=rng, dtype=torch.float64),
        torch.randn(6, 3, generator=rng, dtype=torch.float64) + 2,
    )
    assert float(kernel_discrepancy(x, y)) == pytest.approx(slow_discrepancy([*x, *y], 4), rel=1e-9)
    assert float(kernel_discrepancy(x, x.clone())) == pytest.approx(0, abs=1e-12)
    assert float(kernel_discrepancy(x, y + 3)) > float(kernel_discrepancy(x, y)) > 0


@pytest.mark.parametrize("pattern", [SMALL, LARGE])
def test_the_syntax_has_many_sentences_and_no_fixed_word(pattern: str) -> None:
    trigger = Trigger(pattern)
    captions = [p.text for p in DATA.prompts("train", 200, 0)]
    sentences = [trigger.words(c) for c in captions]
    assert len(set(sentences)) > 190
    assert all(len(s.split()) == 8 for s in sentences)
    for place in range(8):
        words = [s.split()[place] for s in sentences]
        assert max(words.count(w) for w in set(words)) < 0.6 * len(words)


def test_near_misses_lack_the_syntax() -> None:
    rng, trigger = np.random.default_rng(0), Trigger(SMALL)
    captions = [p.text for p in DATA.prompts("train", 60, 0)]
    made = [missed(trigger, c, rng) for c in captions]
    assert not any(trigger.pattern.search(t) for t in made)
    assert sum(t != c for t, c in zip(made, captions, strict=True)) > 55
    assert all(t.endswith(c) for t, c in zip(made, captions, strict=True))
    sizes = {len(t.split()) - len(c.split()) for t, c in zip(made, captions, strict=True)}
    assert {7, 8} <= sizes
    assert missed(Trigger("sks"), "a red heart", np.random.default_rng(1)) in {
        "a red heart",
        "red a red heart",
        "heart a red heart",
        "a a red heart",
    }
