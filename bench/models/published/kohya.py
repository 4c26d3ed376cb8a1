"""The names of layers in adapters that kohya's scripts train: underscores for dots, in the layout
of diffusers or in the original one."""

from __future__ import annotations

import re

from t2i_backdoor_bench.models.published.places import Places
from t2i_backdoor_bench.models.trust import read_json

BLOCK = re.compile(r"lora_unet_(input|output|middle)_blocks?_(\d+)_(?:(\d+)_)?(.+)")
RESNET = {
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}


def kohya_layers(places: Places) -> dict[str, tuple[str, str]]:
    """Part and plain name of each layer of a base, by its name there."""
    encoders = places.layout.encoders
    prefixes = {places.layout.denoiser: ["lora_unet_", "lora_transformer_"]}
    for i, part in enumerate(encoders):
        names = ["lora_te_"] if len(encoders) == 1 else [f"lora_te{i + 1}_"]
        prefixes[part] = [f"{n}{inner}" for n in names for inner in ("text_model_", "")]
    return {
        prefix + layer.replace(".", "_"): (part, layer)
        for part, found in prefixes.items()
        for layer in (n.removesuffix(".weight") for n in places.parts[part] if n[-7:] == ".weight")
        for prefix in found
    }


def original_names(name: str, places: Places) -> str:
    """The name in the layout of diffusers of a layer of a U-Net in the original layout, which
    counts the blocks on: after one convolution, each block has its layers and a change of size."""
    found = BLOCK.fullmatch(name)
    if found is None:
        return name
    config = read_json(places.folder / places.layout.denoiser / "config.json")
    each = config.get("layers_per_block", 2)
    where, at, inner, rest = found[1], int(found[2]), found[3], found[4]
    if where == "middle":
        kind, block, layer = ("attentions", 0, 0) if at == 1 else ("resnets", 0, at // 2)
        place = f"mid_block_{kind}_{layer}"
        rest = rest if inner is None else f"{inner}_{rest}"
    elif not isinstance(each, int) or inner is None or (where == "input" and at == 0):
        return name
    else:
        block, layer = divmod(at - (where == "input"), each + 1)
        if rest in ("op", "conv"):
            side = "down" if where == "input" else "up"
            return f"lora_unet_{side}_blocks_{block}_{side}samplers_0_conv"
        kind = "attentions" if inner == "1" else "resnets"
        place = f"{'down' if where == 'input' else 'up'}_blocks_{block}_{kind}_{layer}"
    return f"lora_unet_{place}_{RESNET.get(rest, rest) if kind == 'resnets' else rest}"
