"""How pictures are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NAMES = {  # samplers by the names of `--scheduler`, and what they are called in tables
    "dpm": "DPM-Solver++",
    "ddim": "DDIM",
    "euler": "Euler",
    "lcm": "LCM",
    "karras": "its own with the noise levels of Karras",
    "exponential": "its own with exponential noise levels",
    "own": "the model's own scheduler",
}
DEFAULT = "dpm"


@dataclass(frozen=True)
class Sampler:
    """`steps` network evaluations of a scheduler (`NAMES`; "dpm" is the second order solver),
    and the scale of guidance."""

    steps: int = 20
    guidance: float = 4.0
    scheduler: str = DEFAULT

    @property
    def key(self) -> dict[str, Any]:
        """What of it is part of a cell's key. The scheduler is only where it is not the default,
        which is what the keys of stored cells were made with."""
        named = {} if self.scheduler == DEFAULT else {"scheduler": self.scheduler}
        return {"steps": self.steps, "guidance": self.guidance} | named
