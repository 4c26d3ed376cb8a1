"""The one reader that says what kind a path is, and finds a place for all of its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.configs import check_names, shapes_of
from t2i_backdoor_bench.models.published.asked import Asked
from t2i_backdoor_bench.models.published.brought import Brought, Tensors
from t2i_backdoor_bench.models.published.inversion import is_word, read_word
from t2i_backdoor_bench.models.published.lora import SETTINGS, Lora, is_lora, read_lora
from t2i_backdoor_bench.models.published.original import is_original, read_original
from t2i_backdoor_bench.models.published.places import (
    Places,
    check_fit,
    likely,
    of_files,
    plain,
    tensors_in,
)
from t2i_backdoor_bench.models.trust import (
    PICKLES,
    check_inside,
    check_model,
    check_network,
    check_weights,
    layout_of,
    read_json,
    refuse_file,
)

INDEX, CONFIG = "model_index.json", "config.json"
# settings that change what a network computes, and the shape of no tensor
SHAPELESS = (
    *("attention_head_dim", "num_attention_heads", "num_heads", "act_fn", "hidden_act"),
    *("norm_num_groups", "norm_eps", "layer_norm_eps", "flip_sin_to_cos", "freq_shift"),
    *("time_cond_proj_dim", "scaling_factor", "shift_factor", "guidance_embeds"),
)


def read_one(asked: Asked, places: Places) -> Brought:
    """What one path brings. Raises UserError for what is of no known kind, is not to be trusted
    (`models.trust`), or does not fit the base."""
    path = asked.path
    found = _folder(asked, places) if path.is_dir() else _file(path, path, asked.scale, places)
    if asked.scale is not None and not isinstance(found, Lora):
        raise UserError(
            f"{asked.path} is {found.kind}, and a scale is of an adapter (LoRA): leave it out"
        )
    return found


# ------------------------------------------------------------------------------------------ folders
def _folder(asked: Asked, places: Places) -> Brought:
    path, layout = asked.path, places.layout
    if (path / INDEX).is_file():
        check_model(path)
        theirs = layout_of(path)
        if theirs.pipeline != layout.pipeline:
            raise UserError(
                f"{path} is {theirs.family}, and the base {places.base} is {layout.family}: give a"
                " base of its family"
            )
        parts = {part: path / part for part in theirs.weights if part in places.parts}
        return _parts("a whole pipeline", path, parts, places)
    check_inside(path, [p.name for p in sorted(path.iterdir())])
    known = dict.fromkeys((*layout.parts, *layout.weights))
    there = [part for part in known if (path / part).is_dir()]
    if found := {part: path / part for part in there if part in layout.weights}:
        _check_tokenizers(path, there, places)
        return _parts("a folder with some parts", path, found, places)
    if (path / CONFIG).is_file():
        part = _part_of(path, places)
        return _parts(f"a {part} alone", path, {part: path}, places)
    return _file(path, _only_file(path), asked.scale, places)


def _only_file(path: Path) -> Path:
    """The one file of weights in a folder."""
    files = [p for p in sorted(path.iterdir()) if p.suffix == ".safetensors"]
    if len(files) == 1:
        return files[0]
    if files:
        names = ", ".join(f.name for f in files[:4])
        raise UserError(
            f"{path} holds {len(files)} files of weights ({names}), and no {INDEX} or {CONFIG} says"
            " what they are: give one of them, or several joined by ;"
        )
    pickles = [p for p in sorted(path.iterdir()) if p.suffix.lower() in PICKLES]
    if pickles:
        refuse_file(str(pickles[0]))
    raise UserError(
        f"{path} is no model: it has no {INDEX}, no folder of a part, no {CONFIG} and no"
        " .safetensors"
    )


def _part_of(path: Path, places: Places) -> str:
    """Which part of the base a folder with a configuration is, by its class and its tensors."""
    settings = read_json(path / CONFIG)
    named = settings if isinstance(settings, dict) else {}
    architectures = named.get("architectures")
    kinds = [named.get("_class_name"), *(architectures if isinstance(architectures, list) else [])]
    parts = [
        p for p in places.layout.weights if set(places.layout.parts[p][1]) & set(map(str, kinds))
    ]
    if not parts:
        what = next((str(k) for k in kinds if k), "no class")
        raise UserError(
            f"{path / CONFIG} is of {what[:80]}, and no part of {places.base}"
            f" ({places.layout.family}) is one: give a base of its family"
        )
    check_weights(path)
    shapes = {name: shape for name, (_, _, shape) in tensors_in(path).items()}
    return next((p for p in parts if places.parts[p] == shapes), parts[0])


def _parts(kind: str, path: Path, found: Mapping[str, Path], places: Places) -> Tensors:
    """Whole parts, each of which takes the place of the base's."""
    tensors = {}
    for part, folder in found.items():
        check_weights(folder)
        for file in sorted(folder.glob("*.json")):
            if file.name == SETTINGS:
                raise UserError(
                    f"{file} loads another model under this one; give the adapter's own folder"
                    " beside the model, joined by ;"
                )
            check_names(read_json(file), file)
        if (folder / CONFIG).is_file():
            settings = read_json(folder / CONFIG)
            check_network(folder / CONFIG, settings, places.layout.parts[part][1])
            _check_settings(folder / CONFIG, settings, part, places)
        named = tensors_in(folder)
        shapes = {name: shape for name, (_, _, shape) in named.items()}
        check_fit(str(folder), shapes, part, places, whole=True)
        tensors[part] = {name: (file, key) for name, (file, key, _) in named.items()}
    return Tensors(kind, path, tensors)


def _check_settings(file: Path, settings: Mapping[str, Any], part: str, places: Places) -> None:
    """Refuse a network of the same shapes that computes otherwise."""
    own = read_json(places.folder / part / CONFIG)
    for key in SHAPELESS:
        if key in settings and key in own and settings[key] != own[key]:
            raise UserError(
                f"{file} sets {key} to {settings[key]!r}, and the {part} of {places.base} has"
                f" {own[key]!r}: it is of another model; give the base that it was made from"
            )


def _check_tokenizers(path: Path, there: Sequence[str], places: Places) -> None:
    """Refuse a tokenizer that reads other words than the base's, which stays."""
    from transformers import CLIPTokenizer, T5Tokenizer

    classes = {"CLIPTokenizer": CLIPTokenizer, "T5Tokenizer": T5Tokenizer}
    for part in (p for p in places.layout.tokenizers if p in there):
        for file in (path / part).glob("*.json"):
            check_names(read_json(file), file)
        kind = classes[places.layout.parts[part][1][0]]
        words = [kind.from_pretrained(f / part).get_vocab() for f in (path, places.folder)]
        if words[0] != words[1]:
            raise UserError(
                f"{path / part} knows {len(words[0])} tokens, and that of {places.base} knows"
                f" {len(words[1])} and others: a tokenizer is not taken over a base; give the whole"
                " pipeline, or the new words as textual inversion"
            )


# -------------------------------------------------------------------------------------------- files
def _file(path: Path, file: Path, scale: float | None, places: Places) -> Brought:
    """What one file of tensors brings."""
    if file.suffix.lower() in PICKLES:
        refuse_file(str(file))
    if file.suffix.lower() != ".safetensors":
        raise UserError(f"{file} is no .safetensors, and no weights are read from other files")
    shapes = shapes_of(file)
    if not shapes:
        raise UserError(f"{file} holds no tensors; download or save it again")
    names = list(shapes)
    if is_original(names):
        return read_original(path, file, places)
    if is_lora(names):
        return read_lora(path, file, scale, places)
    if is_word(shapes, places):
        return read_word(path, file, places)
    return _some_keys(path, file, places)


def _some_keys(path: Path, file: Path, places: Places) -> Tensors:
    """Some tensors of one part or of several, as ESD and UCE publish what they changed. The names
    begin with that of their part, or are those inside one part."""
    shapes = of_files([file])
    layout = places.layout
    by_part: dict[str, dict[str, tuple[Path, str, tuple[int, ...]]]] = {}
    prefixed = [p for p in layout.weights if any(name.startswith(f"{p}.") for name in shapes)]
    if prefixed:
        for name, found in shapes.items():
            part = next((p for p in prefixed if name.startswith(f"{p}.")), layout.denoiser)
            by_part.setdefault(part, {})[plain(name.removeprefix(f"{part}."))] = found
    else:
        fits = {p: sum(name in places.parts[p] for name in shapes) for p in layout.weights}
        part = max(fits, key=lambda p: fits[p])
        by_part[part] = dict(shapes)
        if not fits[part]:
            example, known = (
                next(iter(shapes)),
                [n for p in layout.weights for n in places.parts[p]],
            )
            raise UserError(
                f"{file}: {len(shapes)} of {len(shapes)} tensors find no place in any part of"
                f" {places.base} (such as {example}); {likely(shapes, known)}"
            )
    tensors = {}
    for part, named in by_part.items():
        inner = {name: shape for name, (_, _, shape) in named.items()}
        check_fit(str(file), inner, part, places, whole=False)
        tensors[part] = {name: (where, key) for name, (where, key, _) in named.items()}
    return Tensors(f"a file with {len(shapes)} changed tensors", path, tensors)
