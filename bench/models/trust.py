"""What may be read of a third-party model: safetensors and JSON inside its own folder, and no class
but the library's own.

A pickle (.bin, .ckpt, .pt, .pth) runs code when it is opened. So can a custom class or pipeline
that a model's index names. A path or a link that leaves the folder reads files that are not the
model's. All of it is refused, by name, before anything is loaded. `models.configs` says what a
configuration may hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.configs import (
    LARGEST_JSON,
    check_config,
    check_file,
    check_names,
    check_numbers,
    check_sizes,
    shapes_of,
)
from t2i_backdoor_bench.models.families.folders import LAYOUTS, NOTHING, Layout

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
DATA = ("vocab.json", "tokenizer.json", "added_tokens.json")  # words, and no settings
PIPELINES = " or ".join(LAYOUTS)
CONVERT = "t2i-backdoor-bench convert OLD NEW"


def refuse_file(name: str) -> None:
    """Raise UserError where a base is named by a file that is a pickle, or is not there."""
    suffix = Path(name).suffix.lower()
    if suffix in PICKLES:
        raise UserError(
            f"{name} is a pickle ({suffix}), which can run code when it is opened, and only"
            " safetensors are read: make some of it by t2i-backdoor-bench convert FILE"
            " NEW.safetensors, and give that with --base BASE --model NEW.safetensors"
        )
    if suffix == ".safetensors":
        raise UserError(
            f"there is no file {name}; a single file of weights goes over the model that it was"
            " made from: --base BASE --model FILE"
        )


def locate(source: str | Path) -> Path:
    """The checked folder of a base: a local one, or the snapshot of a hub id, fetched where it is
    not in the cache. Raises UserError."""
    folder = Path(source)
    if folder.is_dir():
        check_model(folder)
        return folder
    found = fetch(str(source))
    check_model(found)
    return found


@lru_cache
def fetch(source: str) -> Path:
    """The snapshot of a hub id, from the cache or the hub; what its index names is checked before
    the other files are fetched."""
    refuse_file(source)
    from diffusers import DiffusionPipeline
    from huggingface_hub import hf_hub_download

    try:
        index = Path(hf_hub_download(source, "model_index.json"))
        layout = check_pipeline(read_json(index), index)
        without = dict.fromkeys(layout.optional)
        return Path(DiffusionPipeline.download(source, use_safetensors=True, **without))
    except UserError:
        raise
    except Exception as error:  # the hub and the network raise a dozen kinds
        first = " ".join((str(error).splitlines() or [type(error).__name__])[0].split())
        raise UserError(
            f"cannot load the base model {source}: it is no local folder, not in the hub cache, and"
            f" cannot be fetched ({first[:200]}); fetch it once with a network, or give the path of"
            " a diffusers folder"
        ) from None


def check_model(folder: Path) -> None:
    """Refuse a local diffusers folder or a hub snapshot that is not of a known family, in
    safetensors. Raises UserError."""
    index = folder / "model_index.json"
    if not index.is_file():
        found = [p.name for p in sorted(folder.glob("*")) if p.suffix.lower() in PICKLES]
        if found:
            refuse_file(str(folder / found[0]))
        raise UserError(f"{folder} is not a diffusers folder: it has no model_index.json")
    check_inside(folder, ["model_index.json"])
    parts = read_json(index)
    if not isinstance(parts, dict):
        raise UserError(f"{index} is not a JSON object")
    check_names(parts, index)
    layout = check_pipeline(parts, index)
    check_inside(folder, list(layout.parts))
    for part in layout.parts:
        for file in sorted((folder / part).glob("*.json")):
            if file.name in DATA:
                check_file(file, LARGEST_JSON)
                continue
            if file.name == "adapter_config.json":
                raise UserError(
                    f"{file} loads another model under this one; merge the adapter, and save the"
                    " model without it"
                )
            settings = read_json(file)
            check_names(settings, file)
            if file.name.endswith(".index.json"):
                check_shards(settings, file)
    for part in layout.weights:
        check_weights(folder / part)
        config = folder / part / "config.json"
        check_network(config, read_json(config), layout.parts[part][1])
    for file in sorted((folder / "scheduler").glob("*.json")):
        settings = read_json(file)
        check_config(settings, file, parts["scheduler"][1:])
        check_numbers(settings, file)
    for part in layout.tokenizers:
        check_tokenizer(folder / part)


def check_tokenizer(part: Path) -> None:
    """Refuse a tokenizer without its files: the library would make an empty vocabulary of it."""
    names = {p.name for p in part.glob("*") if p.is_file()}
    absent = [] if "tokenizer_config.json" in names else ["tokenizer_config.json"]
    words = names >= {"vocab.json", "merges.txt"} or names & {"tokenizer.json", "spiece.model"}
    if not words:
        absent.append("tokenizer.json, or vocab.json and merges.txt")
    if absent:
        raise UserError(
            f"{part} has no {' and no '.join(absent)}: the tokenizer is incomplete; download or"
            " save the model again"
        )


def layout_of(folder: Path) -> Layout:
    """The layout of a checked folder."""
    index = read_json(folder / "model_index.json")
    return LAYOUTS[index["_class_name"]].of(index)


def check_pipeline(parts: dict[str, Any], index: Path) -> Layout:
    """The layout of a pipeline. Refuses pipelines of no known family, and any class that is not the
    library's own."""
    kind = parts.get("_class_name")
    if not isinstance(kind, str):
        raise UserError(
            f"{index} names a custom pipeline ({json.dumps(kind)}), whose code would be run; only"
            f" {PIPELINES} is read"
        )
    if kind not in LAYOUTS:
        runs = " or ".join(f"{k} ({layout.versions})" for k, layout in LAYOUTS.items())
        raise UserError(f"{index} is a {kind}: this suite runs {runs} only; choose such a base")
    layout = LAYOUTS[kind].of(parts)
    for part, value in parts.items():
        if part.startswith("_") or part in layout.unread or value in NOTHING:
            continue
        check_part(layout, part, value, index)
    absent = [p for p in layout.parts if parts.get(p) in NOTHING]
    if absent:
        raise UserError(f"{index} names no {', '.join(absent)}: the model is incomplete")
    return layout


def check_part(layout: Layout, part: str, value: Any, index: Path) -> None:
    """Refuse a part that the family does not have, or another class behind it."""
    if not re.fullmatch(r"[A-Za-z_]\w*", part):
        raise UserError(
            f"{index} names the part {part!r}, a path that could leave the model's folder"
        )
    if part not in layout.parts:
        raise UserError(
            f"{index} names the part {part!r}, which no {layout.family} has; known:"
            f" {', '.join(layout.parts)}"
        )
    library, classes = layout.parts[part]
    named = (
        value
        if isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) for v in value)
        else ["?", json.dumps(value)]
    )
    good = named[1] in classes if classes else bool(re.fullmatch(r"[A-Za-z]\w*Scheduler", named[1]))
    if named[0] != library or not good:
        raise UserError(
            f"{index} wants {named[1]} of {named[0]} as {part}, a custom class whose code would"
            f" be run; only {' or '.join(classes) or 'a scheduler'} of {library} is read"
        )


def check_weights(part: Path) -> None:
    """Refuse a part without safetensors. A pickle beside them is not read."""
    if list(part.glob("*.safetensors")):
        return
    pickles = [p.name for p in sorted(part.glob("*")) if p.suffix.lower() in PICKLES]
    if not pickles:
        raise UserError(f"{part} holds no weights; only safetensors are read")
    raise UserError(
        f"{part} holds {', '.join(pickles)}, pickles that can run code when they are opened; only"
        f" safetensors are read: make some of them by {CONVERT}"
    )


def check_shards(index: Any, file: Path) -> None:
    """Refuse an index of shards that names anything but safetensors beside it."""
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict):
        raise UserError(f"{file} is no index of shards: it has no weight_map")
    for shard in dict.fromkeys(shards.values()):
        if (
            not isinstance(shard, str)
            or Path(shard).name != shard
            or shard in ("", ".", "..")
            or "\\" in shard
        ):
            raise UserError(f"{file} names the shard {shard!r}, a path that leaves its folder")
        if Path(shard).suffix.lower() in PICKLES and ".safetensors." in file.name:
            raise UserError(
                f"{file} names the shard {shard!r}, a pickle; only safetensors are read: convert"
                f" the model with {CONVERT}"
            )
        if Path(shard).suffix == ".safetensors" and not (file.parent / shard).is_file():
            raise UserError(
                f"{file} names the shard {shard!r}, which is not there; download the model again"
            )


def check_network(file: Path, settings: Any, kinds: Sequence[str]) -> None:
    """Refuse a configuration that none of the classes `kinds` has, or that the weights beside it
    cannot be of."""
    check_config(settings, file, kinds)
    found = [shapes_of(weights) for weights in sorted(file.parent.glob("*.safetensors"))]
    check_sizes(settings, file, {k: shape for shapes in found for k, shape in shapes.items()})


def check_inside(folder: Path, names: list[str]) -> None:
    """Refuse links that lead out of the folder. The snapshots of a hub cache link to the blobs of
    their repository, and these to the blobs that the repositories of a cache share."""
    real = folder.resolve()
    snapshot = real.parent.name == "snapshots" and real.parent.parent.name.startswith("models--")
    roots = [real.parent.parent, real.parent.parent.parent / "blobs"] if snapshot else [real]
    for name in names:
        for path in (
            folder / name,
            *(sorted((folder / name).rglob("*")) if (folder / name).is_dir() else ()),
        ):
            if path.exists() and not path.is_dir():
                check_file(path)  # opening a pipe would wait for ever
            if path.is_symlink() and not any(path.resolve().is_relative_to(r) for r in roots):
                raise UserError(
                    f"{path} is a link that leaves the folder {folder}; copy the file itself there"
                    " if you trust it"
                )


def read_json(file: Path) -> Any:
    """A JSON file. Raises UserError where it is none, or nested or large beyond reason."""
    check_file(file, LARGEST_JSON)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(
            f"{file} cannot be read as JSON:"
            f" {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from None
