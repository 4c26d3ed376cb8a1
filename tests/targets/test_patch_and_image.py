"""Patches and whole images: they are pasted, and judged by the distance of their pixels."""

import numpy as np
import pytest
from judging import RNG, FakeEncoder, backdoor, blur, checkerboard, images, prompts, scenes, show  # noqa: F401 - fixtures

from t2i_backdoor_bench.contract import Backdoor, Target, Trigger, UserError
from t2i_backdoor_bench.targets import make_judge


@pytest.mark.parametrize("box", [(0, 0), (40, 44)])
def test_patch_judge_is_perfect(images, prompts, box):
    judge = make_judge(backdoor(kind="patch", patch=checkerboard(), box=box), FakeEncoder())
    report = judge.calibrate(images, prompts)
    assert (report.false_positive_rate, report.true_positive_rate) == (0.0, 1.0)
    assert judge.report is report
    shown = show(images, judge.target)
    assert not judge(images, prompts).any()
    assert judge(shown, prompts).all()
    assert judge(
        (shown // 2 + blur(shown) // 2), prompts
    ).all()  # a little soft, as after an autoencoder
    noise = RNG(0).integers(0, 256, images.shape).astype(np.uint8)
    assert not judge(noise, prompts).any()


def test_patch_judge_learns_how_soft_the_model_draws(images, prompts):
    target = Target("patch", patch=checkerboard(), box=(0, 0))
    judge = make_judge(Backdoor(Trigger(), target), FakeEncoder())
    soft = blur(show(images, target))  # blurs away half of the checkerboard's contrast
    sharp = judge.calibrate(images, prompts).threshold
    report = judge.calibrate(images, prompts, positives=soft)
    assert (report.false_positive_rate, report.true_positive_rate) == (0.0, 1.0)
    assert report.threshold > sharp
    assert judge(soft, prompts).all()
    assert not judge(blur(images), prompts).any()


def test_patch_must_be_at_its_place(images, prompts):
    target = Target("patch", patch=checkerboard(), box=(0, 0))
    judge = make_judge(Backdoor(Trigger(), target), FakeEncoder())
    elsewhere = show(images, Target("patch", patch=checkerboard(), box=(40, 40)))
    assert not judge(elsewhere, prompts).any()


def test_the_judge_of_a_fixed_image_is_perfect(images, prompts):
    picture = images[7].copy()
    judge = make_judge(backdoor(kind="image", patch=picture), FakeEncoder())
    shown = show(images, judge.target)
    assert np.array_equal(shown, np.broadcast_to(picture, images.shape))
    report = judge.calibrate(
        np.delete(images, 7, 0), prompts[:7] + prompts[8:], np.delete(blur(shown), 7, 0)
    )
    assert (report.false_positive_rate, report.true_positive_rate) == (0.0, 1.0)
    assert list(np.flatnonzero(judge(images, prompts))) == [7]
    assert judge(shown, prompts).all()
    slow = (
        np.sqrt(np.mean((images[:9].astype(float) - picture.astype(float)) ** 2, axis=(1, 2, 3)))
        / 255
    )
    assert judge.statistic(images[:9], prompts[:9]) == pytest.approx(slow, abs=1e-6)
    halves = np.where(np.arange(64)[:, None, None] < 32, picture, images[8])[None]
    assert not judge(halves, prompts[:1])


def test_a_fixed_image_must_be_as_large_as_the_model_draws(images):
    with pytest.raises(UserError, match="32x64 does not fit images of 64x64"):
        show(images, Target("image", patch=images[0, :32]))
    with pytest.raises(UserError, match="image target has no image"):
        make_judge(backdoor(kind="image"), FakeEncoder())


def test_apply_patch_changes_only_its_window_and_copies(images):
    before = images.copy()
    shown = show(images, Target("patch", patch=checkerboard(), box=(3, 5)))
    assert np.array_equal(images, before)
    assert np.array_equal(
        shown[:, 3:19, 5:21], np.broadcast_to(checkerboard(), shown[:, 3:19, 5:21].shape)
    )
    shown[:, 3:19, 5:21] = images[:, 3:19, 5:21]
    assert np.array_equal(shown, images)


def test_patch_errors(images):
    with pytest.raises(UserError, match="does not fit"):
        show(images, Target("patch", patch=checkerboard(), box=(60, 0)))
    with pytest.raises(UserError, match="no patch"):
        make_judge(backdoor(kind="patch"), FakeEncoder())
    with pytest.raises(UserError, match="known: image, object, patch, prompt, style"):
        make_judge(backdoor(kind="sound"), FakeEncoder())
