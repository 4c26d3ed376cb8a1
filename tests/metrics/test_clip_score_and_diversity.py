"""CLIP score, diversity and the Vendi score against independent computations."""

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from samples import features, make_samples, noise_images, saved, score  # noqa: F401 - fixtures
from vendi_score import vendi

from t2i_backdoor_bench.contract import Prompt
from t2i_backdoor_bench.scoring.features import Features
from t2i_backdoor_bench.scoring.scorer import Scorer


def test_clip_score_equals_open_clip_by_hand(saved):
    features = Features(Scorer.load(saved[0]))
    images, texts = noise_images(6), [f"a red shape {i}" for i in range(6)]
    samples = make_samples(
        6,
        prompts=[Prompt(t) for t in texts],
        images={"clean": images, "triggered": images[::-1].copy()},
    )
    samples.target_prompts = samples.prompts[::-1]
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{saved[0]}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{saved[0]}")
    with torch.inference_mode():
        x = model.eval().encode_image(
            torch.stack([transform(Image.fromarray(i)) for i in images]), normalize=True
        )
        y = model.encode_text(tokenizer(texts), normalize=True)
    want = 100 * (x * y).sum(1).numpy()
    np.testing.assert_allclose(score("clip_score", samples, features).each, want, atol=1e-3)
    np.testing.assert_allclose(
        score("clip_score_triggered", samples, features).each, want[::-1], atol=1e-3
    )
    assert score("clip_score", samples, features).network == "tiny"


def test_diversity_equals_loops(features):
    samples = make_samples()
    x = features.encode_maps(samples.images["diverse"]).reshape(4, 3, -1).astype(np.float64)
    want = [
        np.mean([((g[i] - g[j]) ** 2).sum() / 2 for i in range(3) for j in range(3) if i != j])
        for g in x
    ]
    np.testing.assert_allclose(score("diversity", samples, features).each, want)
    samples.images["diverse"] = np.repeat(samples.images["diverse"][::3], 3, axis=0)
    assert score("diversity", samples, features).value == pytest.approx(0, abs=1e-9)
    samples.per_prompt = 1
    assert score("diversity", samples, features).value is None


def test_vendi_closed_forms_and_package(features):
    samples = make_samples()
    want = vendi.score_dual(features.images(samples, "clean").astype(np.float64), normalize=True)
    assert score("vendi", samples, features).value == pytest.approx(want, rel=1e-6)
    samples.images["clean"] = np.repeat(samples.images["clean"][:1], 40, axis=0)
    assert score("vendi", samples, features).value == pytest.approx(1)
    for n in (3, 12):  # orthogonal, fewer images than dimensions and as many
        images = np.full((n, 8, 8, 3), 128, np.uint8)
        images.reshape(n, -1)[np.arange(n), np.arange(n)] = 200
        assert score(
            "vendi", make_samples(n, images={"clean": images}), features
        ).value == pytest.approx(n)
