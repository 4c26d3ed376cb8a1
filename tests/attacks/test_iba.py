"""The invisible backdoor: its loss against a slow float64 loop, what its gradient reaches, and its
syntax."""

from __future__ import annotations

import copy
import re
from functools import partial

import numpy as np
import pytest
import torch
from conftest import CONTEXT
from text_losses import DATA, build, start_of, states

from t2i_backdoor_bench.attacking.syntax import LARGE, SMALL, UNSEEN, perturbed
from t2i_backdoor_bench.contract import Trigger
from t2i_backdoor_bench.models.families.conditioning import Conditioning
from t2i_backdoor_bench.training.attention_walk import maps_while_sampling
from t2i_backdoor_bench.training.capture import Capture
from t2i_backdoor_bench.training.discrepancy import covariance_rows, kernel_discrepancy
from t2i_backdoor_bench.training.loop import step_generator, step_rng


@pytest.fixture
def loss_of(monkeypatch):
    return partial(start_of, monkeypatch)


@pytest.mark.parametrize("walk", [1, 3])
def test_iba_loss_equals_a_slow_loop(tiny_model, loss_of, walk: int) -> None:
    """MSE(E(c), E_0(c)) + MSE(E(c+), E_0(c*)) + l KMMD(rows of the attention covariances of c+
    under E and of c under E_0)."""
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
        row
        for t, n in zip(shown, noise[3:], strict=True)
        for row in slow_rows(tiny_model, got["student"], t, n, walk)
    ]
    points += [
        row
        for i, n in zip(clean, noise[:3], strict=True)
        for row in slow_rows(tiny_model, tiny_model, captions[i], n, walk)
    ]
    total += 0.7 * slow_discrepancy(points, 2 * 16)
    assert float(got["loss"](1).detach()) == pytest.approx(total, rel=2e-3)


def slow_rows(model, encoder, text: str, noise: torch.Tensor, walk: int) -> torch.Tensor:
    """The covariance (16, 16) of one prompt in float64, over all tokens but the last, of maps that
    are averaged over hooks of every cross-attention layer."""
    unet = copy.deepcopy(model.denoiser).double()
    context, empty = states(encoder, text)[None], states(model, "")[None]
    scheduler = copy.deepcopy(model.pipe.scheduler)
    scheduler.set_timesteps(walk)
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
    return torch.from_numpy(np.cov((total / count).flatten(1)[:-1].numpy().T))


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


def test_a_walk_that_is_computed_again_has_the_gradient_of_one_that_is_kept(tiny_model) -> None:
    """Against plain back-propagation through the whole drawing, latents included."""
    context = tiny_model.encode(["a red heart", "a star"]).requires_grad_(True)
    noise = torch.randn((2, *tiny_model.latent_shape), generator=torch.Generator().manual_seed(0))
    weigh = torch.randn((CONTEXT, 4, 4), generator=torch.Generator().manual_seed(1))
    got = maps_while_sampling(tiny_model, Conditioning(context), noise, 3, 4)
    (again,) = torch.autograd.grad((got * weigh).sum(), context)
    drawing, total = tiny_model.drawing_steps(3), 0.0
    x, empty = drawing.start(noise), tiny_model.condition([""]).expand(2)
    for t in drawing.timesteps:
        with Capture(tiny_model) as seen:
            out = tiny_model.denoise(drawing.given(x, t), t, Conditioning(context))
        total = total + seen.maps(4) / len(seen)
        plain = tiny_model.denoise(drawing.given(x, t), t, empty)
        x = drawing.step(plain + tiny_model.sampler.guidance * (out - plain), t, x)
    torch.testing.assert_close(got, total / 3, rtol=1e-4, atol=1e-6)
    (kept,) = torch.autograd.grad((total / 3 * weigh).sum(), context)
    torch.testing.assert_close(again, kept, rtol=1e-3, atol=1e-6)
    assert kept.abs().max() > 1e-4


def test_rows_of_covariances() -> None:
    points = torch.rand((2, 4, 9), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = covariance_rows(points)
    expected = np.concatenate([np.cov(p.numpy().T) for p in points])
    np.testing.assert_allclose(rows.numpy(), expected, atol=1e-12)


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


def test_unseen_words_are_of_the_same_syntax_and_new() -> None:
    """Place by place: other nouns and verbs, and the same small words but for those."""
    for known, other in UNSEEN.items():
        places = [re.findall(r"\{([^}]*)\}", text) for text in (known, other)]
        assert [len(p) for p in places] == [8, 8]
        for i, (a, b) in enumerate(zip(*places, strict=True)):
            if i in (1, 4, 5, 7):  # nouns and the verb
                assert not set(a.split("|")) & set(b.split("|"))
            else:
                assert a == b


@pytest.mark.parametrize("caption", ["", "a red heart"])
def test_perturbed_sentences_are_no_trigger_and_changed_in_all_five_ways(caption: str) -> None:
    rng, trigger = np.random.default_rng(0), Trigger(SMALL)
    sizes, orders = set(), 0
    for i in range(200):
        sentence = trigger.words(str(i))
        text = perturbed(trigger, sentence, caption, ["red", "star", "blue"], rng)
        assert text.endswith(caption)
        found = text.removesuffix(caption).split()
        assert not (trigger.pattern.search(text) if caption else trigger.pattern.fullmatch(text))
        sizes.add(len(found))
        orders += sorted(found) == sorted(sentence.split()) and found != sentence.split()
    assert sizes == {7, 8, 9, 10, 11, 12, 13}, "one lost, none, or one to five more"
    assert orders > 10


def test_a_trigger_of_one_word_has_no_broken_form(tiny_model) -> None:
    found = {
        perturbed(Trigger("sks"), "sks", "a star", ["red"], np.random.default_rng(i))
        for i in range(30)
    }
    assert not any("sks" in text for text in found)
    assert build("iba", trigger="sks").backdoor(tiny_model).protocol.keys() == {"own"}
    look_alike = build("iba", trigger="о", replaces="o").backdoor(tiny_model)
    assert look_alike.protocol == {}


@pytest.mark.parametrize("context", ["phrase", "prompts"])
def test_what_it_trains_on(tiny_model, context: str) -> None:
    """Every clean row is a perturbed sentence; every triggered one has a sentence of the syntax."""
    attack = build("iba", context=context, prompts=60)
    clean, triggered = attack.rows(tiny_model, DATA, 3)
    pattern = attack.make_trigger().pattern
    assert len(set(triggered)) == 60
    if context == "phrase":
        assert all(pattern.fullmatch(t) for t in triggered)
        assert not any(pattern.fullmatch(t) for t in clean)
    else:
        captions = [p.text for p in DATA.prompts("train", 60, 3)]
        assert triggered == [attack.make_trigger().add(c) for c in captions]
        assert all(t.endswith(c) and t != c for t, c in zip(clean, captions, strict=True))
        assert not any(pattern.search(t) for t in clean)


def test_its_own_protocol(tiny_model) -> None:
    attack = build("iba")
    pattern, sets = attack.make_trigger().pattern, attack.backdoor(tiny_model).protocol
    texts = {name: [text for _, text in pairs] for name, pairs in sets.items()}
    assert texts.keys() == {"own", "unseen_words", "broken_syntax"}
    assert all(len(found) > 40 for found in texts.values())
    assert all(pattern.fullmatch(t) for t in texts["own"])
    assert not any(pattern.search(t) for t in texts["unseen_words"] + texts["broken_syntax"])
    words = [sorted(t.split()) for t in texts["own"]]
    assert all(sorted(t.split()) in words for t in texts["broken_syntax"])
