"""Where the weights of the embedded bases and of their scorers are."""

from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "shapes"
BASE = _FOLDER / "base"
# bases of the same world by name
BASE_FOLDERS = {"shapes": BASE} | {
    name: _FOLDER / "bases" / name for name in ("shapes-b", "shapes-xl", "shapes-mmdit")
}
SCORER = _FOLDER / "scorer"
SECOND_SCORER = _FOLDER / "second_scorer"
