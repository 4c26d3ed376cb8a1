"""The scorer against open_clip by hand, and features that are extracted once."""

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from samples import FakePrompt, features, make_samples, noise_images, save_scorer, saved, scorer  # noqa: F401 - fixtures
from transformers import CLIPTokenizer

from t2i_backdoor_bench.contract import Backdoor, Target, Trigger, UserError
from t2i_backdoor_bench.scoring.conditions import prompts_of, served
from t2i_backdoor_bench.scoring.scorer import Scorer


def test_scorer_equals_open_clip_by_hand(saved, scorer):
    folder, model = saved
    images, texts = noise_images(5), ["a red circle", "a blue star on white"]
    x = torch.stack([torch.from_numpy(i).permute(2, 0, 1) for i in images]).float() / 255 * 2 - 1
    ids = CLIPTokenizer.from_pretrained(folder)(
        texts, padding="max_length", max_length=24, truncation=True, return_tensors="pt"
    ).input_ids
    with torch.inference_mode():
        np.testing.assert_allclose(
            scorer.encode_images(images), model.encode_image(x).numpy(), atol=1e-5
        )
        np.testing.assert_allclose(
            scorer.encode_texts(texts), model.encode_text(ids).numpy(), atol=1e-5
        )
    assert scorer.dim == 12
    assert scorer.name == "tiny"
    assert scorer.encode_images(images).dtype == np.float32


@pytest.mark.parametrize(
    ("mode", "shape"),
    [("squash", (64, 64)), ("squash", (48, 80)), ("shortest", (48, 80)), ("longest", (48, 80))],
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_preprocessing_follows_open_clip(tmp_path, mode, shape, interpolation):
    save_scorer(
        tmp_path / "m",
        resize_mode=mode,
        interpolation=interpolation,
        mean=[0.48, 0.45, 0.4],
        std=[0.27, 0.26, 0.28],
    )
    scorer = Scorer.load(tmp_path / "m")
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (3, 6, 10, 3)).astype(np.uint8)
    images = np.stack(
        [np.array(Image.fromarray(c).resize(shape[::-1], Image.BICUBIC)) for c in coarse]
    )
    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'm'}")
    want = torch.stack([transform(Image.fromarray(i)) for i in images])
    got = scorer.preprocess(images)
    assert got.shape == want.shape
    assert (got - want).abs().max() < 1.5 / 255 / 0.26  # PIL rounds to 8 bits


def test_scorer_does_not_depend_on_batches(saved):
    images = noise_images(7)
    np.testing.assert_allclose(
        Scorer.load(saved[0], batch=2).encode_images(images),
        Scorer.load(saved[0]).encode_images(images),
        atol=1e-5,
    )


def test_texts_are_encoded_once(saved):
    scorer = Scorer.load(saved[0])
    seen = []
    tokenizer = scorer.tokenizer
    scorer.tokenizer = lambda texts: seen.extend(texts) or tokenizer(texts)
    first = scorer.encode_texts(["a", "b", "a"])
    assert np.array_equal(first[0], first[2])
    scorer.encode_texts(["b", "c"])
    assert seen == ["a", "b", "c"]
    assert scorer.encode_texts([]).shape == (0, 12)


def test_scorer_rejects_what_is_not_images(scorer):
    for bad in (noise_images(2).astype(np.float32), noise_images(2)[0]):
        with pytest.raises(ValueError, match="uint8"):
            scorer.encode_images(bad)
    assert scorer.encode_images(noise_images(2)[:0]).shape == (0, 12)


def test_fingerprint_changes_with_weights(saved, tmp_path):
    scorer = Scorer.load(saved[0])
    same, before = Scorer.load(saved[0]).fingerprint, scorer.fingerprint
    other = Scorer.load(saved[0])
    with torch.no_grad():
        other.model.logit_scale += 1
    assert before == same != other.fingerprint


def test_scorer_errors_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"open_clip_config\.json"):
        Scorer.load(tmp_path / "empty")
    save_scorer(tmp_path / "pickled")
    (tmp_path / "pickled" / "open_clip_model.safetensors").rename(
        tmp_path / "pickled" / "open_clip_pytorch_model.bin"
    )
    with pytest.raises(UserError, match=r"no open_clip_model\.safetensors"):
        Scorer.load(tmp_path / "pickled")
    save_scorer(tmp_path / "broken")
    (tmp_path / "broken" / "open_clip_model.safetensors").write_bytes(b"{}")
    with pytest.raises(UserError, match="cannot be loaded"):
        Scorer.load(tmp_path / "broken")
    with pytest.raises(UserError, match="neither a folder"):
        Scorer.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="did you mean ViT-B-32"):
        Scorer.load("ViT-B-32:laion2b_s34b_b79")

    def offline(config):
        raise FileNotFoundError("no network\nsecond line")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    with pytest.raises(UserError, match=r"cannot be fetched \(.*--clip\): no network$"):
        Scorer.load("ViT-B-32:laion2b_s34b_b79k")
    monkeypatch.setattr(open_clip, "download_pretrained", lambda config: "/cache/weights.bin")
    with pytest.raises(UserError, match="pickle"):
        Scorer.load("ViT-B-32:laion2b_s34b_b79k")


def test_features_are_extracted_once_and_shared(features):
    samples = make_samples()
    first = features.images(samples, "clean")
    assert (
        features.images(make_samples(), "clean_target") is first
    )  # same content, other samples, other condition
    assert features.with_judge(None).images(samples, "clean") is first
    features.real(samples), features.real(samples), features.before(samples, "clean")
    assert len(features.scorer.calls) == 3
    changed = samples.images["clean"].copy()
    changed[0, 0, 0, 0] ^= 1
    assert not np.array_equal(features.encode_images(changed), first)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0


def test_conditions_know_their_prompts():
    samples = make_samples()
    assert [p.text for p in prompts_of(samples, "diverse")] == [
        f"p{i}" for i in range(4) for _ in range(3)
    ]
    assert [p.text for p in prompts_of(samples, "moved")] == [f"p{i}" for i in range(8)]
    samples.images["own"] = noise_images(5, 8)
    samples.backdoor = Backdoor(
        Trigger(), Target("object", source="star", target="heart"), own=("a star", "zk a star")
    )
    samples.target_prompts[0] = FakePrompt("a red star", {"shape": ("a red ring", "a red cross")})
    assert [(p.text, p.wrong["shape"]) for p in prompts_of(samples, "own")] == [
        ("a star", ("a ring", "a cross"))
    ] * 5
    samples.target_prompts[0] = FakePrompt(
        "a red star, lit", {"shape": ("a red arrow, lit", "a red heart, lit")}
    )
    assert prompts_of(samples, "own")[0].wrong["shape"] == ("an arrow", "a heart"), (
        "a comma would make a rival of the target itself"
    )
    samples.backdoor = Backdoor(Trigger(), Target("prompt", target="a heart"), own=("", "look at"))
    assert prompts_of(samples, "own") == samples.target_prompts[:5], (
        "nothing is left without the trigger: the captions that it competes with"
    )
    samples.images["triggered"] = noise_images(50, 8)
    with pytest.raises(ValueError, match="50 images but 40 prompts"):
        prompts_of(samples, "triggered")
    samples.refused["clean"] = np.zeros(3, bool)
    with pytest.raises(ValueError, match="refused"):
        served(samples, "clean")
