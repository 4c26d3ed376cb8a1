"""Train the embedded base and its scorers from a seed: tokenizer, autoencoder, text encoder, U-Net,
two scorers.

    python -m t2i_backdoor_bench.shapes.train [--seed 0] [--work FOLDER] [--only STAGE]
        [--device cuda --workers 12] [--scale 0.15]

A stage that was killed resumes from its last checkpoint. The data of a step depends only on the
seed and the number of the step. The default numbers of steps are for one GPU; `--scale` shortens
every stage for a computer without one.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from t2i_backdoor_bench.shapes import BASE
from t2i_backdoor_bench.shapes.autoencoder import train_autoencoder
from t2i_backdoor_bench.shapes.networks import make_scheduler
from t2i_backdoor_bench.shapes.scorer import save_scorer, train_scorer
from t2i_backdoor_bench.shapes.stream import Setting
from t2i_backdoor_bench.shapes.text_encoder import train_text_encoder
from t2i_backdoor_bench.shapes.tokenizer import train_tokenizer
from t2i_backdoor_bench.shapes.unet import train_unet

STAGES = ("tokenizer", "autoencoder", "text", "scorer", "second-scorer", "unet")


def save_half(module: nn.Module, folder: Path) -> None:
    """Save a diffusers or transformers module in float16 without changing it."""
    copy.deepcopy(module).cpu().half().save_pretrained(folder, safe_serialization=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("results/shapes-training"),
        help="checkpoints (git-ignored)",
    )
    parser.add_argument("--only", choices=STAGES, help="train only this part")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches ahead")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="multiplies the steps of every stage"
    )
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")  # TF32 where there is a GPU
    torch.backends.cudnn.benchmark = True
    setting = Setting(args.seed, args.work, args.device, args.workers, args.scale)
    for stage in STAGES if args.only is None else (args.only,):
        run_stage(stage, setting)


def run_stage(stage: str, setting: Setting) -> None:
    """Train one part and save it. Every part but the tokenizer needs those before it on disk."""
    if stage == "tokenizer":
        train_tokenizer(setting.seed).save_pretrained(BASE / "tokenizer")
        return
    tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer")
    if stage == "autoencoder":
        save_half(train_autoencoder(setting), BASE / "vae")
    elif stage == "text":
        save_half(train_text_encoder(setting, tokenizer), BASE / "text_encoder")
    elif stage in ("scorer", "second-scorer"):
        second = stage == "second-scorer"
        save_scorer(train_scorer(setting, tokenizer, second), tokenizer, second)
    elif stage == "unet":
        text = (
            CLIPTextModel.from_pretrained(BASE / "text_encoder").float().eval().to(setting.device)
        )
        vae = AutoencoderKL.from_pretrained(BASE / "vae").float().eval().to(setting.device)
        unet = train_unet(setting, tokenizer, text, vae)
        pipe = StableDiffusionPipeline(
            vae,
            text,
            tokenizer,
            unet,
            make_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipe.to("cpu", dtype=torch.float16).save_pretrained(BASE, safe_serialization=True)


if __name__ == "__main__":
    main()
