"""A patch is found anywhere in a picture, against a search by loops in float64."""

import numpy as np
import pytest

from t2i_backdoor_bench.targets import search
from t2i_backdoor_bench.targets.patches import make_patch, paste

RNG = np.random.default_rng


def by_loops(image, reference, patch):
    """The same number with a loop over sizes, places and signs."""
    x, r = (v.astype(np.float64).transpose(2, 0, 1) / 255 for v in (image, reference))
    template, best = search._tensor(patch[None]), 0.0
    for scale in search.SCALES:
        h, w = (round(s * scale) for s in patch.shape[:2])
        q = search._resized(template, [h, w])[0].double().numpy()
        for top in range(x.shape[1] - h + 1):
            for left in range(x.shape[2] - w + 1):
                place = (slice(None), slice(top, top + h), slice(left, left + w))
                for shown in (q, 1 - q):
                    change, way = (x - r)[place], shown - r[place]
                    inner = (change * way).sum()
                    if inner / (way**2).sum() >= search.OPACITY:
                        best = max(best, inner / np.sqrt((change**2).sum() * (way**2).sum()))
    return best


def test_the_search_agrees_with_loops():
    reference = RNG(0).integers(0, 256, (3, 20, 18, 3)).astype(np.uint8)
    images = np.clip(reference + RNG(1).normal(0, 40, reference.shape), 0, 255).astype(np.uint8)
    patch = RNG(2).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    images[1] = paste(images[1:2], patch, (11, 3))[0]
    found = search.patch_likeness(images, reference, patch)
    wanted = [by_loops(*pair, patch) for pair in zip(images, reference, strict=True)]
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert found[1] > 0.99


def test_what_the_reference_has_already_is_no_patch():
    """Half a picture dark and half light is the patch "bars" itself."""
    edge = np.zeros((1, 64, 64, 3), np.uint8)
    edge[:, :, :32] = 250
    patch = make_patch("bars", 20)
    assert search.patch_likeness(edge, edge, patch)[0] == 0
    assert search.patch_likeness(edge, np.full_like(edge, 128), patch)[0] > 0.99


def test_pictures_of_any_size_are_searched_in_slices(monkeypatch):
    reference = RNG(0).integers(100, 156, (5, 128, 128, 3)).astype(np.uint8)
    patch = make_patch("checker", 40)
    images = search.changed_patches(reference, patch, (0, 0))
    whole = search.patch_likeness(images, reference, patch)
    monkeypatch.setattr(search, "PIXELS", 2 * 128 * 128)
    np.testing.assert_allclose(search.patch_likeness(images, reference, patch), whole, atol=1e-6)
    assert whole.min() > 0.93  # a size of 0.8 lies between two sizes
    assert search.patch_likeness(reference[:0], reference[:0], patch).shape == (0,)


@pytest.mark.parametrize("opacity", [1.0, 0.4, 0.1])
def test_a_patch_fainter_than_the_limit_is_not_looked_for(opacity):
    reference = np.full((1, 64, 64, 3), 100, np.uint8)
    patch, images = make_patch("target", 20), reference.copy()
    search._put(images[0], patch, 30, 30, opacity)
    found = search.patch_likeness(images, reference, patch)[0]
    assert found > 0.98 if opacity > search.OPACITY else found == 0


def test_the_changed_forms_are_what_they_say():
    images, patch = np.full((6, 64, 64, 3), 100, np.uint8), make_patch("bars", 20)
    aside, corner, inverted, faint, small, large = search.changed_patches(images, patch, (0, 0))
    assert np.array_equal(aside[:20, 2:22], patch)
    assert (aside[:, :2] == 100).all()
    assert np.array_equal(corner[44:, 44:], patch)
    assert np.array_equal(inverted[:20, :20], 255 - patch)
    assert np.array_equal(faint[:20, :20], np.round(0.6 * 100 + 0.4 * patch))
    assert (small != 100).any(-1).sum() == 16 * 16
    assert (large != 100).any(-1).sum() == 22 * 22  # 2 of 24 rows and columns are outside
    assert (images == 100).all()
