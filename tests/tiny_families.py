"""Tiny random models of families other than Stable Diffusion, as folders in the published
format: pictures of 64 px, built in a tenth of a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from conftest import CONTEXT, tiny_tokenizer
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from t2i_backdoor_bench.models.families.known import family_of
from t2i_backdoor_bench.models.loading import load_pipeline
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.models.sampler import Sampler

SIDE, CHANNELS, T5_CONTEXT = 8, 4, 100  # of latents; tokens that T5 reads
WORDS = ("a", "red", "heart", "small", "blue", "background", "star", "on", "white", "coffee")
LEVELS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def t5_tokenizer() -> T5Tokenizer:
    """Some words, and letters for all others."""
    pieces = ["▁", *("▁" + w for w in WORDS), *(chr(i) for i in range(33, 127))]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(p, -1.0 - 8.0 * (len(p) == 1)) for p in dict.fromkeys(pieces)]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=T5_CONTEXT)


def t5(tokenizer: T5Tokenizer, width: int) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=64, num_layers=2, num_heads=2
    )
    return T5EncoderModel(config)


def clip(kind: type, tokenizer: CLIPTokenizer, width: int) -> torch.nn.Module:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    return kind(config)


def autoencoder(**more: Any) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=4,
        sample_size=8 * SIDE,
        **more,
    )


def sdxl_pipeline(zeros: bool = True, **unet: Any) -> StableDiffusionXLPipeline:
    """The U-Net takes text of 16 + 24 numbers a token, 24 pooled ones and 6 of size."""
    tokenizer, second = tiny_tokenizer(), tiny_tokenizer()
    second.pad_token = "!"  # as published
    return StableDiffusionXLPipeline(
        vae=autoencoder(scaling_factor=0.13025),
        text_encoder=clip(CLIPTextModel, tokenizer, 16),
        text_encoder_2=clip(CLIPTextModelWithProjection, tokenizer, 24),
        tokenizer=tokenizer,
        tokenizer_2=second,
        unet=UNet2DConditionModel(
            sample_size=SIDE,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            cross_attention_dim=40,
            attention_head_dim=(4, 8),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 24,
            norm_num_groups=8,
            **unet,
        ),
        scheduler=EulerDiscreteScheduler(**LEVELS, steps_offset=1),
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    )


def pixart_pipeline(kind: type, **transformer: Any) -> Any:
    """A transformer of noise and variance, with 16 tokens of a picture."""
    tokenizer = t5_tokenizer()
    settings = {"sample_size": SIDE, "patch_size": 2} | transformer
    return kind(
        tokenizer=tokenizer,
        text_encoder=t5(tokenizer, 48),
        vae=autoencoder(scaling_factor=0.13025),
        transformer=PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=CHANNELS,
            out_channels=2 * CHANNELS,
            num_layers=2,
            cross_attention_dim=24,
            caption_channels=48,
            **settings,
        ),
        scheduler=DPMSolverMultistepScheduler(
            beta_start=0.0001, beta_end=0.02, beta_schedule="linear", solver_order=2
        ),
    )


PIPELINES = {
    "sdxl": sdxl_pipeline,
    "pixart_alpha": lambda: pixart_pipeline(PixArtAlphaPipeline),
    "pixart_sigma": lambda: pixart_pipeline(PixArtSigmaPipeline),
}
FAMILIES = tuple(PIPELINES)


def stirred(pipe: Any, denoiser: torch.nn.Module) -> Any:
    """The pipeline with weights that tell inputs apart: the networks begin a training with much
    that is zero or nearly so."""
    with torch.no_grad():
        for name, p in denoiser.named_parameters():
            if "norm" not in name:
                p.add_(torch.randn_like(p) * (0.1 if p.ndim == 1 else 1 / p[0].numel() ** 0.5))
    return pipe


def build(folder: Path, kind: str) -> Path:
    """Write the model of a kind to a folder."""
    torch.manual_seed(7)
    pipe = PIPELINES[kind]()
    stirred(pipe, pipe.unet if kind == "sdxl" else pipe.transformer)
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def opened(folder: Path, name: str = "tiny") -> T2IModel:
    """A fresh model of a folder, drawn in two steps of its family's sampler."""
    family = family_of(folder)
    return T2IModel(load_pipeline(folder), name, "shapes", Sampler(2, 2.0), batch=16, family=family)
