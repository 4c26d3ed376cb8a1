"""The families that there are."""

from __future__ import annotations

from pathlib import Path

from t2i_backdoor_bench.models.families.family import Family
from t2i_backdoor_bench.models.families.stable_diffusion import STABLE_DIFFUSION
from t2i_backdoor_bench.models.trust import layout_of

FAMILIES: dict[str, Family] = {f.layout.pipeline: f for f in (STABLE_DIFFUSION,)}


def family_of(folder: Path) -> Family:
    """The family of a checked diffusers folder."""
    return FAMILIES[layout_of(folder).pipeline]
