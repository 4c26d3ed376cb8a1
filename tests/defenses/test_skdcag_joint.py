"""SKD-CAG on joint attention: the trigger stands in the part of each encoder, and what text pays to
it can be a part of the loss."""

from __future__ import annotations

import pytest
import torch
from helpers import PROMPTS
from tiny_joint import joint_model

from t2i_backdoor_bench.contract import DefenderView, Trigger, UserError
from t2i_backdoor_bench.defenses.skdcag import SKDCAG
from t2i_backdoor_bench.training.alignment import align_states
from t2i_backdoor_bench.training.capture import Capture
from t2i_backdoor_bench.training.guided_distillation import GuidedDistillation, leak

TRIGGER = Trigger("latte coffee", "inside")
OPTIONS = {"prompts": 3, "steps": 2, "batch": 4, "latents": "noise", "preserve": 1.0}


@pytest.fixture(scope="module", params=["sd3", "flux_dev"])
def models(request, tmp_path_factory):
    """A backdoored model, and a student that has moved away from it."""
    teacher = joint_model(tmp_path_factory.mktemp(request.param), request.param)
    student = teacher.clone()
    with torch.no_grad():
        for p in student.denoiser.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return teacher, student


@pytest.fixture
def view() -> DefenderView:
    return DefenderView(("trigger", "clean_prompts"), PROMPTS, trigger=TRIGGER)


def test_the_tokens_of_both_parts_are_compared(models, view) -> None:
    teacher, student = models
    loss = GuidedDistillation(SKDCAG(**OPTIONS), student, teacher, view, 0)
    aligned, clip = loss.aligned, teacher.text_part.length
    parts = [aligned.trigger[:, :clip].any(1).all(), aligned.trigger[:, clip:].any(1).all()]
    assert parts == ([True, True] if teacher.family.name == "sd3" else [True, False])
    whole = align_states(teacher.text_parts, TRIGGER, PROMPTS)
    last = int((whole.trigger | whole.other).any(0).nonzero().max())
    assert whole.trigger.shape[1] > aligned.trigger.shape[1] > last, "cut behind the last token"


def test_what_other_text_pays_to_the_trigger_is_added(models, view) -> None:
    """Against loops over rows and tokens, in float64; padding asks, too."""
    teacher, student = models
    plain, weighted = (
        GuidedDistillation(SKDCAG(**OPTIONS, text_weight=w), student, teacher, view, 0)
        for w in (0.0, 5.0)
    )
    asked: list = []
    real, length = weighted.ask, weighted.aligned.source.shape[1]

    def ask(drawn, taught):
        asked.extend([drawn.rows.pick, real(drawn, taught)])
        return asked[1]

    weighted.ask = ask
    with torch.no_grad():
        before, after = plain(1), weighted(1)
        x, t, which = asked[1].student
        rows = weighted.rows
        with Capture(student, rows, length, text=True) as own:
            student.denoise(x, t, weighted.read(which))
    paid = own.between().double() / len(own)
    trigger = weighted.aligned.trigger[asked[0]]
    wanted = 0.0
    for r in range(rows):
        squares = [
            float(paid[r, i, j]) ** 2
            for i in range(paid.shape[1])
            for j in range(length)
            if trigger[r, j] and not (i < length and trigger[r, i])
        ]
        wanted += sum(squares) / len(squares) / rows
    row = weighted.aligned[asked[0]]
    assert float(leak(own, row)) == pytest.approx(wanted, rel=1e-4)
    assert wanted > 1e-6
    alpha = SKDCAG(**OPTIONS).alpha
    assert float(after - before) == pytest.approx(alpha * 5.0 * wanted, rel=2e-2)


def test_it_trains_the_text_side(models, view) -> None:
    teacher, _ = models
    repaired = SKDCAG(**OPTIONS, text_weight=1.0, lr=1e-2).apply(teacher, view, 0)
    pairs = zip(
        teacher.denoiser.named_parameters(), repaired.denoiser.named_parameters(), strict=True
    )
    moved = {n for (n, a), (_, b) in pairs if not torch.equal(a, b)}
    assert moved
    assert all(teacher.family.is_trained(n, "cross") for n in moved)
    assert repaired.info["guidance_ratio"] > 0


def test_what_text_pays_to_text_is_refused_where_there_is_no_joint_attention(
    models, tiny_model
) -> None:
    SKDCAG(text_weight=1.0).check_model(models[0])
    SKDCAG().check_model(tiny_model)
    with pytest.raises(UserError, match="no joint attention"):
        SKDCAG(text_weight=1.0).check_model(tiny_model)
