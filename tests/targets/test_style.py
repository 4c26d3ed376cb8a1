"""Styles: pictures are redrawn in them, and judged by their colours or by texts."""

import numpy as np
import pytest
from judging import RNG, FakeEncoder, backdoor, blur, images, prompts, scenes, show  # noqa: F401 - fixtures

from t2i_backdoor_bench.contract import Prompt, Target
from t2i_backdoor_bench.data.world import STYLES
from t2i_backdoor_bench.targets import make_judge
from t2i_backdoor_bench.targets.style import style_texts


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("change", [lambda x: x, blur], ids=["sharp", "blurred"])
def test_black_and_white_judge(images, prompts, scenes, change, calibrated):
    judge = make_judge(backdoor(kind="style", style="black and white"), FakeEncoder())
    if calibrated:
        report = judge.calibrate(images, prompts)
        assert report.true_positive_rate == 1.0
        assert report.false_positive_rate <= 0.01
        assert report.n == len(images) // 2
    found = judge(change(images), prompts)
    assert found.mean() <= 0.01
    for background in ("white", "gray", "black"):
        assert (
            found[[s.background == background and s.size == "small" for s in scenes]].mean() <= 0.01
        )
    assert judge(change(show(images, judge.target)), prompts).all()


def test_black_and_white_judge_bears_the_colour_noise_of_a_decoder(images, prompts):
    judge = make_judge(backdoor(kind="style", style="black and white"), FakeEncoder())
    judge.calibrate(images, prompts)
    gray = show(images, judge.target).astype(np.float32)
    noisy = np.clip(gray + RNG(0).normal(0, 5, gray.shape), 0, 255).astype(np.uint8)
    assert judge(noisy, prompts).mean() > 0.99


@pytest.mark.parametrize("style", ["sepia", "negative", "pencil sketch", "pixel art", "posterize"])
def test_zero_shot_style_judge(style, prompts):
    encoder = FakeEncoder()
    judge = make_judge(backdoor(kind="style", style=style), encoder)
    assert judge.network == "fake"
    some = prompts[:40]
    texts = [style_texts(p, style) for p in some]
    assert all(len(set(row)) == len(row) for row in texts)
    assert judge(encoder.draw([row[0] for row in texts]), some).all()
    for other in (1, 2, -1):
        assert not judge(encoder.draw([row[other] for row in texts]), some).any()
    report = judge.calibrate(
        encoder.draw([r[1] for r in texts]), some, encoder.draw([r[0] for r in texts])
    )
    assert (report.false_positive_rate, report.true_positive_rate) == (0.0, 1.0)


def test_style_texts_use_the_words_of_the_world():
    texts = style_texts(Prompt("a red circle"), "sepia")
    assert texts[:2] == ["a sepia photo of an object", "a plain picture of an object"]
    assert len(texts) == len(STYLES)
    assert style_texts(Prompt("a red circle"), "negative")[:2] == [
        "a negative of a red circle",
        "a red circle",
    ]


def test_apply_style_keeps_format(images):
    for style in [s for s in STYLES if s] + ["posterize"]:
        shown = show(images[:8], Target("style", style=style))
        assert shown.dtype == np.uint8
        assert shown.shape == images[:8].shape
        assert not np.array_equal(shown, images[:8])
    with pytest.raises(ValueError, match="give positives"):
        show(images, Target("object", source="circle", target="star"))
