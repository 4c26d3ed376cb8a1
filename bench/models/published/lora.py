"""Low-rank adapters (LoRA) in the keys of diffusers, PEFT and kohya, merged into the weights of a
base: W + scale alpha / rank B A."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.families.family import Family
from t2i_backdoor_bench.models.published.brought import networks_of
from t2i_backdoor_bench.models.published.kohya import kohya_layers, original_names
from t2i_backdoor_bench.models.published.places import Places, likely, plain
from t2i_backdoor_bench.models.trust import read_json

KEY = re.compile(
    r"(?P<layer>.+?)(?:\.lora_(?P<peft>[AB])(?:\.(?!weight)\w+)?|[._]lora(?:_linear_layer)?[._]"
    r"(?P<way>down|up))\.weight"
)
ALPHA = re.compile(r"(?P<layer>.+)\.alpha")
SIGN = re.compile(r".*(lora|hada_|lokr_|dora_scale).*")  # a name of any adapter
OTHERS = {  # other decompositions than B A, by what their keys hold
    "dora_scale": "DoRA, which also changes the length of rows",
    "hada_w": "LoHa, a product of two adapters",
    "lokr_w": "LoKr, a Kronecker product",
}
PROCESSOR = re.compile(r"(.+)\.processor\.(to_(?:q|k|v|out))")  # as diffusers wrote it until 2023
SETTINGS = "adapter_config.json"  # of PEFT, beside the weights


@dataclass(frozen=True)
class Factors:
    """B (out, rank), A (rank, in), flattened, and alpha / rank."""

    up: Tensor
    down: Tensor
    times: float


@dataclass(frozen=True)
class Lora:
    """An adapter, by part and layer."""

    path: Path
    file: Path
    factors: Mapping[tuple[str, str], Factors]
    scale: float
    kind: str = "an adapter (LoRA)"

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(part for part, _ in self.factors))

    @property
    def files(self) -> tuple[Path, ...]:
        settings = self.file.parent / SETTINGS
        return (self.file, *([settings] if settings.is_file() else []))

    def only(self, parts: Sequence[str]) -> Lora:
        return replace(self, factors={at: f for at, f in self.factors.items() if at[0] in parts})

    def apply(self, pipe: Any, family: Family) -> None:
        networks = networks_of(pipe, family)
        own = {
            part: {plain(n): p for n, p in networks[part].named_parameters()} for part in self.parts
        }
        with torch.no_grad():
            for (part, layer), factors in self.factors.items():
                weight = own[part][f"{layer}.weight"]
                delta = self.scale * factors.times * (factors.up @ factors.down)
                weight.copy_(weight.float() + delta.view_as(weight).to(weight.device))


def is_lora(names: list[str]) -> bool:
    return any(SIGN.fullmatch(name) for name in names)


def read_lora(path: Path, file: Path, scale: float | None, places: Places) -> Lora:
    """The adapter in a file, with every factor at its layer of the base. Raises UserError for keys
    that find no layer, a factor without the other, and what is no B A."""
    with safe_open(file, "pt") as opened:
        state = {k: opened.get_tensor(k) for k in opened.keys()}  # noqa: SIM118
        said = opened.metadata() or {}
    for sign, what in OTHERS.items():
        if keys := [k for k in state if sign in k]:
            raise UserError(
                f"{file} holds {len(keys)} keys of {what} (such as {keys[0]}), and only plain LoRA"
                " is merged: merge it with the tool that made it, and give the merged weights"
            )
    pairs, alphas = _sorted(file, state, places)
    alone = [key for key, pair in pairs.items() if set(pair) != {"up", "down"}]
    if alone:
        raise UserError(
            f"{file}: {len(alone)} of {len(pairs)} layers have one factor of two (such as"
            f" {'.'.join(alone[0])}): the file is incomplete; download it again"
        )
    settings = _settings(file, said)
    factors = {}
    for (part, layer), pair in pairs.items():
        up, down = pair["up"].float().flatten(1), pair["down"].float().flatten(1)
        rank, wanted = len(down), places.parts[part][f"{layer}.weight"]
        if up.shape != (wanted[0], rank) or down.shape[1] != math.prod(wanted[1:]):
            raise UserError(
                f"{file}: the factors of {part}.{layer} are {tuple(up.shape)} and"
                f" {tuple(down.shape)}, and its weight in {places.base} is {wanted}: the adapter is"
                " of another model; give the base that it was made from"
            )
        alpha = alphas.get((part, layer), settings.get(part, settings.get("")))
        times = 1.0 if alpha is None else alpha[0] / (rank**0.5 if alpha[1] else rank)
        factors[part, layer] = Factors(up, down, times)
    return Lora(path, file, factors, 1.0 if scale is None else scale)


def _sorted(file: Path, state: Mapping[str, Tensor], places: Places) -> tuple[Any, Any]:
    """The factors by layer and way, and alpha by layer: (value, whether it is over the root of the
    rank)."""
    table = kohya_layers(places)
    pairs: dict[tuple[str, str], dict[str, Tensor]] = {}
    alphas: dict[tuple[str, str], tuple[float, bool]] = {}
    nowhere = []
    for key, tensor in state.items():
        found, alpha = KEY.fullmatch(key), ALPHA.fullmatch(key)
        at = layer_of((found or alpha)["layer"], table, places) if found or alpha else None
        if at is None:
            nowhere.append(key)
        elif found:
            way = found["way"] or {"A": "down", "B": "up"}[found["peft"]]
            pairs.setdefault(at, {})[way] = tensor
        else:
            alphas[at] = (float(tensor), False)
    if nowhere:
        names = [k.split(".lora")[0] + ".weight" for k in nowhere]
        known = [name for part in places.layout.edited for name in places.parts[part]]
        raise UserError(
            f"{file}: {len(nowhere)} of {len(state)} keys find no layer in {places.base} (such as"
            f" {nowhere[0]}); {likely(names, known)}"
        )
    return pairs, alphas


def layer_of(
    name: str, table: Mapping[str, tuple[str, str]], places: Places
) -> tuple[str, str] | None:
    """The part and the plain name of the layer that an adapter's key names."""
    if name.startswith("lora_"):
        return table.get(name) or table.get(original_names(name, places))
    name = name.removeprefix("base_model.model.")
    if old := PROCESSOR.fullmatch(name):
        name = f"{old[1]}.{old[2]}" + (".0" if old[2] == "to_out" else "")
    edited = places.layout.edited
    named = [part for part in edited if name.startswith(f"{part}.")]
    for part in named or edited:
        layer = plain(name.removeprefix(f"{part}.") if named else name)
        if f"{layer}.weight" in places.parts[part]:
            return part, layer
    return None


def _settings(file: Path, said: Mapping[str, str]) -> dict[str, tuple[float, bool]]:
    """Alpha of each part, or of all (""): of PEFT's settings beside the file, or of what diffusers
    writes into its header. Raises UserError for settings that are none of plain LoRA."""
    beside = file.parent / SETTINGS
    if beside.is_file():
        given = {"": read_json(beside)}
    else:
        try:
            flat = json.loads(said.get("lora_adapter_metadata", "{}"))
        except ValueError:
            flat = {}
        given = {}
        for key, value in (flat if isinstance(flat, dict) else {}).items():
            given.setdefault(key.partition(".")[0], {})[key.partition(".")[2]] = value
    found = {}
    for part, settings in given.items():
        if not isinstance(settings, dict):
            raise UserError(f"{beside} is not a JSON object")
        strange = [k for k in ("use_dora", "alpha_pattern", "modules_to_save") if settings.get(k)]
        if strange:
            raise UserError(
                f"{file}: its settings have {', '.join(strange)}, and only plain LoRA is merged:"
                " merge it with the tool that made it, and give the merged weights"
            )
        alpha = settings.get("lora_alpha")
        if isinstance(alpha, (int, float)):
            found[part] = (float(alpha), bool(settings.get("use_rslora")))
    return found
