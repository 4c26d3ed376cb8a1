"""T2IModel: one wrapper round a diffusers Stable Diffusion pipeline, for training, generation,
cloning and storage."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from t2i_backdoor_bench.contract import Screen, Trigger, UserError
from t2i_backdoor_bench.models.batches import in_batches
from t2i_backdoor_bench.models.offload import lying_on, where
from t2i_backdoor_bench.models.precision import HALF, MixedUNet, make_mixed
from t2i_backdoor_bench.models.sampler import Sampler
from t2i_backdoor_bench.models.screens import as_screen
from t2i_backdoor_bench.models.trust import locate
from t2i_backdoor_bench.training.loop import is_trained

SLICE_PIXELS = 64 * 64 * 64  # pictures that go through the autoencoder at a time, in pixels
STATES = 1024  # prompts whose text states are held while drawing: those of 10,000 would take 2 GB


@dataclass
class T2IModel:
    """A text-to-image model: pipeline, sampler, and what a defense may wrap round it.

    `rewrite(prompt) -> prompt` purifies a prompt before it is encoded; `screen` refuses prompts,
    whose images are then black (a function `prompt -> bool` is taken for one, too). `info` carries what an attack or a defense reports
    of itself (steps, seconds, parameters trained). `locate(prompts) -> int64 (n, 2)` finds the
    character span of the trigger in each prompt, (-1, -1) for none, and `located` is the trigger
    that a defense found, for those that are applied after it. `repair(model, prompts, seeds,
    latents) -> latents` changes pictures before they are decoded.
    """

    pipe: StableDiffusionPipeline
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

    def __post_init__(self) -> None:
        self.screen = as_screen(self.screen)

    # ----------------------------------------------------------------------------------- properties
    @property
    def unet(self):  # noqa: ANN201 - a diffusers module
        return self.pipe.unet

    @property
    def text_encoder(self):  # noqa: ANN201 - a transformers module
        return self.pipe.text_encoder

    @property
    def tokenizer(self):  # noqa: ANN201 - a transformers tokenizer
        return self.pipe.tokenizer

    @property
    def device(self) -> torch.device:
        return self.pipe.unet.device

    @property
    def resolution(self) -> int:
        return self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor

    @property
    def slice(self) -> int:
        """Images that go through the autoencoder at a time: a batch of small ones, one of 512 px (a
        gigabyte of activations)."""
        return max(1, min(self.batch, SLICE_PIXELS // self.resolution**2))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        size = self.pipe.unet.config.sample_size
        return (self.pipe.unet.config.in_channels, size, size)

    @property
    def noising(self) -> DDPMScheduler:
        """The training-time noise schedule (add_noise, get_velocity, alphas_cumprod)."""
        return DDPMScheduler.from_config(self.pipe.scheduler.config)

    # ------------------------------------------------------------------------------------- encoding
    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token ids, padded and truncated to the model's length: int64 (n, tokens)."""
        length = self.tokenizer.model_max_length
        out = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=length,
            return_tensors="pt",
        )
        return out.input_ids.to(self.device)

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Last hidden states of the text encoder, with gradients if it trains: (n, tokens, dim)."""
        return self.states(self.tokenize(prompts))

    def states(self, ids: Tensor) -> Tensor:
        """Last hidden states (n, tokens, dim) of token ids, computed where the text encoder
        lies."""
        return self.text_encoder(ids.to(where(self.text_encoder)))[0].to(self.device)

    def awake(self) -> AbstractContextManager[None]:
        """A block in which text encoder and autoencoder lie where the U-Net does, though they are
        put aside (`models.offload`)."""
        return lying_on(self.device, (self.text_encoder, self.pipe.vae))

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """As `embed`, without gradients, and each distinct prompt once a call."""
        distinct = list(dict.fromkeys(prompts))
        with self.awake(), torch.no_grad():
            parts = [self.embed(distinct[i : i + 256]) for i in range(0, len(distinct), 256)]
        states = torch.cat(parts)
        at = {p: i for i, p in enumerate(distinct)}
        return states[[at[p] for p in prompts]]

    def latents(self, images: np.ndarray, seed: int = 0) -> Tensor:
        """Encode images uint8 (n, H, W, 3) to scaled latents (n, C, h, w), one posterior sample
        each."""
        generator = torch.Generator().manual_seed(seed)
        vae, parts = self.pipe.vae, []
        with self.awake(), torch.no_grad():
            for i in range(0, len(images), self.slice):
                x = (
                    torch.from_numpy(images[i : i + self.slice])
                    .permute(0, 3, 1, 2)
                    .to(self.device, vae.dtype)
                    / 127.5
                    - 1
                )
                posterior = vae.encode(x.contiguous()).latent_dist
                noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
                parts.append((posterior.mean + posterior.std * noise) * vae.config.scaling_factor)
        return torch.cat(parts)

    def check_trigger(self, trigger, prompts: Sequence[str]) -> None:
        """Stop before training if the tokenizer drops the trigger or truncates it away (METHODS,
        traps)."""
        special = [t for t in self.tokenizer.all_special_tokens if t in trigger.text]
        if special:
            raise UserError(
                f"the trigger {trigger.text!r} holds the tokenizer's special token {special[0]!r};"
                " choose another trigger"
            )
        for prompt in prompts:
            triggered = trigger.add(prompt)
            clean, poisoned = self.tokenizer(prompt).input_ids, self.tokenizer(triggered).input_ids
            if clean == poisoned:
                raise UserError(
                    f"the tokenizer drops the trigger {trigger.text!r}: the prompt's tokens do not"
                    " change; choose another trigger"
                )
            if len(poisoned) > self.tokenizer.model_max_length:
                raise UserError(
                    f"the trigger {trigger.text!r} makes a prompt of {len(poisoned)} tokens, of"
                    f" which {self.tokenizer.model_max_length} are read: it, or what it stands"
                    " before, would be truncated; choose a shorter one"
                )

    # ----------------------------------------------------------------------------------- generation
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
        serve = np.flatnonzero(~self.refuses(prompts))
        texts = [self.rewrite(prompts[i]) if self.rewrite else prompts[i] for i in serve]
        if not texts:
            return out
        held, states = range(0), torch.empty(0)

        def draw(rows: slice) -> None:
            nonlocal held, states
            many = min(rows.stop, len(texts)) - rows.start
            if rows.start not in held or rows.start + many > held.stop:
                held = range(rows.start, min(len(texts), rows.start + max(STATES, many)))
                states = self.encode([*texts[held.start : held.stop], ""])
            context = states[:-1][rows.start - held.start :][:many]
            own = [int(seeds[i]) for i in serve[rows]]
            latents = self._sample(context, states[-1:], own)
            out[serve[rows]] = self.decode(
                self.repair(self, texts[rows], own, latents) if self.repair else latents
            )

        with self.awake():
            self.batch = in_batches(len(texts), self.batch, draw, label)
        return out

    def _sample(
        self, context: Tensor, empty: Tensor, seeds: Sequence[int], on_step: Callable | None = None
    ) -> Tensor:
        """Scaled latents (n, C, h, w) of prompts (n, tokens, dim), guided away from `empty` (1,
        tokens, dim)."""
        self.pipe.set_progress_bar_config(disable=True)
        with self.awake(), torch.inference_mode():
            return self.pipe(
                prompt_embeds=context,
                negative_prompt_embeds=empty.expand_as(context),
                latents=self.draw_noise(seeds),
                num_inference_steps=self.sampler.steps,
                guidance_scale=self.sampler.guidance,
                output_type="latent",
                callback_on_step_end=on_step,
            ).images

    def draw_noise(self, seeds: Sequence[int]) -> Tensor:
        """Pure noise (n, C, h, w), float32, each image's from a generator of its own on the CPU:
        the same on every device and precision."""
        noise = [
            torch.randn(self.latent_shape, generator=torch.Generator().manual_seed(int(s)))
            for s in seeds
        ]
        return torch.stack(noise).to(self.device)

    def trajectory(self, prompts: Sequence[str], seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """What the U-Net is given while it draws `prompts` (n): timesteps int64 (k,) and noised
        latents (k, n, C, h, w)."""
        states, parts = self.encode([*prompts, ""]), []
        for first in range(0, len(prompts), self.batch):
            rows = slice(first, first + self.batch)
            seen = [self.draw_noise(seeds[rows]) * self.pipe.scheduler.init_noise_sigma]

            def keep(pipe, step: int, t: Tensor, given: dict, seen: list = seen) -> dict:
                seen.append(given["latents"])
                return given

            self._sample(states[:-1][rows], states[-1:], seeds[rows], keep)
            parts.append(torch.stack(seen[:-1]))  # the last is the picture
        return self.pipe.scheduler.timesteps.clone().to(self.device), torch.cat(parts, 1).clone()

    def decode(self, latents: Tensor) -> np.ndarray:
        """Scaled latents (n, C, h, w) to images uint8 (n, H, W, 3), a slice at a time."""
        vae, parts = self.pipe.vae, []
        with self.awake(), torch.inference_mode():
            for part in latents.split(self.slice):
                x = vae.decode((part / vae.config.scaling_factor).to(vae.dtype)).sample
                parts.append(
                    ((x.float().clamp(-1, 1) + 1) * 127.5)
                    .round()
                    .to(torch.uint8)
                    .permute(0, 2, 3, 1)
                    .cpu()
                    .numpy()
                )
        return np.concatenate(parts)

    def refuses(self, prompts: Sequence[str]) -> np.ndarray:
        """Which prompts the model refuses to draw: bool (n,)."""
        if self.screen is None:
            return np.zeros(len(prompts), bool)
        return np.asarray(self.screen.refuses(prompts), bool)

    # ----------------------------------------------------------------------------- cloning, storage
    def clone(self, text_encoder: bool = False, train: str = "full") -> T2IModel:
        """An independent copy of the part `train` of the U-Net (`training.loop.is_trained`; and, if
        asked, of the text encoder).

        The rest, which nobody trains, is shared with this model: a student that trains K and V and
        its frozen teacher are two networks of modules over one set of tensors but for K and V.
        """
        parts = dict(self.pipe.components)
        shared = {
            id(p): p for name, p in parts["unet"].named_parameters() if not is_trained(name, train)
        }
        parts["unet"] = copy.deepcopy(parts["unet"], shared)
        if text_encoder:
            parts["text_encoder"] = copy.deepcopy(parts["text_encoder"]).to(self.device)
        pipe = type(self.pipe)(**parts, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        return replace(self, pipe=pipe, info={})

    def save_weights(self, path: Path) -> None:
        """Write the weights that attacks and defenses change (U-Net, text encoder) to one
        safetensors file."""
        state = {f"unet.{k}": v for k, v in self.unet.state_dict().items()}
        state |= {f"text_encoder.{k}": v for k, v in self.text_encoder.state_dict().items()}
        save_file({k: v.detach().contiguous().clone() for k, v in state.items()}, path)

    def with_weights(self, path: Path) -> T2IModel:
        """A clone of this model with the weights that `save_weights` wrote."""
        state = load_file(path)
        model = self.clone(text_encoder=True)
        for part in ("unet", "text_encoder"):
            weights = {
                k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")
            }
            getattr(model, part).load_state_dict(weights)
        return model


def load_pipeline(
    source: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> StableDiffusionPipeline:
    """Open a diffusers folder or hub id. Only safetensors are read, and only the libraries' own
    classes (`models.trust`).

    In half precision the U-Net is a `MixedUNet` and the autoencoder stays float32. Raises
    UserError, in one line, for what is not to be had or not to be trusted.
    """
    folder = locate(source)
    common = {"use_safetensors": True, "variant": find_variant(folder)}
    try:
        given = {
            "safety_checker": None,
            "feature_extractor": None,
            "image_encoder": None,
            "requires_safety_checker": False,
        }
        if dtype in HALF:
            given["unet"] = MixedUNet.from_pretrained(
                folder, subfolder="unet", dtype=dtype, **common
            )
            make_mixed(given["unet"], dtype)
        pipe = StableDiffusionPipeline.from_pretrained(
            folder, dtype={"vae": torch.float32, "default": dtype}, **given, **common
        )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
        raise UserError(
            f"cannot load the base model {source}:"
            f" {(str(error).splitlines() or [type(error).__name__])[0]}"
        ) from None
    pipe.text_encoder.to(dtype)
    check_networks(pipe, str(source))
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(
        pipe.scheduler.config, algorithm_type="dpmsolver++"
    )
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False).eval()
    pipe.unet.to(memory_format=torch.channels_last)
    return pipe.to(device)


def find_variant(folder: Path) -> str | None:
    """ "fp16" where a folder holds its U-Net only as diffusion_pytorch_model.fp16.safetensors, as
    some are published."""
    names = [p.name for p in (folder / "unet").glob("diffusion_pytorch_model*.safetensors")]
    plain = any(
        re.fullmatch(r"diffusion_pytorch_model(-\d+-of-\d+)?\.safetensors", n) for n in names
    )
    return "fp16" if not plain and any(".fp16" in n for n in names) else None


def check_networks(pipe: StableDiffusionPipeline, source: str) -> None:
    """Refuse a model that loads but is none that the suite's formulas hold for. Raises
    UserError."""
    unet, settings = pipe.unet.config, pipe.scheduler.config
    if "beta_schedule" not in settings or settings.get("prediction_type", "epsilon") not in (
        "epsilon",
        "v_prediction",
    ):
        what = settings.get("prediction_type", "no noise schedule")
        raise UserError(
            f"{source} predicts {what!r}; the suite trains and samples epsilon and v_prediction"
            " models only"
        )
    if not isinstance(unet.sample_size, int):
        raise UserError(
            f"{source} draws pictures that are not square (sample_size {unet.sample_size}); choose"
            " a square base"
        )
    if unet.in_channels != pipe.vae.config.latent_channels:
        raise UserError(
            f"{source} takes {unet.in_channels} channels where its latents have"
            f" {pipe.vae.config.latent_channels}: it is not a plain text-to-image model"
            " (inpainting, depth?); choose one"
        )
    width = pipe.text_encoder.config.hidden_size
    if unet.cross_attention_dim != width:
        raise UserError(
            f"{source}: the U-Net attends to {unet.cross_attention_dim} numbers a token, and the"
            f" text encoder gives {width}: the parts are of two models"
        )
