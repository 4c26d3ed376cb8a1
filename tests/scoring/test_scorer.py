"""The scorer against open_clip by hand."""

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from samples import noise_images, save_scorer, saved, scorer  # noqa: F401 - fixtures
from transformers import CLIPTokenizer

from t2i_backdoor_bench.contract import UserError
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
    with pytest.raises(UserError, match="no whole safetensors file"):
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
