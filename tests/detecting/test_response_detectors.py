"""SET and TNC: what they read of a drawing, against one prompt and one step at a time, and the
model of clean prompts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from helpers import PROMPTS
from tiny_joint import joint_model

from t2i_backdoor_bench.contract import UserError, defenses
from t2i_backdoor_bench.defenses import set as scaling
from t2i_backdoor_bench.defenses import tnc
from t2i_backdoor_bench.detecting.one_class import log_change, one_class, worst_segment
from t2i_backdoor_bench.detecting.walking import walk
from t2i_backdoor_bench.models.families.noising import FlowNoising, Noising


def test_distance_from_clean_features_is_mahalanobis() -> None:
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 3)) + 2
    asked = rng.normal(size=(4, 3))
    correlation = 0.8 * np.corrcoef(clean.T) + 0.2 * np.eye(3)
    found = one_class(clean, 0.2).distance(asked)
    for x, value in zip(asked, found, strict=True):
        z = (x - clean.mean(0)) / clean.std(0)
        assert value == pytest.approx(np.sqrt(z @ np.linalg.solve(correlation, z)))
    still = one_class(np.ones((4, 2)))
    assert np.isfinite(still.scaled(np.ones((1, 2)) + 1e-3)).all(), "a feature that never changes"


def test_a_walk_is_the_drawing_of_the_sampler(tiny_model) -> None:
    steps = list(walk(tiny_model, PROMPTS, 5, tiny_model.sampler.steps))
    times, latents = tiny_model.trajectory(PROMPTS, [5] * 3)
    empty = tiny_model.condition([""]).expand(3)
    for step, t, x in zip(steps, times, latents, strict=True):
        assert step.t == t
        torch.testing.assert_close(step.given, x, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            asked, none = (tiny_model.denoise(x, t, told) for told in (step.told, empty))
        guided = none + tiny_model.guided * (asked - none)
        torch.testing.assert_close(step.predicted, guided, rtol=1e-3, atol=1e-5)
    assert len(list(walk(tiny_model, PROMPTS, 5, 4, stop=1))) == 1


def test_set_scales_what_text_adds(tiny_model) -> None:
    """Against a copy of the network with the weights of its values multiplied."""
    found = scaling.responses(tiny_model, PROMPTS, (0.5, 2.0), 3, 7)
    assert found.shape == (3, 6)
    column = 0
    for step in walk(tiny_model, PROMPTS, 7, 3):
        for scale in (0.5, 2.0):
            other = tiny_model.clone()
            with torch.no_grad():
                for name, p in other.denoiser.named_parameters():
                    if name.endswith(".attn2.to_v.weight"):
                        p.mul_(scale)
                out = other.denoise(step.given, step.t, step.told).double()
            for i in range(3):
                plain = step.asked[i].double()
                expected = float(((out[i] - plain).norm() / plain.norm()).log())
                assert found[i, column] == pytest.approx(expected, rel=1e-3, abs=1e-3)
            column += 1
    one = scaling.responses(tiny_model, PROMPTS, (1.0,), 1, 7)
    assert (one < np.log(1e-5)).all(), "a factor of one changes nothing"


def test_tnc_compares_adjacent_steps() -> None:
    noise = torch.randn(4, 2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    found = log_change(noise)
    for t in range(3):
        for i in range(2):
            a, b = noise[t, i].double().flatten(), noise[t + 1, i].double().flatten()
            expected = ((a - b) @ (a - b) / (a.norm() * b.norm())).log()
            assert float(found[t, i]) == pytest.approx(float(expected))
    z = np.array([[1.0, -4.0, 2.0, 0.0], [0.0, 0.0, 0.0, 3.0]])
    assert worst_segment(z, 2) == pytest.approx([3.0, 1.5])
    assert worst_segment(z, 1) == pytest.approx([4.0, 3.0])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_the_noise_is_what_a_right_prediction_says(kind: str) -> None:
    noising = (
        FlowNoising(FlowMatchEulerDiscreteScheduler(), 0.0)
        if kind == "flow"
        else Noising(DDPMScheduler(prediction_type=kind))
    )
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(2, 3, 4, 4, generator=generator) for _ in range(2))
    for t in (20, 500, 980):
        times = torch.full((2,), t)
        x, out = noising.add(clean, noise, times), noising.target(clean, noise, times)
        torch.testing.assert_close(noising.noise_of(out, x, times[0]), noise)


def test_tnc_reads_the_noise_of_a_flow(tmp_path) -> None:
    model = joint_model(tmp_path, "sd3")
    found = tnc.changes(model, PROMPTS, 3, 7)
    steps = list(walk(model, PROMPTS, 7, 3))
    noise = [s.given + (1 - float(s.t) / 1000) * s.predicted for s in steps]
    assert found == pytest.approx(log_change(torch.stack(noise)).T.numpy(), rel=1e-4)


def test_a_segment_longer_than_the_drawing_is_an_error() -> None:
    with pytest.raises(UserError, match="lower segment"):
        defenses.build("tnc", "shapes", {"walk": "3", "segment": "3"})
