import time
from dataclasses import dataclass

import torch

from t2i_backdoor_bench.contract import DefenderView, Defense, option, register_defense
from t2i_backdoor_bench.models.model import T2IModel


@register_defense("noise_weights", groups=("control",), ours="the whole, as a control")
@dataclass
class NoiseWeights(Defense):
    """A control that every table needs: Gaussian noise on every weight of the U-Net.

    The noise is `sigma` times the standard deviation of each tensor. It knows nothing. A defense
    that is no better than this at the same loss of quality has found nothing.
    """

    sigma: float = option(
        0.1, sd=0.02, low=0, help="noise over the standard deviation of each tensor"
    )

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        begun = time.perf_counter()
        student, generator = model.clone(), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in student.denoiser.parameters():
                if p.numel() > 1:
                    p.add_(torch.randn(p.shape, generator=generator).to(p) * (self.sigma * p.std()))
        numbers = sum(p.numel() for p in student.denoiser.parameters())
        student.info = {
            "steps": 0,
            "seconds": time.perf_counter() - begun,
            "parameters": numbers,
            "images": 0,
        }
        return student
