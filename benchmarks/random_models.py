"""Pipelines of the true architectures of Stable Diffusion 1.5, SDXL and SD 3 with random weights,
and of the same classes in small (`throughput.py`)."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from t2i_backdoor_bench import shapes

TOKENS = 77
DOWN, UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
SD15: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": (DOWN, DOWN, DOWN, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", UP, UP, UP),
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", DOWN, DOWN),
    "up_block_types": (UP, UP, "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD3: dict[str, Any] = {
    "sample_size": 128,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
TINY: dict[str, dict[str, Any]] = {
    "sd15": {"sample_size": 8, "block_out_channels": (32, 32, 64, 64), "cross_attention_dim": 32},
    "sdxl": {
        "sample_size": 8,
        "block_out_channels": (32, 64, 64),
        "transformer_layers_per_block": (1, 1, 2),
        "attention_head_dim": (4, 4, 8),
        "cross_attention_dim": 64,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 32,
    },
    "sd3": {
        "sample_size": 8,
        "num_layers": 3,
        "attention_head_dim": 8,
        "num_attention_heads": 4,
        "joint_attention_dim": 96,
        "caption_projection_dim": 32,
        "pooled_projection_dim": 64,
        "pos_embed_max_size": 16,
    },
}
WIDTHS = {"sd15": (768,), "sdxl": (768, 1280), "sd3": (768, 1280)}
MODELS = {"sd15": SD15, "sdxl": SDXL, "sd3": SD3}


def encoder(kind: type, tokenizer: CLIPTokenizer, width: int) -> torch.nn.Module:
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        projection_dim=width,
        pad_token_id=tokenizer.eos_token_id,
        **ends,
    )
    return kind(config)


def make_pipeline(name: str, tiny: bool) -> Any:
    """A pipeline whose denoiser has the true architecture, or a small one of the same class."""
    torch.manual_seed(0)
    config = MODELS[name] | (TINY[name] if tiny else {})
    widths = (32,) * len(WIDTHS[name]) if tiny else WIDTHS[name]
    cut = {"model_max_length": TOKENS}
    tokenizers = [CLIPTokenizer.from_pretrained(shapes.BASE / "tokenizer", **cut) for _ in widths]
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        latent_channels=config.get("in_channels", 4),
        sample_size=8 * config["sample_size"],
        shift_factor=0.0 if name == "sd3" else None,
    )
    projected = CLIPTextModelWithProjection
    kinds = {"sd15": [CLIPTextModel], "sdxl": [CLIPTextModel, projected], "sd3": [projected] * 2}
    texts = [
        encoder(kind, tokenizer, width)
        for kind, tokenizer, width in zip(kinds[name], tokenizers, widths, strict=True)
    ]
    if name == "sd3":
        return StableDiffusion3Pipeline(
            transformer=SD3Transformer2DModel(**config),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=vae,
            text_encoder=texts[0],
            text_encoder_2=texts[1],
            text_encoder_3=None,
            tokenizer=tokenizers[0],
            tokenizer_2=tokenizers[1],
            tokenizer_3=None,
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
    )
    unet = UNet2DConditionModel(**config)
    if name == "sdxl":
        return StableDiffusionXLPipeline(
            vae, *texts, *tokenizers, unet, scheduler, add_watermarker=False
        )
    common = {"safety_checker": None, "feature_extractor": None}
    return StableDiffusionPipeline(
        vae, *texts, *tokenizers, unet, scheduler, **common, requires_safety_checker=False
    )
