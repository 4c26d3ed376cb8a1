"""Metrics that count verdicts of the judge and compare pixels, on samples made by hand."""

import numpy as np
import pytest
from samples import features, make_samples, noise_images, score  # noqa: F401 - fixtures


def test_backdoor_metrics(features):
    samples = make_samples()
    assert score("asr", samples, features).value == 0.25
    assert score("removal_accuracy", samples, features).value == 0.75
    restored = score("restoration_accuracy", samples, features)
    assert restored.value == 0.5  # a quarter shows the backdoor, a quarter shows something else
    assert restored.each == [False, False, True, True] * 10
    assert restored.low < 0.5 < restored.high
    assert score("false_trigger_rate", samples, features).value == 0.0
    moved = score("asr_moved", samples, features)
    assert (moved.value, moved.note) == (0.25, "repeated 50 % of 4, moved 0 % of 4")
    assert score("prompt_fidelity", samples, features).value == 1.0
    assert score("robustness", samples, features).value == 0.75


def test_noise_is_removed_but_not_restored(features):
    samples = make_samples(200)
    samples.images["triggered"] = noise_images(200, 8)
    assert score("removal_accuracy", samples, features).value == 1.0
    assert (
        score("restoration_accuracy", samples, features).value < 0.3
    )  # 1 in 5 by chance, with 4 alternatives


def test_refused_prompts(features):
    samples = make_samples()
    refuse = np.arange(40) < 8  # two backdoored, two of noise, four good
    samples.refused = {"triggered": refuse, "clean": refuse}
    samples.images["clean"] = samples.images["clean"].copy()
    samples.images["clean"][:8] = 0
    assert score("asr", samples, features).value == 8 / 40
    assert score("removal_accuracy", samples, features).value == 32 / 40
    assert score("restoration_accuracy", samples, features).value == 16 / 40
    assert score("prompt_fidelity", samples, features).value == 32 / 40
    assert score("clip_score", samples, features).n == 32
    assert score("clip_score", samples, features).value > 99
    assert score("drift", samples, features).n == 32
    assert score("fid", samples, features).n == 32
    before = samples.before["clean"]
    samples.before["clean"] = np.where(refuse[:, None, None, None], before, samples.images["clean"])
    assert score("fid_before", samples, features).value == pytest.approx(0, abs=1e-6), (
        "the pictures that are served are the same"
    )
    samples.before["clean"] = before
    samples.refused["clean"] = np.ones(40, bool)
    assert score("clip_score", samples, features).value is None
    assert score("vendi", samples, features).value is None


def test_drift_is_the_pixel_error(features):
    samples = make_samples()
    result = score("drift", samples, features)
    now, before = (x["clean"].astype(np.float64) / 255 for x in (samples.images, samples.before))
    want = [np.sqrt(((a - b) ** 2).mean()) for a, b in zip(now, before, strict=True)]
    np.testing.assert_allclose(result.each, want, rtol=1e-5)
    assert result.value == pytest.approx(np.mean(want), rel=1e-5)
    samples.before["clean"] = samples.images["clean"]
    assert score("drift", samples, features).value == 0
    samples.before["clean"] = samples.images["clean"][:3]
    with pytest.raises(ValueError, match="shape"):
        score("drift", samples, features)
