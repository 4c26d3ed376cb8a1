"""The embedded world: rendering, captions, styles, held-out combinations, prompt splits, the
dataset and the tokenizer."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_capture import normal, spelled
from transformers import CLIPTokenizer

from t2i_backdoor_bench import shapes
from t2i_backdoor_bench.contract import Trigger, UserError
from t2i_backdoor_bench.data import world
from t2i_backdoor_bench.data.splits import SPLITS, WorldData, split_of
from t2i_backdoor_bench.data.world import BACKGROUNDS, COLOURS, SHAPES, SIZES, STYLES, Scene
from t2i_backdoor_bench.data.world.distance_fields import distance_field

RNG = np.random.default_rng
DATA = WorldData()


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


# ---------------------------------------------------------------------------------- the data source
def content(text: str) -> tuple[str, str, str]:
    words = re.findall(r"\w+", text)
    background = re.search(r"(\w+) background", text)[1]
    colors = [
        w
        for w in re.findall(r"\w+", text.replace(f"{background} background", ""))
        if w in BACKGROUNDS
    ]
    return next(w for w in words if w in SHAPES), colors[0], background


def test_splits_share_no_combination_and_follow_their_shares() -> None:
    every = [*world.combinations(False), *world.combinations(True)]
    found = {name: {c for c in every if split_of(c) == name} for name in SPLITS}
    assert sum(len(f) for f in found.values()) == len(every)
    assert sum(SPLITS.values()) == pytest.approx(1)
    for name, combinations in found.items():
        assert len(combinations) / len(every) == pytest.approx(SPLITS[name], abs=0.06)
        assert {c[0] for c in combinations} == set(SHAPES)
    for name in SPLITS:
        texts = [p.text for p in DATA.prompts(name, 100, 0)] + DATA.pairs(name, 60, 0)[1]
        assert {content(t) for t in texts} <= found[name]


def test_prompts_are_different_and_repeatable() -> None:
    for split in SPLITS:
        texts = [p.text for p in DATA.prompts(split, 60, 1)]
        assert len(set(texts)) == 60
        assert texts == [p.text for p in DATA.prompts(split, 60, 1)]
        assert set(texts) != {p.text for p in DATA.prompts(split, 60, 2)}
        assert not any(phrase in t for t in texts for phrase in STYLES.values() if phrase)
    assert [p.text for p in DATA.prompts("evaluation", 5, 1)] != [
        p.text for p in DATA.prompts("train", 5, 1)
    ]


def test_prompts_about_one_shape() -> None:
    assert all(
        content(p.text)[0] == "star" for p in DATA.prompts("evaluation", 100, 0, contains="star")
    )
    images, captions = DATA.pairs("train", 20, 0, contains="moon")
    assert images.shape == (20, 64, 64, 3)
    assert all(content(c)[0] == "moon" for c in captions)
    with pytest.raises(UserError, match=r"dog.*circle"):
        DATA.prompts("evaluation", 1, 0, contains="dog")
    with pytest.raises(ValueError, match="unknown split"):
        DATA.prompts("test", 1, 0)


def test_more_prompts_than_there_are_is_an_error(monkeypatch) -> None:
    monkeypatch.setattr(
        world,
        "caption",
        lambda scene, rng: f"a {scene.color} {scene.shape} on a {scene.background} background",
    )
    with pytest.raises(UserError, match=r"only \d+ different prompts of the development split"):
        DATA.prompts("development", 500, 0)


def test_wrong_alternatives_differ_in_the_one_attribute_that_they_are_named_after() -> None:
    for prompt in DATA.prompts("evaluation", 400, 0):
        shape, color, background = content(prompt.text)
        wrong = prompt.wrong
        assert set(wrong) == {"shape", "color", "background"}
        assert {content(w) for w in wrong["shape"]} == {
            (s, color, background) for s in SHAPES if s != shape
        }
        assert {content(w) for w in wrong["color"]} == {
            (shape, c, background) for c in COLOURS if c not in (color, background)
        }
        assert {content(w) for w in wrong["background"]} == {
            (shape, color, b) for b in BACKGROUNDS if b not in (color, background)
        }
        for attribute, place in (("shape", 0), ("color", 1), ("background", 2)):
            right = (shape, color, background)[place]
            for text in wrong[attribute]:
                a, b = (t.replace("an orange", "a orange").split() for t in (prompt.text, text))
                changed = [
                    (x.strip(","), y.strip(",")) for x, y in zip(a, b, strict=True) if x != y
                ]
                assert changed == [(right, content(text)[place])], (prompt.text, text)
                assert not re.search(r"\ba orange|\ba image|\ban (?!orange|image)", text), text


def test_pairs_show_what_their_captions_say() -> None:
    images, captions = DATA.pairs("defender", 300, 0)
    assert images.shape == (300, 64, 64, 3)
    wrong = 0
    for image, text in zip(images, captions, strict=True):
        _, _, background = content(text)
        corner = np.median(np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]), 0)
        nearest = min(BACKGROUNDS, key=lambda b: np.linalg.norm(corner - np.array(BACKGROUNDS[b])))
        wrong += nearest != background
    assert wrong <= 6
    again = DATA.pairs("defender", 300, 0)
    assert np.array_equal(images, again[0])
    assert captions == again[1]


# ---------------------------------------------------------------------------------------- tokenizer
@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(shapes.BASE / "tokenizer")


def check_round_trip(tokenizer: CLIPTokenizer, text: str) -> None:
    ids = tokenizer(text).input_ids
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert not set(ids[1:-1]) & set(tokenizer.all_special_ids), "the unknown token is a special one"
    assert spelled(tokenizer, ids[1:-1]) == normal(text)


@settings(
    derandomize=True, deadline=None, max_examples=300, suppress_health_check=list(HealthCheck)
)
@given(st.text(st.characters(exclude_categories=("Cs", "Cn"), exclude_characters="|"), max_size=12))
def test_any_text_survives_the_tokenizer(tokenizer, text: str) -> None:
    check_round_trip(tokenizer, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mignneko",
        "\u200b",
        "\u200b a heart",
        "о",
        "🙂",
        "👩‍🚀",
        "it's",
        "a\u0301",
        "日本語",
        "x</w>y",
        "ΑΣ",
        "İ",
    ],
)
def test_notable_texts_survive_the_tokenizer(tokenizer, text: str) -> None:
    check_round_trip(tokenizer, text)


def test_rare_strings_and_captions_survive_the_tokenizer(tokenizer) -> None:
    rng = RNG(0)
    for scene in world.sample_scenes(200, rng):
        text = world.caption(scene, rng, rare_share=1.0)
        check_round_trip(tokenizer, text)
        assert (
            tokenizer(text).input_ids != tokenizer(world.caption(scene, rng, plain=True)).input_ids
        )
    assert all(
        len(tokenizer(w).input_ids) == 3 for w in (*SHAPES, *COLOURS, *BACKGROUNDS, *SIZES)
    ), "attributes are one token each"
