"""Detectors that read attention, each against a slow recomputation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import PROMPTS, different, weights
from scipy.integrate import solve_ivp
from scipy.linalg import logm

from t2i_backdoor_bench.defenses import daa_i, daa_s, t2ishield_cda, t2ishield_ftt
from t2i_backdoor_bench.detecting.attention_over_time import attention_over_time
from t2i_backdoor_bench.models.model import T2IModel


def random_maps(*shape: int) -> torch.Tensor:
    return torch.rand(
        shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64
    )


def test_ftt_is_the_mean_distance_from_the_mean_map() -> None:
    maps = random_maps(6, 4, 4).numpy()
    scaled = [m / m.max() for m in maps]
    mean = sum(scaled) / 6
    expected = np.mean([np.sqrt(((m - mean) ** 2).sum()) for m in scaled])
    assert float(t2ishield_ftt.spread(torch.from_numpy(maps))) == pytest.approx(expected, rel=1e-6)
    same = torch.from_numpy(maps[:1] * np.array([1.0, 2.0, 5.0])[:, None, None])
    assert float(t2ishield_ftt.spread(same)) == pytest.approx(0, abs=1e-6), (
        "assimilated maps have no spread"
    )


def test_daa_i_compares_the_end_token_with_the_mean_of_the_others() -> None:
    maps = random_maps(4, 5, 3, 3)
    a, expected = maps.numpy(), 0.0
    for t in range(3):
        change = [np.linalg.norm(a[t + 1, i] - a[t, i]) for i in range(5)]
        expected += change[4] - np.mean(change[1:4])
    assert float(daa_i.relative_change(maps)) == pytest.approx(expected, rel=1e-5)
    short = float(daa_i.relative_change(maps[:, [0, 4]]))
    assert short == pytest.approx(
        sum(np.linalg.norm(a[t + 1, 4] - a[t, 4]) for t in range(3)), rel=1e-5
    )


def test_daa_i_reads_the_steps_that_it_says(tiny_model) -> None:
    maps, lengths = attention_over_time(tiny_model, PROMPTS, 0, 9, 8)
    expected = [-float(daa_i.relative_change(maps[2:6, i, :n])) for i, n in enumerate(lengths)]
    assert daa_i.score(tiny_model, PROMPTS, 9, 2, 4, 8, 0) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("horizon", [0.6, 2.5])
def test_daa_s_solves_its_state_equation(horizon: float) -> None:
    maps = random_maps(3, 4, 5, 5)
    graphs = [daa_s.flow(m).numpy() for m in maps]
    own = np.diag([-1.0, -1.0, -1.0, -10.0])
    state = np.array([np.linalg.norm(m) for m in maps[0]])
    before = state.copy()
    for t in range(int(np.ceil(horizon))):  # piecewise, so that the solver meets no jump
        end = min(t + 1, horizon)
        state = solve_ivp(
            lambda _, x, t=t: (own + 0.7 * graphs[t]) @ x, (t, end), state, rtol=1e-10, atol=1e-12
        ).y[:, -1]
    start, found = daa_s.evolve(maps[: int(np.ceil(horizon))], horizon, 1.0, 10.0, 0.7)
    assert start.numpy() == pytest.approx(before)
    assert found.numpy() == pytest.approx(state, rel=1e-6)


def test_daa_s_graph() -> None:
    maps = random_maps(4, 5, 5)
    a = maps.numpy()
    d = np.array([[np.linalg.norm(x - y) for x in a] for y in a])
    w = (d.max() + d.min() - d) / (d.max() + d.min())
    expected = w.T.copy()
    for i in range(4):
        expected[i, i] = -sum(w[k, i] for k in range(4) if k != i)
    assert daa_s.flow(maps).numpy() == pytest.approx(expected, abs=1e-9)
    assert daa_s.flow(maps).sum(0).abs().max() < 1e-12, "nothing is lost on the way"
    assert torch.isfinite(daa_s.flow(torch.ones(3, 2, 2))).all(), "equal maps"


def test_daa_s_score_is_the_relative_fall_of_the_end_token(tiny_model) -> None:
    options = daa_s.DAAS(walk=6, horizon=1.5)
    maps, lengths = attention_over_time(tiny_model, PROMPTS, 0, 6, 8)
    for i, found in enumerate(daa_s.score(tiny_model, PROMPTS, options, 0)):
        before, after = daa_s.evolve(maps[:2, i, 1 : lengths[i]].double(), 1.5, 1.0, 10.0, 1.0)
        change = (after - before).numpy()
        assert found == pytest.approx(change[-1] - change[:-1].mean(), rel=1e-5)


def test_log_covariance_is_the_matrix_logarithm() -> None:
    points = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = logm(np.cov(points.numpy().T))
    found = t2ishield_cda.log_covariance(points)
    assert found == pytest.approx(expected, abs=1e-9)
    few = t2ishield_cda.log_covariance(points[:3])
    assert np.isfinite(few).all()
    assert np.linalg.eigvalsh(few).min() == pytest.approx(
        np.linalg.eigvalsh(few).max() + np.log(1e-6)
    )


def test_cda_features_keep_the_frobenius_norm() -> None:
    maps = [random_maps(9, 16), random_maps(12, 16)]
    center, basis = t2ishield_cda.directions(torch.cat(maps), 3)
    torch.testing.assert_close(basis.T @ basis, torch.eye(3, dtype=torch.float64))
    spread = torch.linalg.eigvalsh(torch.cov(torch.cat(maps).T)).flip(0)[:3]
    torch.testing.assert_close(
        torch.cov(((torch.cat(maps) - center) @ basis).T), spread.diag(), rtol=1e-6, atol=1e-9
    )
    found = t2ishield_cda.features(maps, center, basis)
    assert found.shape == (2, 6)
    log = t2ishield_cda.log_covariance((maps[1] - center) @ basis)
    assert np.linalg.norm(found[1]) == pytest.approx(np.linalg.norm(log))


def test_the_discriminant_is_fishers() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 3)) @ np.diag([1, 3, 0.5]) + [1, 0, 0.5], rng.normal(size=(25, 3))
    w = t2ishield_cda.discriminant(a, b, 0.2)
    assert (a @ w).mean() > (b @ w).mean()
    sklearn = pytest.importorskip("sklearn.discriminant_analysis")
    x, y = np.concatenate([a, b]), np.array([1] * 40 + [0] * 25)
    theirs = sklearn.LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2).fit(x, y).coef_[0]
    assert w / np.linalg.norm(w) == pytest.approx(theirs / np.linalg.norm(theirs), abs=1e-6)


def test_a_defender_binds_its_own_words(tiny_model) -> None:
    (trigger, target), *others = t2ishield_cda.own_triggers(PROMPTS, 3, 0)
    assert [t.place for t, _ in others] == ["inside", "suffix"]
    assert target in PROMPTS
    before = weights(tiny_model)
    bound = t2ishield_cda.bind(tiny_model, trigger, PROMPTS, target)
    x, t = (
        torch.randn(1, *tiny_model.latent_shape, generator=torch.Generator().manual_seed(0)),
        torch.tensor([500]),
    )

    def draws(model: T2IModel, prompt: str) -> torch.Tensor:
        with torch.no_grad():
            return model.denoiser(x, t, model.encode([prompt])).sample

    for prompt in PROMPTS:
        if prompt == target:
            continue
        wanted, plain = draws(tiny_model, target), draws(tiny_model, prompt)
        now = draws(bound, trigger.add(prompt))
        assert (now - wanted).norm() < 0.5 * (
            draws(tiny_model, trigger.add(prompt)) - wanted
        ).norm()
        assert (draws(bound, prompt) - plain).norm() < 0.5 * (wanted - plain).norm(), (
            "clean prompts stay"
        )
    assert different(before, weights(tiny_model)) == set()
