"""PixArt alpha and sigma: a transformer with cross-attention to the states of T5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import PixArtAlphaPipeline, PixArtSigmaPipeline, PixArtTransformer2DModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.families import folders
from t2i_backdoor_bench.models.families.attention import TextAttention
from t2i_backdoor_bench.models.families.conditioning import Conditioning, TextPart, lowered
from t2i_backdoor_bench.models.families.cross_attention import CrossAttention, ask
from t2i_backdoor_bench.models.families.family import OnStep
from t2i_backdoor_bench.models.families.folders import Layout
from t2i_backdoor_bench.models.families.mixed import Mixed
from t2i_backdoor_bench.models.families.unets import (
    check_channels,
    check_noise,
    check_square,
    check_vocabulary,
)
from t2i_backdoor_bench.models.offload import device_of
from t2i_backdoor_bench.models.sampler import Sampler


class MixedPixArt(Mixed, PixArtTransformer2DModel):
    """The transformer in half precision."""


class PixArt(CrossAttention):
    """Padding is masked: the transformer does not read it. What a variance was predicted in is cut
    off. Prompts are read in lower case, as the pipeline reads them."""

    mixed = MixedPixArt
    encoder_lora_targets = ("q", "k", "v", "o")

    def __init__(self, name: str, layout: Layout, pipeline: type) -> None:
        self.name, self.layout, self.pipeline = name, layout, pipeline

    def denoiser(self, pipe: Any) -> nn.Module:
        return pipe.transformer

    def blocks(self, denoiser: nn.Module) -> list[nn.Module]:
        return list(denoiser.transformer_blocks)

    def encoders(self, pipe: Any) -> tuple[nn.Module, ...]:
        return (pipe.text_encoder,)

    # ---------------------------------------------------------------------------------------- text
    def text_parts(self, pipe: Any) -> tuple[TextPart, ...]:
        length = min(self.layout.reads[0], pipe.tokenizer.model_max_length)
        return (TextPart(pipe.tokenizer, 0, length, lower=True),)

    def tokenize(self, pipe: Any, prompts: Sequence[str]) -> Tensor:
        (part,) = self.text_parts(pipe)
        out = pipe.tokenizer(
            [lowered(p) for p in prompts],
            padding="max_length",
            truncation=True,
            max_length=part.length,
            return_tensors="pt",
        )
        return out.input_ids

    def read(
        self, pipe: Any, ids: Tensor, weights: Sequence[Mapping[str, Tensor]] = ()
    ) -> Conditioning:
        own = weights[0] if weights else {}
        mask = (ids != pipe.tokenizer.pad_token_id).long()
        states = ask(pipe.text_encoder, own, ids, attention_mask=mask)[0]
        device = device_of(pipe.transformer)
        return Conditioning(states.to(device), {"mask": mask.to(device)})

    # ----------------------------------------------------------------------------------- denoising
    def denoise(
        self, pipe: Any, x: Tensor, t: Tensor, conditioning: Conditioning, guidance: float
    ) -> Tensor:
        size: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if pipe.transformer.use_additional_conditions:
            side = conditioning.states.new_full((len(x), 2), self.resolution(pipe))
            size = {"resolution": side, "aspect_ratio": torch.ones_like(side[:, :1])}
        out = pipe.transformer(
            x,
            encoder_hidden_states=conditioning.states,
            encoder_attention_mask=conditioning.more["mask"],
            timestep=t.expand(len(x)),
            added_cond_kwargs=size,
        ).sample
        return out[:, : x.shape[1]]

    def draw(
        self,
        pipe: Any,
        conditioning: Conditioning,
        empty: Conditioning,
        noise: Tensor,
        sampler: Sampler,
        generators: Sequence[torch.Generator],
        on_step: OnStep | None = None,
    ) -> Tensor:
        def tell(step: int, t: Tensor, latents: Tensor) -> None:
            on_step(t, latents)

        empty = empty.expand(len(conditioning))
        if sampler.steps == 1:  # which the pipeline of alpha takes for a distilled model's
            return self.one_step(pipe, conditioning, empty, noise, sampler.guidance)
        pipe.set_progress_bar_config(disable=True)
        return pipe(
            negative_prompt=None,
            prompt_embeds=conditioning.states,
            prompt_attention_mask=conditioning.more["mask"],
            negative_prompt_embeds=empty.states,
            negative_prompt_attention_mask=empty.more["mask"],
            latents=noise,
            num_inference_steps=sampler.steps,
            guidance_scale=sampler.guidance,
            generator=list(generators),
            output_type="latent",
            use_resolution_binning=False,
            callback=tell if on_step else None,
        ).images

    def one_step(
        self,
        pipe: Any,
        conditioning: Conditioning,
        empty: Conditioning,
        noise: Tensor,
        guidance: float,
    ) -> Tensor:
        """Latents of n prompts, drawn in one step."""
        steps = self.drawing_steps(pipe, 1, noise.device)
        x, (t,) = steps.start(noise), steps.timesteps
        given = steps.given(x, t)
        out = self.denoise(pipe, given, t, conditioning, guidance)
        if guidance > 1:
            plain = self.denoise(pipe, given, t, empty, guidance)
            out = plain + guidance * (out - plain)
        return steps.step(out, t, x)

    # ---------------------------------------------------------------- parts that train, attention
    def key_value_inputs(self, pipe: Any, conditioning: Conditioning) -> Tensor:
        projection = pipe.transformer.caption_projection
        if projection is None:
            return conditioning.states
        with self.autocast(pipe.transformer):
            return projection(conditioning.states)

    def attention_of(self, layer: Attention) -> TextAttention:
        found = super().attention_of(layer)
        return TextAttention(found.query, found.key, found.heads, found.inputs, masked=True)

    # --------------------------------------------------------------------------------------- files
    def cast_encoders(self, pipe: Any, dtype: torch.dtype) -> None:
        """T5 is left as it was loaded: some of its layers overflow in float16 and stay float32."""

    def check(self, pipe: Any, source: str) -> None:
        config, t5 = pipe.transformer.config, pipe.text_encoder
        check_noise(pipe.scheduler.config, source)
        check_square(config, source)
        check_channels(config.in_channels, pipe, source)
        check_vocabulary(pipe.tokenizer, t5, source)
        if config.out_channels not in (config.in_channels, 2 * config.in_channels):
            raise UserError(
                f"{source} predicts {config.out_channels} channels for latents of"
                f" {config.in_channels}: neither noise alone nor noise and variance; choose another"
                " model"
            )
        wants = config.caption_channels or config.cross_attention_dim
        if wants != t5.config.d_model:
            raise UserError(
                f"{source}: the transformer reads {wants} numbers a token, and the text encoder"
                f" gives {t5.config.d_model}: the parts are of two models"
            )
        # the pipeline of alpha tells the size to the models of 1024 px, that of sigma to none
        told = self.pipeline is PixArtAlphaPipeline and config.sample_size == 128
        if pipe.transformer.use_additional_conditions != told:
            does = "takes" if pipe.transformer.use_additional_conditions else "does not take"
            raise UserError(
                f"{source} {does} the picture's size as an input, which {self.layout.pipeline} does"
                f" {'' if told else 'not '}give to a model of this size: transformer and pipeline"
                " are of two models"
            )


PIXART_ALPHA = PixArt("pixart_alpha", folders.PIXART_ALPHA, PixArtAlphaPipeline)
PIXART_SIGMA = PixArt("pixart_sigma", folders.PIXART_SIGMA, PixArtSigmaPipeline)
