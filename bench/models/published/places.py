"""Where the tensors of a file can go in a base. Names and shapes are read from the headers of the
files: no weights are loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.configs import shapes_of
from t2i_backdoor_bench.models.families.folders import Layout
from t2i_backdoor_bench.models.trust import layout_of

Shapes = Mapping[str, tuple[int, ...]]

# written by some versions of the libraries, and no weight: it is counted anew
UNUSED = re.compile(r"(.*\.)?position_ids")
RENAMED = {  # names that the libraries change: of attention in autoencoders, and of T5
    r"(.*attentions\.\d+\.)query\.": r"\1to_q.",
    r"(.*attentions\.\d+\.)key\.": r"\1to_k.",
    r"(.*attentions\.\d+\.)value\.": r"\1to_v.",
    r"(.*attentions\.\d+\.)proj_attn\.": r"\1to_out.0.",
    r"encoder\.embed_tokens\.weight": "shared.weight",
    r"text_model\.": "",
}


@dataclass(frozen=True)
class Places:
    """Of each part of a base: its tensors by their plain name (`plain`), with their shapes."""

    base: str
    folder: Path
    layout: Layout
    parts: Mapping[str, Shapes]


def plain(name: str) -> str:
    """The name of a tensor that all versions of the libraries agree about."""
    for old, new in RENAMED.items():
        if found := re.match(old, name):
            return found.expand(new) + name[found.end() :]
    return name


def places_of(folder: Path, base: str) -> Places:
    """The places of a checked whole folder, which errors call `base`."""
    layout = layout_of(folder)
    parts = {
        part: {plain(k): shape for k, (_, _, shape) in tensors_in(folder / part).items()}
        for part in layout.weights
    }
    return Places(base, folder, layout, parts)


def tensors_in(part: Path) -> dict[str, tuple[Path, str, tuple[int, ...]]]:
    """The tensors in the files of a part, by plain name: file, name in it, and shape. Where there
    are files in full and in half precision, those in full count."""
    files = sorted(part.glob("*.safetensors"))
    full = [f for f in files if ".fp16" not in f.name and ".non_ema" not in f.name]
    return of_files(full or files)


def of_files(files: Iterable[Path]) -> dict[str, tuple[Path, str, tuple[int, ...]]]:
    return {
        plain(key): (file, key, shape)
        for file in files
        for key, shape in shapes_of(file).items()
        if not UNUSED.fullmatch(key)
    }


def check_fit(who: str, found: Shapes, part: str, places: Places, whole: bool) -> None:
    """Raise UserError, in one line, where tensors find no place in a part of the base, or have
    another shape; of a `whole` part also where a place finds no tensor."""
    wanted = places.parts[part]
    if nowhere := [name for name in found if name not in wanted]:
        raise UserError(
            f"{who}: {len(nowhere)} of {len(found)} tensors find no place in the {part} of"
            f" {places.base} (such as {nowhere[0]}); {likely(nowhere, wanted)}"
        )
    other = [name for name, shape in found.items() if shape != wanted[name]]
    if other:
        shape, has = found[other[0]], wanted[other[0]]
        raise UserError(
            f"{who}: {len(other)} of {len(found)} tensors have other shapes than in the {part} of"
            f" {places.base} (such as {other[0]}, {shape} and not {has}): it is of another model;"
            " give the base that it was made from"
        )
    if whole and (absent := [name for name in wanted if name not in found]):
        raise UserError(
            f"{who}: {len(absent)} of {len(wanted)} tensors of the {part} are missing (such as"
            f" {absent[0]}): the file is incomplete; download or save it again"
        )


def likely(nowhere: Iterable[str], wanted: Iterable[str]) -> str:
    """The likely cause of names that find no place: a prefix, or another model."""
    if prefix := prefixed(nowhere, set(wanted)):
        why = ", as training on several GPUs writes it" if prefix == "module." else ""
        return f"the likely cause is the prefix {prefix}{why}: save the weights again without it"
    return "it is of another model or another kind: give the base that it was made from"


def prefixed(names: Iterable[str], known: Iterable[str]) -> str:
    """The prefix without which one of the names is known; "" where there is none."""
    known = set(known)
    for name in names:
        parts = name.split(".")
        for i in range(1, len(parts)):
            if plain(".".join(parts[i:])) in known:
                return ".".join(parts[:i]) + "."
    return ""
