"""Training SKD-CAG: what changes, what stays, and which options are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import PROMPTS, TRIGGER, different, weights
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, Trigger, UserError
from t2i_backdoor_bench.contract import defenses as registered
from t2i_backdoor_bench.defenses.skdcag import SKDCAG
from t2i_backdoor_bench.training.loop import step_generator, step_rng

SMALL = {"steps": 2, "batch": 4, "prompts": 3}


def state(model) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.denoiser.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


def test_skd_is_skdcag_with_alpha_zero_bit_for_bit(tiny_model, view) -> None:
    alike = {**SMALL, "preserve": 2.0, "lr": 1e-3}  # what the search chose is another of each
    skd = registered.build("skd", "shapes", alike).apply(tiny_model, view, 1)
    for target in ("black", "random_words", "gaussian"):
        other = registered.build(f"skdcag_{target}", "shapes", {**alike, "alpha": 0.0}).apply(
            tiny_model, view, 1
        )
        assert same(state(skd), state(other)), target
    assert not same(
        state(skd), state(registered.build("skdcag", "shapes", SMALL).apply(tiny_model, view, 1))
    )


@pytest.mark.parametrize(
    "name", ["skd", "skdcag_black", "skdcag_gaussian", "skdcag_random_words", "skdcag_released"]
)
def test_the_teacher_is_untouched(tiny_model, view, name: str) -> None:
    before = state(tiny_model)
    options = (
        {"steps": 3, "prompts": 2, "lr": 1e-2}
        if name == "skdcag_released"
        else {**SMALL, "lr": 1e-2}
    )
    repaired = registered.build(name, "shapes", options).apply(tiny_model, view, 0)
    assert same(before, state(tiny_model))
    assert not same(before, state(repaired))
    assert all(
        p.grad is None and not p.requires_grad
        for p in [*tiny_model.denoiser.parameters(), *repaired.denoiser.parameters()]
    )


def test_training_keys_and_values_changes_nothing_else(tiny_model, view) -> None:
    before = state(tiny_model)
    method = SKDCAG(**SMALL, train="kv", target="random_words")
    repaired = method.apply(tiny_model, view, 0)
    after = state(repaired)
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    expected = {k for k in before if ".attn2.to_k." in k or ".attn2.to_v." in k}
    assert changed == expected
    assert repaired.info["parameters"] == sum(before[k].numel() for k in expected)


def test_preserving_pulls_clean_predictions_back(pair, view) -> None:
    """The gradient of the preserving term alone lowers the distance of the clean predictions."""
    teacher, student = pair
    student.denoiser.requires_grad_(True)
    both = SKDCAG(prompts=3, alpha=0.5, latents="noise", preserve=1.0, drop=0.0, batch=6).loss(
        student, teacher, view, 0
    )
    alone = SKDCAG(prompts=3, alpha=0.5, latents="noise", preserve=0.0, batch=3).loss(
        student, teacher, view, 0
    )
    kept = float(both(0)) - float(alone(0))  # same rows, same draws
    assert kept > 0
    picks = step_rng(0, 0).integers(3, size=3)
    generator = step_generator(0, 0)
    t = (torch.rand(3, generator=generator) * 1000).long()
    x = torch.randn((3, *teacher.latent_shape), generator=generator)
    states = teacher.encode([PROMPTS[i] for i in picks])
    with torch.no_grad():
        expected = (
            (student.denoiser(x, t, states).sample - teacher.denoiser(x, t, states).sample)
            .pow(2)
            .mean()
        )
    assert kept == pytest.approx(0.5 * float(expected), rel=1e-3), (
        "it shares the weight 1 - alpha with the prediction"
    )


def test_trajectory_latents_are_what_the_student_is_given_while_it_draws(
    pair, view, monkeypatch
) -> None:
    teacher, student = pair
    asked = []
    plain = type(student).trajectory
    monkeypatch.setattr(
        type(student),
        "trajectory",
        lambda self, *a: asked.append(self is student) or plain(self, *a),
    )
    loss_fn = SKDCAG(prompts=3, latents="trajectory", refresh=4, preserve=0.0, batch=2).loss(
        student, teacher, view, 0
    )
    given = []
    hook = student.denoiser.register_forward_pre_hook(
        lambda m, a: given.append(a[:2]) if len(a[0]) == 2 else None
    )
    values = [float(loss_fn(i).detach()) for i in (0, 1, 3, 4)]
    hook.remove()
    assert asked == [True, True], "drawn at step 0 and anew at step 4, by the student"
    assert len(set(values)) > 2
    draw = np.random.default_rng([0, 78, 1])
    which = draw.permutation(3)
    times, latents = plain(
        student, [TRIGGER.add(PROMPTS[i]) for i in which], draw.integers(2**31, size=3)
    )
    x, t = given[-1]
    for row in range(2):
        place = int((times == t[row]).nonzero())
        assert any(torch.allclose(x[row], z, atol=1e-5) for z in latents[place])


def test_clean_prompts_are_preserved_on_the_trajectories_of_clean_prompts(pair, view) -> None:
    teacher, student = pair
    loss_fn = SKDCAG(prompts=3, alpha=0.0, latents="trajectory", preserve=1.0, batch=4).loss(
        student, teacher, view, 0
    )
    given, asked = [], []
    hooks = [
        student.denoiser.register_forward_pre_hook(
            lambda m, a: given.append(a) if m.training or torch.is_grad_enabled() else None
        )
    ]
    hooks.append(teacher.denoiser.register_forward_pre_hook(lambda m, a: asked.append(a)))
    value = float(loss_fn(0).detach())
    for hook in hooks:
        hook.remove()
    x, t, context = given[-1]
    parts = []
    for rows, add, seed, many in (
        (slice(0, 2), TRIGGER.add, 0, 1),
        (slice(2, 4), str, 10_007, 3),
    ):  # half of the triggered, all clean ones
        draw = np.random.default_rng([seed, 78, 0])
        which = draw.permutation(3)[:many]
        times, latents = student.trajectory(
            [add(PROMPTS[i]) for i in which], draw.integers(2**31, size=many)
        )
        for row in range(rows.start, rows.stop):
            drawn = latents[int((times == t[row]).nonzero())]
            place = next(k for k in range(many) if torch.allclose(x[row], drawn[k], atol=1e-5))
            clean, empty = teacher.encode([PROMPTS[which[place]]]), teacher.encode([""])
            if rows.start:  # a preserved row asks for the clean prompt, or for nothing
                assert any(torch.allclose(context[row], c[0]) for c in (clean, empty))
            with torch.no_grad():
                goal = teacher.denoiser(
                    x[row, None], t[row, None], context[row, None] if rows.start else clean
                ).sample
                parts.append(
                    float(
                        (
                            student.denoiser(x[row, None], t[row, None], context[row, None]).sample
                            - goal
                        )
                        .pow(2)
                        .mean()
                    )
                    / 2
                )
    assert value == pytest.approx(sum(parts), rel=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_training_the_text_encoder_moves_nothing_else_towards_the_same_loss(
    tiny_model, view, alpha: float
) -> None:
    options = {
        "prompts": 3,
        "alpha": alpha,
        "latents": "noise",
        "preserve": 1.0,
        "batch": 4,
        "drop": 0.5,
    }
    student = tiny_model.clone(encoders=True, train="none")
    student.encoders[0].requires_grad_(True)
    live = SKDCAG(train="text_encoder", **options).loss(student, tiny_model, view, 0)
    fixed = SKDCAG(**options).loss(tiny_model.clone(), tiny_model, view, 0)
    for step in range(3):
        assert float(live(step).detach()) == pytest.approx(float(fixed(step).detach()), rel=1e-4), (
            "it starts from the same model"
        )
    live(0).backward()
    assert any(
        p.grad is not None and p.grad.abs().max() > 0 for p in student.encoders[0].parameters()
    )
    assert all(
        p.grad is None
        for p in (
            *student.denoiser.parameters(),
            *tiny_model.encoders[0].parameters(),
            *tiny_model.denoiser.parameters(),
        )
    )
    before = weights(tiny_model)
    repaired = SKDCAG(train="text_encoder", steps=2, lr=1e-3, **options).apply(tiny_model, view, 0)
    changed = different(weights(repaired), before)
    assert changed
    assert all(k.startswith("text_encoder.") for k in changed)
    assert not different(weights(tiny_model), before), "the attacked model stays as it is"


def test_a_bias_that_trajectories_would_ignore_is_refused() -> None:
    with pytest.raises(UserError, match="trajectories have their own"):
        registered.build("skdcag", "shapes", {"latents": "trajectory", "bias": 2.0})


@pytest.mark.parametrize("name", ["target", "latents", "known"])
def test_a_value_that_is_none_of_the_known_ones_is_refused_when_it_is_given(name: str) -> None:
    with pytest.raises(UserError, match=rf"skdcag\.{name} is 'nonsense'; choose one of"):
        registered.build("skdcag", "shapes", {name: "nonsense"})


@pytest.mark.parametrize(
    ("known", "text"), [("all", "latte coffee"), ("first", "latte"), ("last", "coffee")]
)
def test_a_defender_may_know_a_part_of_the_trigger(pair, view, known: str, text: str) -> None:
    teacher, student = pair
    options = {"latents": "noise", "batch": 4, "prompts": 3}
    part = DefenderView(("trigger", "clean_prompts"), PROMPTS, trigger=Trigger(text, "inside"))
    ours = SKDCAG(known=known, **options).loss(student, teacher, view, 0)(0)
    assert float(ours.detach()) == float(
        SKDCAG(**options).loss(student, teacher, part, 0)(0).detach()
    )


def test_what_a_defender_cannot_have_is_a_user_error(tiny_model, view) -> None:
    with pytest.raises(UserError, match="one word"):
        SKDCAG(known="first", prompts=3).apply(
            tiny_model, DefenderView(("trigger", "clean_prompts"), PROMPTS, trigger=Trigger("x")), 0
        )
    with pytest.raises(UserError, match="prompts 400 is not between 1 and the 3"):
        SKDCAG(prompts=400).apply(tiny_model, view, 0)
