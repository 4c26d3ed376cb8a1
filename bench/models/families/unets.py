"""What Stable Diffusion and SDXL have in common: a U-Net, and text encoders of CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.families.cross_attention import CrossAttention
from t2i_backdoor_bench.models.families.mixed import MixedUNet


class UNet(CrossAttention):
    """A family with a U-Net."""

    mixed = MixedUNet

    def denoiser(self, pipe: Any) -> nn.Module:
        return pipe.unet

    def blocks(self, denoiser: nn.Module) -> list[nn.Module]:
        return [*denoiser.down_blocks, denoiser.mid_block, *denoiser.up_blocks]

    def guided(self, pipe: Any, guidance: float) -> float:
        """Consistency models (LCM) take the guidance as an input."""
        return 1.0 if pipe.unet.config.time_cond_proj_dim else max(guidance, 1.0)

    def guidance_input(self, pipe: Any, x: Tensor, guidance: float) -> Tensor | None:
        """The embedding of the guidance for a U-Net that was distilled with it: (n, dim), as the
        pipeline makes it."""
        dim = pipe.unet.config.time_cond_proj_dim
        if not dim:
            return None
        scale = torch.tensor(guidance - 1).repeat(len(x))
        return pipe.get_guidance_scale_embedding(scale, embedding_dim=dim).to(x)

    def load(self, folder: Path, source: str, dtype: torch.dtype) -> Any:
        pipe = super().load(folder, source, dtype)
        pipe.unet.to(memory_format=torch.channels_last)
        return pipe

    def save_memory(self, pipe: Any, ways: Sequence[str]) -> None:
        super().save_memory(pipe, ways)
        if "slicing" in ways:
            pipe.unet.set_attention_slice("auto")

    def check(self, pipe: Any, source: str) -> None:
        check_noise(pipe.scheduler.config, source)
        check_unet(pipe, source)
        for part, encoder in zip(self.text_parts(pipe), self.encoders(pipe), strict=True):
            check_vocabulary(part.tokenizer, encoder, source)
        widths = [encoder.config.hidden_size for encoder in self.encoders(pipe)]
        if pipe.unet.config.cross_attention_dim != sum(widths):
            encoders = "text encoder gives" if len(widths) == 1 else "text encoders give"
            raise UserError(
                f"{source}: the U-Net attends to {pipe.unet.config.cross_attention_dim} numbers a"
                f" token, and the {encoders} {' + '.join(map(str, widths))}: the parts are of two"
                " models"
            )


def clip_ids(tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """Token ids of CLIP, padded and truncated: int64 (n, tokens)."""
    out = tokenizer(
        spelled_out(tokenizer, prompts),
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )
    return out.input_ids


def spelled_out(tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """Prompts with each learned word of several vectors as its tokens "word word_1 word_2", as
    diffusers has them."""
    texts, learned = list(prompts), tokenizer.added_tokens_encoder
    for word in (w for w in learned if f"{w}_1" in learned):
        tokens = [word]
        while (further := f"{word}_{len(tokens)}") in learned:
            tokens.append(further)
        texts = [" ".join(tokens).join(text.split(word)) for text in texts]
    return texts


def check_vocabulary(tokenizer: Any, encoder: nn.Module, source: str) -> None:
    """Refuse a tokenizer that is not that of its text encoder."""
    known, embedded = len(tokenizer), encoder.config.vocab_size
    if not embedded / 2 <= known <= embedded:
        raise UserError(
            f"{source}: the tokenizer knows {known} tokens, and the text encoder {embedded}: the"
            " tokenizer's files are incomplete, or of another model"
        )


def check_noise(settings: Any, source: str) -> None:
    """Refuse what is not trained by noise levels and predicts neither noise nor velocity."""
    if "beta_schedule" not in settings or settings.get("prediction_type", "epsilon") not in (
        "epsilon",
        "v_prediction",
    ):
        what = settings.get("prediction_type", "no noise schedule")
        raise UserError(
            f"{source} predicts {what!r}; the suite trains and samples epsilon and v_prediction"
            " models only"
        )


def check_square(config: Any, source: str) -> None:
    """Refuse a denoiser of pictures that are not square."""
    if not isinstance(config.sample_size, int):
        raise UserError(
            f"{source} draws pictures that are not square (sample_size {config.sample_size});"
            " choose a square base"
        )


def check_channels(taken: int, pipe: Any, source: str) -> None:
    """Refuse a denoiser that takes other channels than those of the latents."""
    if taken != pipe.vae.config.latent_channels:
        raise UserError(
            f"{source} takes {taken} channels where its latents have"
            f" {pipe.vae.config.latent_channels}: it is not a plain text-to-image model"
            " (inpainting, depth?); choose one"
        )


def check_unet(pipe: Any, source: str) -> None:
    """Refuse a U-Net whose `attn2` is not what reads text, and nothing else."""
    unet = pipe.unet.config
    check_square(unet, source)
    check_channels(unet.in_channels, pipe, source)
    ways = (
        "encoder_hid_dim_type",
        "class_embed_type",
        "dual_cross_attention",
        "only_cross_attention",
    )
    given = {way: unet.get(way) for way in ways}
    strange = [n for n, v in given.items() if (any(v) if isinstance(v, (list, tuple)) else v)]
    if strange:
        raise UserError(
            f"{source} has a U-Net with {', '.join(strange)}, whose layers read text in another"
            " way; choose a plain text-to-image model"
        )
