"""Where the weights of the embedded base and of its scorer are."""

from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "shapes"
BASE = _FOLDER / "base"
SCORER = _FOLDER / "scorer"
