"""The ratio of two gradients that a guided training reports, against those of each loss alone."""

from __future__ import annotations

import math

import pytest
import torch
from test_trained_defenses import double as double
from test_trained_defenses import gradient

from t2i_backdoor_bench.defenses.skdcag import SKDCAG
from t2i_backdoor_bench.training.gradient_ratio import GradientRatio

OPTIONS = {"prompts": 3, "latents": "noise", "steps": 4, "drop": 0.5}


@pytest.mark.parametrize("target", ["black", "gaussian", "random_words"])
@pytest.mark.parametrize("preserve", [0.0, 3.0])
def test_it_is_the_ratio_of_the_norms_of_both_gradients(
    double, view, target: str, preserve: float
) -> None:
    attacked, student = double
    student.denoiser.requires_grad_(True)
    alpha, batch = 0.3, 8 if preserve else 4
    found = SKDCAG(alpha=alpha, target=target, preserve=preserve, batch=batch, **OPTIONS).loss(
        student, attacked, view, 0
    )
    apart = [
        SKDCAG(alpha=a, target=target, preserve=0.0, batch=4, **OPTIONS).loss(
            student, attacked, view, 0
        )
        for a in (1.0, 1e-12)
    ]
    want = []
    for step in range(3):
        found(step).backward()
        guidance, distilled = (gradient(loss(step), student).norm() for loss in apart)
        want.append(float(alpha * guidance / ((1 - alpha) * distilled)))
    assert found.ratio.found == pytest.approx(want, rel=1e-6)
    assert found.ratio.mean == pytest.approx(sum(want) / 3, rel=1e-6)
    assert apart[0].ratio.mean is None, "there is nothing to compare guidance with"


def test_it_is_measured_at_eight_steps_at_most(tiny_model) -> None:
    assert GradientRatio(tiny_model, 3).at == {0, 1, 2}
    assert sorted(GradientRatio(tiny_model, 80).at) == list(range(0, 80, 10))
    assert len(GradientRatio(tiny_model, 7501).at) == 8


def test_measuring_leaves_the_graph_and_the_gradients(tiny_model) -> None:
    tiny_model.denoiser.requires_grad_(False)
    weight = tiny_model.denoiser.conv_in.weight.requires_grad_(True)
    first, second = (3 * weight.square()).sum() / 2, weight.sum()
    ratio = GradientRatio(tiny_model, 1)
    ratio.measure(0, first, second)
    ratio.measure(1, first, second)
    assert weight.grad is None
    (first + second).backward()
    norm = 3 * float(weight.detach().double().norm())
    assert ratio.found == pytest.approx([norm / math.sqrt(weight.numel())])


def test_a_training_reports_it_and_plain_distillation_does_not(tiny_model, view) -> None:
    small = {"prompts": 3, "steps": 2, "batch": 4, "refresh": 2}
    guided = SKDCAG(**small).apply(tiny_model, view, 0)
    assert guided.info["guidance_ratio"] > 0
    assert "guidance_ratio" not in SKDCAG(alpha=0.0, **small).apply(tiny_model, view, 0).info
    text = SKDCAG(train="text_encoder", **small).apply(tiny_model, view, 0)
    assert text.info["guidance_ratio"] > 0
    assert torch.isfinite(torch.tensor(text.info["guidance_ratio"]))
