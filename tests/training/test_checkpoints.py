"""What a checkpoint holds, and when it is none of this training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from in_memory import InMemory, Killed
from torch import Tensor, nn

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.checkpoints import (
    CarriedList,
    Checkpoint,
    Checkpoints,
    to_arrays,
    to_tensors,
)
from t2i_backdoor_bench.training.denoising import Trajectories
from t2i_backdoor_bench.training.gradient_ratio import GradientRatio
from t2i_backdoor_bench.training.loop import Optim, fit, step_rng
from t2i_backdoor_bench.training.parameters import Trainable

OPTIM = Optim(6, 1e-1)


def start() -> list[nn.Parameter]:
    return [nn.Parameter(torch.linspace(-1, 1, 6))]


def run(files: InMemory, die_at: int | None = None, optim: Optim = OPTIM) -> list[Tensor]:
    """Two trainings, one after the other, of losses that remember their last weights and take from
    the global random state; the second begins where the first ended."""
    checkpoints, (p,) = Checkpoints(files, every=0), start()
    total, remembered = 0, []
    for label in ("a", "b"):
        seen = [torch.zeros(6)]
        checkpoints.carry(CarriedList(seen, torch.device("cpu")))
        remembered.append(seen)

        def loss(step: int, seen: list[Tensor] = seen) -> Tensor:
            nonlocal total
            if total == die_at:
                raise Killed
            total += 1
            loss = (p - seen[-1] - torch.randn(6) - step_rng(0, step).random()).square().sum()
            seen[:] = [*seen[-2:], p.detach().clone()]
            return loss

        torch.manual_seed(5)
        fit(Trainable([p], checkpoints=checkpoints), loss, optim, label)
    return [p.detach(), *(t for seen in remembered for t in seen)]


def test_the_optimizer_goes_on_where_weights_lie_in_another_order() -> None:
    """The fused Adam takes weights and moments in the order of the memory."""

    def train(files: InMemory, die_at: int | None = None) -> Tensor:
        torch.manual_seed(0)
        net = nn.Conv2d(4, 4, 3, padding=1).to(memory_format=torch.channels_last)
        x = torch.randn(2, 4, 6, 6)

        def loss(step: int) -> Tensor:
            if step == die_at:
                raise Killed
            return (net(x) - step).square().mean()

        kept = Checkpoints(files, every=0)
        fit(Trainable([*net.parameters()], checkpoints=kept), loss, OPTIM, "conv")
        return net.weight.detach()

    whole, files = train(InMemory()), InMemory()
    with pytest.raises(Killed):
        train(files, 3)
    assert torch.equal(train(files), whole)


@pytest.mark.parametrize("kills", [[3], [1, 4], [5, 3], [8], [11]])
def test_two_trainings_go_on_where_they_were(kills: list[int]) -> None:
    whole, files = run(InMemory()), InMemory()
    for kill in kills:
        with pytest.raises(Killed):
            run(files, kill)
    done = len(files.steps)
    assert all(torch.equal(a, b) for a, b in zip(run(files), whole, strict=True))
    assert len(files.steps) == 12, "no step was taken twice"
    assert done == sum(kills)
    assert set(files.kept) == {"1-a", "2-b"}


def test_another_setting_label_or_shape_begins_anew() -> None:
    files = InMemory()
    with pytest.raises(Killed):
        run(files, 3)
    other = Optim(6, 2e-1)
    whole = run(InMemory(), optim=other)
    assert all(torch.equal(a, b) for a, b in zip(run(files, optim=other), whole, strict=True))
    p, seen = nn.Parameter(torch.zeros(2)), []
    fit(
        Trainable([p], checkpoints=Checkpoints(files, every=0)),
        lambda step: seen.append(step) or p.square().sum(),
        Optim(6, 1e-1),
        "a",
    )
    assert seen == list(range(6))


def test_a_training_that_went_on_tells_what_it_took_before() -> None:
    files = InMemory()
    with pytest.raises(Killed):
        run(files, 3)
    arrays, text = files.kept["1-a"]
    meta = json.loads(text)
    meta["state"]["seconds"] = 100.0
    files.kept["1-a"] = arrays, json.dumps(meta)
    checkpoints, (p,) = Checkpoints(files, every=0), start()
    checkpoints.carry(CarriedList([], torch.device("cpu")))
    fitted = fit(
        Trainable([p], checkpoints=checkpoints), lambda step: p.square().sum(), Optim(6, 1e-1), "a"
    )
    assert checkpoints.seconds == 100
    assert 100 < fitted.seconds < 200


def test_checkpoints_take_a_twentieth_of_the_time() -> None:
    place = Checkpoint("x", InMemory(), every=10.0)
    assert not place.due()
    place.last -= 10.1
    assert place.due()
    place.took = 1.0
    assert not place.due(), "a second of writing is paid by 20 of training"
    place.last -= 10
    assert place.due()
    assert Checkpoint("x", InMemory(), every=0.0, took=9.0).due()
    assert not Checkpoint("x", None, every=0.0).due()


def test_arrays_and_tensors_are_the_same_numbers() -> None:
    tensors = {
        "a": torch.randn(3, 2).to(torch.bfloat16),
        "b": torch.randn(2, 3).t(),
        "c": torch.tensor(7),
        "d": torch.arange(4, dtype=torch.uint8),
        "e": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "f": torch.randn(3, 1).expand(3, 4),
        "g": torch.randn(2, 3, 1, 1, dtype=torch.bfloat16).to(memory_format=torch.channels_last),
    }
    arrays, forms = to_arrays(tensors)
    back = to_tensors(arrays, forms)
    assert forms["a"] == {"bfloat16": [3, 2]}
    assert set(forms) == {"a", "b", "e", "g"}
    for name, tensor in tensors.items():
        assert name == "f" or back[name].stride() == tensor.stride(), "other last bits of sums"
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    file, (p,) = tmp_path / "x.ckpt", start()
    file.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(UserError, match=r"x\.ckpt is no checkpoint of this version.*remove it"):
        fit([p], lambda step: p.sum(), Optim(1, 1e-1), "x", file)


def test_a_checkpoint_that_lacks_something_is_refused_in_one_line() -> None:
    files = InMemory()
    with pytest.raises(Killed):
        run(files, 3)
    files.kept["1-a"][0].pop("params.0")
    with pytest.raises(UserError, match="the checkpoint of a is not what this program writes"):
        run(files)


def test_trajectories_and_ratios_are_those_of_earlier_weights(tiny_model) -> None:
    """Drawn again, they would be of the weights of now."""
    files = InMemory()
    tiny_model.checkpoints = Checkpoints(files)
    prompts = ["a red heart", "a blue star", "a green circle"]
    paths = Trajectories(tiny_model, prompts, 3, refresh=4)
    expected = paths(5, np.random.default_rng(0), 4)
    bias = tiny_model.denoiser.conv_out.bias
    ratio = GradientRatio(tiny_model, 8)
    bias.requires_grad_(True)
    ratio.measure(0, (2 * bias).sum(), bias.sum())
    place = tiny_model.checkpoints.next("x")
    place.save(6, {}, {})
    with torch.no_grad():
        bias += 1
    tiny_model.checkpoints = Checkpoints(files)
    again, other = Trajectories(tiny_model, prompts, 3, 4), GradientRatio(tiny_model, 8)
    place = tiny_model.checkpoints.next("x")
    place.restore_carried(place.load()[0])
    found = again(6, np.random.default_rng(0), 4)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert other.mean == ratio.mean == 2
    assert torch.equal(again.latents, paths.latents)
    fresh = Trajectories(tiny_model, prompts, 3, 4)
    fresh(6, np.random.default_rng(0), 4)
    assert not torch.equal(fresh.latents, paths.latents)
