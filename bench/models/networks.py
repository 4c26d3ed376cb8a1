"""What the networks of a model are and compute: everything is asked of its family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from t2i_backdoor_bench.contract import Trigger
from t2i_backdoor_bench.models.families.conditioning import Conditioning, TextPart, cat, last_read
from t2i_backdoor_bench.models.families.family import Family, TextLayers
from t2i_backdoor_bench.models.families.noising import DrawingSteps, Noising
from t2i_backdoor_bench.models.offload import device_of, placed
from t2i_backdoor_bench.models.sampler import Sampler
from t2i_backdoor_bench.models.triggers import check_trigger

SLICE_PIXELS = 64 * 64 * 64  # pictures that go through the autoencoder at a time, in pixels
ENCODED = 256  # prompts that go through the text encoders at a time


class Networks:
    """The networks of a pipeline, as `T2IModel` has them."""

    pipe: Any
    family: Family
    batch: int
    sampler: Sampler
    _text_layers: tuple[nn.Module, TextLayers] | None

    # ------------------------------------------------------------------------------------- networks
    @property
    def denoiser(self) -> nn.Module:
        return self.family.denoiser(self.pipe)

    @property
    def encoders(self) -> tuple[nn.Module, ...]:
        """The text encoders."""
        return self.family.encoders(self.pipe)

    @property
    def autoencoder(self) -> nn.Module:
        return self.family.autoencoder(self.pipe)

    @property
    def idle(self) -> tuple[nn.Module, ...]:
        """The networks that wait while the denoiser trains."""
        return (*self.encoders, self.autoencoder)

    @property
    def text_layers(self) -> TextLayers:
        """The denoiser's attention layers that read text. Looked for once, as it takes half of a
        millisecond of every training step otherwise."""
        if self._text_layers is None or self._text_layers[0] is not self.denoiser:
            self._text_layers = self.denoiser, self.family.text_layers(self.denoiser)
        return self._text_layers[1]

    @property
    def device(self) -> torch.device:
        return device_of(self.denoiser)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.denoiser.parameters()).dtype

    @property
    def resolution(self) -> int:
        return self.family.resolution(self.pipe)

    @property
    def slice(self) -> int:
        """Images that go through the autoencoder at a time: a batch of small ones, one of 512 px (a
        gigabyte of activations)."""
        return max(1, min(self.batch, SLICE_PIXELS // self.resolution**2))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.family.latent_shape(self.pipe)

    def placed(self) -> AbstractContextManager[None]:
        """A block in which text encoders and autoencoder are on the denoiser's device, though they
        wait on the CPU (`models.offload`)."""
        return placed(self.device, self.idle)

    # ----------------------------------------------------------------------------------------- text
    @property
    def text_parts(self) -> tuple[TextPart, ...]:
        return self.family.text_parts(self.pipe)

    @property
    def text_part(self) -> TextPart:
        """The first tokenizer whose tokens have text states."""
        return next(part for part in self.text_parts if part.length)

    @property
    def tokenizer(self) -> Any:
        """That of `text_part`, of `transformers`."""
        return self.text_part.tokenizer

    @property
    def states(self) -> int:
        """The number of text states of a prompt."""
        return max(part.first + part.length for part in self.text_parts)

    def check_trigger(self, trigger: Trigger, prompts: Sequence[str]) -> None:
        """Raise UserError, before training, if the tokenizers drop the trigger or truncate it
        away."""
        check_trigger(self.text_parts, trigger, prompts)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token ids, padded and truncated to the model's length: int64 (n, tokens)."""
        return self.family.tokenize(self.pipe, prompts).to(self.device)

    def tokens(self, text: str) -> list[int]:
        """A text as the model reads it: two texts with equal tokens are one to the model."""
        return self.tokenize([text])[0].tolist()

    def read(self, ids: Tensor, weights: Sequence[Mapping[str, Tensor]] = ()) -> Conditioning:
        """What the text encoders make of token ids (n, tokens), with gradients if they train.
        `weights`: of each encoder, tensors by name that stand in for its own."""
        return self.family.read(self.pipe, ids, weights)

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        """As `condition`, with gradients if the text encoders train."""
        return self.read(self.tokenize(prompts))

    def condition(self, prompts: Sequence[str]) -> Conditioning:
        """What the denoiser is told of n prompts, without gradients, each distinct prompt read once
        a call."""
        distinct = list(dict.fromkeys(prompts))
        with self.placed(), torch.no_grad():
            parts = [
                self.embed(distinct[i : i + ENCODED]) for i in range(0, len(distinct), ENCODED)
            ]
        at = {p: i for i, p in enumerate(distinct)}
        return cat(parts)[[at[p] for p in prompts]]

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """The text states of `condition`: (n, tokens, dim)."""
        return self.condition(prompts).states

    # ------------------------------------------------------------------------------------ denoising
    @property
    def noising(self) -> Noising:
        """The noise levels of training, and what the denoiser should predict."""
        return self.family.noising(self.pipe)

    def denoise(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's prediction for noised latents (n, C, h, w) at timesteps (n,) or one of
        all: (n, C, h, w)."""
        return self.family.denoise(self.pipe, x, t, conditioning, self.sampler.guidance)

    @property
    def guided(self) -> float:
        """The scale w of `empty + w (asked - empty)` in a drawing; 1: the empty prompt is not
        asked."""
        return self.family.guided(self.pipe, self.sampler.guidance)

    def key_value_inputs(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """What the denoiser's projections of text to keys and values are given, (n, tokens, d), and
        which tokens it reads at all, bool (n, tokens). In the place of a token that is not read
        stands the last one that is."""
        told = self.condition(prompts)
        with torch.no_grad():
            given = self.family.key_value_inputs(self.pipe, told)
        return (last_read(given, told.mask) if "mask" in told.more else given), told.mask

    def drawing_steps(self, steps: int) -> DrawingSteps:
        """A drawing of `steps` steps that a method makes itself."""
        return self.family.drawing_steps(self.pipe, steps, self.device)
