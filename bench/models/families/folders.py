"""What lies in the folder of each family's models, and what of it may be read. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.models.sampler import Sampler

NOTHING = (None, [None, None])  # how an index says that a part is left out
OF_SD = Sampler(25, 7.5)  # 50 steps of the older samplers, by a solver of second order


@dataclass(frozen=True)
class Layout:
    """A diffusers folder: the class of its pipeline, its parts by what they are for, and of each
    part the library and the classes that may be behind it (none: any scheduler)."""

    family: str  # in words
    versions: str  # the models of the family that are supported, in words
    pipeline: str
    denoiser: str
    encoders: tuple[str, ...]
    autoencoder: str
    tokenizers: tuple[str, ...]
    parts: Mapping[str, tuple[str, tuple[str, ...]]]
    optional: tuple[str, ...]  # parts that a folder may have and are not read
    settings: tuple[str, ...] = ()  # entries of the index that are settings of the pipeline
    sampler: Sampler = OF_SD  # of a model that is no named base
    samplers: tuple[str, ...] = ("dpm", "ddim", "euler", "lcm", "own")
    # how many tokens each tokenizer reads, special ones included; 0: as many as it says itself
    reads: tuple[int, ...] = (0,)
    omitted: tuple[str, ...] = ()  # parts that a folder may leave out, all of them together
    name: str = ""  # the family as methods name it
    sized: str = "denoiser"  # the part whose configuration has the side, or "autoencoder"

    def of(self, index: Mapping[str, Any]) -> Layout:
        """The layout of a folder with this index: without what it may leave out and does."""
        if not self.omitted or any(index.get(part) not in NOTHING for part in self.omitted):
            return self
        return self.without_omitted

    @property
    def without_omitted(self) -> Layout:
        return replace(
            self,
            encoders=tuple(e for e in self.encoders if e not in self.omitted),
            tokenizers=tuple(t for t in self.tokenizers if t not in self.omitted),
            parts={part: what for part, what in self.parts.items() if part not in self.omitted},
            optional=(*self.optional, *self.omitted),
            omitted=(),
        )

    @property
    def unread(self) -> tuple[str, ...]:
        """Entries of the index that are ignored."""
        return (*self.optional, *self.settings)

    @property
    def weights(self) -> tuple[str, ...]:
        """The parts that have weights."""
        return (self.denoiser, self.autoencoder, *self.encoders)

    @property
    def edited(self) -> tuple[str, ...]:
        """The parts that attacks and defenses may change."""
        return (self.denoiser, *self.encoders)

    @property
    def identity(self) -> tuple[str, ...]:
        """The files and folders whose contents say which model it is."""
        return ("model_index.json", *self.parts)

    def config_of_denoiser(self, folder: Path) -> Path:
        return folder / self.denoiser / "config.json"


STABLE_DIFFUSION = Layout(
    family="Stable Diffusion",
    versions="SD 1.x and 2.x",
    pipeline="StableDiffusionPipeline",
    denoiser="unet",
    encoders=("text_encoder",),
    autoencoder="vae",
    tokenizers=("tokenizer",),
    parts={
        "unet": ("diffusers", ("UNet2DConditionModel",)),
        "vae": ("diffusers", ("AutoencoderKL",)),
        "text_encoder": ("transformers", ("CLIPTextModel",)),
        "tokenizer": ("transformers", ("CLIPTokenizer", "CLIPTokenizerFast")),
        "scheduler": ("diffusers", ()),
    },
    optional=("safety_checker", "feature_extractor", "image_encoder"),
    settings=("requires_safety_checker",),
    name="stable_diffusion",
)
CLIP_TOKENIZERS = ("transformers", ("CLIPTokenizer", "CLIPTokenizerFast"))
T5_TOKENIZERS = ("transformers", ("T5Tokenizer", "T5TokenizerFast"))
SDXL = Layout(
    family="SDXL",
    versions="SDXL and SDXL Turbo, without refiner",
    pipeline="StableDiffusionXLPipeline",
    denoiser="unet",
    encoders=("text_encoder", "text_encoder_2"),
    autoencoder="vae",
    tokenizers=("tokenizer", "tokenizer_2"),
    parts={
        "unet": ("diffusers", ("UNet2DConditionModel",)),
        "vae": ("diffusers", ("AutoencoderKL",)),
        "text_encoder": ("transformers", ("CLIPTextModel",)),
        "text_encoder_2": ("transformers", ("CLIPTextModelWithProjection",)),
        "tokenizer": CLIP_TOKENIZERS,
        "tokenizer_2": CLIP_TOKENIZERS,
        "scheduler": ("diffusers", ()),
    },
    optional=("feature_extractor", "image_encoder"),
    settings=("force_zeros_for_empty_prompt", "add_watermarker"),
    sampler=Sampler(25, 5.0),
    reads=(0, 0),
    name="sdxl",
)
PIXART_ALPHA = Layout(
    family="PixArt",
    versions="PixArt alpha",
    pipeline="PixArtAlphaPipeline",
    denoiser="transformer",
    encoders=("text_encoder",),
    autoencoder="vae",
    tokenizers=("tokenizer",),
    parts={
        "transformer": ("diffusers", ("PixArtTransformer2DModel", "Transformer2DModel")),
        "vae": ("diffusers", ("AutoencoderKL",)),
        "text_encoder": ("transformers", ("T5EncoderModel",)),
        "tokenizer": T5_TOKENIZERS,
        "scheduler": ("diffusers", ()),
    },
    optional=(),
    sampler=Sampler(20, 4.5),
    reads=(120,),
    name="pixart",
)
PIXART_SIGMA = replace(
    PIXART_ALPHA, versions="PixArt sigma", pipeline="PixArtSigmaPipeline", reads=(300,)
)
OF_FLOW = ("own", "karras", "exponential")
FLOW = ("diffusers", ("FlowMatchEulerDiscreteScheduler",))
SD3 = Layout(
    family="Stable Diffusion 3",
    versions="SD 3 and 3.5",
    pipeline="StableDiffusion3Pipeline",
    denoiser="transformer",
    encoders=("text_encoder", "text_encoder_2", "text_encoder_3"),
    autoencoder="vae",
    tokenizers=("tokenizer", "tokenizer_2", "tokenizer_3"),
    parts={
        "transformer": ("diffusers", ("SD3Transformer2DModel",)),
        "vae": ("diffusers", ("AutoencoderKL",)),
        "text_encoder": ("transformers", ("CLIPTextModelWithProjection",)),
        "text_encoder_2": ("transformers", ("CLIPTextModelWithProjection",)),
        "text_encoder_3": ("transformers", ("T5EncoderModel",)),
        "tokenizer": CLIP_TOKENIZERS,
        "tokenizer_2": CLIP_TOKENIZERS,
        "tokenizer_3": T5_TOKENIZERS,
        "scheduler": FLOW,
    },
    optional=("image_encoder", "feature_extractor"),
    sampler=Sampler(28, 7.0, "own"),
    samplers=OF_FLOW,
    reads=(0, 0, 256),
    omitted=("text_encoder_3", "tokenizer_3"),
    name="sd3",
)
FLUX = Layout(
    family="FLUX",
    versions="FLUX.1 dev and schnell",
    pipeline="FluxPipeline",
    denoiser="transformer",
    encoders=("text_encoder", "text_encoder_2"),
    autoencoder="vae",
    tokenizers=("tokenizer", "tokenizer_2"),
    parts={
        "transformer": ("diffusers", ("FluxTransformer2DModel",)),
        "vae": ("diffusers", ("AutoencoderKL",)),
        "text_encoder": ("transformers", ("CLIPTextModel",)),
        "text_encoder_2": ("transformers", ("T5EncoderModel",)),
        "tokenizer": CLIP_TOKENIZERS,
        "tokenizer_2": T5_TOKENIZERS,
        "scheduler": FLOW,
    },
    optional=("image_encoder", "feature_extractor"),
    sampler=Sampler(28, 3.5, "own"),
    samplers=OF_FLOW,
    reads=(0, 512),
    name="flux",
    sized="autoencoder",
)
LAYOUTS = {
    layout.pipeline: layout
    for layout in (STABLE_DIFFUSION, SDXL, PIXART_ALPHA, PIXART_SIGMA, SD3, FLUX)
}
