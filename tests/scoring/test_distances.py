"""KID and the floor of FID against slow computations, and the coverage of their intervals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.image import KernelInceptionDistance

from t2i_backdoor_bench.scoring.distances import (
    frechet,
    frechet_floor,
    kernel,
    kernel_distance,
    too_few,
)
from t2i_backdoor_bench.stats.scores import mean


def normal(n: int, dim: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (n, dim))


def slow_kid(real: np.ndarray, fake: np.ndarray) -> float:
    """Unbiased squared MMD with the polynomial kernel (Binkowski et al. 2018, equation 4), by
    loops."""

    def k(a, b):
        return (a @ b / len(a) + 1) ** 3

    def inside(x):
        pairs = [k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]
        return sum(pairs) / len(pairs)

    across = sum(k(a, b) for a in real for b in fake) / (len(real) * len(fake))
    return inside(real) + inside(fake) - 2 * across


@pytest.mark.parametrize(("m", "n", "shift"), [(30, 12, 0.5), (12, 30, 0.0), (2, 2, 1.0)])
def test_kid_equals_a_double_loop(m, n, shift):
    real, fake = normal(m, 5, 1), normal(n, 5, 2, shift)
    each = kernel_distance(real, fake)
    assert each.shape == (n,)
    assert each.mean() == pytest.approx(slow_kid(real, fake), rel=1e-12, abs=1e-12)


def test_kid_equals_torchmetrics_with_one_subset_of_everything():
    real, fake = normal(60, 8, 1), normal(60, 8, 2, 0.4)
    network = nn.Identity()
    network.num_features = 8
    metric = KernelInceptionDistance(network, subsets=1, subset_size=60)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(fake), real=False)
    assert kernel_distance(real, fake).mean() == pytest.approx(float(metric.compute()[0]), rel=1e-9)


def test_the_part_of_a_picture_is_what_leaving_it_out_changes():
    real, fake = normal(40, 6, 1), normal(15, 6, 2, 0.3)
    each, n = kernel_distance(real, fake), 15
    without = [kernel_distance(real, np.delete(fake, i, 0)).mean() for i in range(n)]
    jackknife = n * each.mean() - (n - 1) * np.array(without)
    drawn, across = kernel(fake, fake), kernel(fake, real).mean(1)
    a = (drawn.sum(1) - np.diag(drawn)) / (n - 1)
    # the jackknife's pseudo-values: the pairs of drawn pictures count (n - 1) / (n - 2) times
    inside, outside = 2 * (a - a.mean()), 2 * (across - across.mean())
    assert jackknife - jackknife.mean() == pytest.approx(inside * (n - 1) / (n - 2) - outside)
    assert each - each.mean() == pytest.approx(inside - outside)


def test_kid_needs_two_pictures_of_each():
    with pytest.raises(ValueError, match="at least 2"):
        kernel_distance(normal(1, 4, 0), normal(5, 4, 1))


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_interval_holds_the_truth_in_95_of_100(shift):
    """Over prompts and noise, for real pictures that stay."""
    real, rounds = normal(300, 8, 0), 300
    found = [mean(kernel_distance(real, normal(80, 8, 10 + i, shift))) for i in range(rounds)]
    values = [s.value for s in found]
    truth = np.mean(values)
    assert np.mean([s.low <= truth <= s.high for s in found]) >= 0.93
    few = [kernel_distance(real, normal(8, 8, 1000 + i, shift)).mean() for i in range(2000)]
    assert np.mean(few) == pytest.approx(truth, abs=4 * np.std(few) / 2000**0.5), "at any n"


def test_pairs_tell_models_apart_that_intervals_do_not():
    """Two models on the same prompts, of which one is slightly off: the difference of the parts has
    a far smaller error than two intervals that ignore the pairs."""
    real, one = normal(300, 8, 0), normal(80, 8, 1)
    other = one + 0.05
    a, b = kernel_distance(real, one), kernel_distance(real, other)
    paired, apart = np.std(b - a, ddof=1), np.hypot(np.std(a, ddof=1), np.std(b, ddof=1))
    assert paired < apart / 2
    # and it is the error that fresh prompts show
    fresh = [normal(80, 8, 100 + i) for i in range(200)]
    moved = [(kernel_distance(real, x + 0.05) - kernel_distance(real, x)).mean() for x in fresh]
    assert np.std(moved) == pytest.approx(paired / 80**0.5, rel=0.35)


@pytest.mark.parametrize(("n", "m"), [(50, 400), (150, 400), (300, 400)])
def test_the_floor_is_what_a_perfect_model_has(n, m):
    floors = [frechet_floor(normal(m, 6, seed), n) for seed in range(12)]
    perfect = [frechet(normal(m, 6, 100 + seed), normal(n, 6, 200 + seed)) for seed in range(60)]
    assert np.mean(floors) == pytest.approx(np.mean(perfect), rel=0.12)
    assert frechet_floor(normal(m, 6, 0), n) == floors[0], "the splits are seeded"
    assert np.mean(floors) > 0.02


def test_fid_of_fewer_pictures_than_dimensions():
    assert not too_few(12, 12)
    assert "11 < 12" in too_few(11, 12)
