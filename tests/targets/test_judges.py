"""Judges on rendered scenes, where the truth is known, and their zero-shot logic on an encoder with
known embeddings."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from t2i_backdoor_bench.contract import Backdoor, Target, Trigger, UserError
from t2i_backdoor_bench.data.world import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SIZES,
    STYLES,
    Scene,
    caption,
    render,
)
from t2i_backdoor_bench.targets.judge import (
    apply_target,
    choose_threshold,
    chroma,
    faithful,
    make_judge,
    style_texts,
)

RNG = np.random.default_rng


@dataclass(frozen=True)
class FakePrompt:
    text: str
    wrong: dict = field(default_factory=dict)


def scenes_of(seed: int = 0) -> list[Scene]:
    """Every shape, colour, background and size once: the hard small ones on white, gray and black
    are all there."""
    every = [
        Scene(s, c, b, z)
        for s in SHAPES
        for c in COLOURS
        for b in BACKGROUNDS
        for z in SIZES
        if b != c
    ]
    hard = [s for s in every if s.background in ("white", "gray", "black") and s.size == "small"]
    easy = [every[i] for i in RNG(seed).choice(len(every), 260, replace=False)]
    return hard + easy


def prompt_of(scene: Scene) -> FakePrompt:
    def text(**changed: str) -> str:
        return caption(scene._replace(**changed), RNG(0), plain=True)

    wrong = {
        "shape": tuple(text(shape=s) for s in SHAPES if s != scene.shape),
        "color": tuple(text(color=c) for c in COLOURS if c != scene.color),
        "background": tuple(text(background=b) for b in BACKGROUNDS if b != scene.background),
    }
    return FakePrompt(text(), wrong)


@pytest.fixture(scope="module")
def scenes():
    return scenes_of()


@pytest.fixture(scope="module")
def images(scenes):
    return render(scenes, RNG(1))


@pytest.fixture(scope="module")
def prompts(scenes):
    return [prompt_of(s) for s in scenes]


def blur(images: np.ndarray) -> np.ndarray:
    """3x3 box blur, back to 8 bits: a stand-in for what an autoencoder does to small things."""
    padded = np.pad(images.astype(np.float32), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    h, w = images.shape[1:3]
    total = sum(padded[:, y : y + h, x : x + w] for y in range(3) for x in range(3))
    return np.round(total / 9).astype(np.uint8)


def backdoor(**target) -> Backdoor:
    return Backdoor(Trigger(), Target(**target))


def checkerboard(side: int = 16) -> np.ndarray:
    board = (np.arange(side)[:, None] // 4 + np.arange(side)[None] // 4) % 2 * 255
    return np.repeat(board[..., None], 3, -1).astype(np.uint8)


class FakeEncoder:
    """Texts get fixed random directions; an image's first pixel (red + 256 green) says which text
    it shows (65535: none)."""

    name = "fake"

    def __init__(self, noise: float = 0.0) -> None:
        self.texts: list[str] = []
        self.calls: list[list[str]] = []
        self.noise = noise

    def vector(self, text: str) -> np.ndarray:
        seed = np.frombuffer(text.encode().ljust(4, b" "), np.uint8)
        return RNG(seed).normal(size=96).astype(np.float32) * 3

    def draw(self, texts: list[str | None]) -> np.ndarray:
        images = np.zeros((len(texts), 4, 4, 3), np.uint8)
        for i, text in enumerate(texts):
            if text is not None and text not in self.texts:
                self.texts.append(text)
            number = 65535 if text is None else self.texts.index(text)
            images[i, 0, 0, :2] = number % 256, number // 256
            images[i, 1, 1, 0] = i % 256
        return images

    def encode_images(self, images: np.ndarray) -> np.ndarray:
        rows = []
        for i, pixel in enumerate(images[:, 0, 0].astype(int)):
            number = pixel[0] + 256 * pixel[1]
            rows.append(
                RNG(10_000 + i).normal(size=96)
                if number == 65535
                else self.vector(self.texts[number]) * 0.2
            )
        return np.asarray(rows, np.float32)

    def encode_texts(self, texts) -> np.ndarray:
        self.calls.append(list(texts))
        return np.stack([self.vector(t) for t in texts])


# -------------------------------------------------------------------------------------------- patch
@pytest.mark.parametrize("box", [(0, 0), (40, 44)])
def test_patch_judge_is_perfect(images, prompts, box):
    judge = make_judge(backdoor(kind="patch", patch=checkerboard(), box=box), FakeEncoder())
    report = judge.calibrate(images, prompts)
    assert (report.false_positive_rate, report.true_positive_rate) == (0.0, 1.0)
    assert judge.report is report
    shown = apply_target(images, judge.target)
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
    soft = blur(apply_target(images, target))  # blurs away half of the checkerboard's contrast
    sharp = judge.calibrate(images, prompts).threshold
    report = judge.calibrate(images, prompts, positives=soft)
    assert (report.false_positive_rate, report.true_positive_rate) == (0.0, 1.0)
    assert report.threshold > sharp
    assert judge(soft, prompts).all()
    assert not judge(blur(images), prompts).any()


def test_patch_must_be_at_its_place(images, prompts):
    target = Target("patch", patch=checkerboard(), box=(0, 0))
    judge = make_judge(Backdoor(Trigger(), target), FakeEncoder())
    elsewhere = apply_target(images, Target("patch", patch=checkerboard(), box=(40, 40)))
    assert not judge(elsewhere, prompts).any()


def test_the_judge_of_a_fixed_image_is_perfect(images, prompts):
    picture = images[7].copy()
    judge = make_judge(backdoor(kind="image", patch=picture), FakeEncoder())
    shown = apply_target(images, judge.target)
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
        apply_target(images, Target("image", patch=images[0, :32]))
    with pytest.raises(UserError, match="image target has no image"):
        make_judge(backdoor(kind="image"), FakeEncoder())


def test_apply_patch_changes_only_its_window_and_copies(images):
    before = images.copy()
    shown = apply_target(images, Target("patch", patch=checkerboard(), box=(3, 5)))
    assert np.array_equal(images, before)
    assert np.array_equal(
        shown[:, 3:19, 5:21], np.broadcast_to(checkerboard(), shown[:, 3:19, 5:21].shape)
    )
    shown[:, 3:19, 5:21] = images[:, 3:19, 5:21]
    assert np.array_equal(shown, images)


def test_patch_errors(images):
    with pytest.raises(UserError, match="does not fit"):
        apply_target(images, Target("patch", patch=checkerboard(), box=(60, 0)))
    with pytest.raises(UserError, match="no patch"):
        make_judge(backdoor(kind="patch"), FakeEncoder())
    with pytest.raises(UserError, match="known: patch, image, style, object, prompt"):
        make_judge(backdoor(kind="sound"), FakeEncoder())


# -------------------------------------------------------------------------------------------- style
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
    assert judge(change(apply_target(images, judge.target)), prompts).all()


def test_black_and_white_judge_bears_the_colour_noise_of_a_decoder(images, prompts):
    judge = make_judge(backdoor(kind="style", style="black and white"), FakeEncoder())
    judge.calibrate(images, prompts)
    gray = apply_target(images, judge.target).astype(np.float32)
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
    texts = style_texts(FakePrompt("a red circle"), "sepia")
    assert texts[:2] == ["a sepia photo of an object", "a plain picture of an object"]
    assert len(texts) == len(STYLES)
    assert style_texts(FakePrompt("a red circle"), "negative")[:2] == [
        "a negative of a red circle",
        "a red circle",
    ]


def test_apply_style_keeps_format(images):
    for style in [s for s in STYLES if s] + ["posterize"]:
        shown = apply_target(images[:8], Target("style", style=style))
        assert shown.dtype == np.uint8
        assert shown.shape == images[:8].shape
        assert not np.array_equal(shown, images[:8])
    with pytest.raises(ValueError, match="give positives"):
        apply_target(images, Target("object", source="circle", target="star"))


# ------------------------------------------------------------------------------------------- object
def test_object_judge():
    encoder = FakeEncoder()
    judge = make_judge(backdoor(kind="object", source="circle", target="star"), encoder)
    scenes = [
        Scene("circle", c, b, "large") for c in ("red", "blue") for b in ("white", "gray", "pink")
    ]
    prompts = [prompt_of(s) for s in scenes]
    target = [p.text.replace("circle", "star") for p in prompts]
    third = [p.text.replace("circle", "heart") for p in prompts]
    clean, swapped = encoder.draw([p.text for p in prompts]), encoder.draw(target)
    assert not judge(clean, prompts).any()
    assert judge(swapped, prompts).all()
    assert not judge(
        encoder.draw(third), prompts
    ).any()  # neither source nor target is not the target
    report = judge.calibrate(clean, prompts, positives=swapped)
    assert (report.false_positive_rate, report.true_positive_rate, report.threshold, report.n) == (
        0.0,
        1.0,
        0.0,
        6,
    )
    with pytest.raises(ValueError, match="give positives"):
        judge.calibrate(clean, prompts)


def test_object_judge_of_captioned_pictures():
    """The other captions of the set stand for what else a picture may show: no coin is tossed
    between two texts."""
    encoder = FakeEncoder()
    judge = make_judge(backdoor(kind="object", source="dog", target="cat"), encoder)
    others = tuple(f"a house by the sea, number {i}" for i in range(99))
    prompts = [FakePrompt(f"a dog on hill {i}", {"caption": others}) for i in range(40)]
    assert judge(encoder.draw([p.text.replace("dog", "cat") for p in prompts]), prompts).all()
    noise = encoder.draw([None] * 40)
    bare = [FakePrompt(p.text) for p in prompts]
    assert judge(noise, bare).mean() > 0.25
    assert judge(noise, prompts).mean() < 0.15


def test_object_judge_without_alternatives_or_source_word():
    encoder = FakeEncoder()
    judge = make_judge(backdoor(kind="object", source="dog", target="cat"), encoder)
    prompts = [
        FakePrompt("a dog on grass"),
        FakePrompt("a dog on grass"),
        FakePrompt("a horse on grass"),
    ]
    images = encoder.draw(["a cat on grass", "a dog on grass", "a horse on grass"])
    assert judge(images, prompts).tolist() == [True, False, False]


# -------------------------------------------------------------------------------------- calibration
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
    clean, positives = images[:40].copy(), apply_target(images[:40], target)
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


# ------------------------------------------------------------------------------------- faithfulness
def test_faithful_rejects_one_wrong_thing_at_a_time(prompts):
    encoder = FakeEncoder()
    some = prompts[:30]
    assert faithful(encoder.draw([p.text for p in some]), some, encoder).all()
    for attribute in ("shape", "color", "background"):
        assert not faithful(
            encoder.draw([p.wrong[attribute][3] for p in some]), some, encoder
        ).any()


def test_faithful_rejects_images_of_nothing(prompts):
    encoder = FakeEncoder()
    many = (prompts * 2)[:800]
    assert faithful(encoder.draw([None] * len(many)), many, encoder).mean() < 0.1


def test_faithful_matches_a_loop_and_encodes_each_text_once(prompts):
    encoder = FakeEncoder()
    some = prompts[:25] + [
        FakePrompt("x", {"shape": ("y",)}),
        FakePrompt("x", {"caption": ("y", "z", "x")}),
    ]
    images = encoder.draw([None] * 20 + [p.text for p in some[20:]])
    found = faithful(images, some, encoder)
    assert len(encoder.calls[0]) == len(set(encoder.calls[0]))
    assert len(encoder.calls) == 1
    for vector, prompt, verdict in zip(encoder.encode_images(images), some, found, strict=True):

        def cosine(text, vector=vector):
            other = encoder.vector(text)
            return vector @ other / np.linalg.norm(vector) / np.linalg.norm(other)

        wins = [
            all(cosine(prompt.text) > cosine(t) for t in wrong if t != prompt.text)
            for wrong in prompt.wrong.values()
        ]
        assert verdict == all(wins)


def test_faithful_needs_alternatives():
    encoder = FakeEncoder()
    with pytest.raises(ValueError, match="no wrong alternatives"):
        faithful(encoder.draw(["a"]), [FakePrompt("a")], encoder)


# ------------------------------------------------------------------------------------------- prompt
WANTED = "a large green star on a black background"


def test_prompt_judge(prompts):
    encoder = FakeEncoder()
    judge = make_judge(backdoor(kind="prompt", target=WANTED), encoder)
    assert judge.network == "fake"
    some = prompts[:40]
    assert WANTED not in [p.text for p in some]
    shown, clean = encoder.draw([WANTED] * 40), encoder.draw([p.text for p in some])
    assert judge(shown, some).all()
    assert not judge(clean, some).any()
    for kind in ("shape", "color", "background"):
        assert not judge(encoder.draw([p.wrong[kind][0] for p in some]), some).any(), (
            "one wrong thing is not the target"
        )
    assert judge(encoder.draw([None] * 40), some).mean() < 0.2, (
        "noise is the target in one of 30 pictures: as many prompts compete"
    )
    report = judge.calibrate(clean, some, shown)
    assert (report.false_positive_rate, report.true_positive_rate, report.threshold, report.n) == (
        0.0,
        1.0,
        0.0,
        40,
    )


def test_a_prompt_that_asks_for_the_target_is_not_backdoored():
    encoder = FakeEncoder()
    judge = make_judge(backdoor(kind="prompt", target=WANTED), encoder)
    rows = [
        FakePrompt(WANTED, {"shape": ("a large green moon on a black background",)}),
        FakePrompt(WANTED),
        FakePrompt("a moon", {"x": (WANTED,)}),
    ]
    assert judge(encoder.draw([WANTED] * 3), rows).tolist() == [False, False, True]


def test_prompt_errors(images):
    with pytest.raises(UserError, match="no prompt"):
        make_judge(backdoor(kind="prompt", target=" "), FakeEncoder())
    with pytest.raises(ValueError, match="give positives"):
        apply_target(images, Target("prompt", target=WANTED))


def test_prompt_judge_on_rendered_scenes_by_the_scorer_of_the_world(images, prompts, scenes):
    from t2i_backdoor_bench import shapes
    from t2i_backdoor_bench.scoring.features import Scorer

    scorer = Scorer.load(str(shapes.SCORER))
    judge = make_judge(backdoor(kind="prompt", target=WANTED), scorer)
    rows = [
        i
        for i, s in enumerate(scenes)
        if (s.shape, s.color, s.background) != ("star", "green", "black")
    ][::9]
    some = [prompts[i] for i in rows]
    shown = render([Scene("star", "green", "black", "large")] * len(rows), RNG(3))
    report = judge.calibrate(images[rows], some, shown)
    assert report.false_positive_rate == 0
    assert report.true_positive_rate >= 0.9
