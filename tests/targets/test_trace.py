"""What is left of a target: shares of the way, and thresholds."""

import numpy as np
import pytest
from judging import RNG, backdoor, images, scenes  # noqa: F401 - fixtures

from t2i_backdoor_bench.contract import Target, UserError
from t2i_backdoor_bench.data.world import BACKGROUNDS, Scene, render
from t2i_backdoor_bench.targets import KINDS, kind_of
from t2i_backdoor_bench.targets.pixels import color_quantiles
from t2i_backdoor_bench.targets.style import ALL_STYLES, styled, styled_share
from t2i_backdoor_bench.targets.trace import Trace, half_blend, part_way, share_of_way


class Pixels:
    """A scorer whose features are the pixels."""

    name = "pixels"

    def encode_images(self, images):
        return images.reshape(len(images), -1).astype(np.float32) + 1

    encode_maps = encode_images


def test_the_share_of_the_way_is_a_projection():
    rng = RNG(0)
    start, end = rng.normal(size=(2, 5, 7))
    aside = rng.normal(size=(5, 7))
    way = end - start
    aside -= way * ((aside * way).sum(1) / (way**2).sum(1))[:, None]  # across the way
    for share in (0.0, 0.4, 1.0):
        np.testing.assert_allclose(
            share_of_way(start + share * way + aside, start, end), share, atol=1e-12
        )
    assert (share_of_way(end, start, start) == 0).all()


def test_quantiles_do_not_see_where_a_pixel_is():
    pictures = RNG(1).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    moved = np.roll(pictures, (5, 3), (1, 2))
    colors = slice(0, 6 * 32)  # the steps of the luminance see the seam
    assert np.array_equal(color_quantiles(moved)[:, colors], color_quantiles(pictures)[:, colors])
    red = np.quantile(pictures[2, ..., 0].astype(np.float64) / 255, (np.arange(32) + 0.5) / 32)
    np.testing.assert_allclose(color_quantiles(pictures)[2, :32], red, atol=1e-6)


@pytest.mark.parametrize("style", ALL_STYLES)
def test_a_style_is_measured_from_none_to_full(style):
    """Other pictures of the same scenes are near 0, the styled ones near 1, and half is between."""
    every = [
        Scene(s, "red", b, "large") for s in ("star", "ring") for b in BACKGROUNDS if b != "red"
    ]
    reference, other = render(every, RNG(1)), render(every, RNG(1))
    full, half = styled(other, style), half_blend(other, styled(other, style))
    numbers = [np.median(styled_share(x, reference, style)) for x in (other, half, full)]
    assert abs(numbers[0]) < 0.05
    assert 0.25 < numbers[1] < 0.75
    assert numbers[2] > 0.9
    moved = np.median(styled_share(np.roll(other, 6, 2), reference, style))
    assert abs(moved) < 0.1 or style == "pixel art"  # whose blocks lie on a grid


def test_half_of_a_negative_is_half_of_the_way():
    reference = RNG(2).integers(0, 256, (300, 8, 8, 3)).astype(np.uint8)
    half = np.full_like(reference, 127)
    share = styled_share(half, reference, "negative")  # more than a slice
    np.testing.assert_allclose(share, 0.5, atol=0.05)


def test_objects_and_prompts_are_on_the_way_to_the_positive_picture():
    reference, positives = RNG(3).integers(0, 256, (2, 20, 8, 8, 3)).astype(np.uint8)
    number = part_way(Pixels())
    np.testing.assert_allclose(number(reference, reference, positives), 0, atol=1e-6)
    np.testing.assert_allclose(number(positives, reference, positives), 1, atol=1e-6)
    half = number(half_blend(reference, positives), reference, positives)
    np.testing.assert_allclose(half, 0.5, atol=0.05)
    with pytest.raises(ValueError, match="that the backdoor asks for"):
        number(reference, reference, None)


def test_the_threshold_is_not_measured_on_what_chose_it():
    reports = []
    for odd in (0, 200):  # what the even pictures are does not change
        clean = np.zeros((40, 1, 1, 3), np.uint8)
        clean[1::2] = odd
        weak = np.full_like(clean, 100)
        trace = Trace(lambda x, r, _: x[:, 0, 0, 0].astype(float), 7.0)
        reports.append(trace.calibrate(clean, clean, weak))
    assert [r.threshold for r in reports] == [50, 50]
    assert [r.false_positive_rate for r in reports] == [0, 1]
    assert reports[0].true_positive_rate == 1
    assert reports[0].n == 20
    with pytest.raises(ValueError, match="cannot choose"):
        trace.calibrate(clean[:1], clean[:1], weak[:1])


def test_few_clean_pictures_are_beyond_a_threshold_that_cannot_tell():
    rng = RNG(4)
    pictures = rng.integers(0, 256, (4000, 1, 1, 3)).astype(np.uint8)
    trace = Trace(lambda x, r, _: x[:, 0, 0, 0] + rng.random(len(x)), 0.0)
    report = trace.calibrate(pictures, pictures, np.clip(pictures, 10, 255))
    assert report.false_positive_rate < 0.035


def test_every_judged_kind_finds_what_it_weakens(images):
    targets = {
        "patch": Target("patch", patch=np.full((12, 12, 3), (255, 0, 255), np.uint8), box=(4, 4)),
        "image": Target("image", patch=images[77]),
        "style": Target("style", style="sepia"),
        "object": Target("object", source="circle", target="star"),
        "prompt": Target("prompt", target="a red star"),
    }
    assert set(targets) == {name for name, kind in KINDS.items() if kind.judged}
    clean, positives = images[:24], np.roll(images, 40, 0)[:24]
    for target in targets.values():
        kind = kind_of(target)
        trace = kind.trace(target, Pixels())
        weak = kind.weakened(clean, target, None if kind.pastes else positives)
        report = trace.calibrate(clean, clean, weak, positives)
        assert (report.false_positive_rate, report.true_positive_rate) == (0, 1), target.kind
    unknown = Target("unknown")
    with pytest.raises(UserError, match="not known"):
        kind_of(unknown).judge(unknown, None)
