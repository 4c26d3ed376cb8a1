"""FID and KID against independent computations, on features of the scorer and of Inception."""

from collections import Counter

import numpy as np
import pytest
import scipy.linalg
import torch
from safetensors.torch import save_file
from samples import FakeScorer, features, make_samples, noise_images, score  # noqa: F401 - fixtures

from t2i_backdoor_bench.contract import UserError
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
        assert (result.n, result.network) == (40, "fake")
    real, before = features.real(samples), features.before(samples, "clean")
    fids = [
        reference_fid(lengthened(real), lengthened(x))
        for x in (features.images(samples, "clean"), before)
    ]
    assert score("fid_added", samples, features).value == pytest.approx(
        fids[0] / fids[1] - 1, rel=1e-5
    )
    samples.real = samples.before["clean"]
    samples.key += "b"
    assert score("fid_added", samples, features).value is None, "no share of nothing"
    samples.real = samples.images["clean"][::-1].copy()
    assert score("fid", samples, features).value == pytest.approx(0, abs=1e-6)


def test_distances_do_not_see_the_length_of_an_embedding(features, monkeypatch):
    samples = make_samples()
    before = {name: score(name, samples, features).value for name in ("fid", "fid_before", "kid")}
    plain = features.scorer.encode_images
    monkeypatch.setattr(
        features.scorer, "encode_images", lambda images: plain(images) * np.float32(3)
    )
    features._cache.clear()
    for name, value in before.items():
        assert score(name, samples, features).value == pytest.approx(value, rel=1e-6)
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


def reference_kid(x, y):
    """Unbiased squared MMD with the polynomial kernel (Binkowski et al. 2018, equation 4), by
    loops."""
    x, y = x.astype(np.float64), y.astype(np.float64)

    def kernel(a, b):
        return (a @ b / len(a) + 1) ** 3

    m, n = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    yy = sum(kernel(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return xx + yy - 2 * sum(kernel(a, b) for a in x for b in y) / (m * n)


def test_kid_equals_the_published_estimator(features):
    samples = make_samples()
    want = reference_kid(
        lengthened(features.real(samples)), lengthened(features.images(samples, "clean"))
    )
    assert score("kid", samples, features).value == pytest.approx(want, rel=1e-9)
    # subsets approach it, depend on the seed alone, and leave the global generator as it was
    torch.manual_seed(7)
    state = torch.get_rng_state()
    part = score("kid", samples, features, subset_size=20, subsets=400)
    assert torch.equal(torch.get_rng_state(), state)
    assert part.value == pytest.approx(want, rel=0.2)
    torch.manual_seed(8)
    assert score("kid", samples, features, subset_size=20, subsets=400).value == part.value
    assert score("kid", samples, features, subset_size=20, subsets=400, seed=1).value != part.value


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
