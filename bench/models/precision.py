"""Half precision: weights in float16 or bfloat16, matrix products under autocast, and everything
that adds up in float32.

What is trained has float32 master weights (`training.parameters.choose_parameters`), as autocast
wants them; what is frozen stays in half. The autoencoder is float32 always: Stable Diffusion's
overflows in float16.
"""

from __future__ import annotations

import torch

HALF = (torch.float16, torch.bfloat16)
