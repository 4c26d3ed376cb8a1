"""FLUX.1: a transformer of joint attention with rotary positions, states of T5 and a pooled state
of CLIP, rectified flow on packed latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.models.transformers.transformer_flux import FluxAttention
from torch import Tensor, nn

from t2i_backdoor_bench.models.families import folders
from t2i_backdoor_bench.models.families.attention import (
    JointAttention,
    Reading,
    SingleStream,
    Stream,
)
from t2i_backdoor_bench.models.families.conditioning import Conditioning, TextPart
from t2i_backdoor_bench.models.families.cross_attention import ask
from t2i_backdoor_bench.models.families.family import OnStep, TextLayers
from t2i_backdoor_bench.models.families.flow import FlowTransformer, teller
from t2i_backdoor_bench.models.families.mixed import MixedFlux
from t2i_backdoor_bench.models.families.noising import DrawingSteps, FlowSteps, log_shift
from t2i_backdoor_bench.models.sampler import Sampler

T5_TOKENS = {True: 512, False: 256}  # that T5 reads: of dev, which takes the guidance; of schnell


class Flux(FlowTransformer):
    """The text states are those of T5; of CLIP the denoiser takes the pooled state alone.

    "dev" takes the guidance as an input and "schnell" has none: the empty prompt is asked in
    neither. Latents are packed for the transformer, 2 x 2 places to a token of four times the
    channels, and here are always unpacked. Behind the double blocks, which have a side of their own
    for text, come single blocks, which project text and picture by the same weights: their maps are
    read too, but nothing in them belongs to text alone.
    """

    mixed = MixedFlux

    # ---------------------------------------------------------------------------------------- text
    def text_parts(self, pipe: Any) -> tuple[TextPart, ...]:
        most = pipe.tokenizer.model_max_length
        t5 = min(
            T5_TOKENS[pipe.transformer.config.guidance_embeds], pipe.tokenizer_2.model_max_length
        )
        return (
            TextPart(pipe.tokenizer, 0, 0, 0, limit=most),
            TextPart(pipe.tokenizer_2, 0, t5, most),
        )

    def read(
        self, pipe: Any, ids: Tensor, weights: Sequence[Mapping[str, Tensor]] = ()
    ) -> Conditioning:
        (clip, t5), own = self.encoders(pipe), weights or [{}, {}]
        for_clip, for_t5 = self.ids_of(pipe, ids)
        device = pipe.transformer.device
        pooled = ask(clip, own[0], for_clip).pooler_output.to(device)
        return Conditioning(ask(t5, own[1], for_t5)[0].to(device), {"pooled": pooled})

    # ----------------------------------------------------------------------------------- denoising
    def guided(self, pipe: Any, guidance: float) -> float:
        return 1.0

    def denoise(
        self, pipe: Any, x: Tensor, t: Tensor, conditioning: Conditioning, guidance: float
    ) -> Tensor:
        n, _, height, width = x.shape
        config, total = pipe.transformer.config, pipe.scheduler.config.num_train_timesteps
        states = conditioning.states
        asked_for = {"guidance": x.new_full((n,), guidance)} if config.guidance_embeds else {}
        out = pipe.transformer(
            hidden_states=pack(x),
            timestep=t.expand(n) / total,
            encoder_hidden_states=states,
            pooled_projections=conditioning.more["pooled"],
            txt_ids=states.new_zeros(states.shape[1], 3),
            img_ids=places(height // 2, width // 2, x),
            **asked_for,
        ).sample
        return unpack(out, height, width)

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
        pipe.set_progress_bar_config(disable=True)
        height, width = noise.shape[2:]
        packed = pipe(
            prompt_embeds=conditioning.states,
            pooled_prompt_embeds=conditioning.more["pooled"],
            latents=pack(noise),
            height=height * pipe.vae_scale_factor,
            width=width * pipe.vae_scale_factor,
            num_inference_steps=sampler.steps,
            guidance_scale=sampler.guidance,
            output_type="latent",
            callback_on_step_end=teller(on_step, lambda x: unpack(x, height, width)),
        ).images
        return unpack(packed, height, width)

    def drawing_steps(self, pipe: Any, steps: int, device: torch.device) -> DrawingSteps:
        scheduler = pipe.scheduler
        mu = log_shift(scheduler, self.picture_tokens(pipe))
        return FlowSteps(scheduler, steps, device, np.linspace(1.0, 1 / steps, steps), mu)

    # ------------------------------------------------------------------------------------- latents
    def resolution(self, pipe: Any) -> int:
        return pipe.vae.config.sample_size

    def latent_shape(self, pipe: Any) -> tuple[int, int, int]:
        side = self.resolution(pipe) // pipe.vae_scale_factor
        return (pipe.transformer.config.in_channels // 4, side, side)

    def blocks(self, denoiser: nn.Module) -> list[nn.Module]:
        return [*denoiser.transformer_blocks, *denoiser.single_transformer_blocks]

    # ----------------------------------------------------------------------------------- attention
    def text_layers(self, denoiser: nn.Module) -> TextLayers:
        found = super().text_layers(denoiser)
        blocks = enumerate(denoiser.single_transformer_blocks)
        single = {f"single_transformer_blocks.{i}": b for i, b in blocks}
        return TextLayers(found.layers | single, found.checkpointing)

    def attention_of(self, layer: nn.Module) -> Reading:
        if not isinstance(layer, FluxAttention):
            return SingleStream(layer.attn.heads, _picture(layer.attn), layer.norm)
        text = Stream(layer.add_q_proj, layer.add_k_proj, layer.norm_added_q, layer.norm_added_k)
        return JointAttention(layer.heads, _picture(layer), text, heads_first=False)

    # --------------------------------------------------------------------------------------- files
    def widths(self, pipe: Any) -> list[tuple[str, int, int]]:
        config, (clip, t5) = pipe.transformer.config, self.encoders(pipe)
        return [
            ("pooled states", clip.config.hidden_size, config.pooled_projection_dim),
            ("states of T5", t5.config.d_model, config.joint_attention_dim),
        ]


def pack(latents: Tensor) -> Tensor:
    """Latents (n, C, h, w) as tokens (n, h/2 * w/2, 4 C), each of 2 x 2 places."""
    n, c, h, w = latents.shape
    return latents.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, -1, 4 * c)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """What `pack` made of latents of this height and width."""
    n, _, c = tokens.shape
    latents = tokens.view(n, height // 2, width // 2, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return latents.reshape(n, c // 4, height, width)


def places(height: int, width: int, like: Tensor) -> Tensor:
    """The places of a picture's tokens, row by row: (height * width, 3), the first coordinate 0."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    found = torch.stack([torch.zeros_like(rows), rows, columns], -1)
    return found.flatten(0, 1).to(like)


def _picture(layer: FluxAttention) -> Stream:
    return Stream(layer.to_q, layer.to_k, layer.norm_q, layer.norm_k)


FLUX = Flux(folders.FLUX)
