"""Which settings a model's configuration may hold, and how large they may be.

The libraries make attributes of keys that they do not know, and some keys name code, kernels or
other models, which they would fetch and run. So a configuration is read through a list: the
arguments of its class, and what older versions of the library wrote. A value may be a number, a
plain word, or a list of them; no path, address or name on the hub.

A few bytes can also ask for a billion layers. What the configuration announces is compared with the
headers of the weights before any network is made.
"""

from __future__ import annotations

import inspect
import math
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from t2i_backdoor_bench.contract import UserError

# keys that name code, kernels, models or files, whatever the class
NAMING = re.compile(
    r"auto_map|trust_remote_code|custom_pipelines?|custom_generate|.*quantization.*|.*kernel_config"
    r"|use_kernels|.*base_model.*|peft_config|adapter_.*|hf_model_.*|gguf_file|subfolder|revision"
    r"|(?!special_tokens_map)\w+_files?|cache_dir|pretrained_cfg\w*|code_revision|use_safetensors"
)
ATTENTION = re.compile(r"_?\w*(attn|attention|experts)_implementation\w*")
OWN_ATTENTION = (None, "eager", "sdpa", True, False)
# what is written into a configuration and not read
SAID = ("_name_or_path", "name_or_path", "special_tokens_map_file", "task_specific_params")
WORD = re.compile(r"[\w.+\-]*")
# what older versions of transformers wrote into every configuration
OLDER = (
    "add_cross_attention architectures bad_words_ids begin_suppress_tokens bos_token_id"
    " chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id diversity_penalty"
    " do_sample dropout dtype early_stopping encoder_no_repeat_ngram_size eos_token_id"
    " exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id"
    " gradient_checkpointing hidden_act id2label is_decoder is_encoder_decoder label2id"
    " length_penalty max_length min_length model_type n_positions no_repeat_ngram_size"
    " num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states"
    " output_past output_scores pad_token_id prefix problem_type projection_dim pruned_heads"
    " remove_invalid_values repetition_penalty return_dict return_dict_in_generate rope_scaling"
    " rope_theta sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss"
    " tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript"
    " transformers_version typical_p use_bfloat16 use_cache add_bias_logits add_final_layer_norm"
    " classif_dropout classifier_dropout extra_pos_embeddings normalize_before"
    " normalize_embedding num_hidden_layers static_position_embeddings"
)
CONFIGS = {  # of classes of transformers
    "CLIPTextModel": "CLIPTextConfig",
    "CLIPTextModelWithProjection": "CLIPTextConfig",
    "T5EncoderModel": "T5Config",
    "marian": "MarianConfig",
    "m2m_100": "M2M100Config",
    "llama": "LlamaConfig",
    "mistral": "MistralConfig",
    "qwen2": "Qwen2Config",
    "qwen3": "Qwen3Config",
}
LARGEST_JSON = 2**26  # bytes; a vocabulary of a million words is smaller
LARGEST_HEADER = 2**24  # bytes of the names and shapes of tensors
SMALL = 4096  # a number up to this is not asked about
STEPS = 100_000  # of a scheduler
DEEP = re.compile(r".*(layers|blocks|depth|num_layers).*")  # keys that count parts of a network
WIDE = re.compile(r".*(channels|types).*")  # of those, the ones that do not


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a JSON value that is no list and no object, with the nearest key above."""
    waiting = [(key, value)]
    while waiting:
        name, found = waiting.pop()
        if isinstance(found, dict):
            waiting += found.items()
        elif isinstance(found, list):
            waiting += [(name, inner) for inner in found]
        else:
            yield name, found


def keys(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a JSON value with what it holds, at any depth."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            yield from found.items()
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found


def check_names(settings: Any, file: Path) -> None:
    """Refuse, by name, a key that names code, a kernel, a model or another file."""
    for key, value in keys(settings):
        other = ATTENTION.fullmatch(key) and value not in OWN_ATTENTION
        if other or (NAMING.fullmatch(key) and value not in (None, False, "", [], {})):
            raise UserError(
                f"{file} sets {key} ({str(value)[:80]!r}), which asks for custom code, a kernel,"
                " another model or another file; none is fetched or run: use a model without it"
            )


def check_config(settings: Any, file: Path, kinds: Sequence[str]) -> None:
    """Refuse a configuration with a key that none of the classes `kinds` has, or a value that is no
    number and no plain word."""
    if not isinstance(settings, dict):
        raise UserError(f"{file} is not a JSON object")
    check_names(settings, file)
    known = frozenset().union(*map(known_keys, kinds))
    for key in settings:
        if known and key not in known:
            raise UserError(
                f"{file} sets {key!r}, which no {' or '.join(kinds)} has: take the line out if it"
                " is not needed, or use another model"
            )
    for key, value in leaves({k: v for k, v in settings.items() if k not in SAID}):
        if isinstance(value, str) and not WORD.fullmatch(value):
            raise UserError(
                f"{file} sets {key} to {value[:80]!r}, which is no plain word: it may name a file"
                " or another model, and none is read"
            )


@cache
def known_keys(kind: str) -> frozenset[str]:
    """The keys that a configuration of a class may have; none: any plain ones."""
    if kind in CONFIGS:
        import transformers

        config = operator.attrgetter(CONFIGS[kind])(transformers)
        return frozenset({*config().to_dict(), *config.attribute_map, *OLDER.split(), *SAID})
    if kind.endswith(("Scheduler", "Tokenizer", "TokenizerFast")):
        return frozenset()
    import diffusers

    found = inspect.signature(operator.attrgetter(kind)(diffusers).__init__).parameters
    return frozenset({*found, "_class_name", "_diffusers_version", *SAID})


# ------------------------------------------------------------------------------------------- sizes
def check_file(path: Path, most: int = 0) -> None:
    """Refuse what is no plain file, and one of more than `most` bytes."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no plain file; download or save the model again")
    if most and path.is_file() and path.stat().st_size > most:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes, and at most {most:,} are read")


def shapes_of(file: Path) -> dict[str, tuple[int, ...]]:
    """The tensors of a safetensors file with their shapes, from its header alone. Raises UserError
    for a file that is none."""
    check_file(file)
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
        if length > min(LARGEST_HEADER, file.stat().st_size - 8):
            raise ValueError(f"its header has {length:,} bytes")
        with safe_open(file, "pt") as tensors:
            return {k: tuple(tensors.get_slice(k).get_shape()) for k in tensors.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"{file} is no whole safetensors file ({' '.join(str(error).split())[:150]}); download"
            " or save the model again"
        ) from None


def check_sizes(
    settings: Mapping[str, Any], file: Path, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse a configuration that announces a network which the weights cannot be of: more parts
    than there are tensors, or a side that no tensor comes near."""
    many = len(shapes)
    side = max([SMALL, many, *(n for shape in shapes.values() for n in shape)])
    deep = 1.0
    for key, value in keys(settings):
        numbers = [n for _, n in leaves(value) if isinstance(n, (int, float))]
        if isinstance(value, (list, dict)) and sum(1 for _ in leaves(value)) > 16 + many:
            _too_large(file, key, f"a list of {sum(1 for _ in leaves(value)):,}", many)
        if any(isinstance(n, int) and abs(n) > side for n in numbers):
            _too_large(file, key, f"{max(map(abs, numbers)):.6g}", many)
        if DEEP.fullmatch(key) and not WIDE.fullmatch(key) and not isinstance(value, dict):
            if sum(map(abs, numbers)) > many:
                _too_large(file, key, f"{sum(map(abs, numbers)):.6g}", many)
            deep *= max(1.0, math.fsum(map(abs, numbers)))
    if deep > 16 * many:
        _too_large(file, "the depth", f"{deep:.6g} layers", many)


def check_numbers(settings: Mapping[str, Any], file: Path) -> None:
    """Refuse a scheduler that counts more steps than any does, or holds longer lists."""
    for key, value in keys(settings):
        found = [v for _, v in leaves(value)]
        if len(found) > STEPS or any(isinstance(v, int) and abs(v) > STEPS for v in found):
            raise UserError(
                f"{file} sets {key} beyond {STEPS:,}, which no scheduler needs; use another model"
            )


def _too_large(file: Path, key: str, found: str, many: int) -> None:
    raise UserError(
        f"{file} sets {key} to {found}, and its weights have {many} tensors, which cannot be of"
        " such a network: download or save the model again"
    )
