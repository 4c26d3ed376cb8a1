"""The families that there are."""

from __future__ import annotations

from pathlib import Path

from t2i_backdoor_bench.models.families.family import Family
from t2i_backdoor_bench.models.families.flux import FLUX
from t2i_backdoor_bench.models.families.pixart import PIXART_ALPHA, PIXART_SIGMA
from t2i_backdoor_bench.models.families.sd3 import SD3, SD3_WITHOUT_T5
from t2i_backdoor_bench.models.families.sdxl import SDXL_FAMILY
from t2i_backdoor_bench.models.families.stable_diffusion import STABLE_DIFFUSION
from t2i_backdoor_bench.models.trust import layout_of

FAMILIES: tuple[Family, ...] = (
    STABLE_DIFFUSION,
    SDXL_FAMILY,
    PIXART_ALPHA,
    PIXART_SIGMA,
    SD3,
    SD3_WITHOUT_T5,
    FLUX,
)


def family_of(folder: Path) -> Family:
    """The family of a checked diffusers folder."""
    layout = layout_of(folder)
    return next(family for family in FAMILIES if family.layout == layout)
