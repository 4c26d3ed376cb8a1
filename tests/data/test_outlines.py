"""Which shape a mask is, on masks of known shapes."""

from __future__ import annotations

import numpy as np
import pytest

from t2i_backdoor_bench.data.world import SHAPES
from t2i_backdoor_bench.data.world.distance_fields import EXTENT, GRID, distance_field
from t2i_backdoor_bench.data.world.outlines import _Near, fit_shape

SEEN = np.ones((64, 64), bool)


def drawn(shape, x, y, radius, angle):
    """The pixels (64, 64) whose middle lies in a shape, one at a time."""
    mask, field = np.zeros((64, 64), bool), distance_field(shape)
    for row in range(64):
        for column in range(64):
            dx, dy = (column + 0.5 - x) / radius, (row + 0.5 - y) / radius
            u = np.cos(angle) * dx + np.sin(angle) * dy
            v = np.cos(angle) * dy - np.sin(angle) * dx
            i, j = (int((w + EXTENT) * GRID / (2 * EXTENT)) for w in (v, u))
            if 0 <= i < GRID and 0 <= j < GRID:
                mask[row, column] = field[i, j] < 0
    return mask


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("radius", "angle"), [(12.5, 0.2), (15, -0.26), (21.5, 0.1)])
def test_a_shape_is_found_with_its_radius(shape, radius, angle):
    found, size, cover = fit_shape(drawn(shape, 33.2, 30.7, radius, angle), SEEN)
    assert found == shape
    assert size == pytest.approx(radius, rel=0.04)
    assert cover > 0.9


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_found_behind_what_hides_a_part_of_it(shape):
    mask, seen = drawn(shape, 30.0, 30.0, 21, 0.1), SEEN.copy()
    seen[:22, :22] = False
    found, size, cover = fit_shape(mask & seen, seen)
    assert found == shape
    assert size == pytest.approx(21, rel=0.1)
    assert cover > 0.85


def test_covers_are_intersection_over_union():
    mask, seen = drawn("heart", 30, 32, 14, 0), SEEN.copy()
    seen[:28] = False
    other = drawn("star", 28, 33, 16, 0.15)
    both, either = (mask & other & seen).sum(), ((mask | other) & seen).sum()
    place = np.array([[28, 33, np.log(16), 0.15]])
    found = _Near(mask, seen, 0, 0).covers(np.array([SHAPES.index("star")]), place)
    assert found[0] == pytest.approx(both / either, abs=0.01)
