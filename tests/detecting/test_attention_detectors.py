"""Detectors that read attention, each against a slow recomputation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import PROMPTS, different, weights
from scipy.integrate import solve_ivp
from scipy.linalg import logm

from t2i_backdoor_bench.contract import DefenderView, UserError
from t2i_backdoor_bench.defenses import daa_i, daa_s, t2ishield_cda, t2ishield_ftt
from t2i_backdoor_bench.detecting.attention_over_time import attention_over_time, of_side
from t2i_backdoor_bench.models.catalog import load_base
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.capture import Capture

COLORS = ("red", "blue", "green", "cyan")
SHAPES = ("star", "heart", "moon", "circle")


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


@pytest.mark.parametrize("stop", ["horizon", "solver"])
def test_daa_s_score_is_the_relative_fall_of_the_end_token(tiny_model, stop: str) -> None:
    options = daa_s.DAAS(walk=6, stop=stop, horizon=1.5)
    maps, lengths = attention_over_time(tiny_model, PROMPTS, 0, 6, 8)
    for i, found in enumerate(daa_s.score(tiny_model, PROMPTS, options, 0)):
        own = maps[:, i, 1 : lengths[i]].double()
        before, after = (
            daa_s.solve(own[:4], 1.0, 10.0, 1.0)
            if stop == "solver"
            else daa_s.evolve(own[:2], 1.5, 1.0, 10.0, 1.0)
        )
        change = (after - before).numpy()
        assert found == pytest.approx(change[-1] - change[:-1].mean(), rel=1e-5)


def test_daa_s_stops_behind_seven_steps_of_the_solver() -> None:
    """Against the released rule: the whole equation, of which the first seven steps are summed."""
    maps = random_maps(12, 6, 5, 5)
    graphs = [daa_s.flow(m).numpy() for m in maps]
    own = np.diag([-1.0] * 5 + [-10.0])
    start = np.array([np.linalg.norm(m) for m in maps[0]])
    whole = solve_ivp(lambda t, x: (own + graphs[min(int(t), 11)]) @ x, (0, 11), start)
    steps = np.diff(whole.y, axis=1)[:, :7]
    before, after = daa_s.solve(maps[:4], 1.0, 10.0, 1.0)
    assert (after - before).numpy() == pytest.approx(steps.sum(1), rel=1e-9)
    assert whole.t[7] < 1, "the second map is not read"


def test_daa_s_as_released_reads_one_step_of_the_drawing() -> None:
    maps = random_maps(4, 6, 5, 5)
    others = torch.cat([maps[:1], random_maps(3, 6, 5, 5)])
    for a, b in zip(
        daa_s.solve(maps, 1.0, 10.0, 1.0), daa_s.solve(others, 1.0, 10.0, 1.0), strict=True
    ):
        assert torch.equal(a, b), "what follows the first map has no part in the score"


def test_daa_s_is_a_static_number_on_the_embedded_base() -> None:
    """The score beside a number that has no time in it: the norms of the maps at the first step."""
    base = load_base("shapes")
    prompts = [f"a {c} {s}, {b} background" for c in COLORS for s in SHAPES for b in COLORS[:2]]
    maps, lengths = attention_over_time(base, prompts, 0, 50, 8, stop=1)
    norms = [torch.linalg.matrix_norm(maps[0, i, 1:n]).numpy() for i, n in enumerate(lengths)]
    static = [x[:-1].mean() - x[-1] for x in norms]
    for stop in ("solver", "horizon"):
        found = daa_s.score(base, prompts, daa_s.DAAS(stop=stop), 0)
        assert np.corrcoef(found, static)[0, 1] > 0.998, stop


def test_cda_features_are_the_log_covariance_in_a_prompts_own_directions() -> None:
    """Slowly, as released: project the token maps on their principal directions, take the matrix
    logarithm of the covariance there. It is diagonal."""
    maps = [random_maps(40, 16), random_maps(30, 16)]
    found = t2ishield_cda.features(maps, 5)
    for own, logs in zip(maps, found, strict=True):
        points = own.numpy() - own.numpy().mean(0)
        _, directions = np.linalg.eigh(points.T @ points)
        log = logm(np.cov(points @ directions[:, ::-1][:, :5], rowvar=False))
        assert log - np.diag(np.diag(log)) == pytest.approx(np.zeros((5, 5)), abs=1e-9)
        assert logs == pytest.approx(np.diag(log), abs=1e-9)
    few = t2ishield_cda.features([random_maps(3, 16)], 5)[0]
    assert few.min() == pytest.approx(few.max() + np.log(1e-6)), "nothing is minus infinity"


def test_cda_reads_all_tokens_behind_the_begin_token(tiny_model) -> None:
    found = t2ishield_cda.token_maps(tiny_model, PROMPTS, 2, 8, 0)
    context = tiny_model.tokenizer.model_max_length
    maps, lengths = attention_over_time(tiny_model, PROMPTS, 0, 2, 8, padding=True)
    assert maps.shape[2] == context > int(lengths.max())
    for i, own in enumerate(found):
        assert own.shape == (context - 1, 64), "padding has maps, the begin token has none"
        for token in (1, context - 1):
            m = maps[:, i, token].double().mean(0)
            assert own[token - 1].numpy() == pytest.approx(
                (255 * m / m.max()).floor().flatten().numpy() / 255
            )


def test_cda_refuses_more_directions_than_its_maps_have(tiny_model) -> None:
    view = DefenderView(("clean_prompts",), PROMPTS)
    detector = t2ishield_cda.T2IShieldCDA(prompts=3, components=60)
    with pytest.raises(UserError, match="components 60 is above 46"):
        detector.apply(tiny_model, view, 0)


def test_ftt_leaves_the_begin_token_out(tiny_model) -> None:
    maps, lengths = attention_over_time(tiny_model, PROMPTS, 0, 3, 8)
    for i, found in enumerate(t2ishield_ftt.score(tiny_model, PROMPTS, 3, 8, 0)):
        own = maps[:, i].mean(0)[1 : lengths[i]]
        assert found == pytest.approx(-float(t2ishield_ftt.spread(own)), rel=1e-5)
        assert found != pytest.approx(
            -float(t2ishield_ftt.spread(maps[:, i].mean(0)[: lengths[i]])), rel=1e-3
        )


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
    bound = t2ishield_cda.bind(tiny_model, trigger, PROMPTS, target, 0)
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


def test_larger_maps_are_averaged_down() -> None:
    maps = torch.arange(2 * 16.0).view(1, 2, 4, 4)
    (small,) = of_side([maps], 2)
    assert small[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert of_side([maps, maps[..., :2, :2]], 2)[0].shape[-1] == 2
    (odd,) = of_side([maps], 3)  # squares of two, which overlap
    assert odd[0, 0].tolist() == [[2.5, 3.5, 4.5], [6.5, 7.5, 8.5], [10.5, 11.5, 12.5]]
    with pytest.raises(UserError, match="this model has 2, 4: give a smaller size"):
        of_side([maps, maps[..., :2, :2]], 8)


@pytest.mark.parametrize(("latents", "size", "side"), [(16, 4, 8), (24, 8, 12)])
def test_a_model_without_the_side_is_read_at_the_next_one(
    tiny_model, latents: int, size: int, side: int
) -> None:
    """Like SDXL, whose sides are multiples of the one asked for, and Stable Diffusion 2.1 of 768
    px, whose sides are not; the middle block is not read."""
    tiny_model.denoiser.register_to_config(sample_size=latents)
    x = torch.randn((1, *tiny_model.latent_shape), generator=torch.Generator().manual_seed(0))
    maps, _ = attention_over_time(tiny_model, PROMPTS[:1], 0, 2, size, stop=1)
    with torch.no_grad(), Capture(tiny_model) as seen:
        tiny_model.denoise(
            x, tiny_model.drawing_steps(2).timesteps[0], tiny_model.condition(PROMPTS[:1])
        )
    layers = [
        F.adaptive_avg_pool2d(m, size)
        for n, m in zip(seen.probs, seen.layers(), strict=True)
        if n.startswith(("down", "up")) and m.shape[-1] == side
    ]
    expected = sum(layers) / len(layers)
    torch.testing.assert_close(maps[0], expected[:, : maps.shape[2]], rtol=1e-3, atol=1e-6)
