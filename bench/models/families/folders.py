"""What lies in the folder of each family's models, and what of it may be read. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from t2i_backdoor_bench.models.sampler import Sampler

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
)
PIXART_SIGMA = replace(
    PIXART_ALPHA, versions="PixArt sigma", pipeline="PixArtSigmaPipeline", reads=(300,)
)
LAYOUTS = {
    layout.pipeline: layout for layout in (STABLE_DIFFUSION, SDXL, PIXART_ALPHA, PIXART_SIGMA)
}
