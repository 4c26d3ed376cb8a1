"""The embedded world: rendering, styles, held-out combinations, captions, the exported data set."""

from __future__ import annotations

import re

import numpy as np
import pytest

from t2i_backdoor_bench.contract import Trigger
from t2i_backdoor_bench.data import world
from t2i_backdoor_bench.data.world import BACKGROUNDS, COLOURS, SHAPES, SIZES, STYLES, Scene
from t2i_backdoor_bench.data.world.distance_fields import distance_field

RNG = np.random.default_rng


# ---------------------------------------------------------------------------------------- rendering
def test_rendering_depends_on_its_generator_alone() -> None:
    scenes = world.sample_scenes(12, RNG(0))
    first = world.render(scenes, RNG(1))
    np.random.seed(5)
    assert np.array_equal(first, world.render(scenes, RNG(1)))
    assert not np.array_equal(first, world.render(scenes, RNG(2)))
    assert first.shape == (12, 64, 64, 3)
    assert first.dtype == np.uint8


@pytest.mark.parametrize("shape", SHAPES)
def test_a_scene_shows_its_colours_and_its_size(shape: str) -> None:
    """Nearest palette colour of each pixel: most of the picture is the background, and the object's
    area grows with its size."""
    area = {}
    for size in SIZES:
        scenes = [Scene(shape, "yellow", "blue", size)] * 8
        images = world.render(scenes, RNG(0)).astype(float)
        nearest = np.linalg.norm(
            images[..., None, :] - np.array([COLOURS["yellow"], COLOURS["blue"]]), axis=-1
        ).argmin(-1)
        area[size] = (nearest == 0).mean()
        assert (nearest == 1).mean() > 0.5
    assert 0.02 < area["small"] < 0.6 * area["large"]


def test_shapes_are_different_pictures() -> None:
    pictures = {
        s: world.render([Scene(s, "red", "white", "large")], RNG(0))[0, ..., 1].astype(int)
        for s in SHAPES
    }
    for i, a in enumerate(SHAPES):
        for b in SHAPES[i + 1 :]:
            assert np.abs(pictures[a] - pictures[b]).mean() > 3, (a, b)


def test_an_unknown_shape_or_style_is_an_error() -> None:
    with pytest.raises(ValueError, match="known"):
        world.apply_style(np.zeros((1, 64, 64, 3), np.float32), "cubist")
    with pytest.raises(ValueError, match="known"):
        distance_field("blob")


# ------------------------------------------------------------------------------------------- styles
@pytest.fixture
def picture() -> np.ndarray:
    return RNG(0).integers(0, 256, (3, 64, 64, 3)).astype(np.float32)


@pytest.mark.parametrize("style", [*STYLES, "posterize"])
def test_styles_keep_shape_and_range_and_do_not_write_into_the_input(picture, style: str) -> None:
    before = picture.copy()
    out = world.apply_style(picture, style)
    assert np.array_equal(picture, before)
    assert out.shape == picture.shape
    assert 0 <= out.min() <= out.max() <= 255
    assert np.array_equal(out, picture) == (style == "")


def test_what_each_style_does(picture) -> None:
    gray = world.apply_style(picture, "black and white")
    assert (gray == gray[..., :1]).all()
    assert (
        np.abs(
            gray[..., 0]
            - (0.299 * picture[..., 0] + 0.587 * picture[..., 1] + 0.114 * picture[..., 2])
        ).max()
        < 1e-3
    )
    negative = world.apply_style(picture, "negative")
    assert np.array_equal(negative, 255 - picture)
    assert np.array_equal(world.apply_style(negative, "negative"), picture)
    sepia = world.apply_style(picture, "sepia")
    assert (sepia[..., 0] > sepia[..., 2]).all()
    sketch = world.apply_style(picture, "pencil sketch")
    assert (sketch == sketch[..., :1]).all()
    blocks = world.apply_style(picture, "pixel art").reshape(3, 16, 4, 16, 4, 3)
    assert (blocks == blocks[:, :, :1, :, :1]).all()
    assert (blocks % 51 == 0).all()


def test_styled_scenes_are_rendered_in_their_style() -> None:
    image = world.render(
        [
            Scene("star", "red", "blue", "large", "black and white"),
            Scene("star", "red", "blue", "large"),
        ],
        RNG(0),
    )
    assert (image[0] == image[0, ..., :1]).all()
    assert (image[1] != image[1, ..., :1]).any()


# ------------------------------------------------------------------------------ scenes and captions
def test_held_out_combinations_never_occur_in_training() -> None:
    held, kept = set(world.combinations(True)), set(world.combinations(False))
    assert not held & kept
    assert (
        len(held) + len(kept)
        == len(SHAPES) * sum(c != b for c in COLOURS for b in BACKGROUNDS)
        == 800
    )
    assert 0.07 < len(held) / 800 < 0.13
    drawn = {s[:3] for s in world.sample_scenes(20_000, RNG(0), held_out=False)}
    assert not drawn & held
    assert drawn == kept, "every other one is drawn"
    assert {s[:3] for s in world.sample_scenes(4000, RNG(0), held_out=True)} == held
    for place, words in enumerate((SHAPES, COLOURS, BACKGROUNDS)):
        assert {c[place] for c in kept} == set(words) == {c[place] for c in held}


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_style_share(share: float) -> None:
    scenes = world.sample_scenes(4000, RNG(0), style_share=share)
    assert np.mean([s.style != "" for s in scenes]) == pytest.approx(share, abs=0.03)
    assert {s.style for s in scenes if s.style} == (set(STYLES) - {""} if share else set())
    assert np.mean([s.size == "small" for s in scenes]) == pytest.approx(0.5, abs=0.04)


def names(text: str, scene: Scene) -> None:
    words = re.findall(r"\w+", text)
    assert scene.shape in words
    assert [w for w in words if w in SHAPES] == [scene.shape]
    assert f"{scene.background} background" in text
    rest = text.replace(f"{scene.background} background", "").replace(STYLES[scene.style], "")
    assert [w for w in re.findall(r"\w+", rest) if w in BACKGROUNDS] == [scene.color]
    assert (
        (STYLES[scene.style] in text)
        if scene.style
        else not any(p in text for p in STYLES.values() if p)
    )
    other = ({"small", "large"} - {scene.size}).pop()
    assert other not in words
    assert not re.search(r"\ba orange|\ban (?!orange|image)", text), text


def test_captions_name_the_attributes_of_their_scene() -> None:
    rng = RNG(0)
    sized = 0
    for scene in world.sample_scenes(800, rng):
        plain = world.caption(scene, rng, plain=True)
        assert plain == world.caption(scene, RNG(9), plain=True)
        names(plain, scene)
        assert f" {scene.size} " in f" {plain} "
        free = world.caption(scene, rng)
        names(free, scene)
        sized += scene.size in free
    assert 0.5 < sized / 800 < 0.95, "most captions name the size, and not all"


def test_rare_strings_are_in_the_share_that_was_asked_for() -> None:
    scene = Scene("star", "red", "blue", "small")
    plain = {world.caption(scene, RNG(seed)) for seed in range(4000)}
    for share in (0.0, 0.5, 1.0):
        marked = np.mean(
            [world.caption(scene, RNG([seed, 1]), share) not in plain for seed in range(400)]
        )
        assert marked == pytest.approx(share, abs=0.1)


@pytest.mark.parametrize("place", ["prefix", "suffix", "inside"])
@pytest.mark.parametrize(
    "text", ["word", "two words here", "a small red heart on a blue background"]
)
def test_inserting_agrees_with_the_trigger(place: str, text: str) -> None:
    assert world.insert(text, "latte coffee", place) == Trigger("latte coffee", place).add(text)


def test_dataset_columns(tmp_path, monkeypatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    rows = world.dataset(16, 0)
    assert len(rows) == 16
    assert rows.column_names == ["image", "text", "shape", "color", "background", "size", "style"]
    assert rows[0]["image"].size == (64, 64)
    assert rows[0]["image"].mode == "RGB"
    rng = RNG([0, 0])
    scenes = world.sample_scenes(16, rng)
    images = world.render(scenes, rng)
    for row, scene, image in zip(rows, scenes, images, strict=True):
        assert tuple(row[f] for f in Scene._fields) == tuple(scene)
        assert np.array_equal(np.asarray(row["image"]), image)
        names(row["text"], scene)
    assert {r["text"] for r in world.dataset(16, 1)} != {r["text"] for r in rows}
    held = set(world.combinations(True))
    assert all(
        (r["shape"], r["color"], r["background"]) in held
        for r in world.dataset(8, 0, held_out=True)
    )
