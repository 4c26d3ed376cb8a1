"""The families that there are."""

from __future__ import annotations

from pathlib import Path

from t2i_backdoor_bench.models.families.family import Family
from t2i_backdoor_bench.models.families.pixart import PIXART_ALPHA, PIXART_SIGMA
from t2i_backdoor_bench.models.families.sdxl import SDXL_FAMILY
from t2i_backdoor_bench.models.families.stable_diffusion import STABLE_DIFFUSION
from t2i_backdoor_bench.models.trust import layout_of

FAMILIES: dict[str, Family] = {
    f.layout.pipeline: f for f in (STABLE_DIFFUSION, SDXL_FAMILY, PIXART_ALPHA, PIXART_SIGMA)
}


def family_of(folder: Path) -> Family:
    """The family of a checked diffusers folder."""
    return FAMILIES[layout_of(folder).pipeline]
