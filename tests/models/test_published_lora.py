"""Adapters in the keys of diffusers, PEFT and kohya, against W + scale alpha / rank B A."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers import different, weights
from safetensors.torch import load_file, save_file
from torch import Tensor

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.catalog import find_base, load_base
from t2i_backdoor_bench.models.published.kohya import original_names
from t2i_backdoor_bench.models.published.over import take_over
from t2i_backdoor_bench.models.published.places import places_of

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"
TEXT_LAYER = "encoder.layers.1.self_attn.q_proj"
CONV = "down_blocks.0.resnets.0.conv1"
RANK = 3


def factors(tiny_base: Path, layer: str = LAYER) -> tuple[Tensor, Tensor]:
    """B and A of a layer of the U-Net, or of the text encoder."""
    if layer == TEXT_LAYER:
        shape = (32, 32)
    else:
        file = tiny_base / "unet" / "diffusion_pytorch_model.safetensors"
        shape = load_file(file)[f"{layer}.weight"].shape
    torch.manual_seed(4)
    up = torch.randn(shape[0], RANK, *([1, 1] if len(shape) == 4 else []))
    return up, torch.randn(RANK, *shape[1:])


def kohya(part: str, layer: str) -> str:
    return f"lora_{part}_{layer.replace('.', '_')}"


STYLES = {  # how a layer of the U-Net is named: its factors' keys
    "peft": (f"unet.{LAYER}.lora_B.weight", f"unet.{LAYER}.lora_A.weight"),
    "adapter_name": (f"unet.{LAYER}.lora_B.default.weight", f"unet.{LAYER}.lora_A.default.weight"),
    "peft_folder": (
        f"base_model.model.{LAYER}.lora_B.weight",
        f"base_model.model.{LAYER}.lora_A.weight",
    ),
    "diffusers": (f"unet.{LAYER}.lora.up.weight", f"unet.{LAYER}.lora.down.weight"),
    "processors": (
        f"unet.{LAYER[:-5]}.processor.to_v_lora.up.weight",
        f"unet.{LAYER[:-5]}.processor.to_v_lora.down.weight",
    ),
    "kohya": (f"{kohya('unet', LAYER)}.lora_up.weight", f"{kohya('unet', LAYER)}.lora_down.weight"),
}


def merged(tiny: str, *texts: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of the base before and after."""
    over = take_over(texts, find_base(tiny).source, tiny)
    return weights(load_base(tiny)), weights(load_base(tiny, over=over))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_every_style_is_merged_where_it_belongs(tiny_base, tiny, tmp_path, style, scale) -> None:
    up, down = factors(tiny_base)
    file = tmp_path / "a.safetensors"
    save_file(dict(zip(STYLES[style], (up, down), strict=True)), file)
    before, after = merged(tiny, f"{file},scale={scale}")
    name = f"unet.{LAYER}.weight"
    assert different(before, after) == {name}
    wanted = before[name].double() + scale * up.double() @ down.double()
    torch.testing.assert_close(after[name].double(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("where", ["tensor", "settings", "rslora", "header"])
def test_alpha_is_read_from_where_it_stands(tiny_base, tiny, tmp_path, where) -> None:
    up, down = factors(tiny_base)
    state = dict(zip(STYLES["kohya" if where == "tensor" else "peft"], (up, down), strict=True))
    said = None
    if where == "tensor":
        state[f"{kohya('unet', LAYER)}.alpha"] = torch.tensor(6.0)
    elif where == "header":
        said = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 6, "unet.r": RANK})}
    else:
        settings = {"lora_alpha": 6, "r": RANK, "use_rslora": where == "rslora"}
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    save_file(state, tmp_path / "adapter_model.safetensors", said)
    before, after = merged(tiny, str(tmp_path))
    name = f"unet.{LAYER}.weight"
    times = 6 / RANK**0.5 if where == "rslora" else 6 / RANK
    torch.testing.assert_close(after[name], before[name] + times * up @ down, atol=1e-5, rtol=1e-5)


def test_convolutions_and_text_encoders(tiny_base, tiny, tmp_path) -> None:
    up, down = factors(tiny_base, CONV)
    te_up, te_down = factors(tiny_base, TEXT_LAYER)
    text = kohya("te", f"text_model.{TEXT_LAYER}")
    file = tmp_path / "a.safetensors"
    save_file(
        {
            f"{kohya('unet', CONV)}.lora_up.weight": up,
            f"{kohya('unet', CONV)}.lora_down.weight": down,
            f"{text}.lora_up.weight": te_up,
            f"{text}.lora_down.weight": te_down,
        },
        file,
    )
    before, after = merged(tiny, str(file))
    changed = different(before, after)
    assert len(changed) == 2
    assert any(name.endswith(f"{TEXT_LAYER}.weight") for name in changed)
    name = f"unet.{CONV}.weight"
    wanted = before[name] + torch.einsum("or,rikl->oikl", up.flatten(1), down)
    torch.testing.assert_close(after[name], wanted, atol=1e-4, rtol=1e-5)


def test_several_adapters_add_up(tiny_base, tiny, tmp_path) -> None:
    up, down = factors(tiny_base)
    paths = [tmp_path / f"{style}.safetensors" for style in ("peft", "kohya")]
    for path in paths:
        save_file(dict(zip(STYLES[path.stem], (up, down), strict=True)), path)
    before, after = merged(tiny, f"{paths[0]},scale=2;{paths[1]},scale=-0.5")
    name = f"unet.{LAYER}.weight"
    torch.testing.assert_close(after[name], before[name] + 1.5 * up @ down, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s | {"unet.nowhere.lora_A.weight": torch.ones(3, 4)}, "1 of 3 keys find no"),
        (lambda s: {f"module.{k}": v for k, v in s.items()}, "2 of 2 keys find no layer"),
        (lambda s: dict(list(s.items())[:1]), "1 of 1 layers have one factor of two"),
        (lambda s: {k: v[:, :2].contiguous() for k, v in s.items()}, "of another model"),
        (lambda s: s | {f"unet.{LAYER}.dora_scale": torch.ones(3)}, "DoRA"),
        (lambda s: s | {f"unet.{LAYER}.hada_w1_a": torch.ones(3)}, "LoHa"),
        (lambda s: {k: v * float("inf") for k, v in s.items()}, "non-finite weights"),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_dropped(
    tiny_base, tiny, tmp_path, change, said
) -> None:
    state = dict(zip(STYLES["peft"], factors(tiny_base), strict=True))
    file = tmp_path / "a.safetensors"
    save_file(change(state), file)
    with pytest.raises(UserError) as caught:
        take_over([str(file)], find_base(tiny).source, tiny)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("original", "plain"),
    [
        ("input_blocks_1_1_proj_in", "down_blocks_0_attentions_0_proj_in"),
        ("input_blocks_3_0_in_layers_2", "down_blocks_1_resnets_0_conv1"),
        ("input_blocks_2_0_op", "down_blocks_0_downsamplers_0_conv"),
        ("middle_block_0_out_layers_3", "mid_block_resnets_0_conv2"),
        ("middle_block_1_proj_out", "mid_block_attentions_0_proj_out"),
        ("middle_block_2_emb_layers_1", "mid_block_resnets_1_time_emb_proj"),
        ("output_blocks_3_1_proj_in", "up_blocks_1_attentions_1_proj_in"),
        ("output_blocks_1_2_conv", "up_blocks_0_upsamplers_0_conv"),
    ],
)
def test_names_of_the_original_layout(tiny_base: Path, original: str, plain: str) -> None:
    """One layer a block: input block 1 is it, 2 the change of size, 3 the next block's layer."""
    places = places_of(tiny_base, "tiny")
    assert original_names(f"lora_unet_{original}", places) == f"lora_unet_{plain}"
