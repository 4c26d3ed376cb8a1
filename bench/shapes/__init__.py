"""The embedded base `shapes`, a small real Stable Diffusion of a rendered world, and its scorer:
their weights, and the scripts that train and measure both.

Imports: contract, data, models, scoring, training.
"""

from t2i_backdoor_bench.models.embedded import BASE, SCORER

__all__ = ["BASE", "SCORER"]
