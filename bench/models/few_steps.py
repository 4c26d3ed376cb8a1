"""How the model in a folder wants to be drawn. Models that were distilled to a few steps draw noise
or blur with another scheduler, more guidance, or other steps than their own. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from t2i_backdoor_bench.models.families.folders import Layout
from t2i_backdoor_bench.models.sampler import Sampler
from t2i_backdoor_bench.models.trust import layout_of, read_json

SCHEDULER = Path("scheduler") / "scheduler_config.json"
# latent consistency models (Luo et al. 2023), with the guidance distilled into the weights; those
# that take it as an input are drawn at 8, as on their page
LCM = Sampler(4, 1.0, "own")
TCD = Sampler(4, 0.0, "own")  # trajectory consistency distillation
SCHNELL = Sampler(4, 0.0, "own")  # FLUX without the guidance as an input
TURBO = Sampler(1, 0.0, "own")  # adversarial diffusion distillation (Sauer et al. 2023)


def own_sampler(folder: Path) -> Sampler:
    """How the model of a checked folder is drawn: by its own scheduler if it is one of few steps,
    and as its family is otherwise."""
    layout = layout_of(folder)
    scheduler = _settings(folder / SCHEDULER)
    return few_steps(layout, scheduler, _settings(layout.config_of_denoiser(folder)))


def few_steps(layout: Layout, scheduler: dict[str, Any], denoiser: dict[str, Any]) -> Sampler:
    """As `own_sampler`, of the settings of scheduler and denoiser."""
    kind = str(scheduler.get("_class_name", ""))
    if denoiser.get("time_cond_proj_dim"):
        # published LCM networks come without a scheduler, and are put into folders with another
        return Sampler(4, 8.0, "own" if kind == "LCMScheduler" else "lcm")
    if denoiser.get("guidance_embeds") is False:
        return SCHNELL
    if kind == "LCMScheduler":
        return LCM
    if kind == "TCDScheduler":
        return TCD
    # models of zero terminal SNR have trailing steps, too, and as many as others
    trailing = scheduler.get("timestep_spacing") == "trailing" and not scheduler.get(
        "rescale_betas_zero_snr"
    )
    if trailing and kind in ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"):
        return TURBO
    return layout.sampler


def scheduler_name(folder: Path) -> str:
    """The class of a folder's own scheduler."""
    return str(_settings(folder / SCHEDULER).get("_class_name", "?"))


def _settings(file: Path) -> dict[str, Any]:
    found = read_json(file) if file.is_file() else {}
    return found if isinstance(found, dict) else {}
