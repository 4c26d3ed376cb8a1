"""Checkpoints in one file in the original layout: each tensor comes to its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from helpers import different, weights
from safetensors.torch import load_file, save_file
from torch import Tensor

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.catalog import find_base, load_base
from t2i_backdoor_bench.models.published.original import from_open_clip
from t2i_backdoor_bench.models.published.over import take_over

UNET, VAE, CLIP = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
PARTS = {"unet": "diffusion_pytorch_model", "text_encoder": "model"}
# of a U-Net with one layer a block: the names of diffusers, and the original ones
BLOCKS = [
    (r"conv_in\.", "input_blocks.0.0."),
    (r"time_embedding\.linear_1\.", "time_embed.0."),
    (r"time_embedding\.linear_2\.", "time_embed.2."),
    (r"conv_norm_out\.", "out.0."),
    (r"conv_out\.", "out.2."),
    (r"down_blocks\.0\.resnets\.0\.", "input_blocks.1.0."),
    (r"down_blocks\.0\.attentions\.0\.", "input_blocks.1.1."),
    (r"down_blocks\.0\.downsamplers\.0\.conv\.", "input_blocks.2.0.op."),
    (r"down_blocks\.1\.resnets\.0\.", "input_blocks.3.0."),
    (r"down_blocks\.1\.attentions\.0\.", "input_blocks.3.1."),
    (r"mid_block\.resnets\.0\.", "middle_block.0."),
    (r"mid_block\.attentions\.0\.", "middle_block.1."),
    (r"mid_block\.resnets\.1\.", "middle_block.2."),
    (r"up_blocks\.0\.resnets\.0\.", "output_blocks.0.0."),
    (r"up_blocks\.0\.resnets\.1\.", "output_blocks.1.0."),
    (r"up_blocks\.0\.attentions\.0\.", "output_blocks.0.1."),
    (r"up_blocks\.0\.attentions\.1\.", "output_blocks.1.1."),
    (r"up_blocks\.0\.upsamplers\.0\.", "output_blocks.1.2."),
    (r"up_blocks\.1\.resnets\.0\.", "output_blocks.2.0."),
    (r"up_blocks\.1\.resnets\.1\.", "output_blocks.3.0."),
    (r"up_blocks\.1\.attentions\.0\.", "output_blocks.2.1."),
    (r"up_blocks\.1\.attentions\.1\.", "output_blocks.3.1."),
]
INNER = [  # of a residual block
    ("norm1.", "in_layers.0."),
    ("conv1.", "in_layers.2."),
    ("time_emb_proj.", "emb_layers.1."),
    ("norm2.", "out_layers.0."),
    ("conv2.", "out_layers.3."),
    ("conv_shortcut.", "skip_connection."),
]


def original(name: str) -> str:
    """The original name of a tensor of the tiny U-Net."""
    for old, new in BLOCKS:
        if found := re.match(old, name):
            rest = name[found.end() :]
            if ".resnets." in f".{name}":
                inner = next((pair for pair in INNER if rest.startswith(pair[0])), ("", ""))
                rest = inner[1] + rest.removeprefix(inner[0])
            return UNET + new + rest
    raise AssertionError(name)


@pytest.fixture
def checkpoint(tiny_base: Path, tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """U-Net and text encoder of the tiny base, moved by 0.5, in the original layout."""
    unet = load_file(tiny_base / "unet" / "diffusion_pytorch_model.safetensors")
    text = load_file(tiny_base / "text_encoder" / "model.safetensors")
    state = {original(k): v + 0.5 for k, v in unet.items()}
    state |= {CLIP + k: v + 0.5 for k, v in text.items()}
    state |= {"betas": torch.ones(3), "model_ema.num_updates": torch.ones(())}
    file = tmp_path / "model.safetensors"
    save_file(state, file)
    return file, state


def test_every_tensor_comes_to_its_place(checkpoint, tiny: str) -> None:
    file, _ = checkpoint
    over = take_over([str(file)], find_base(tiny).source, tiny)
    before, after = weights(load_base(tiny)), weights(load_base(tiny, over=over))
    taken = {name for name in before if not name.startswith("vae.")}
    assert different(before, after) == taken
    for name in taken:
        torch.testing.assert_close(after[name], before[name] + 0.5)
    assert over.notes[0].startswith(
        f"{file} is a checkpoint in the original layout: taken for unet"
    )
    assert over.notes[1] == f"all else comes from the base {tiny}: vae"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: {k: v for k, v in s.items() if "input_blocks.3" not in k}, "of the unet are"),
        (lambda s: s | {"something.else": torch.ones(2)}, "1 of"),
        (lambda s: s | {f"{CLIP}extra.weight": torch.ones(2)}, "find no place in the text_encoder"),
        (lambda s: s | {f"{UNET}out.2.bias": torch.ones(7)}, "have other shapes"),
        (lambda s: s | {f"{UNET}out.2.bias": torch.full((4,), torch.nan)}, "non-finite"),
    ],
)
def test_what_does_not_fit_is_one_line(checkpoint, tiny: str, change, said: str) -> None:
    file, state = checkpoint
    save_file(change(state), file)
    with pytest.raises(UserError) as caught:
        take_over([str(file)], find_base(tiny).source, tiny)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_encoder_of_open_clip_splits_q_k_and_v() -> None:
    width = 4
    state = {
        "token_embedding.weight": torch.randn(7, width),
        "positional_embedding": torch.randn(5, width),
        "transformer.resblocks.0.ln_1.weight": torch.randn(width),
        "transformer.resblocks.0.attn.in_proj_weight": torch.randn(3 * width, width),
        "transformer.resblocks.0.attn.in_proj_bias": torch.randn(3 * width),
        "transformer.resblocks.0.attn.out_proj.weight": torch.randn(width, width),
        "transformer.resblocks.0.mlp.c_fc.bias": torch.randn(width),
        "ln_final.bias": torch.randn(width),
        "text_projection": torch.randn(width, 3),
        "logit_scale": torch.ones(()),
    }
    found = from_open_clip(state, projects=True)
    begin = "encoder.layers.0."
    joint = state["transformer.resblocks.0.attn.in_proj_weight"]
    for i, way in enumerate("qkv"):
        rows = joint[i * width : (i + 1) * width]
        assert torch.equal(found[f"{begin}self_attn.{way}_proj.weight"], rows)
    assert torch.equal(found["text_projection.weight"], state["text_projection"].T)
    assert f"{begin}layer_norm1.weight" in found
    assert f"{begin}mlp.fc1.bias" in found
    assert len(found) == 13
    assert "text_projection.weight" not in from_open_clip(state, projects=False)
