"""Which parameters train, and several batches a step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from t2i_backdoor_bench.contract import UserError, registry
from t2i_backdoor_bench.running.method import Method
from t2i_backdoor_bench.training.loop import Optim, TrainingDiverged, fit, thinned
from t2i_backdoor_bench.training.parameters import choose_parameters


@pytest.mark.parametrize("train", ["full", "cross", "kv"])
def test_parameters_of_each_kind_of_training(tiny_model, train: str) -> None:
    unet = tiny_model.denoiser.requires_grad_(True)
    chosen = choose_parameters(tiny_model, train)
    names = {n for n, p in unet.named_parameters() if p.requires_grad}
    every = {n for n, _ in unet.named_parameters()}
    kv = {n for n in every if ".attn2.to_k." in n or ".attn2.to_v." in n}
    expected = {"full": every, "cross": {n for n in every if ".attn2." in n}, "kv": kv}[train]
    assert names == expected
    assert len(chosen) == len(expected) > 0


def test_an_unknown_part_is_an_error(tiny_model) -> None:
    with pytest.raises(ValueError, match="half"):
        choose_parameters(tiny_model, "half")


def test_a_record_keeps_a_short_curve():
    losses = [float(i) for i in range(250)]
    assert thinned(losses[:7]) == losses[:7]
    short = thinned(losses)
    assert len(short) == 100
    assert sum(short) / 100 == pytest.approx(np.mean(losses), rel=0.01)
    assert short == sorted(short)
    assert thinned([]) == []
    assert thinned([1 / 3]) == [0.3333]


def test_a_step_takes_the_mean_gradient_of_several_batches() -> None:
    """As one batch of all their rows: of a loss that is a mean over rows, and never the last batch
    alone."""
    rows = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    results = []
    for accumulate, batch in ((1, 6), (3, 2)):
        weight, seen = torch.nn.Parameter(torch.ones(3)), []

        def loss(step: int, weight=weight, seen=seen, batch=batch) -> torch.Tensor:
            seen.append(step)
            part = rows[step * batch :][:batch]
            return (part @ weight - 1).square().mean()

        fitted = fit(
            [weight], loss, Optim(steps=2, lr=0.1, batch=batch, accumulate=accumulate), "t"
        )
        assert seen == list(range(2 * accumulate))
        assert fitted.images == 12
        results.append((weight.detach(), fitted.losses))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-5)


def test_accumulation_diverges_where_one_of_its_batches_does() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(TrainingDiverged, match="nan at step 1"):
        fit(
            [weight],
            lambda step: weight.sum() * (float("nan") if step == 4 else 1),
            Optim(steps=2, lr=0.1, accumulate=3),
            "t",
        )


@pytest.mark.parametrize("name", ["skdcag", "finetune_reversal", "badt2i_pixel"])
def test_accumulation_is_an_option_that_leaves_stored_cells_as_they_are(name: str) -> None:
    kind = registry.attacks if name.startswith("badt2i") else registry.defenses
    kind.load()
    method = kind.build(name, "sd", {"accumulate": "4"})
    assert method.accumulate == 4
    plain = kind.build(name, "sd", {})
    assert "accumulate" not in Method(name, plain, kind.get(name)).key["options"]
    assert Method(name, method, kind.get(name)).key["options"]["accumulate"] == 4
    with pytest.raises(UserError, match="accumulate"):
        kind.build(name, "sd", {"accumulate": "0"})


@pytest.mark.parametrize("name", ["skdcag", "finetune_reversal", "esd_x"])
def test_a_part_that_no_method_trains_is_refused_before_anything_runs(name: str) -> None:
    registry.defenses.load()
    with pytest.raises(UserError, match=r"train is 'nonsense'.* full, cross, kv"):
        registry.defenses.build(name, "sd", {"train": "nonsense"})


def test_a_mask_of_the_denoiser_is_of_no_text_encoder() -> None:
    registry.defenses.load()
    registry.defenses.build("esd_x", "sd", {"train": "text_encoder"}).check_machine("cpu")
    with pytest.raises(UserError, match="train is 'text_encoder'"):
        registry.defenses.build("salun", "sd", {"train": "text_encoder"})
