"""The released code of SKD-CAG: without its defects it is the method, and each of them alone is
another."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from helpers import PROMPTS, TRIGGER
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView
from t2i_backdoor_bench.defenses import skdcag_released as released_module
from t2i_backdoor_bench.defenses.skdcag import SKDCAG
from t2i_backdoor_bench.defenses.skdcag_released import SKDCAGReleased
from t2i_backdoor_bench.training.alignment import Alignment


def released_gradient(model, view, monkeypatch, **options: float) -> list[Tensor]:
    """The gradient of step 1 of the released variant."""
    found = []

    def fit(params, loss_fn, optim, label):
        loss_fn(0)
        loss = loss_fn(1)
        loss.backward()
        found.extend([p.grad.clone() for p in params])
        raise KeyboardInterrupt(float(loss))

    monkeypatch.setattr(released_module, "fit", fit)
    with pytest.raises(KeyboardInterrupt) as stopped:
        SKDCAGReleased(steps=2, prompts=3, **options).apply(model, view, 0)
    return [*found, torch.tensor(stopped.value.args[0])]


def test_released_gradient_is_that_of_the_prediction_alone(tiny_model, view, monkeypatch) -> None:
    *plain, loss = released_gradient(tiny_model, view, monkeypatch, alpha=0.0)
    *mixed, mixed_loss = released_gradient(
        tiny_model, view, monkeypatch, alpha=0.6, time_weight=False
    )
    *timed, timed_loss = released_gradient(
        tiny_model, view, monkeypatch, alpha=0.6, time_weight=True
    )
    for a, b, c in zip(plain, mixed, timed, strict=True):
        torch.testing.assert_close(b, 0.4 * a, rtol=1e-4, atol=1e-9)
        assert torch.equal(b, c), "the time weight of L_attn changes the number and trains nothing"
    assert float(mixed_loss) > 0.4 * float(loss) + 1e-4, "L_attn is in the number that is reported"
    assert timed_loss > mixed_loss, "divided by t/T"


DEFECTS = (
    "detached",
    "shared_maps",
    "inverse_time",
    "uniform_noise",
    "minmax_black",
    "fixed_span",
    "unpreserved",
)
NONE = dict.fromkeys((*DEFECTS, "stale_maps", "copied_average"), False)


@pytest.mark.parametrize("time_weight", [False, True])
def test_the_released_variant_without_its_defects_is_the_method(
    pair, view, time_weight: bool
) -> None:
    teacher, student = pair
    alone = DefenderView(("trigger", "clean_prompts"), PROMPTS[:1], trigger=TRIGGER)
    ours = SKDCAG(
        prompts=1,
        alpha=0.4,
        target="black",
        batch=2,
        latents="own",
        preserve=1.0,
        drop=0.0,
        time_weight=time_weight,
    )
    theirs = SKDCAGReleased(prompts=1, alpha=0.4, target="black", time_weight=time_weight, **NONE)
    for step in (0, 3):
        want = ours.loss(student, teacher, alone, 4)(step)
        assert float(theirs.loss(student, teacher, alone, 4)(step)) == pytest.approx(
            float(want.detach()), rel=1e-5
        )


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_defect_changes_the_loss_or_its_gradient(pair, view, defect: str) -> None:
    teacher, student = pair
    student.denoiser.requires_grad_(True)
    found = []
    options = {
        "alpha": 0.5,
        "time_weight": True,
        "target": "black" if defect == "minmax_black" else "gaussian",
    }
    for on in (False, True):
        student.denoiser.zero_grad()
        loss = SKDCAGReleased(prompts=3, **options, **{**NONE, defect: on}).loss(
            student, teacher, view, 4
        )(2)
        loss.backward()
        key = student.denoiser.get_submodule(
            "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
        )
        found.append((float(loss.detach()), key.weight.grad.clone()))
    assert (
        found[0][0] == pytest.approx(found[1][0])
        if defect == "detached"
        else abs(found[0][0] - found[1][0]) > 1e-6
    )
    assert not torch.allclose(found[0][1], found[1][1], rtol=1e-3)


def test_the_average_follows_every_step_and_overwrites_the_student_each_epoch(
    tiny_model, view, monkeypatch
) -> None:
    """Nine steps, each of which adds its number, against the rule of the released code: a decay
    that is the least of (1 + k) / (10 + k) and what it was."""
    steps, found = 9, []

    def fit(params, loss_fn, optim, label):
        for step in range(steps):
            loss_fn(step)
            found.append(float(params[0].flatten()[0]))
            with torch.no_grad():
                params[0].add_(step + 1)
        return SimpleNamespace(info={})

    monkeypatch.setattr(released_module, "fit", fit)
    repaired = SKDCAGReleased(steps=steps, prompts=3).apply(tiny_model, view, 0)
    first = next(tiny_model.denoiser.parameters())
    own = average = float(first.flatten()[0])
    weight = 0.9999
    for step in range(steps):
        assert found[step] == pytest.approx(own, rel=1e-4)
        own += step + 1
        weight = 1 - min(weight, (2 + step) / (11 + step))
        average -= weight * (average - own)
        if (step + 1) % 3 == 0:
            own = average
    assert float(next(repaired.denoiser.parameters()).flatten()[0]) == pytest.approx(own, rel=1e-4)


@pytest.mark.parametrize("shared", [False, True])
def test_a_fixed_span_compares_each_token_with_that_two_places_before(shared: bool) -> None:
    """Tokens of "new trigger a red heart" behind the start token, and a trigger of three tokens."""
    method = SKDCAGReleased(shared_maps=shared)
    for trigger, clean in ((2, 3), (3, 3), (1, 3)):
        row = Alignment(*(torch.zeros(1, 10, dtype=kind) for kind in (bool, bool, int)))
        row.trigger[0, 1 : 1 + trigger] = True
        row.other[0, 1 + trigger : 1 + trigger + clean] = True
        row.source[0, 1 + trigger : 1 + trigger + clean] = torch.arange(1, 1 + clean)
        found = method.row(row, 0)
        ours = list(range(1, 1 + trigger + clean))[2:]  # the student's, without two
        theirs = list(range(1, 1 + clean))
        pairs = list(zip(ours, theirs, strict=False))
        assert found.trigger[0].nonzero().flatten().tolist() == [1, 2]
        places = found.other[0].nonzero().flatten().tolist()
        assert [(p, int(found.source[0, p])) for p in places] == pairs


def test_stale_maps_are_those_of_the_step_before(pair, view) -> None:
    teacher, student = pair
    student.denoiser.requires_grad_(True)
    options = {"alpha": 1.0, "target": "black", **NONE, "unpreserved": True}
    stale, fresh = (
        SKDCAGReleased(prompts=3, **{**options, "stale_maps": on}).loss(student, teacher, view, 4)
        for on in (True, False)
    )
    first, second, other = float(stale(0).detach()), stale(1), float(fresh(1).detach())
    assert first == pytest.approx(float(fresh(0).detach()))
    second.backward()
    assert all(p.grad is None or not p.grad.any() for p in student.denoiser.parameters()), (
        "a map of an earlier step has no gradient"
    )
    assert abs(float(second.detach()) - other) > 1e-7
    assert stale(1).item() == pytest.approx(other), "after the same step, the maps are the same"


def test_mixing_in_attention_changes_the_gradient(pair, view) -> None:
    teacher, student = pair
    grads = {}
    for alpha in (0.0, 0.6):
        student.denoiser.requires_grad_(True).zero_grad()
        SKDCAG(prompts=3, alpha=alpha, latents="noise", preserve=0.0, batch=4).loss(
            student, teacher, view, 0
        )(1).backward()
        grads[alpha] = {
            n: p.grad.clone() for n, p in student.denoiser.named_parameters() if ".attn2.to_k" in n
        }
    assert all(not torch.allclose(0.4 * g, grads[0.6][n], rtol=1e-2) for n, g in grads[0.0].items())
