"""Opening a CLIP in a folder, which may come from others: open_clip_config.json,
open_clip_model.safetensors, and the tokenizer's files."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.configs import WORD, check_names, check_sizes, leaves, shapes_of
from t2i_backdoor_bench.models.embedded import SCORER, SECOND_SCORER
from t2i_backdoor_bench.models.trust import DATA, check_inside, check_tokenizer, read_json
from t2i_backdoor_bench.scoring.networks import first_line

EMBEDDED = {SCORER: "shapes-scorer", SECOND_SCORER: "shapes-scorer-2"}
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
NAMED = "hf_tokenizer_name"  # only says that the tokenizer's files lie in the folder
MORE = 2  # times the numbers of the file, at most, that its network may have


def read_folder(spec: str | Path) -> tuple[torch.nn.Module, Any, str]:
    """Network, tokenizer and name of a CLIP in a folder. Raises UserError, in one line, before
    anything of it is made, where it is incomplete or asks for more than it holds."""
    import open_clip

    folder = Path(spec)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"scorer folder {folder} has no {name}")
    check_inside(folder, sorted(p.name for p in folder.iterdir()))
    for file in folder.glob("*.json"):
        if file.name not in DATA:
            check_names(read_json(file), file)
    settings = read_json(folder / CONFIG)
    check_settings(settings, folder / CONFIG)
    if settings["model_cfg"]["text_cfg"].get(NAMED):
        check_tokenizer(folder)
    try:
        check_network(settings["model_cfg"], folder)
        # open_clip prefers the safetensors file that was just found, so no pickle is opened
        model = open_clip.create_model(
            f"local-dir:{folder}", precision="fp32", require_pretrained=True
        )
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    except (ValueError, TypeError, RuntimeError, LookupError, AssertionError, OSError) as error:
        raise UserError(f"scorer folder {folder} cannot be loaded: {first_line(error)}") from error
    except (SafetensorError, ArithmeticError, AttributeError) as error:
        raise UserError(f"scorer folder {folder} cannot be loaded: {first_line(error)}") from error
    place = folder.resolve()
    return model, tokenizer, EMBEDDED.get(place, place.name)


def check_settings(settings: Any, file: Path) -> None:
    """Refuse a configuration with keys that open_clip's own classes do not have, or with a value
    that is no number and no plain word: a name on the hub, a path, another model."""
    from open_clip import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
    from open_clip.transform import PreprocessCfg

    model = {*inspect.signature(CLIP).parameters, *inspect.signature(CustomTextCLIP).parameters}
    _known(settings, file, {"model_cfg", "preprocess_cfg"}, ("model_cfg",))
    inner, needed = settings["model_cfg"], ("embed_dim", "vision_cfg", "text_cfg")
    _known(inner, file, {*model, "custom_text"} - {"cast_dtype", "output_dict"}, needed)
    for part, kind in (("vision_cfg", CLIPVisionCfg), ("text_cfg", CLIPTextCfg)):
        _known(inner[part], file, {f.name for f in fields(kind)})
    _known(settings.get("preprocess_cfg", {}), file, {f.name for f in fields(PreprocessCfg)})
    text = inner["text_cfg"]
    if text.get("tokenizer_kwargs"):
        _known(text["tokenizer_kwargs"], file, {"clean", "strip_sep_token"})
    read = inner | {"text_cfg": {k: v for k, v in text.items() if k != NAMED}}
    for key, value in leaves([read, settings.get("preprocess_cfg", {})]):
        if isinstance(value, str) and not WORD.fullmatch(value):
            raise UserError(
                f"{file} sets {key} to {value[:80]!r}, which is no plain word: it may name another"
                " model or a file, and none is fetched; use a scorer without it"
            )


def _known(part: Any, file: Path, names: set[str], needed: tuple[str, ...] = ()) -> None:
    if not isinstance(part, dict) or any(name not in part for name in needed):
        raise UserError(f"{file} is no configuration of open_clip: it lacks {', '.join(needed)}")
    for key in part:
        if key not in names:
            raise UserError(
                f"{file} sets {key!r}, which open_clip does not have: take the line out if it is"
                " not needed, or use another scorer"
            )


def check_network(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse a network that is larger than its weights. It is built without memory for its
    numbers."""
    from open_clip import CLIP, CustomTextCLIP

    shapes = shapes_of(folder / WEIGHTS)
    check_sizes(config, folder / CONFIG, shapes)
    made: dict[str, Any] = json.loads(json.dumps(config))
    kind = CustomTextCLIP if made.pop("custom_text", False) else CLIP
    made["vision_cfg"]["timm_model_pretrained"] = False
    with torch.device("meta"):
        network = kind(**made)
    numbers = sum(tensor.numel() for tensor in network.state_dict().values())
    stored = sum(math.prod(shape) for shape in shapes.values())
    if numbers > MORE * stored:
        raise UserError(
            f"{folder / CONFIG} describes a network of {numbers:,} numbers, and {WEIGHTS} holds"
            f" {stored:,}: they are of two models"
        )
