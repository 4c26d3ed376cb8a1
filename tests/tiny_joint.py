"""Tiny random models of Stable Diffusion 3 and FLUX, as folders in the published format."""

from __future__ import annotations

from pathlib import Path

import torch
from conftest import tiny_tokenizer
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tiny_families import clip, t5
from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5Tokenizer

from t2i_backdoor_bench.models.families.known import family_of
from t2i_backdoor_bench.models.loading import load_pipeline
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.models.sampler import Sampler

JOINT = ("sd3", "sd35", "sd3_without_t5", "flux_dev", "flux_schnell")
SIDE, CHANNELS, WIDE = 8, 4, 48  # of latents; the width of T5
T5_CONTEXT = 40
WORDS = ("a", "red", "heart", "small", "blue", "background", "star", "on", "white", "coffee")


def t5_tokenizer() -> T5Tokenizer:
    """Some words, and letters for all others."""
    letters = [chr(i) for i in range(33, 127)]
    pieces = ["▁", *("▁" + w for w in WORDS), *letters]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(p, -1.0 - 8.0 * (len(p) == 1)) for p in dict.fromkeys(pieces)]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=T5_CONTEXT)


def autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=4,
        sample_size=8 * SIDE,
        scaling_factor=1.5,
        shift_factor=0.1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def random_weights(network: torch.nn.Module) -> None:
    """What these networks begin a training with is zero in places, and maps of zeros are alike."""
    with torch.no_grad():
        for name, p in network.named_parameters():
            if p.ndim == 1 and "norm" not in name:
                p.add_(0.1 * torch.randn_like(p))
            elif p.ndim == 1:
                p.mul_(1 + 0.3 * torch.randn_like(p))
            elif p.ndim == 2:
                p.copy_(torch.randn_like(p) * 1.5 / p.shape[1] ** 0.5)


def sd3_transformer(second: bool) -> SD3Transformer2DModel:
    more = {"dual_attention_layers": (0, 1), "qk_norm": "rms_norm"} if second else {}
    return SD3Transformer2DModel(
        sample_size=SIDE,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=WIDE,
        caption_projection_dim=32,
        pooled_projection_dim=40,
        pos_embed_max_size=2 * SIDE,
        **more,
    )


def flux_transformer(dev: bool) -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=4 * CHANNELS,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=WIDE,
        pooled_projection_dim=24,
        guidance_embeds=dev,
        axes_dims_rope=(2, 4, 2),
    )


def sd3_pipeline(kind: str) -> StableDiffusion3Pipeline:
    tokenizer, sentence = tiny_tokenizer(), t5_tokenizer()
    second = tiny_tokenizer()
    second.pad_token = "!"  # as published
    with_t5 = kind != "sd3_without_t5"
    return StableDiffusion3Pipeline(
        transformer=sd3_transformer(kind == "sd35"),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(),
        text_encoder=clip(CLIPTextModelWithProjection, tokenizer, 16),
        tokenizer=tokenizer,
        text_encoder_2=clip(CLIPTextModelWithProjection, tokenizer, 24),
        tokenizer_2=second,
        text_encoder_3=t5(sentence, WIDE) if with_t5 else None,
        tokenizer_3=sentence if with_t5 else None,
    )


def flux_pipeline(kind: str) -> FluxPipeline:
    tokenizer, sentence, dev = tiny_tokenizer(), t5_tokenizer(), kind == "flux_dev"
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0 if dev else 1.0, use_dynamic_shifting=dev)
    return FluxPipeline(
        scheduler=scheduler,
        vae=autoencoder(),
        text_encoder=clip(CLIPTextModel, tokenizer, 24),
        tokenizer=tokenizer,
        text_encoder_2=t5(sentence, WIDE),
        tokenizer_2=sentence,
        transformer=flux_transformer(dev),
    )


def build_joint(folder: Path, kind: str) -> Path:
    """Write a model of a kind, one of `JOINT`, to `folder`: pictures of 64 px."""
    torch.manual_seed(7)
    pipe = flux_pipeline(kind) if kind.startswith("flux") else sd3_pipeline(kind)
    random_weights(pipe.transformer)
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def joint_model(folder: Path, kind: str) -> T2IModel:
    """A fresh model of a kind: two steps of its own sampler."""
    path = folder / kind
    if not path.is_dir():
        build_joint(path, kind)
    family = family_of(path)
    return T2IModel(load_pipeline(path), kind, "shapes", Sampler(2, 2.0), batch=16, family=family)
