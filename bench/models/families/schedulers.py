"""The samplers of models that predict noise or velocity, by name."""

from __future__ import annotations

from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
)


def make_scheduler(own: Any, name: str) -> Any:
    """The scheduler of a name of `sampler.NAMES`, with the noise levels of a model's `own`."""
    config = own.config
    if name == "dpm":
        return DPMSolverMultistepScheduler.from_config(config, algorithm_type="dpmsolver++")
    if name == "ddim":
        # the last step of DDIM ends at the first noise level of Stable Diffusion, not at none
        return DDIMScheduler.from_config(config, clip_sample=False, set_alpha_to_one=False)
    if name == "euler":
        return EulerDiscreteScheduler.from_config(config)
    if name == "lcm":
        return LCMScheduler.from_config(config)
    if name == "own":
        return own
    raise ValueError(f"no sampler is called {name!r}")
