"""The training loop: resuming, divergence, rates, averages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from t2i_backdoor_bench.models.checkpoints import one_file
from t2i_backdoor_bench.training.loop import Optim, TrainingDiverged, fit, step_generator, step_rng
from t2i_backdoor_bench.training.parameters import Trainable, together


class Killed(Exception):
    pass


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))


def objective(net: nn.Module, die_at: int | None = None, seen: list[int] | None = None):
    def loss_fn(step: int) -> Tensor:
        if step == die_at:
            raise Killed
        if seen is not None:
            seen.append(step)
        x = torch.randn(16, 5, generator=step_generator(3, step))
        return (net(x) - x.sum(1, keepdim=True)).pow(2).mean()

    return loss_fn


def weights(net: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in net.parameters()]


def saved(file: Path) -> tuple[dict[str, Tensor], dict]:
    found = one_file(file).load()
    assert found is not None
    return found


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("kills", [[4], [1, 7], [9]])
def test_a_killed_training_resumes_to_the_same_bits(
    tmp_path: Path, ema: float, kills: list[int]
) -> None:
    optim = Optim(steps=10, lr=1e-2, warmup=3, decay=0.4, ema=ema)
    whole = network()
    unbroken = fit(whole.parameters(), objective(whole), optim, "whole")
    file = tmp_path / "deep" / "state.pt"
    for kill in kills:
        net = network()
        with pytest.raises(Killed):
            fit(net.parameters(), objective(net, die_at=kill), optim, "broken", file, save_every=0)
    net, seen = network(), []
    fitted = fit(net.parameters(), objective(net, seen=seen), optim, "resumed", file, save_every=0)
    assert seen == list(range(kills[-1], 10)), "only the steps that are left"
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(net), strict=True))
    assert fitted.losses == unbroken.losses
    assert len(fitted.losses) == 10
    again, seen = network(), []
    fit(again.parameters(), objective(again, seen=seen), optim, "done", file)
    assert seen == []
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again), strict=True))


def test_a_step_is_not_saved_before_its_time_but_the_end_is(tmp_path: Path) -> None:
    file, net = tmp_path / "state.pt", network()
    with pytest.raises(Killed):
        fit(net.parameters(), objective(net, die_at=3), Optim(5, 1e-2), "x", file, save_every=1e6)
    assert not file.exists()
    fit(net.parameters(), objective(net), Optim(5, 1e-2), "x", file, save_every=1e6)
    assert saved(file)[1]["step"] == 5
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"], "no partial file stays"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_divergence_is_said_and_the_last_good_state_stays(tmp_path: Path, bad: float) -> None:
    net, file = network(), tmp_path / "state.pt"
    good = objective(net)

    def loss_fn(step: int) -> Tensor:
        return good(step) * (bad if step == 3 else 1)

    with pytest.raises(TrainingDiverged, match=r"thing: the loss is (nan|inf) at step 3.*0\.01"):
        fit(net.parameters(), loss_fn, Optim(6, 1e-2), "thing", file, save_every=0)
    tensors, meta = saved(file)
    assert meta["step"] == 3
    kept = [v for k, v in tensors.items() if k.startswith("params.")]
    assert len(kept) == len([*net.parameters()])
    assert all(torch.isfinite(p).all() for p in [*kept, *net.parameters()])


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(tmp_path) -> None:
    net, file = network(), tmp_path / "x.ckpt"
    good = objective(net)

    def corner(step: int) -> Tensor:
        """The loss stays finite, and its gradient is 0/0 from step 2 on."""
        distance = sum((p - p.detach()).pow(2).sum() for p in net.parameters()).sqrt()
        return good(step) + (distance if step >= 2 else 0)

    with pytest.raises(TrainingDiverged, match=r"thing: the gradient is nan at step 2"):
        fit(net.parameters(), corner, Optim(6, 1e-2), "thing", file, save_every=0)
    assert saved(file)[1]["step"] == 2
    assert all(torch.isfinite(p).all() for p in net.parameters())


def test_average_and_schedule_equal_a_hand_written_loop() -> None:
    optim = Optim(
        steps=12,
        lr=3e-2,
        warmup=2,
        decay=0.5,
        ema=0.6,
        weight_decay=0.1,
        betas=(0.8, 0.95),
        clip=0.5,
    )
    net, by_hand = network(), network()
    fitted = fit(net.parameters(), objective(net), optim, "x")
    params = list(by_hand.parameters())
    first, second = [torch.zeros_like(p) for p in params], [torch.zeros_like(p) for p in params]
    average = weights(by_hand)
    loss_fn, losses = objective(by_hand), []
    for step in range(12):
        rate = 3e-2 * min(1, (step + 1) / 3) * min(1, (12 - step) / 6)
        loss = loss_fn(step)
        losses.append(float(loss))
        grads = torch.autograd.grad(loss, params)
        norm = torch.sqrt(sum(g.pow(2).sum() for g in grads))
        decay = 0.0 if step == 0 else min(0.6, (1 + step) / (10 + step))
        with torch.no_grad():
            for p, g, m, v, a in zip(params, grads, first, second, average, strict=True):
                g = g * min(1.0, 0.5 / (float(norm) + 1e-6))
                m.mul_(0.8).add_(0.2 * g)
                v.mul_(0.95).add_(0.05 * g * g)
                p.mul_(1 - rate * 0.1)
                p.sub_(
                    rate
                    * (m / (1 - 0.8 ** (step + 1)))
                    / ((v / (1 - 0.95 ** (step + 1))).sqrt() + 1e-8)
                )
                a.mul_(decay).add_((1 - decay) * p)
    for ours, expected, last in zip(weights(net), average, params, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(expected, last, atol=1e-3), (
            "the average must differ from the last weights for this to test it"
        )
    assert fitted.losses == pytest.approx(losses, rel=1e-4)


def test_rates() -> None:
    plain = Optim(10, 1e-3)
    assert [plain.rate(s) for s in range(10)] == [1.0] * 10
    warm = Optim(10, 1e-3, warmup=4)
    assert [warm.rate(s) for s in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    falling = Optim(10, 1e-3, decay=0.5)
    assert [falling.rate(s) for s in range(10)] == pytest.approx(
        [1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]
    )
    dropped = Optim(6, 1e-3, milestone=4, gamma=0.5)
    assert [dropped.rate(s) for s in range(6)] == [1, 1, 1, 1, 0.5, 0.5]


@pytest.mark.parametrize("steps", [1, 7, 40])
def test_a_cosine_is_that_of_diffusers(steps: int) -> None:
    from diffusers.optimization import get_cosine_schedule_with_warmup

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, 0, steps).lr_lambdas[0]
    ours = Optim(steps, 1e-3, decay=1.0, cosine=True)
    assert [ours.rate(s) for s in range(steps)] == pytest.approx([theirs(s) for s in range(steps)])


def test_a_parameter_with_a_rate_learns_at_that_multiple_of_the_rate() -> None:
    slow, fast = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    fit(
        together([Trainable([fast]), Trainable([slow])], [1.0, 0.25]),
        lambda step: (fast + slow).sum(),
        Optim(2, 1e-2, decay=1.0, weight_decay=0),
        "x",
    )
    torch.testing.assert_close(
        fast.detach(), torch.full((3,), -1.5e-2), rtol=1e-4, atol=0
    )  # Adam goes lr a step; the rate: 1, 1/2
    torch.testing.assert_close(slow.detach(), fast.detach() / 4, rtol=1e-4, atol=0)


def test_what_it_reports(tmp_path: Path) -> None:
    net = network()
    fitted = fit(net[0].parameters(), objective(net), Optim(4, 1e-3, batch=16), "x")
    assert (fitted.steps, fitted.parameters, fitted.images, len(fitted.losses)) == (4, 48, 64, 4)
    assert fitted.seconds > 0


def test_only_the_given_parameters_move() -> None:
    net = network()
    before = weights(net)
    fit(net[2].parameters(), objective(net), Optim(3, 1e-2), "x")
    changed = [not torch.equal(a, b) for a, b in zip(before, weights(net), strict=True)]
    assert changed == [False, False, True, True]


@pytest.mark.parametrize("frozen", [True, False])
def test_no_parameter_is_an_error(frozen: bool) -> None:
    params = network().requires_grad_(False).parameters() if frozen else []
    with pytest.raises(ValueError, match="thing: no parameter to train"):
        fit(params, lambda step: torch.zeros(()), Optim(1, 1e-3), "thing")


def test_step_draws_depend_on_seed_and_step_alone() -> None:
    def noise(seed: int, step: int) -> list[float]:
        return torch.randn(4, generator=step_generator(seed, step)).tolist()

    assert noise(1, 2) == noise(1, 2)
    assert len({tuple(noise(s, k)) for s in range(4) for k in range(4)}) == 16
    assert step_rng(1, 2).integers(10**9) == step_rng(1, 2).integers(10**9)
    assert len({int(step_rng(s, k).integers(10**9)) for s in range(4) for k in range(4)}) == 16
    assert abs(np.corrcoef(noise(0, 1) + noise(0, 2), noise(1, 0) + noise(2, 0))[0, 1]) < 0.999
