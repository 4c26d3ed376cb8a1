"""The embedded base `shapes`, a small real Stable Diffusion of a rendered world, and its two
scorers: their weights, and the scripts that train and measure them.

Imports: contract, data, models, scoring, training.
"""

from t2i_backdoor_bench.models.embedded import BASE, BASE_FOLDERS, SCORER, SECOND_SCORER

__all__ = ["BASE", "BASE_FOLDERS", "SCORER", "SECOND_SCORER"]
