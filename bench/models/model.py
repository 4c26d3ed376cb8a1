"""T2IModel: one wrapper round a diffusers pipeline, for training, generation, cloning and
storage."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from t2i_backdoor_bench.contract import Screen, Trigger
from t2i_backdoor_bench.models.adapters import Adapter, from_state, to_state
from t2i_backdoor_bench.models.batches import in_batches, memory_used
from t2i_backdoor_bench.models.checkpoints import Checkpoints
from t2i_backdoor_bench.models.families.conditioning import Conditioning
from t2i_backdoor_bench.models.families.family import Family, OnStep, TextLayers
from t2i_backdoor_bench.models.families.stable_diffusion import STABLE_DIFFUSION
from t2i_backdoor_bench.models.finite import check_pictures
from t2i_backdoor_bench.models.networks import Networks
from t2i_backdoor_bench.models.sampler import Sampler
from t2i_backdoor_bench.models.screens import as_screen

STATES = 1024  # prompts whose text states are held while drawing: those of 10,000 would take 2 GB


@dataclass
class T2IModel(Networks):
    """A text-to-image model: pipeline, family, sampler, and what a defense may wrap round it.

    `rewrite(prompt) -> prompt` purifies a prompt before it is encoded; `screen` refuses prompts,
    whose images are then black (a function `prompt -> bool` is taken for one, too). `info` holds
    what an attack or a defense reports of itself (steps, seconds, parameters trained).
    `locate(prompts) -> int64 (n, 2)` finds the character span of the trigger in each prompt, (-1,
    -1) for none, and `located` is the trigger that a defense found, for the defenses that are
    applied after it. `repair(model, prompts, seeds, latents) -> latents` changes pictures before
    they are decoded. `adapter` has the factors of an adapter that an attack made and merged into
    the weights (`training.merged`). What depends on the networks, `family` knows. `checkpoints`:
    where a training of this model or of a copy of it is kept, to go on after a kill.
    `adam8bit`: whatever trains in it has Adam's moments in 8 bits.
    """

    pipe: Any
    name: str
    settings: str = "shapes"  # or "sd": whose defaults methods take
    sampler: Sampler = field(default_factory=Sampler)
    batch: int = 64
    rewrite: Callable[[str], str] | None = None
    screen: Screen | None = None
    locate: Callable[[Sequence[str]], np.ndarray] | None = None
    located: Trigger | None = None
    repair: Callable[[T2IModel, Sequence[str], Sequence[int], Tensor], Tensor] | None = None
    info: dict[str, Any] = field(default_factory=dict)
    adapter: Adapter = field(default_factory=dict)
    family: Family = STABLE_DIFFUSION
    checkpoints: Checkpoints = field(default_factory=Checkpoints, repr=False, compare=False)
    adam8bit: bool = False
    _text_layers: tuple[nn.Module, TextLayers] | None = field(
        default=None, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        self.screen = as_screen(self.screen)

    # ------------------------------------------------------------------------------------- pictures
    def latents(
        self,
        images: np.ndarray,
        seed: int = 0,
        change: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Tensor:
        """Encode images uint8 (n, H, W, 3) to scaled latents (n, C, h, w), one posterior sample
        each. `change(images) -> images` is applied first, to a few at a time: no second copy of
        all of them is in memory."""
        generator, parts = torch.Generator().manual_seed(seed), []
        dtype = next(self.autoencoder.parameters()).dtype
        with self.placed(), torch.no_grad():
            for i in range(0, len(images), self.slice):
                part = images[i : i + self.slice]
                x = torch.from_numpy(change(part) if change else part).permute(0, 3, 1, 2)
                x = x.to(self.device, dtype) / 127.5 - 1
                parts.append(self.family.to_latents(self.pipe, x.contiguous(), generator))
        return torch.cat(parts)

    def decode(self, latents: Tensor) -> np.ndarray:
        """Scaled latents (n, C, h, w) to images uint8 (n, H, W, 3), a slice at a time. Raises
        NonFinite where a picture has NaN or infinite values."""
        parts = []
        with self.placed(), torch.inference_mode():
            for part in latents.split(self.slice):
                x = self.family.to_pictures(self.pipe, part).float()
                check_pictures(x)
                x = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
                parts.append(x.permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(parts)

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        label: str = "generate",
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Draw one image a prompt: uint8 (n, H, W, 3), into `out` (zeros) where it is given. Each
        image has its own generator, seeded by `seeds`, so that it depends on (weights, prompt,
        seed, sampler) and not on its neighbours in the batch. Refused prompts give black images."""
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds")
        if out is None:
            out = np.zeros((len(prompts), self.resolution, self.resolution, 3), np.uint8)
        accepted = np.flatnonzero(~self.refuses(prompts))
        texts = [self.rewrite(prompts[i]) if self.rewrite else prompts[i] for i in accepted]
        if not texts:
            return out
        encoded, states = range(0), None

        def draw(rows: slice) -> None:
            nonlocal encoded, states
            many = min(rows.stop, len(texts)) - rows.start
            if rows.start not in encoded or rows.start + many > encoded.stop:
                encoded = range(rows.start, min(len(texts), rows.start + max(STATES, many)))
                states = self.condition([*texts[encoded.start : encoded.stop], ""])
            context = states[:-1][rows.start - encoded.start :][:many]
            own = [int(seeds[i]) for i in accepted[rows]]
            latents = self.draw_latents(context, states[-1:], own)
            out[accepted[rows]] = self.decode(
                self.repair(self, texts[rows], own, latents) if self.repair else latents
            )

        with self.placed():
            # the pictures of the embedded bases stay those of their batches, to the last bit
            room = memory_used(self.device) if self.settings == "sd" else None
            self.batch = in_batches(len(texts), self.batch, draw, label, room)
        return out

    def draw_latents(
        self,
        conditioning: Conditioning,
        empty: Conditioning,
        seeds: Sequence[int],
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Scaled latents (n, C, h, w) of n prompts, guided away from `empty`, one row.
        `on_step(timestep, latents)` is told of every step."""
        generators = own_generators(seeds)
        noise = self._noise(generators)
        with self.placed(), torch.inference_mode():
            return self.family.draw(
                self.pipe, conditioning, empty, noise, self.sampler, generators, on_step
            )

    def draw_noise(self, seeds: Sequence[int]) -> Tensor:
        """Pure noise (n, C, h, w), float32, each image's from a generator of its own on the CPU:
        the same on every device and precision."""
        return self._noise(own_generators(seeds))

    def _noise(self, generators: Sequence[torch.Generator]) -> Tensor:
        noise = [torch.randn(self.latent_shape, generator=g) for g in generators]
        return torch.stack(noise).to(self.device)

    def trajectory(self, prompts: Sequence[str], seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """What the denoiser is given while it draws `prompts` (n): timesteps (k,) and noised
        latents (k, n, C, h, w)."""
        states, parts, times = self.condition([*prompts, ""]), [], []
        steps = self.drawing_steps(self.sampler.steps)
        for first in range(0, len(prompts), self.batch):
            rows = slice(first, first + self.batch)
            times, seen = [], [steps.start(self.draw_noise(seeds[rows]))]

            def keep(t: Tensor, latents: Tensor, times: list = times, seen: list = seen) -> None:
                times.append(t)
                seen.append(latents)

            self.draw_latents(states[:-1][rows], states[-1:], seeds[rows], keep)
            # the last is the picture
            parts.append(torch.stack(self.drawing_steps(len(times)).given_along(seen[:-1])))
        return torch.stack(times).to(self.device), torch.cat(parts, 1).clone()

    def refuses(self, prompts: Sequence[str]) -> np.ndarray:
        """Which prompts the model refuses to draw: bool (n,)."""
        if self.screen is None:
            return np.zeros(len(prompts), bool)
        return np.asarray(self.screen.refuses(prompts), bool)

    # ----------------------------------------------------------------------------- cloning, storage
    def clone(self, encoders: bool = False, train: str = "full") -> T2IModel:
        """An independent copy of the part `train` of the denoiser (`Family.is_trained`; and, if
        asked, of the text encoders).

        The rest, which nobody trains, is shared with this model: a student that trains K and V and
        its frozen teacher are two networks of modules over one set of tensors but for K and V.
        """
        layout, trained = self.family.layout, self.family.is_trained
        shared = {id(p): p for n, p in self.denoiser.named_parameters() if not trained(n, train)}
        parts = {layout.denoiser: copy.deepcopy(self.denoiser, shared)}
        if encoders:
            for name, encoder in zip(layout.encoders, self.encoders, strict=True):
                parts[name] = copy.deepcopy(encoder).to(self.device)
        return replace(self, pipe=self.family.rebuild(self.pipe, parts), info={})

    def with_encoders(self, encoders: Sequence[nn.Module]) -> T2IModel:
        """This model with other text encoders; everything is shared."""
        parts = dict(zip(self.family.layout.encoders, encoders, strict=True))
        return replace(self, pipe=self.family.rebuild(self.pipe, parts))

    @property
    def edited(self) -> dict[str, nn.Module]:
        """The networks that attacks and defenses may change, by their name in the folder."""
        return dict(zip(self.family.layout.edited, (self.denoiser, *self.encoders), strict=True))

    def save_weights(self, path: Path) -> None:
        """Write the weights that attacks and defenses change to one safetensors file, and beside
        them the factors of a merged adapter."""
        state = to_state(self.adapter) | {
            f"{part}.{k}": v.detach().contiguous().clone()
            for part, network in self.edited.items()
            for k, v in network.state_dict().items()
        }
        save_file(state, path)

    def with_weights(self, path: Path) -> T2IModel:
        """A clone of this model with the weights that `save_weights` wrote."""
        state, model = load_file(path), self.clone(encoders=True)
        for part, network in model.edited.items():
            weights = {
                k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")
            }
            network.load_state_dict(weights)
        return replace(model, adapter=from_state(state))


def own_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """A generator of its own for each image, on the CPU."""
    return [torch.Generator().manual_seed(int(s)) for s in seeds]
