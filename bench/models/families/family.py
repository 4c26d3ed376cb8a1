"""What a family of text-to-image models says, so that methods never name its networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from t2i_backdoor_bench.models.families.attention import Reading
from t2i_backdoor_bench.models.families.conditioning import Conditioning, TextPart
from t2i_backdoor_bench.models.families.folders import Layout
from t2i_backdoor_bench.models.families.noising import DrawingSteps, Noising
from t2i_backdoor_bench.models.sampler import Sampler

# parts of a denoiser that can train: all of it, what reads text, its keys and values of text,
# all but what reads text, adapters
TRAIN = ("full", "cross", "kv", "noncross", "lora")
ENCODER = "text_encoder"  # the value of an option `train` that means the text encoders

OnStep = Callable[[Tensor, Tensor], None]  # timestep, latents after it


@dataclass(frozen=True)
class TextLayers:
    """The attention layers of a denoiser that read text, by name, and its modules that may compute
    their activations again in the backward pass."""

    layers: dict[str, nn.Module]
    checkpointing: list[nn.Module]


class Family(ABC):
    """One family. It holds nothing of a model: `pipe` is always the diffusers pipeline that is
    asked about, and `denoiser` its denoising network or a copy of that."""

    name: str
    layout: Layout
    lora_targets: tuple[str, ...]  # the denoiser's projections that adapters go round
    encoder_lora_targets: tuple[str, ...]
    text_changes: bool = False  # whether the text states change from block to block

    # ------------------------------------------------------------------------------------ networks
    @abstractmethod
    def denoiser(self, pipe: Any) -> nn.Module:
        """The network that predicts noise, velocity or flow."""

    @abstractmethod
    def encoders(self, pipe: Any) -> tuple[nn.Module, ...]:
        """The text encoders."""

    @abstractmethod
    def autoencoder(self, pipe: Any) -> nn.Module:
        """The autoencoder of pictures."""

    # ---------------------------------------------------------------------------------------- text
    @abstractmethod
    def text_parts(self, pipe: Any) -> tuple[TextPart, ...]:
        """Its tokenizers, one for each encoder, in the order of the encoders."""

    @abstractmethod
    def tokenize(self, pipe: Any, prompts: Sequence[str]) -> Tensor:
        """Token ids of all tokenizers side by side, padded and truncated: int64 (n, tokens)."""

    @abstractmethod
    def read(
        self, pipe: Any, ids: Tensor, weights: Sequence[Mapping[str, Tensor]] = ()
    ) -> Conditioning:
        """What the text encoders make of token ids, with gradients if they train. `weights`: of
        each encoder, tensors by name that stand in for its own."""

    # ----------------------------------------------------------------------------------- denoising
    @abstractmethod
    def denoise(
        self, pipe: Any, x: Tensor, t: Tensor, conditioning: Conditioning, guidance: float
    ) -> Tensor:
        """The denoiser's prediction for noised latents x (n, C, h, w) at timesteps t, (n,) or a
        scalar: (n, C, h, w). `guidance`: that of the drawing, which some denoisers take as an
        input."""

    def guided(self, pipe: Any, guidance: float) -> float:
        """The scale w of the difference to the prediction for the empty prompt, `empty + w (asked -
        empty)`, in a drawing of this guidance. It is 1 where the empty prompt is not asked: at a
        guidance of 1 or below, and for denoisers that take the guidance as an input."""
        return max(guidance, 1.0)

    @abstractmethod
    def noising(self, pipe: Any) -> Noising:
        """The noise levels of training and what is to be predicted."""

    @abstractmethod
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
        """Latents (n, C, h, w) of n prompts, drawn from noise, guided away from `empty` (one row).
        Samplers that add noise at each step take it from `generators`, one a prompt."""

    @abstractmethod
    def drawing_steps(self, pipe: Any, steps: int, device: torch.device) -> DrawingSteps:
        """A drawing of `steps` steps that a method makes itself."""

    @abstractmethod
    def drawn_by(self, pipe: Any, sampler: str) -> Any:
        """The pipeline with the sampler of this name, one of `layout.samplers`."""

    def probed(self, pipe: Any) -> dict[str, str]:
        """Samplers that draw the same model otherwise, by their names in tables."""
        return {"DDIM": "ddim", "Euler": "euler"}

    # ------------------------------------------------------------------------------------- latents
    @abstractmethod
    def resolution(self, pipe: Any) -> int:
        """Side of its pictures in pixels."""

    @abstractmethod
    def latent_shape(self, pipe: Any) -> tuple[int, int, int]:
        """(C, h, w)."""

    @abstractmethod
    def to_latents(self, pipe: Any, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """One posterior sample each of pictures (n, 3, H, W) in [-1, 1], scaled as the denoiser
        takes them: (n, C, h, w)."""

    @abstractmethod
    def to_pictures(self, pipe: Any, latents: Tensor) -> Tensor:
        """Pictures (n, 3, H, W), about in [-1, 1], of scaled latents."""

    # ---------------------------------------------------------------------------- parts that train
    @abstractmethod
    def reads_text(self, name: str) -> bool:
        """Whether the denoiser's parameter `name` belongs to what reads text."""

    @abstractmethod
    def is_key_or_value(self, name: str) -> bool:
        """Whether it belongs to a projection of text to keys or values."""

    def is_trained(self, name: str, train: str) -> bool:
        """Whether the denoiser's own parameter `name` is in the part `train`, one of `TRAIN`. None
        is in "lora", whose adapters are added beside it, and in "none"."""
        if train not in (*TRAIN, "none"):
            raise ValueError(f"train={train!r} is not one of {', '.join(TRAIN)}")
        if train in ("cross", "noncross"):
            return self.reads_text(name) == (train == "cross")
        return train == "full" or (train == "kv" and self.is_key_or_value(name))

    @abstractmethod
    def keys_and_values(self, denoiser: nn.Module) -> list[nn.Linear]:
        """The projections of text to keys and values, in the order of the network."""

    def key_value_inputs(self, pipe: Any, conditioning: Conditioning) -> Tensor:
        """What these projections are given of a conditioning: (n, tokens, d). It is the text states
        themselves, unless the denoiser projects them first."""
        return conditioning.states

    @abstractmethod
    def keys(self, denoiser: nn.Module) -> list[nn.Linear]:
        """Those of them that give keys."""

    @abstractmethod
    def feed_forward(self, denoiser: nn.Module) -> list[nn.Linear]:
        """The last projection of each feed-forward block of its transformer layers. In joint
        attention: of the blocks where text has weights of its own, that of picture tokens."""

    @abstractmethod
    def blocks(self, denoiser: nn.Module) -> list[nn.Module]:
        """The blocks that it is built of, in the order in which pictures pass them."""

    # ----------------------------------------------------------------------------------- attention
    @abstractmethod
    def text_layers(self, denoiser: nn.Module) -> TextLayers:
        """The layers whose maps of text tokens are captured."""

    @abstractmethod
    def attention_of(self, layer: nn.Module) -> Reading:
        """How to read one of them. Raises ValueError where its maps are not softmax(q k^T)."""

    def is_mixed(self, denoiser: nn.Module) -> bool:
        """Whether the denoiser computes in half precision."""
        return False

    def autocast(self, denoiser: nn.Module) -> AbstractContextManager:
        """The autocast that the denoiser's passes run under: none in float32."""
        return nullcontext()

    # --------------------------------------------------------------------------------------- files
    @abstractmethod
    def load(self, folder: Path, source: str, dtype: torch.dtype) -> Any:
        """The pipeline of a checked folder, on the CPU, frozen, with the sampler that draws.
        `source` is its name in errors. Raises UserError."""

    @abstractmethod
    def rebuild(self, pipe: Any, parts: Mapping[str, Any]) -> Any:
        """A pipeline of the same class with some of its parts exchanged."""

    @abstractmethod
    def save_memory(self, pipe: Any, ways: Sequence[str]) -> None:
        """Apply "checkpointing" and "slicing" to the denoiser where the family has them."""
