"""The scorers of the embedded base: two small CLIPs of the same world. The second has another seed
and other architectures, so that a number can be told by networks that share no training."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from t2i_backdoor_bench.data.world import render, sample_scenes
from t2i_backdoor_bench.shapes import BASE, SCORER, SECOND_SCORER
from t2i_backdoor_bench.shapes.autoencoder import add_patches
from t2i_backdoor_bench.shapes.contrastive import contrastive, degrade, matches, partial_caption
from t2i_backdoor_bench.shapes.networks import EMBED, make_scorer
from t2i_backdoor_bench.shapes.stream import Setting, Stream, to_tensor
from t2i_backdoor_bench.shapes.tokenizer import tokenize
from t2i_backdoor_bench.training.loop import Optim, fit, step_rng

SCORE = Optim(steps=9_000, lr=2e-3, batch=256, weight_decay=1e-2, warmup=100, decay=0.4, ema=0.995)
SECOND = dataclasses.replace(SCORE, steps=4_000, batch=128)


def train_scorer(
    setting: Setting, tokenizer: CLIPTokenizer, second: bool = False
) -> open_clip.CLIP:
    """A small CLIP of the same world with its own seed: CLIP score, zero-shot judges and the
    features of FID and KID. The `second` one checks the first."""
    name = "second scorer" if second else "scorer"
    seed = setting.seed + (2011 if second else 1007)
    optim = setting.steps(SECOND if second else SCORE)
    torch.manual_seed(seed)
    config = make_scorer(vocab=len(tokenizer), second=second)
    clip = open_clip.CLIP(
        EMBED, config["vision_cfg"], config["text_cfg"] | {"hf_tokenizer_name": ""}
    )
    clip = clip.to(setting.device, memory_format=torch.channels_last).train()

    def make(step: int) -> tuple[Tensor, ...]:
        rng = step_rng(seed, step)
        scenes = sample_scenes(optim.batch, rng)
        images = degrade(to_tensor(add_patches(render(scenes, rng), rng, 0.1)), rng)
        pairs = [partial_caption(s, rng) for s in scenes]
        return (
            images,
            tokenize(tokenizer, [t for t, _ in pairs]),
            matches(scenes, [d for _, d in pairs]),
        )

    batches = Stream(make, optim.steps, setting)

    def loss_fn(step: int) -> Tensor:
        images, ids, match = batches(step)
        return contrastive(
            clip.encode_image(images),
            clip.encode_text(ids),
            clip.logit_scale.clamp(max=4.6).exp(),
            match,
        )

    checkpoint = setting.work / f"{name.replace(' ', '-')}.ckpt"
    fit(clip.parameters(), loss_fn, optim, name, checkpoint)
    clip.train()
    with torch.no_grad():  # settle the batch statistics on the averaged weights
        for m in clip.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.reset_running_stats()
                m.momentum = None
        for step in range(40):
            rng = step_rng(seed + 1, step)
            clip.encode_image(
                to_tensor(render(sample_scenes(optim.batch, rng), rng)).to(setting.device)
            )
    return clip.eval()


def save_scorer(clip: open_clip.CLIP, tokenizer: CLIPTokenizer, second: bool = False) -> None:
    """Write the scorer as an OpenCLIP folder, in float16, with the tokenizer of the base."""
    folder = SECOND_SCORER if second else SCORER
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        k: v.half().contiguous().cpu() if v.is_floating_point() else v.cpu()
        for k, v in clip.state_dict().items()
    }
    save_file(state, folder / "open_clip_model.safetensors")
    for name in os.listdir(BASE / "tokenizer"):
        shutil.copy(BASE / "tokenizer" / name, folder / name)
    preprocess = {
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bilinear",
        "resize_mode": "squash",
    }
    config = {
        "model_cfg": make_scorer(f"bench/shapes/{folder.name}", len(tokenizer), second),
        "preprocess_cfg": preprocess,
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
