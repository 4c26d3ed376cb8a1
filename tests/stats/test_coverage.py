"""How often the "95 %" intervals contain the truth, by simulation: at least 93 % of the time, where
intervals that forget what the numbers share do not.

Each simulation is seeded. With 600 rounds the share has a standard error of 0.9 points at 95 %.
"""

import numpy as np
import pytest
from scipy import stats as reference
from scipy.optimize import brentq
from scipy.special import expit

from t2i_backdoor_bench.stats import estimates as stats

ROUNDS = 600
LEAST = 0.93


def rate(center, spread):
    """Mean of expit over a normal distribution (Gauss-Hermite quadrature)."""
    x, weights = np.polynomial.hermite_e.hermegauss(61)
    return float(weights @ expit(center + spread * x) / weights.sum())


def covered(found, truth):
    """Share of the estimates whose interval contains the truth, and the mean width."""
    ends = np.array([(low, high) for _, low, high in found])
    inside = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
    return inside.mean(), float(np.diff(ends).mean())


def seed_rates(rng, p, spread, seeds):
    """Success rates (ROUNDS, seeds) of trainings, from a beta distribution of mean p; `spread` is
    the correlation of two pictures of one training."""
    if spread == 0:
        return np.full((ROUNDS, seeds), p)
    strength = 1 / spread - 1
    return rng.beta(p * strength, (1 - p) * strength, (ROUNDS, seeds))


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("p", [0.5, 0.9, 0.98, 0.995])
def test_a_share_over_seeds(seeds, p):
    """Spreads as in the reference run: of nine in ten of its rows at most 0.03."""
    rng = np.random.default_rng(seeds)
    for n, spread in ((100, 0), (100, 0.01), (100, 0.03), (200, 0.03)):
        rates = seed_rates(rng, p, spread, seeds)
        flags = rng.random((ROUNDS, seeds, n)) < rates[:, :, None]
        share, width = covered([stats.pool_proportion(round_) for round_ in flags], p)
        assert share >= LEAST
        if seeds > 2:
            assert width < (0.5 if seeds == 3 else 0.25), "useful"


def test_a_share_over_seeds_that_differ_a_lot():
    """Here the normal quantile is not enough: at 0.5 the trainings differ by 16 points."""
    for seeds, p in ((3, 0.5), (5, 0.5), (3, 0.8), (5, 0.8)):
        rng = np.random.default_rng(seeds)
        flags = rng.random((ROUNDS, seeds, 100)) < seed_rates(rng, p, 0.1, seeds)[:, :, None]
        assert covered([stats.pool_proportion(round_) for round_ in flags], p)[0] >= LEAST
        means = flags.mean(2)
        effective = means.mean(1) * (1 - means.mean(1)) / (means.var(1, ddof=1) / seeds + 1e-9)
        effective = np.minimum(effective, seeds * 100)
        plain = [
            (m, *stats.wilson(m * k, k)) for m, k in zip(means.mean(1), effective, strict=True)
        ]
        assert covered(plain, p)[0] < 0.91


def test_what_few_seeds_cannot_know():
    """A standard deviation of 1 on the logit scale: 92 %. A training in twenty that fails: no
    interval of five seeds that succeed contains the mean."""
    rng, truth = np.random.default_rng(0), 0.9
    center = brentq(lambda x: rate(x, 1.0) - truth, 0, 5)
    rates = expit(center + rng.normal(size=(3 * ROUNDS, 5)))
    flags = rng.random((3 * ROUNDS, 5, 200)) < rates[:, :, None]
    assert 0.905 <= covered([stats.pool_proportion(v) for v in flags], truth)[0] <= 0.935
    fails = rng.random((ROUNDS, 5)) < 0.05
    flags = rng.random((ROUNDS, 5, 200)) < np.where(fails, 0.3, 0.99)[:, :, None]
    found = [stats.pool_proportion(v) for v in flags]
    assert covered(found, 0.95 * 0.99 + 0.05 * 0.3)[0] < 0.6


def test_a_mean_over_seeds():
    rng = np.random.default_rng(0)
    for seeds, spread in ((2, 0.2), (3, 0.0), (3, 0.2), (5, 1.0)):
        values = rng.normal(size=(ROUNDS, seeds, 50)) + spread * rng.normal(size=(ROUNDS, seeds, 1))
        assert covered([stats.pool_mean(round_) for round_ in values], 0)[0] >= LEAST
        numbers = [stats.pool_values(round_) for round_ in values.mean(2)]
        assert covered(numbers, 0)[0] >= LEAST
    pictures = [stats.bootstrap_mean(round_.ravel(), rounds=200) for round_ in values]
    assert covered(pictures, 0)[0] < 0.9


def crossed(rng, attacks, seeds, n, center, spreads):
    """Pictures (ROUNDS, attacks, seeds, n) with effects, on the logit scale, of attack, seed,
    attack x seed and prompt; the attacks of one seed draw the same prompts. And the true mean."""
    shapes = ((attacks, 1, 1), (1, seeds, 1), (attacks, seeds, 1), (1, seeds, n))
    effects = [
        s * rng.normal(size=(ROUNDS, *shape)) for s, shape in zip(spreads, shapes, strict=True)
    ]
    values = rng.random((ROUNDS, attacks, seeds, n)) < expit(center + sum(effects))
    return values, rate(center, float(np.linalg.norm(spreads)))


def nested(table):
    return {f"a{i}": dict(enumerate(row)) for i, row in enumerate(table)}


@pytest.mark.parametrize(("attacks", "seeds"), [(5, 3), (5, 5), (7, 3), (7, 5)])
def test_a_mean_over_attacks(attacks, seeds):
    """Attacks that differ a little and by a standard deviation of 25 points, and trainings that
    differ a little and much."""
    rng = np.random.default_rng(attacks + seeds)
    for center, spreads in (
        (2.5, (0.3, 0.3, 0.3, 0.5)),
        (1.0, (1.0, 0.3, 0.5, 1.0)),
        (2.5, (0.5, 0.5, 0.5, 1.0)),
        (1.0, (1.5, 0.5, 1.0, 1.0)),
    ):
        values, truth = crossed(rng, attacks, seeds, 60, center, spreads)
        found = [stats.mean_over_attacks(nested(round_)) for round_ in values]
        assert covered(found, truth)[0] >= LEAST
        rows = values.mean(3)  # independent rows: what a mean of table rows takes them for
        error = np.sqrt((rows.var(2, ddof=1) / seeds).sum(1)) / attacks
        mean = rows.mean((1, 2))
        plain = zip(mean, mean - 1.96 * error, mean + 1.96 * error, strict=True)
        assert covered(list(plain), truth)[0] < 0.85


def test_what_few_attacks_cannot_know():
    """Nearly all attacks are near 100 %, and a rare one is not: 88 %."""
    rng = np.random.default_rng(0)
    values, truth = crossed(rng, 7, 3, 60, 4.0, (2.5, 0.5, 0.5, 1.0))
    found = [stats.mean_over_attacks(nested(round_)) for round_ in values]
    assert 0.85 <= covered(found, truth)[0] <= 0.91


def test_a_mean_over_these_attacks():
    """The same attacks, trained anew on new prompts."""
    rng = np.random.default_rng(0)
    attack = np.array([-1.0, 0.0, 1.0, 2.0])[:, None, None]
    for seeds, spread in ((3, 0.2), (5, 0.5)):
        effects = spread * rng.normal(size=(ROUNDS, 1, seeds, 1))
        effects = effects + rng.normal(size=(ROUNDS, 1, seeds, 60))
        values = rng.random((ROUNDS, 4, seeds, 60)) < expit(1 + attack + effects)
        truth = np.mean([rate(1 + a, np.hypot(spread, 1)) for a in attack.ravel()])
        found = [stats.mean_over_attacks(nested(v), attacks_fixed=True) for v in values]
        assert covered(found, truth)[0] >= LEAST
        wide = [stats.mean_over_attacks(nested(v)) for v in values]
        assert covered(wide, truth)[1] > 1.5 * covered(found, truth)[1]


@pytest.mark.parametrize(("attacks", "seeds"), [(5, 3), (7, 5), (7, 1)])
def test_numbers_that_are_one_a_cell(attacks, seeds):
    """Such as FID. With one seed what all attacks share in it is left out, here nothing."""
    rng = np.random.default_rng(seeds)
    values = 0.5 * rng.normal(size=(ROUNDS, attacks, 1)) + 0.3 * rng.normal(
        size=(ROUNDS, attacks, seeds)
    )
    values = values + (0.4 * rng.normal(size=(ROUNDS, 1, seeds)) if seeds > 1 else 0)
    assert covered([stats.mean_over_attacks(nested(v)) for v in values], 0)[0] >= LEAST


def test_a_paired_difference_rejects_as_rarely_as_it_says():
    """No difference on average, but each training moves both defenses apart: McNemar's test of all
    pictures takes that for a difference."""
    rng = np.random.default_rng(0)
    effect = 0.4 * rng.normal(size=(2, ROUNDS, 3, 1))
    a, b = rng.random((2, ROUNDS, 3, 100)) < expit(1.5 + effect)
    pairs = list(zip(a, b, strict=True))
    found = [
        stats.paired_difference({"x": dict(enumerate(x))}, {"x": dict(enumerate(y))})
        for x, y in pairs
    ]
    assert np.mean([d.p < 0.05 for d in found]) <= 1 - LEAST
    assert np.mean([stats.mcnemar(x.ravel(), y.ravel()) < 0.05 for x, y in pairs]) > 0.2
    assert covered([d[:3] for d in found], 0)[0] >= LEAST


def test_an_area_under_the_curve():
    """Normal scores, scores that are flags, and a few positives that a detector never sees."""
    rng, n = np.random.default_rng(0), 60
    for area in (0.5, 0.8, 0.95, 0.99):
        shift = reference.norm.ppf(area) * np.sqrt(2)
        cases = [(rng.normal(size=(ROUNDS, n)), shift + rng.normal(size=(ROUNDS, n)), area)]
        flags = rng.random((ROUNDS, n)) < 0.05, rng.random((ROUNDS, n)) < area
        cases.append((*(f.astype(float) for f in flags), 0.5 + (area - 0.05) / 2))
        for negative, positive, truth in cases:
            pairs = zip(negative, positive, strict=True)
            assert covered([stats.auroc_estimate(x, y) for x, y in pairs], truth)[0] >= LEAST


def test_f1_of_flags():
    rng, n = np.random.default_rng(0), 60
    for false, true in ((0.0, 0.9), (0.02, 0.98), (0.1, 0.6), (0.5, 0.5)):
        flags = rng.random((ROUNDS, n)) < false, rng.random((ROUNDS, n)) < true
        truth = 2 * true / (1 + true + false)
        pairs = zip(*flags, strict=True)
        assert covered([stats.f1_estimate(x, y) for x, y in pairs], truth)[0] >= LEAST
