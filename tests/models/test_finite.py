"""Models whose weights or pictures are not finite are refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import UserError, attacks
from t2i_backdoor_bench.models.finite import NonFinite, check_folder
from t2i_backdoor_bench.models.loading import load_pipeline

FILE = Path("unet") / "diffusion_pytorch_model.safetensors"


def broken_copy(folder: Path, to: Path, value: float) -> tuple[Path, str]:
    """A copy of a model folder with `value` in one tensor of its U-Net, and that tensor's name."""
    shutil.copytree(folder, to)
    weights = load_file(to / FILE)
    name = next(k for k in weights if "attn2.to_v" in k)
    weights[name][0] = value
    save_file(weights, to / FILE, {"format": "pt"})
    return to, name


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_folder_with_non_finite_weights_is_one_line(tiny_base, tmp_path, value):
    folder, name = broken_copy(tiny_base, tmp_path / "bad", value)
    with pytest.raises(UserError) as caught:
        load_pipeline(folder)
    assert str(folder / FILE) in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="non-finite"):
        attacks.build("checkpoint", "shapes", {"folder": str(folder)})
    check_folder(tiny_base)


def test_the_command_exits_with_2(tiny_base, tmp_path, capsys):
    folder, name = broken_copy(tiny_base, tmp_path / "bad", float("nan"))
    out = tmp_path / "run"
    flags = ["--base", str(folder), "--suspect", "--scale", "smoke", "--out", str(out)]
    assert runner.main(flags) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert str(FILE) in said
    assert name in said


def test_weights_that_overflow_in_half_precision_are_told_apart(tiny_base, tmp_path):
    folder, _ = broken_copy(tiny_base, tmp_path / "large", 1e30)
    load_pipeline(folder)
    with pytest.raises(UserError, match="overflow in this precision"):
        load_pipeline(folder, dtype=torch.float16)


def test_latents_that_are_not_finite_are_no_pictures(tiny_model):
    latents = torch.zeros(3, *tiny_model.latent_shape)
    assert tiny_model.decode(latents).shape == (3, 64, 64, 3)
    latents[1, 0, 0, 0] = float("inf")
    with pytest.raises(NonFinite, match="1 of 3"):
        tiny_model.decode(latents)
