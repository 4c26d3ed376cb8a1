"""The embedded base `shapes`: a small genuine Stable Diffusion of a rendered world, its scorer, and
the scripts that train both."""

from pathlib import Path

BASE = Path(__file__).parent / "base"
SCORER = Path(__file__).parent / "scorer"
