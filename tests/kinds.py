"""Tiny random pipelines of the Stable Diffusion 1.x and 2.x kinds, in the published folder
format."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from conftest import CONTEXT, tiny_tokenizer
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

KINDS = ("sd1", "sd2")
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "clip_sample": False,
}


def text_encoder(tokenizer: CLIPTokenizer, second: bool, width: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=CONTEXT,
            hidden_act="gelu" if second else "quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )


def denoiser(second: bool, width: int, side: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=side,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=[2, 4] if second else 4,
        use_linear_projection=second,
        norm_num_groups=8,
    )


def autoencoder(side: int) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=8 * side,
    )


def scheduler_of(second: bool) -> DDIMScheduler | PNDMScheduler:
    if second:
        return DDIMScheduler(**SCHEDULE, set_alpha_to_one=False, prediction_type="v_prediction")
    plain = {k: v for k, v in SCHEDULE.items() if k != "clip_sample"}
    return PNDMScheduler(**plain, skip_prk_steps=True)


def build(folder: Path, kind: str, side: int = 8) -> Path:
    """Write a model of a kind to `folder`: pictures of 8 * side px.

    sd1: CLIP-like text encoder (quick GELU), convolutions round the attention, epsilon, PNDM. sd2:
    OpenCLIP-like (GELU, wider, the penultimate of its layers), linear projections, heads by block,
    v-prediction, DDIM.
    """
    torch.manual_seed(7)
    tokenizer = tiny_tokenizer()
    second = kind == "sd2"
    width = 48 if second else 32
    text = text_encoder(tokenizer, second, width)
    unet, vae = denoiser(second, width, side), autoencoder(side)
    pipe = StableDiffusionPipeline(
        vae, text, tokenizer, unet, scheduler_of(second), None, None, requires_safety_checker=False
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]
    }  # as published; never read
    index |= {"feature_extractor": ["transformers", "CLIPImageProcessor"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
