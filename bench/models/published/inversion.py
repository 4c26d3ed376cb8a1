"""Textual inversion: learned words, each the embedding of one token or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.configs import shapes_of
from t2i_backdoor_bench.models.families.family import Family
from t2i_backdoor_bench.models.published.places import Places

EMBEDDING = "embeddings.token_embedding.weight"
OF_A1111 = "emb_params"  # the key of files whose name is the word
OF_SDXL = ("clip_l", "clip_g")  # the keys of files for both encoders of SDXL
MOST = 128  # vectors of a word


@dataclass(frozen=True)
class Word:
    """A word and its vectors, (n, width), of each text encoder that it is of."""

    path: Path
    file: Path
    word: str
    keys: Mapping[str, str]  # part: key in the file
    kind: str = "a learned word (textual inversion)"
    scale: float = 1.0

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.keys)

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.file,)

    def only(self, parts: Sequence[str]) -> Word:
        return replace(self, keys={p: k for p, k in self.keys.items() if p in parts})

    def apply(self, pipe: Any, family: Family) -> None:
        layout = family.layout
        for part, tokenizer in zip(layout.encoders, layout.tokenizers, strict=True):
            if part in self.keys:
                with safe_open(self.file, "pt") as opened:
                    vectors = opened.get_tensor(self.keys[part])
                # each diffusers pipeline has its parts under these names
                add_word(
                    pipe.components[tokenizer],
                    pipe.components[part],
                    self.word,
                    torch.atleast_2d(vectors),
                )


def is_word(shapes: Mapping[str, tuple[int, ...]], places: Places) -> bool:
    """Whether a file holds vectors as wide as an embedding alone, under no name of a weight."""
    widths = {
        places.parts[part][EMBEDDING][1]
        for part in places.layout.encoders
        if EMBEDDING in places.parts[part]
    }
    if set(shapes) <= {OF_A1111, *OF_SDXL}:
        return True
    return len(shapes) == 1 and all(
        1 <= len(shape) <= 2 and shape[-1] in widths and "." not in name
        for name, shape in shapes.items()
    )


def read_word(path: Path, file: Path, places: Places) -> Word:
    """The word of a file for a base. Raises UserError where it has no such encoder."""
    shapes = shapes_of(file)
    names = [part for part in places.layout.encoders if EMBEDDING in places.parts[part]]
    if set(shapes) <= set(OF_SDXL):
        keys = {part: key for part, key in zip(names, OF_SDXL, strict=False) if key in shapes}
        word = file.stem
    else:
        (key,) = shapes
        word = file.stem if key == OF_A1111 else key
        width = shapes[key][-1]
        keys = {p: key for p in names if places.parts[p][EMBEDDING][1] == width}
        keys = dict(list(keys.items())[:1])
    for part, key in keys.items():
        shape, width = shapes[key], places.parts[part][EMBEDDING][1]
        if not 1 <= len(shape) <= 2 or shape[-1] != width or (len(shape) == 2 and shape[0] > MOST):
            keys = {}
            break
    if len(keys) < len(shapes):
        raise UserError(
            f"{file} holds a learned word of vectors {tuple(shapes.values())}, and the text"
            f" encoders of {places.base} have"
            f" {', '.join(str(places.parts[p][EMBEDDING][1]) for p in names)} numbers a token: give"
            " the base that it was made from"
        )
    if not word.isprintable() or not word.strip() or " " in word:
        raise UserError(f"{file}: {word!r} is no word; rename the file, or its key")
    return Word(path, file, word, keys)


def add_word(tokenizer: Any, encoder: Any, word: str, vectors: Tensor) -> None:
    """Teach a tokenizer the word, and its encoder the vectors. Further vectors are those of the
    tokens "word_1", "word_2", ..., as diffusers names them."""
    names = [word, *(f"{word}_{i}" for i in range(1, len(vectors)))]
    if known := [n for n in names if n in tokenizer.get_vocab()]:
        raise UserError(
            f"the base knows the token {known[0]!r} already: rename the key or the file of the"
            " learned word"
        )
    tokenizer.add_tokens(names)
    encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    table = encoder.get_input_embeddings().weight
    table.requires_grad_(False)
    with torch.no_grad():
        for name, vector in zip(names, vectors, strict=True):
            table[tokenizer.convert_tokens_to_ids(name)] = vector.to(table)
