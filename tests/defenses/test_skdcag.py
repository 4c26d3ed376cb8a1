"""SKD-CAG: its losses against slow float64 loops, its gradients by differences, and what the
released variant does not do."""

from __future__ import annotations

import pytest
import torch
from helpers import PROMPTS, TRIGGER, bare
from slow_skdcag import slow_loss, stand_ins
from torch import Tensor

from t2i_backdoor_bench.contract import defenses as registered
from t2i_backdoor_bench.defenses.skdcag import SKDCAG
from t2i_backdoor_bench.defenses.skdcag_released import SKDCAGReleased
from t2i_backdoor_bench.training import guided_distillation
from t2i_backdoor_bench.training.alignment import align, substitute
from t2i_backdoor_bench.training.capture import Capture
from t2i_backdoor_bench.training.guided_distillation import word_spans

SMALL = {"steps": 2, "batch": 4, "prompts": 3}


def state(model) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.denoiser.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


CASES = [
    {"target": "black", "raw_black": True},
    {"target": "black", "raw_black": False},
    {"target": "gaussian"},
    {"target": "random_words"},
    {"target": "random_words", "time_weight": True},
    {"target": "black", "time_weight": True, "reverse_time": True},
    {"target": "gaussian", "time_weight": True, "alpha": 1.0},
    {"target": "black", "alpha": 0.0},
    {"target": "black", "latents": "own", "bias": 2.0},
]


@pytest.mark.parametrize(("preserve", "drop"), [(0.0, 0.0), (0.7, 0.0), (0.7, 0.5), (0.7, 1.0)])
@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(str(v) for v in c.values()))
def test_total_loss_equals_a_slow_loop(
    pair, view, case: dict, preserve: float, drop: float
) -> None:
    teacher, student = pair
    method = SKDCAG(
        prompts=3,
        **{
            "alpha": 0.3,
            "latents": "noise",
            "preserve": preserve,
            "drop": drop,
            "batch": 6,
            **case,
        },
    )
    loss_fn = method.loss(student, teacher, view, seed=4)
    for step in (0, 5):
        expected, attention, prediction = slow_loss(method, student, teacher, step, seed=4)
        assert float(loss_fn(step)) == pytest.approx(expected, rel=1e-4)
        assert prediction > 0
        assert attention > 1e-4 or method.alpha == 0


def test_losses_of_the_targets_differ(pair, view) -> None:
    teacher, student = pair
    values = {}
    for case in CASES[:6]:
        method = SKDCAG(prompts=3, alpha=1.0, latents="noise", preserve=0.0, batch=6, **case)
        values[str(case)] = float(method.loss(student, teacher, view, 4)(0))
    assert len(set(values.values())) == len(values), values


def test_random_words_of_several_tokens(pair, view, monkeypatch) -> None:
    teacher, student = pair
    monkeypatch.setattr(guided_distillation, "WORDS", ("extraordinary", "x"))
    method = SKDCAG(prompts=3, target="random_words", latents="noise", preserve=0.5, batch=6)
    lengths = [len(teacher.tokenizer(w).input_ids) - 2 for w in guided_distillation.WORDS]
    assert lengths[0] > 3
    assert lengths[1] == 1
    seed = next(s for s in range(50) if len(set(stand_ins(0, s, 3))) == 3)
    assert float(method.loss(student, teacher, view, seed)(0)) == pytest.approx(
        slow_loss(method, student, teacher, 0, seed)[0], rel=1e-4
    )
    goals = method.loss(student, teacher, view, seed).goals(0, torch.tensor([2, 0, 2]))
    assert not torch.equal(goals.span[0], goals.span[2]), "each row has words of its own"
    words = ["extraordinary", "x", "x"]
    assert word_spans(teacher, TRIGGER, PROMPTS, words).sum(1).tolist() == [lengths[0], 1, 1]


# ---------------------------------------------------------------------------------------- gradients
@pytest.mark.parametrize(
    ("target", "raw"),
    [("black", True), ("black", False), ("gaussian", True), ("random_words", True)],
)
def test_gradient_of_the_attention_loss_by_central_differences(
    pair, target: str, raw: bool
) -> None:
    teacher, student = pair
    method = SKDCAG(prompts=3, target=target, raw_black=raw, time_weight=True)
    words = ["river", "music", "paper"]
    stand_ins = words if target == "random_words" else None
    row = align(teacher.text_part, TRIGGER, PROMPTS, stand_ins)
    span = word_spans(teacher, TRIGGER, PROMPTS, words) if stand_ins else None
    x = torch.randn(3, *teacher.latent_shape, generator=torch.Generator().manual_seed(0)).double()
    t = torch.tensor([100, 500, 900])
    context = student.encode([TRIGGER.add(p) for p in PROMPTS]).double()
    taught = teacher.encode(
        [substitute(TRIGGER, p, w) for p, w in zip(PROMPTS, words, strict=True)]
        if stand_ins
        else PROMPTS
    ).double()
    unet = student.denoiser.double().requires_grad_(True)
    with torch.no_grad(), Capture(bare(teacher.denoiser.double())) as seen:
        teacher.denoiser(x, t, taught)

    def loss() -> Tensor:
        with Capture(bare(unet)) as own:
            unet(x, t, context)
        return method.attention_loss(
            own.maps(), seen.maps(), len(own), row, t / 1000, torch.Generator().manual_seed(7), span
        )

    loss().backward()
    weights = dict(unet.named_parameters())
    picked = [
        "conv_in.weight",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_q.weight",
        "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q.weight",
    ]
    for name in picked:
        weight = weights[name]
        where = torch.unravel_index(weight.grad.abs().argmax(), weight.shape)
        flat, exact = weight.detach(), float(weight.grad[where])
        kept, h = float(flat[where]), 1e-5
        values = []
        for sign in (1, -1):
            flat[where] = kept + sign * h
            with torch.no_grad():
                values.append(float(loss()))
        flat[where] = kept
        assert abs(exact) > 1e-8, name
        assert (values[0] - values[1]) / (2 * h) == pytest.approx(exact, rel=1e-3), name
    assert weights["conv_out.weight"].grad is None, "the attention loss does not see the prediction"
    assert all(p.grad is None for p in teacher.denoiser.parameters())


def test_attention_alone_trains_the_student_but_not_the_released_one(tiny_model, view) -> None:
    """METHODS 2.1, point 1: the released maps are cut off from the gradient, so that only weight
    decay moves the weights."""
    before = state(tiny_model)
    options = {**SMALL, "alpha": 1.0, "lr": 1e-3, "latents": "noise", "preserve": 0.0}
    ours = state(SKDCAG(**options).apply(tiny_model, view, 0))
    moved = [k for k in before if ".attn2.to_k" in k and (ours[k] - before[k]).abs().max() > 5e-4]
    assert len(moved) > 3
    theirs = state(
        SKDCAGReleased(alpha=1.0, steps=2, lr=1e-3, prompts=3).apply(tiny_model, view, 0)
    )
    kept = 1 - 1e-3 * 0.01  # what a step of weight decay leaves
    first = 1 + 9 / 11 * (kept - 1)
    shrink = first + 9 / 12 * (kept**2 - first)  # the average after two steps
    for key, value in before.items():
        torch.testing.assert_close(theirs[key], value * shrink, rtol=2e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["skd", "skdcag_black", "skdcag_random_words", "skdcag_released"])
def test_trains_alike_under_gradient_checkpointing(tiny_model, view, name: str) -> None:
    """At Stable Diffusion scale activations do not fit: the maps must keep their gradient where
    layers run again in backward."""
    options = (
        {"steps": 2, "prompts": 3} if name == "skdcag_released" else {**SMALL, "latents": "noise"}
    )
    plain = registered.build(name, "shapes", options).apply(tiny_model, view, 0)
    tiny_model.denoiser.enable_gradient_checkpointing()
    checked = registered.build(name, "shapes", options).apply(tiny_model, view, 0)
    assert checked.denoiser.is_gradient_checkpointing
    share, most = apart(plain, checked)
    assert share < 1e-4
    assert most < 2.5e-3, "as far as two steps of Adam can part two weights"
    if name in ("skdcag_black", "skdcag_random_words"):
        without = registered.build(name, "shapes", {**options, "alpha": 0.0}).apply(
            tiny_model, view, 0
        )
        assert apart(plain, without)[0] > 0.01, "which is what maps without a gradient would train"


def apart(model, other) -> tuple[float, float]:
    """The share of the U-Net's weights that differ, and by how much at most. Adam divides a
    gradient by its size: where it is next to nothing, its rounding decides where a weight goes, so
    that some few always do."""
    pairs = [
        (a.flatten(), b.flatten())
        for a, b in zip(model.denoiser.parameters(), other.denoiser.parameters(), strict=True)
    ]
    a, b = (torch.cat(side) for side in zip(*pairs, strict=True))
    difference = (a - b).abs()
    return float((difference > 1e-4 + 1e-3 * b.abs()).float().mean()), float(difference.max())
