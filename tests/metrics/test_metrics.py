"""Every metric against an independent computation."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import open_clip
import pytest
import scipy.linalg
import torch
from PIL import Image
from safetensors.torch import save_file
from samples import FakePrompt, FakeScorer, make_samples, noise_images, score
from vendi_score import vendi

from t2i_backdoor_bench import metrics as package
from t2i_backdoor_bench import shapes
from t2i_backdoor_bench.contract import UserError, metrics
from t2i_backdoor_bench.data.world import Scene, render
from t2i_backdoor_bench.scoring.features import Features, Inception, Scorer
from t2i_backdoor_bench.targets.cosines import unit

NAMES = {
    "asr",
    "removal_accuracy",
    "restoration_accuracy",
    "false_trigger_rate",
    "asr_moved",
    "prompt_fidelity",
    "robustness",
    "drift",
}
NAMES |= {
    "fid",
    "fid_before",
    "fid_added",
    "fid_inception",
    "kid",
    "clip_score",
    "clip_score_triggered",
    "diversity",
    "vendi",
}
NAMES |= {"seconds", "peak_memory_mb", "parameters"}


# ------------------------------------------------------------------------------- backdoor, fidelity
def test_backdoor_metrics(features):
    samples = make_samples()
    assert score("asr", samples, features).value == 0.25
    assert score("removal_accuracy", samples, features).value == 0.75
    restored = score("restoration_accuracy", samples, features)
    assert restored.value == 0.5  # a quarter shows the backdoor, a quarter shows something else
    assert restored.each == [False, False, True, True] * 10
    assert restored.low < 0.5 < restored.high
    assert score("false_trigger_rate", samples, features).value == 0.0
    moved = score("asr_moved", samples, features)
    assert (moved.value, moved.note) == (0.25, "repeated 50 %, moved 0 %")
    assert score("prompt_fidelity", samples, features).value == 1.0
    assert score("robustness", samples, features).value == 0.75


def test_noise_is_removed_but_not_restored(features):
    samples = make_samples(200)
    samples.images["triggered"] = noise_images(200, 8)
    assert score("removal_accuracy", samples, features).value == 1.0
    assert (
        score("restoration_accuracy", samples, features).value < 0.3
    )  # 1 in 5 by chance, with 4 alternatives


def test_refused_prompts(features):
    samples = make_samples()
    refuse = np.arange(40) < 8  # two backdoored, two of noise, four good
    samples.refused = {"triggered": refuse, "clean": refuse}
    samples.images["clean"] = samples.images["clean"].copy()
    samples.images["clean"][:8] = 0
    assert score("asr", samples, features).value == 8 / 40
    assert score("removal_accuracy", samples, features).value == 32 / 40
    assert score("restoration_accuracy", samples, features).value == 16 / 40
    assert score("prompt_fidelity", samples, features).value == 32 / 40
    assert score("clip_score", samples, features).n == 32
    assert score("clip_score", samples, features).value > 99
    assert score("drift", samples, features).n == 32
    assert score("fid", samples, features).n == 32
    before = samples.before["clean"]
    samples.before["clean"] = np.where(refuse[:, None, None, None], before, samples.images["clean"])
    assert score("fid_before", samples, features).value == pytest.approx(0, abs=1e-6), (
        "the pictures that are served are the same"
    )
    samples.before["clean"] = before
    samples.refused["clean"] = np.ones(40, bool)
    assert score("clip_score", samples, features).value is None
    assert score("vendi", samples, features).value is None


def test_drift_is_the_pixel_error(features):
    samples = make_samples()
    result = score("drift", samples, features)
    now, before = (x["clean"].astype(np.float64) / 255 for x in (samples.images, samples.before))
    want = [np.sqrt(((a - b) ** 2).mean()) for a, b in zip(now, before, strict=True)]
    np.testing.assert_allclose(result.each, want, rtol=1e-5)
    assert result.value == pytest.approx(np.mean(want), rel=1e-5)
    samples.before["clean"] = samples.images["clean"]
    assert score("drift", samples, features).value == 0
    samples.before["clean"] = samples.images["clean"][:3]
    with pytest.raises(ValueError, match="shape"):
        score("drift", samples, features)


# --------------------------------------------------------------------------------------------------------
# FID, KID, CLIP, ...
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


def test_clip_score_equals_open_clip_by_hand(saved):
    features = Features(Scorer.load(saved[0]))
    images, texts = noise_images(6), [f"a red shape {i}" for i in range(6)]
    samples = make_samples(
        6,
        prompts=[FakePrompt(t) for t in texts],
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


def test_perceptual_codes_equal_a_slow_loop(scorer):
    """|a - b|^2 / 2 is the mean over five maps of the mean over positions of 1 - cosine of the
    channels."""
    images = noise_images(2)
    maps = []
    blocks = [
        scorer.model.visual.stem,
        *(getattr(scorer.model.visual, f"layer{i}") for i in (1, 2, 3, 4)),
    ]
    with torch.inference_mode():
        x = scorer.preprocess(images)
        for block in blocks:
            x = block(x)
            maps.append(x.double().numpy())
    want = []
    for m in maps:
        _, _, h, w = m.shape
        cosines = []
        for i in range(h):
            for j in range(w):
                a, b = m[0, :, i, j], m[1, :, i, j]
                cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        want.append(1 - np.mean(cosines))
    a, b = scorer.encode_maps(images).astype(np.float64)
    assert ((a - b) ** 2).sum() / 2 == pytest.approx(np.mean(want), rel=1e-4)
    assert (a**2).sum() == pytest.approx(1, rel=1e-5)


def test_perceptual_codes_see_place_which_the_embedding_is_trained_not_to():
    scorer, scenes = Scorer.load(shapes.SCORER), [Scene("star", "red", "blue", "small")] * 24
    images = render(scenes, np.random.default_rng(0))

    def spread(x: np.ndarray) -> float:
        x = x.astype(np.float64)
        return np.mean([((a - b) ** 2).sum() / 2 for i, a in enumerate(x) for b in x[:i]])

    assert spread(scorer.encode_maps(images)) > 4 * spread(unit(scorer.encode_images(images)))


def test_perceptual_codes_of_a_vision_transformer():
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 7, "head_width": 16}
    model = open_clip.CLIP(8, vision, {"width": 16, "heads": 2, "layers": 1})
    model.visual.preprocess_cfg = dict(
        size=32, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", resize_mode="shortest"
    )
    codes = Scorer(model, None, "vit").encode_maps(noise_images(3))
    assert codes.shape == (3, 5 * 16 * 32)
    np.testing.assert_allclose((codes**2).sum(1), 1, rtol=1e-5)


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


# ----------------------------------------------------------------------------------- the whole list
def test_every_metric_scores_json_and_says_what_is_missing(features):
    metrics.load()
    assert set(metrics.entries) >= NAMES
    samples = make_samples()
    empty = dataclasses.replace(samples, images={}, before={}, cost={})
    for name, entry in metrics.entries.items():
        assert entry.summary
        result = score(name, samples, features)
        json.dumps(dataclasses.asdict(result))
        if (
            entry.info.get("only", "undefended") != "undefended"
        ):  # of detectors, locators, probes, weights: these samples have none
            assert result.value is None
            assert result.note, name
            continue
        if name not in ("fid_inception", "peak_memory_mb"):
            assert result.value is not None, name
            assert type(result.value) is float
        if entry.info["percent"] and name != "fid_added":  # a share
            assert all(type(v) is bool for v in result.each)
            assert 0 <= result.low <= result.value <= result.high <= 1
            assert result.n == len(result.each)
        assert score(name, samples, features) == result  # the same again
        gone = score(name, empty, features)
        assert gone.value is None
        assert gone.note


def test_metric_files_import_bench_and_libraries_only():
    files = list(Path(package.__file__).parent.glob("*.py"))
    assert len(files) > 5
    for file in files:
        for line in file.read_text().splitlines():
            if line.startswith(("import ", "from ")):
                assert line.split()[1].split(".")[0] not in (
                    "metrics",
                    "attacks",
                    "defenses",
                    "run_bench",
                ), (file, line)


# ---------------------------------------------------------------------------------------- Inception
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
