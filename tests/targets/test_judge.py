"""The threshold of a judge and its error rates."""

import numpy as np
import pytest
from judging import RNG, FakeEncoder, backdoor, images, prompts, scenes, show  # noqa: F401 - fixtures

from t2i_backdoor_bench.contract import Backdoor, Target, Trigger
from t2i_backdoor_bench.targets import make_judge
from t2i_backdoor_bench.targets.judge import choose_threshold
from t2i_backdoor_bench.targets.pixels import chroma


def test_threshold_is_the_midpoint_when_separated():
    clean, shown = np.linspace(0, 1, 1001), np.linspace(3, 4, 1001)
    assert choose_threshold(clean, shown, below=False) == pytest.approx((0.995 + 3.005) / 2)
    assert choose_threshold(-clean, -shown, below=True) == pytest.approx(-(0.995 + 3.005) / 2)


def test_threshold_maximizes_youden_when_not():
    rng = RNG(0)
    clean, shown = rng.normal(0, 1, 300), rng.normal(1.5, 1, 300)
    cut = choose_threshold(clean, shown, below=False)
    youden = [(shown > t).mean() - (clean > t).mean() for t in np.linspace(-4, 6, 4001)]
    assert (shown > cut).mean() - (clean > cut).mean() == pytest.approx(max(youden), abs=1e-9)


def test_rates_are_not_measured_on_the_images_that_chose_the_threshold(images, prompts):
    target = Target("style", style="black and white")
    judge = make_judge(Backdoor(Trigger(), target), FakeEncoder())
    clean, positives = images[:40].copy(), show(images[:40], target)
    clean[1::2] = positives[
        1::2
    ]  # the judge is wrong on every odd clean image, and only these are measured
    report = judge.calibrate(clean, prompts[:40])
    assert (report.false_positive_rate, report.true_positive_rate, report.n) == (1.0, 1.0, 20)
    # chosen on the even ones alone, where the sides do not cross
    assert report.threshold == choose_threshold(
        chroma(clean[::2]), chroma(positives[::2]), below=True
    )


def test_judge_checks_lengths(images, prompts):
    judge = make_judge(backdoor(kind="style", style="black and white"), FakeEncoder())
    with pytest.raises(ValueError, match="images but"):
        judge(images[:3], prompts[:2])
    with pytest.raises(ValueError, match="want the same"):
        judge.calibrate(images[:4], prompts[:4], images[:3])
    assert judge(images[:0], []).shape == (0,)
