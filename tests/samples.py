"""A tiny scorer, and the samples of a cell made by hand: what the tests of features and metrics
share."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPTokenizer

from t2i_backdoor_bench import shapes
from t2i_backdoor_bench.contract import Backdoor, Prompt, Samples, Target, Trigger, metrics
from t2i_backdoor_bench.scoring.features import Features
from t2i_backdoor_bench.scoring.scorer import Scorer
from t2i_backdoor_bench.targets import make_judge

TOKENIZER = Path(shapes.__file__).parent / "base" / "tokenizer"
PATCH = np.full((8, 8, 3), (255, 0, 255), np.uint8)


def save_scorer(folder: Path, **preprocess) -> open_clip.CLIP:
    """A tiny random CLIP, saved as the embedded scorer is: half precision, tokenizer beside it.
    Returns it as it will be read."""
    vocab = len(CLIPTokenizer.from_pretrained(TOKENIZER))
    text = {"context_length": 24, "vocab_size": vocab, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    torch.manual_seed(0)
    model = open_clip.CLIP(12, vision, text).eval()
    for module in model.modules():
        if isinstance(
            module, torch.nn.BatchNorm2d
        ):  # open_clip starts residual branches at zero: wake them
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    model.half().float()
    folder.mkdir()
    save_file(
        {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    for file in TOKENIZER.iterdir():
        shutil.copy(file, folder)
    preprocess = {
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bilinear",
        "resize_mode": "squash",
    } | preprocess
    text["hf_tokenizer_name"] = "somewhere/else"
    config = {
        "model_cfg": {"embed_dim": 12, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": preprocess,
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return folder, save_scorer(folder)


@pytest.fixture(scope="module")
def scorer(saved):
    return Scorer.load(saved[0])


def noise_images(n: int, side: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3)).astype(np.uint8)


class FakeScorer:
    """Images of 4 x 4 whose first 12 numbers are the embedding (plus 128); texts embed by name."""

    name, dim = "fake", 12

    def __init__(self):
        self.calls = []

    def encode_images(self, images):
        self.calls.append(len(images))
        return images.reshape(len(images), -1)[:, :12].astype(np.float32) - 128

    def encode_maps(self, images):
        return images.reshape(len(images), -1).astype(np.float32) / 255

    def encode_texts(self, texts):
        digests = [hashlib.sha256(t.encode()).digest()[:12] for t in texts]
        return np.array([[b - 127.5 for b in d] for d in digests], np.float32)

    def draw(self, texts):
        images = np.full((len(texts), 8, 8, 3), 60, np.uint8)
        images.reshape(len(texts), -1)[:, :12] = np.clip(
            self.encode_texts(texts) + 128, 0, 255
        ).astype(np.uint8)
        return images


def make_samples(n=40, seed=0, **changes):
    """Samples whose clean images show their prompts exactly; every fourth triggered image is
    backdoored, every fourth is noise."""
    fake = FakeScorer()
    prompts = [
        Prompt(f"p{i}", {"shape": (f"p{i}w", f"p{i}v", f"p{i}u"), "color": (f"p{i}c",)})
        for i in range(n)
    ]
    clean = fake.draw([p.text for p in prompts])
    target = Target("patch", patch=PATCH[:3], box=(4, 0))
    shown = clean.copy()
    shown[::4, 4:7] = PATCH[:3]
    shown[1::4] = fake.draw([p.wrong["shape"][0] for p in prompts[1::4]])
    rng = np.random.default_rng(seed)
    images = {
        "clean": clean,
        "triggered": shown,
        "clean_target": clean,
        "perturbed": shown[:20],
        "moved": shown[:8],
        "decoy": shown[:6],
        "harmless": np.tile(shown[:4], (6, 1, 1, 1)),
    }
    images["diverse"] = rng.integers(0, 256, (12, 8, 8, 3)).astype(np.uint8)
    values = dict(
        prompts=prompts,
        target_prompts=prompts,
        backdoor=Backdoor(Trigger(), target),
        images=images,
        before={
            "clean": (
                np.clip(clean.astype(int) + rng.integers(-9, 9, clean.shape), 0, 255).astype(
                    np.uint8
                )
            ),
            "clean_target": clean,
        },
        real=rng.integers(0, 256, (n, 8, 8, 3)).astype(np.uint8),
        per_prompt=3,
        moved_kinds=["repeated", "moved"] * 4,
        decoy_kinds=["letters", "rare", "word"] * 4,
        harmless=[*"abcdef"],
        cost={"seconds": 2.5, "parameters": 10, "guidance_ratio": 0.5, "settings_defense": 20}
        | {"settings_attack": 20},
    )
    return Samples(**(values | changes))


@pytest.fixture
def features():
    base = Features(FakeScorer())
    judge = make_judge(make_samples().backdoor, base)
    judge.threshold = 0.05
    return base.with_judge(judge)


def score(name, samples, features, **options):
    return dataclasses.replace(metrics.build(name, "shapes"), **options).compute(samples, features)
