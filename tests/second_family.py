"""A second family of models, for tests: a tiny transformer with names of its own, which takes
pooled text states beside the states of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor, nn

from t2i_backdoor_bench.models.families.attention import TextAttention
from t2i_backdoor_bench.models.families.conditioning import Conditioning, TextPart
from t2i_backdoor_bench.models.families.family import Family, TextLayers
from t2i_backdoor_bench.models.families.folders import Layout
from t2i_backdoor_bench.models.families.noising import DrawingSteps, Noising
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.models.sampler import Sampler

WIDTH, HEADS, SIDE, CHANNELS = 32, 4, 8, 4


class Look(nn.Module):
    """Attention of image tokens to text tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.ask, self.index, self.content, self.give = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        q, k, v = (
            x.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for x in (self.ask(image), self.index(text), self.content(text))
        )
        out = F.scaled_dot_product_attention(q, k, v)
        return self.give(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.look = Look()
        self.widen, self.narrow = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        x = x + self.look(self.norm(x), text)
        return x + self.narrow(F.gelu(self.widen(self.norm(x))))


class Mind(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(CHANNELS, WIDTH), nn.Linear(WIDTH, CHANNELS)
        self.when, self.summary = nn.Linear(1, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.place = nn.Parameter(0.1 * torch.randn(SIDE * SIDE, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, x: Tensor, t: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
        time = self.when((t / 1000).float().reshape(-1, 1).expand(len(x), 1))
        h = self.enter(x.flatten(2).transpose(1, 2)) + self.place
        h = h + (time + self.summary(pooled))[:, None]
        for block in self.blocks:
            h = block(h, text)
        return self.leave(h).transpose(1, 2).unflatten(2, (SIDE, SIDE))


class Tiny(Family):
    """The transformer predicts the noise of latents that are pictures of 8 x 8 pixels."""

    name = "tiny"
    layout = Layout(
        "Tiny", "Tiny", "TinyPipeline", "mind", ("reader",), "codec", ("cutter",), {}, ()
    )
    lora_targets = ("ask", "index", "content", "give")
    encoder_lora_targets = ("q_proj", "k_proj", "v_proj", "out_proj")

    def denoiser(self, pipe: Any) -> nn.Module:
        return pipe.mind

    def encoders(self, pipe: Any) -> tuple[nn.Module, ...]:
        return (pipe.reader,)

    def autoencoder(self, pipe: Any) -> nn.Module:
        return pipe.codec

    def text_parts(self, pipe: Any) -> tuple[TextPart, ...]:
        return (TextPart(pipe.cutter, 0, pipe.cutter.model_max_length),)

    def tokenize(self, pipe: Any, prompts: Any) -> Tensor:
        length = pipe.cutter.model_max_length
        how = {"padding": "max_length", "truncation": True, "max_length": length}
        return pipe.cutter(list(prompts), return_tensors="pt", **how).input_ids

    def read(self, pipe: Any, ids: Tensor, weights: Any = ()) -> Conditioning:
        states = pipe.reader(ids)[0]
        return Conditioning(states, {"pooled": states.mean(1)})

    def denoise(self, pipe, x: Tensor, t: Tensor, conditioning: Conditioning, guidance) -> Tensor:
        return pipe.mind(x, t, conditioning.states, conditioning.more["pooled"])

    def noising(self, pipe: Any) -> Noising:
        return Noising(DDPMScheduler.from_config(pipe.scheduler.config))

    def draw(self, pipe, conditioning, empty, noise, sampler: Sampler, generators, on_step=None):
        steps = self.drawing_steps(pipe, sampler.steps, noise.device)
        x, empty = steps.start(noise), empty.expand(len(conditioning))
        for t in steps.timesteps:
            with_prompt, without = (self.denoise(pipe, x, t, c, 1.0) for c in (conditioning, empty))
            x = steps.step(without + sampler.guidance * (with_prompt - without), t, x)
            if on_step:
                on_step(t, x)
        return x

    def drawing_steps(self, pipe: Any, steps: int, device: torch.device) -> DrawingSteps:
        return DrawingSteps(pipe.scheduler, steps, device)

    def drawn_by(self, pipe: Any, sampler: str) -> Any:
        raise NotImplementedError

    def resolution(self, pipe: Any) -> int:
        return 8 * SIDE

    def latent_shape(self, pipe: Any) -> tuple[int, int, int]:
        return (CHANNELS, SIDE, SIDE)

    def to_latents(self, pipe: Any, pictures: Tensor, generator: torch.Generator) -> Tensor:
        return 2 * pipe.codec.encode(pictures).latent_dist.mean

    def to_pictures(self, pipe: Any, latents: Tensor) -> Tensor:
        return pipe.codec.decode(latents / 2).sample

    def reads_text(self, name: str) -> bool:
        return ".look." in name

    def is_key_or_value(self, name: str) -> bool:
        return ".look.index." in name or ".look.content." in name

    def keys_and_values(self, denoiser: nn.Module) -> list[nn.Linear]:
        return [m for b in denoiser.blocks for m in (b.look.index, b.look.content)]

    def keys(self, denoiser: nn.Module) -> list[nn.Linear]:
        return [b.look.index for b in denoiser.blocks]

    def feed_forward(self, denoiser: nn.Module) -> list[nn.Linear]:
        return [b.narrow for b in denoiser.blocks]

    def blocks(self, denoiser: nn.Module) -> list[nn.Module]:
        return list(denoiser.blocks)

    def text_layers(self, denoiser: nn.Module) -> TextLayers:
        return TextLayers({f"blocks.{i}.look": b.look for i, b in enumerate(denoiser.blocks)}, [])

    def attention_of(self, layer: Look) -> TextAttention:
        return TextAttention(layer.ask, layer.index, HEADS, lambda args, kwargs: args)

    def load(self, folder: Any, source: str, dtype: torch.dtype) -> Any:
        raise NotImplementedError

    def rebuild(self, pipe: Any, parts: Any) -> Any:
        return Pipe(**(vars(pipe) | dict(parts)))

    def save_memory(self, pipe: Any, ways: Any) -> None:
        pass


@dataclass(eq=False)
class Pipe:
    """Nothing of diffusers' pipelines: five parts under other names."""

    mind: nn.Module
    reader: nn.Module
    codec: nn.Module
    cutter: Any
    scheduler: Any


def second_model(model: T2IModel) -> T2IModel:
    """A model of the second family with the text encoder, autoencoder and noise levels of
    `model`."""
    torch.manual_seed(3)
    old = SimpleNamespace(**model.pipe.components)
    parts = (old.text_encoder, old.vae, old.tokenizer, old.scheduler)
    pipe = Pipe(Mind().requires_grad_(False).eval(), *parts)
    return T2IModel(pipe, "second", "shapes", Sampler(2, 2.0), batch=16, family=Tiny())
