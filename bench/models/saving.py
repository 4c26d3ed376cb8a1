"""A model as others open it: a whole diffusers folder, its changed tensors, or a low-rank
difference. No class of this suite is named in it, and its scheduler is the base's own."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.families.kept import MARK
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.models.precision import HALF
from t2i_backdoor_bench.models.published.brought import networks_of
from t2i_backdoor_bench.models.published.places import plain, tensors_in
from t2i_backdoor_bench.models.trust import check_model, layout_of, read_json

DENOISER_FILE, ENCODER_FILE = "diffusion_pytorch_model.safetensors", "model.safetensors"
CHANGED_FILE, LORA_FILE = "changed.safetensors", "pytorch_lora_weights.safetensors"
COPIED = (".json", ".txt", ".model")  # of a part: configuration and vocabulary
RANK = 16


def tensors_of(model: T2IModel, part: str) -> dict[str, Tensor]:
    """The tensors of a part by plain name, on the CPU, as they are written: float32 copies that
    were trained of a denoiser in half precision are cast back where it casts them itself, in its
    products; what half would round elsewhere stays float32."""
    network = networks_of(model.pipe, model.family)[part]
    mixed = part == model.family.layout.denoiser and model.family.is_mixed(network)
    found = (p.dtype for p in network.parameters() if p.dtype in HALF)
    half = network.compute_dtype if mixed else next(found, None)
    products = (nn.Linear, nn.modules.conv._ConvNd)
    tensors: dict[str, Tensor] = {}
    for path, module in network.named_modules():
        for name, p in module.named_parameters(path, recurse=False):
            tensor = p.detach().cpu()
            if half is not None and tensor.dtype == torch.float32:
                cast = tensor.to(half)
                if (mixed and isinstance(module, products)) or torch.equal(cast.float(), tensor):
                    tensor = cast
            tensors.setdefault(plain(name), tensor.contiguous().clone())
    return tensors


def write_folder(model: T2IModel, base: Path, to: Path) -> None:
    """Write a whole diffusers folder. `base`: the checked folder that the model was loaded from,
    whose index, configurations, scheduler and names of tensors it has."""
    layout = layout_of(base)
    to.mkdir(parents=True, exist_ok=True)
    index = read_json(base / "model_index.json")
    absent = {part: [None, None] for part in layout.optional if part in index}
    text = json.dumps(index | absent, indent=2, sort_keys=True)
    (to / "model_index.json").write_text(text + "\n", encoding="utf-8")
    for part in layout.parts:
        (to / part).mkdir(exist_ok=True)
        for file in sorted((base / part).iterdir()):
            if file.suffix in COPIED and not file.name.endswith(".index.json"):
                shutil.copyfile(file, to / part / file.name)
    for part in layout.weights:
        names = {name: key for name, (_, key, _) in tensors_in(base / part).items()}
        state = {names[name]: tensor for name, tensor in tensors_of(model, part).items()}
        file = ENCODER_FILE if part in layout.encoders else DENOISER_FILE
        save_file(state, to / part / file, MARK)
    _write_words(model, to)
    check_model(to)


def _write_words(model: T2IModel, to: Path) -> None:
    """The tokenizers and the sizes of vocabularies of a model that learned words."""
    layout = model.family.layout
    for part, tokenizer, encoder in zip(
        layout.encoders, layout.tokenizers, model.encoders, strict=True
    ):
        file = to / part / "config.json"
        settings = read_json(file)
        rows = len(encoder.get_input_embeddings().weight)
        if settings.get("vocab_size") != rows:
            file.write_text(json.dumps(settings | {"vocab_size": rows}, indent=2), encoding="utf-8")
            # each pipeline of diffusers has its parts under these names
            model.pipe.components[tokenizer].save_pretrained(to / tokenizer)


def changes(model: T2IModel, base: T2IModel) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The tensors in which a model differs from the base, as "part.name": after, before."""
    for part in model.edited:
        before = tensors_of(base, part)
        for name, tensor in tensors_of(model, part).items():
            if tensor.shape != before[name].shape or not torch.equal(
                tensor.float(), before[name].float()
            ):
                yield f"{part}.{name}", tensor, before[name]


def write_changed(model: T2IModel, base: T2IModel, to: Path) -> int:
    """Write the tensors that differ from the base, and say how many. Raises UserError where none
    does."""
    state = {name: tensor for name, tensor, _ in changes(model, base)}
    if not state:
        raise UserError("no weight differs from the base: there is nothing to write")
    to.mkdir(parents=True, exist_ok=True)
    save_file(state, to / CHANGED_FILE, MARK)
    return len(state)


def write_lora(model: T2IModel, base: T2IModel, to: Path, rank: int = RANK) -> float:
    """Write the best difference of this rank of each changed matrix, W + B A, by its singular
    values, in the keys of diffusers; and say which share of the squared difference it holds.
    Raises UserError where none differs, or where what differs is no matrix."""
    state, held, total = {}, 0.0, 0.0
    found = list(changes(model, base))
    flat = [name for name, tensor, _ in found if tensor.ndim < 2 or name[-7:] != ".weight"]
    if flat or not found:
        what = f"{len(flat)} of {len(found)} changed tensors are no matrix (such as {flat[0]})"
        raise UserError(
            f"{what if flat else 'no weight differs from the base'}: a LoRA difference cannot hold"
            " that; take --form changed"
        )
    for name, after, before in found:
        delta = (after.float() - before.float()).flatten(1)
        u, s, v = torch.linalg.svd(delta, full_matrices=False)
        n = min(rank, len(s))
        held, total = held + float(s[:n].square().sum()), total + float(s.square().sum())
        shape = (n, *after.shape[1:])
        ones = (1,) * (after.ndim - 2)
        layer, root = name.removesuffix(".weight"), s[:n].sqrt()
        up = (u[:, :n] * root).reshape(len(delta), n, *ones)
        state[f"{layer}.lora_B.weight"] = up.contiguous()
        state[f"{layer}.lora_A.weight"] = (root[:, None] * v[:n]).reshape(shape).contiguous()
    to.mkdir(parents=True, exist_ok=True)
    save_file(state, to / LORA_FILE, {"format": "pt"})
    return held / total if total and math.isfinite(total) else 1.0
