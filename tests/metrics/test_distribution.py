"""FID and KID against independent computations, on features of the scorer and of Inception."""

from collections import Counter

import numpy as np
import pytest
import scipy.linalg
import torch
from safetensors.torch import save_file
from samples import FakeScorer, features, make_samples, noise_images, score  # noqa: F401 - fixtures

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.scoring.distances import frechet_floor, kernel_distance, scaled
from t2i_backdoor_bench.scoring.features import Features
from t2i_backdoor_bench.scoring.inception import Inception


def lengthened(x):
    """Embeddings as FID and KID take them from a CLIP: every row scaled to mean square 1."""
    x = x.astype(np.float64)
    return x / np.sqrt((x**2).mean(1, keepdims=True))


def reference_fid(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(
        ca + cb - 2 * scipy.linalg.sqrtm(ca @ cb).real
    )


def test_fid_equals_scipy(features):
    samples = make_samples()
    for name, other in (
        ("fid", features.real(samples)),
        ("fid_before", features.before(samples, "clean")),
    ):
        result = score(name, samples, features)
        assert result.value == pytest.approx(
            reference_fid(lengthened(other), lengthened(features.images(samples, "clean"))),
            rel=1e-6,
        )
        assert (result.n, result.network) == (40, "fake/12-d")
    samples.real = samples.images["clean"][::-1].copy()
    assert score("fid", samples, features).value == pytest.approx(0, abs=1e-6)


def test_the_floor_of_fid_needs_real_pictures_to_split(features):
    samples = make_samples()
    floor = score("fid_floor", samples, features)
    assert floor.value == frechet_floor(scaled(features.real(samples)), 40)
    assert (floor.n, floor.network) == (40, "fake/12-d")
    samples.real = samples.real[:20]
    assert "10 < 12" in score("fid_floor", samples, features).note


def test_distances_do_not_see_the_length_of_an_embedding(features, monkeypatch):
    samples = make_samples()
    before = {
        name: score(name, samples, features).value
        for name in ("fid", "fid_before", "kid", "kid_added")
    }
    plain = features.scorer.encode_images
    monkeypatch.setattr(
        features.scorer, "encode_images", lambda images: plain(images) * np.float32(3)
    )
    features._cache.clear()
    for name, value in before.items():
        assert score(name, samples, features).value == pytest.approx(value, rel=1e-6), name
    assert before["fid"] > 0.1


def test_fid_refuses_fewer_images_than_dimensions(features):
    samples = make_samples(11)
    result = score("fid", samples, features)
    assert result.value is None
    assert "11 < 12" in result.note
    assert score("kid", samples, features).value is not None
    samples = make_samples(12)
    assert score("fid", samples, features).value == pytest.approx(
        reference_fid(
            lengthened(features.real(samples)), lengthened(features.images(samples, "clean"))
        ),
        rel=1e-5,
    )


def test_kid_is_of_all_pictures_and_leaves_out_the_refused(features):
    samples = make_samples()
    real, drawn = (scaled(features.real(samples)), scaled(features.images(samples, "clean")))
    result = score("kid", samples, features)
    assert result.each == kernel_distance(real, drawn).tolist()
    assert result.value == pytest.approx(np.mean(result.each))
    assert result.low < result.value < result.high
    assert (result.n, result.network) == (40, "fake/12-d")
    samples.refused["clean"] = np.arange(40) >= 30
    assert score("kid", samples, features).each == kernel_distance(real, drawn[:30]).tolist()
    samples.refused["clean"] = np.arange(40) > 0
    assert "at least 2" in score("kid", samples, features).note


def test_what_an_attack_adds_to_kid_is_paired(features):
    samples = make_samples()
    added, now = score("kid_added", samples, features), score("kid", samples, features)
    samples.images["clean"] = samples.before["clean"]
    before = score("kid", samples, features)
    assert added.value == pytest.approx(now.value - before.value)
    assert added.each == pytest.approx(np.subtract(now.each, before.each))
    assert added.high - added.low < now.high - now.low, "pictures of one prompt vary together"
    assert score("kid_added", samples, features).value == 0, "nothing was added"


class OtherScorer(FakeScorer):
    """Sees other pixels, in 6 dimensions, under the name of the first."""

    def encode_images(self, images):
        return images.reshape(len(images), -1)[:, 12:18].astype(np.float32) - 100


def test_the_second_scorer_has_features_of_its_own(features):
    samples = make_samples()
    assert "no second scorer" in score("kid_second", samples, features).note
    with pytest.raises(RuntimeError, match="no second scorer"):
        features.second_images(samples.real)
    both = Features(features.scorer, second=OtherScorer())
    second = score("kid_second", samples, both)
    assert second.network == "fake/6-d"
    want = (both.second.encode_images(x) for x in (samples.real, samples.images["clean"]))
    assert second.each == kernel_distance(*map(scaled, want)).tolist()
    assert score("kid", samples, both) == score("kid", samples, features), "nor are they mixed"


def test_fid_inception_is_never_replaced(features, monkeypatch):
    monkeypatch.delenv("T2I_INCEPTION_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "/nowhere")
    assert Inception.load() is None
    samples = make_samples()
    result = score("fid_inception", samples, features)
    assert result.value is None
    assert "not available" in result.note
    with pytest.raises(RuntimeError, match="no Inception"):
        features.inception_images(samples.real)


def test_inception_refuses_unknown_files(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="do not exist"):
        Inception.load(tmp_path / "none.pth")
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="not the published Inception"):
        Inception.load(tmp_path / "other.pth")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    monkeypatch.setenv("T2I_INCEPTION_WEIGHTS", str(tmp_path / "other.safetensors"))
    with pytest.raises(UserError, match="does not hold"):
        Inception.load()


def test_inception_reads_safetensors(tmp_path, monkeypatch):
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    with monkeypatch.context() as patch:  # the network without its weights
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(
            fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None
        )
        patch.setattr(torch.nn.Module, "requires_grad_", lambda self, on=True: self)
        random = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    save_file(
        {k: v.contiguous() for k, v in random.state_dict().items()},
        tmp_path / "inception.safetensors",
    )
    inception = Inception.load(tmp_path / "inception.safetensors")
    features = Features(FakeScorer(), inception)
    images = noise_images(2, 64)
    found = features.inception_images(images)
    assert found.shape == (2, 2048)
    assert found.dtype == np.float32
    assert np.abs(found).sum() > 0
    assert features.inception_images(images.copy()) is found
    # 2,048 images are needed: it says so before the slow extraction
    result = score("fid_inception", make_samples(), features)
    assert "40 < 2048" in result.note
    monkeypatch.setattr(
        inception,
        "encode_images",
        lambda x: np.random.default_rng(len(x)).normal(size=(len(x), 8)).astype(np.float32),
    )
    monkeypatch.setattr(inception, "dim", 8)
    samples = make_samples()
    assert score("fid_inception", samples, features).value == pytest.approx(
        reference_fid(
            inception.encode_images(samples.real), inception.encode_images(samples.images["clean"])
        ),
        abs=1e-6,
    )
    assert Counter(k[0] for k in features._cache)["inception-v3"] == 3
