"""Whether all weights of a model were in its files: libraries fill what is missing with random
numbers, or leave it empty, and go on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.published.places import UNUSED, likely, plain, prefixed

PREFIX = "text_model."  # of the names of an encoder's weights, in some versions of the library


def check_complete(
    networks: Mapping[str, nn.Module], encoders: Iterable[str], folder: Path
) -> None:
    """Refuse a model that was just loaded from `folder` where a weight was in none of its files.
    `networks` by part; `encoders` are the parts that transformers loads. Raises UserError."""
    for part, network in networks.items():
        names: dict[int, list[str]] = {}  # a weight that stands in two places has two names
        for name, weight in network.named_parameters(remove_duplicate=False):
            names.setdefault(id(weight), []).append(name)
        absent = [name for name, p in network.named_parameters() if p.is_meta]
        for files in _written(folder / part) if part in encoders else ():
            stored = {k.removeprefix(PREFIX) for file in files for k in _names(file)}
            absent += [
                own[0]
                for own in names.values()
                if not any(name.removeprefix(PREFIX) in stored for name in own)
            ]
        if absent:
            raise UserError(
                f"{folder / part} is incomplete: {len(absent)} of its {len(names)} tensors are in"
                f" none of its files (such as {absent[0]}); {_cause(folder / part, names.values())}"
            )


def _cause(part: Path, names: Iterable[list[str]]) -> str:
    """The likely cause: other names in the files, or a copy that broke off."""
    known = {plain(name) for same in names for name in same}
    stored = [plain(k) for files in _written(part) for file in files for k in _names(file)]
    strange = [k for k in stored if k not in known and not UNUSED.fullmatch(k)]
    again = "download or save the model again"
    if not strange:
        return again
    return f"{len(strange)} names in them fit nowhere (such as {strange[0]}): " + (
        likely(strange, known) if prefixed(strange, known) else again
    )


def _written(part: Path) -> list[list[Path]]:
    """The files of a part by precision: each that is there must be whole."""
    files = sorted(part.glob("*.safetensors"))
    half = [f for f in files if ".fp16" in f.name]
    return [found for found in (half, [f for f in files if f not in half]) if found]


def _names(file: Path) -> list[str]:
    """The names of the tensors in a file; none where it cannot be read."""
    try:
        with safe_open(file, "pt") as tensors:
            return list(tensors.keys())
    except (OSError, SafetensorError):
        return []
