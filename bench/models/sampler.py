"""How pictures are drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampler:
    """DPM-Solver++ (second order): `steps` network evaluations, classifier-free guidance."""

    steps: int = 20
    guidance: float = 4.0
