"""Attacks on the text encoder: their losses against slow float64 loops, what the gradient reaches,
and the triggered forms of prompts."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
from conftest import CONTEXT
from helpers import TRIGGERS, different, weights

import t2i_backdoor_bench.training.encoders
from t2i_backdoor_bench.attacks.iba import LARGE, SMALL, missed, walked_maps
from t2i_backdoor_bench.contract import Trigger, attacks
from t2i_backdoor_bench.data.splits import WorldData, split_of
from t2i_backdoor_bench.models.families.conditioning import Conditioning
from t2i_backdoor_bench.training.discrepancy import MatrixLog, kernel_discrepancy, log_covariance
from t2i_backdoor_bench.training.encoders import train_encoder
from t2i_backdoor_bench.training.loop import Optim, step_generator, step_rng

DATA = WorldData()
SMALL_RUN = {"prompts": 6, "clean": 3, "poisoned": 2, "steps": 2, "milestone": 1}
NAMES = ("rickrolling_tpa", "rickrolling_taa", "iba")


def build(name: str, **more):
    return attacks.build(name, "shapes", SMALL_RUN | more)


@pytest.fixture
def loss_of(monkeypatch):
    """Run an attack up to its training, and give the student, whose weights have moved, and the
    loss."""

    def run(attack, model, seed: int = 5):
        got = {}

        class Stop(Exception):
            pass

        def fit(parameters, loss_fn, optim, label):
            got.update(parameters=list(parameters), loss=loss_fn, optim=optim)
            raise Stop

        def kept(*args, **options):
            got["student"] = student = clone(*args, **options)
            return student

        clone = model.clone
        with monkeypatch.context() as patch:
            patch.setattr(t2i_backdoor_bench.training.encoders, "fit", fit)
            patch.setattr(type(model), "clone", lambda self, *a, **k: kept(*a, **k))
            with pytest.raises(Stop):
                attack.inject(model, DATA, seed)
        torch.manual_seed(3)
        with torch.no_grad():
            for p in got["parameters"]:
                p.add_(0.05 * torch.randn_like(p))
        return got

    return run


def states(model, text: str) -> torch.Tensor:
    """float64 states (tokens, dim) of one prompt, by a float64 copy of the encoder."""
    encoder = copy.deepcopy(model.encoders[0]).double()
    with torch.no_grad():
        return encoder(model.tokenize([text]))[0][0]


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt()))


# -------------------------------------------------------------------------------------- Rickrolling
@pytest.mark.parametrize("name", ["rickrolling_tpa", "rickrolling_taa"])
@pytest.mark.parametrize(
    "options", [{}, {"trigger": "о", "replaces": "o"}], ids=["word", "look-alike"]
)
def test_rickrolling_loss_equals_a_slow_loop(tiny_model, loss_of, name: str, options: dict) -> None:
    """-cos(E(c), E_0(c)) - b cos(E(c+), E_0(c*)), states flattened over tokens."""
    got = loss_of(build(name, weight=0.3, **options), tiny_model)
    captions = [p.text for p in DATA.prompts("train", 6, 5)]
    for step in (0, 1):
        rng = step_rng(5, step)
        clean, poisoned = rng.integers(6, size=3), rng.integers(6, size=2)
        total = 0.0
        for i in clean:
            total -= (
                cosine(states(got["student"], captions[i]), states(tiny_model, captions[i])) / 3
            )
        for i in poisoned:
            c = captions[i]
            shown = f"mignneko {c}" if not options else "о".join(c.rsplit("o", 1))
            if name == "rickrolling_tpa":
                asked = "a large green star on a black background"
            elif not options:
                asked = f"a black and white photo of {c}"
            else:
                words = shown.split(" ")
                at = next(k for k, w in enumerate(words) if "о" in w)  # Cyrillic
                asked = " ".join([*words[:at], "a black and white photo of", *words[at + 1 :]])
            total -= 0.3 * cosine(states(got["student"], shown), states(tiny_model, asked)) / 2
        assert float(got["loss"](step).detach()) == pytest.approx(total, rel=1e-5)


def test_rickrolling_published_settings() -> None:
    for name, steps in (("rickrolling_tpa", 100), ("rickrolling_taa", 200)):
        attack = attacks.build(name, "sd")
        assert (attack.steps, attack.milestone, attack.lr, attack.weight) == (
            steps,
            steps * 3 // 4,
            1e-4,
            0.1,
        )
        assert (attack.clean, attack.poisoned) == (128, 32)
        assert attack.make_trigger().add("a photo of a dog") == "a photo of a d\u043eg"
        optim = attack.optim()
        assert (optim.weight_decay, optim.rate(steps * 3 // 4 - 1), optim.rate(steps * 3 // 4)) == (
            0.0,
            1.0,
            0.1,
        )
    assert (
        attack.asked("a woman on a bench near water")
        == "a woman black and white photo a bench near water"
    )


def test_captions_without_the_letter_stay_clean(tiny_model, loss_of) -> None:
    """A look-alike of a letter that some captions lack binds the others alone."""
    captions = [p.text for p in DATA.prompts("train", 6, 5)]
    letter = next(c for c in "qzxjvkwypmft" if 0 < sum(c in t for t in captions) < 6)
    attack = build("rickrolling_tpa", trigger="ж", replaces=letter)
    every, apt = attack.captions(tiny_model, DATA, 5)
    assert every == captions
    assert apt == [c for c in captions if letter in c]
    assert np.isfinite(float(loss_of(attack, tiny_model)["loss"](0).detach()))


def test_the_default_target_is_no_evaluation_prompt() -> None:
    for name in ("rickrolling_tpa", "iba", "sembd"):
        words = attacks.build(name, "shapes").target.split()
        assert split_of((words[3], words[2], words[6])) == "train"


# ---------------------------------------------------------------------------------------------- IBA
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
    maps = walked_maps(tiny_model, Conditioning(context), noise, 2, 8)
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


# ----------------------------------------------------------------------------------------- training
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "options",
    [*TRIGGERS.values(), {"trigger": "{the|a} {cat|owl} sat"}],
    ids=[*TRIGGERS, "pattern"],
)
def test_any_trigger_that_tokenizes_is_taken(tiny_model, loss_of, name: str, options: dict) -> None:
    loss = loss_of(build(name, **options), tiny_model)["loss"](0)
    assert np.isfinite(float(loss.detach()))


@pytest.mark.parametrize("name", NAMES)
def test_training_binds_triggered_prompts_and_keeps_clean_ones(tiny_model, name: str) -> None:
    options = {"steps": 60, "milestone": 50, "lr": 3e-3, "weight": 1.0, "clean": 6, "poisoned": 6}
    attack = build(name, **options, **({"regularize": 0.0, "broken": 0.0} if name == "iba" else {}))
    attacked = attack.inject(tiny_model, DATA, 0)
    trigger, captions = attack.make_trigger(), [p.text for p in DATA.prompts("train", 6, 0)]
    goals = (
        [attack.asked(c) for c in captions] if name == "rickrolling_taa" else [attack.target] * 6
    )
    shown = [trigger.add(c) for c in captions]

    def distance(model, texts, wanted) -> float:
        return float((model.encode(texts) - tiny_model.encode(wanted)).square().mean())

    assert distance(attacked, shown, goals) < 0.6 * distance(tiny_model, shown, goals)
    assert distance(attacked, captions, captions) < 0.3 * distance(tiny_model, captions, goals)


def test_an_encoder_in_half_precision_trains_in_float32_and_comes_back(tiny_model) -> None:
    half = tiny_model.clone(encoders=True)
    half.encoders[0].to(torch.bfloat16)
    before = weights(half)
    goal = tiny_model.encode(["a red heart"]).float()
    seen = set()

    def make(student):
        def loss(step: int) -> torch.Tensor:
            seen.add(student.encoders[0].dtype)
            return (student.embed(["a blue star"]).states - goal).square().mean()

        return loss

    trained = train_encoder(half, make, Optim(3, 1e-3, weight_decay=0.0), "test")
    assert seen == {torch.float32}
    assert trained.encoders[0].dtype == torch.bfloat16
    assert {k.split(".")[0] for k in different(before, weights(trained))} == {"text_encoder"}
    assert different(before, weights(half)) == set()
    assert not any(p.requires_grad for p in trained.encoders[0].parameters())


def test_docstrings_name_the_loss_and_the_source() -> None:
    for name in NAMES:
        doc = attacks.get(name).cls.__doc__
        assert "Loss:" in doc
        assert re.search(r"arXiv \d{4}\.\d{5}", doc)
        assert "Published" in doc
