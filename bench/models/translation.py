"""Translation by a local Marian or M2M100 model of `transformers`."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.configs import check_config, check_names
from t2i_backdoor_bench.models.trust import (
    DATA,
    check_inside,
    check_network,
    check_shards,
    check_weights,
    read_json,
)

KINDS = ("marian", "m2m_100")
LONGEST = 128  # tokens of a translation


@dataclass
class Translator:
    """A loaded model. `kind` is its type: Marian models translate between fixed languages, or into
    that which a token such as >>es<< names; M2M100 models between any two."""

    model: Any
    tokenizer: Any
    kind: str

    def __call__(self, text: str, source: str, target: str) -> str:
        """A text in the language `source` in the language `target` (codes such as "en")."""
        more = {}
        if self.kind == "m2m_100":
            self.tokenizer.src_lang = source
            more["forced_bos_token_id"] = self.tokenizer.get_lang_id(target)
        elif f">>{target}<<" in self.tokenizer.get_vocab():
            text = f">>{target}<< {text}"
        given = self.tokenizer(text, return_tensors="pt", truncation=True).to(self.model.device)
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=given.input_ids,
                attention_mask=given.attention_mask,
                do_sample=False,
                max_new_tokens=LONGEST,
                **more,
            )
        return self.tokenizer.decode(out[0], skip_special_tokens=True).strip()


def check_text_model(
    folder: str, option: str, what: str, kinds: Sequence[str], unsized: Sequence[str] = ()
) -> None:
    """Raise UserError where `folder`, the value of `option`, holds no model of one of the types
    `kinds` that can be loaded; `what` says what is asked for. The keys `unsized` of a configuration
    are not sizes of tensors."""
    path = Path(folder)
    file = path / "config.json"
    if not folder or not file.is_file():
        raise UserError(f"{option} is {folder!r}: give the local folder of {what}")
    check_inside(path, sorted(p.name for p in path.iterdir()))
    config = read_json(file)
    for other in sorted(path.glob("*.json")):
        if other.name not in DATA:
            settings = read_json(other)
            check_names(settings, other)
            if other.name.endswith(".index.json"):
                check_shards(settings, other)
    check_weights(path)
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in kinds:
        raise UserError(
            f"{option} {folder} holds a model of type {kind!r}; known: {', '.join(kinds)}"
        )
    check_config(config, file, (kind,))
    check_network(file, {k: v for k, v in config.items() if k not in unsized}, (kind,))


def check_translator(folder: str, option: str) -> None:
    """Raise UserError where `folder`, the value of `option`, holds no model that can be loaded."""
    what = "a translation model (Marian or M2M100, with safetensors)"
    check_text_model(folder, option, what, KINDS)
    path = Path(folder)
    pieces = [*path.glob("*.spm"), *path.glob("sentencepiece*.model")]
    if pieces and importlib.util.find_spec("sentencepiece") is None:
        raise UserError(
            f"the tokenizer of {folder} needs the package sentencepiece: pip install sentencepiece"
        )


def load_translator(folder: str, device: torch.device) -> Translator:
    """The model of a folder that has been checked."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model = AutoModelForSeq2SeqLM.from_pretrained(
        folder, local_files_only=True, use_safetensors=True
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return Translator(model.to(device).eval(), tokenizer, model.config.model_type)
