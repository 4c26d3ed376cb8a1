"""Where the weights of the embedded base and of its scorers are."""

from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "shapes"
BASE = _FOLDER / "base"
SCORER = _FOLDER / "scorer"
SECOND_SCORER = _FOLDER / "second_scorer"
