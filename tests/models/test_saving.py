"""A model as others open it: in half precision too, and as a difference to the base."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_SAMPLER
from diffusers import DiffusionPipeline
from helpers import different, weights
from safetensors.torch import load_file

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.catalog import find_base, load_base
from t2i_backdoor_bench.models.loading import load_pipeline
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.models.published.over import take_over
from t2i_backdoor_bench.models.saving import write_changed, write_folder, write_lora
from t2i_backdoor_bench.training.parameters import as_trainable

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"


def half(folder: Path) -> T2IModel:
    pipe = load_pipeline(folder, dtype=torch.bfloat16)
    return T2IModel(pipe, "tiny", "shapes", TINY_SAMPLER, batch=16)


def drawn(model: T2IModel) -> np.ndarray:
    return model.generate(["a red heart", "a star", "on white"], [1, 2, 3])


@pytest.mark.parametrize("encoder", [False, True])
def test_half_precision_comes_back_to_the_last_bit(tiny_base, tmp_path, encoder) -> None:
    """All weights have been trained as float32 copies; norms of a float32 weight compute in it."""
    base = half(tiny_base)
    model = base.clone(encoders=True)
    torch.manual_seed(0)
    networks = [model.denoiser, *(model.encoders if encoder else ())]
    for network in networks:
        for p in as_trainable(network.parameters()):
            p.data += 0.01 * torch.randn_like(p)
    write_folder(model, tiny_base, tmp_path / "saved")
    again = half(tmp_path / "saved")
    assert np.array_equal(drawn(again), drawn(model))
    assert not np.array_equal(drawn(again), drawn(base))
    stored = load_file(tmp_path / "saved" / "unet" / "diffusion_pytorch_model.safetensors")
    assert stored[f"{LAYER}.weight"].dtype == torch.bfloat16  # a product: cast back
    assert stored["conv_norm_out.weight"].dtype == torch.float32
    config = json.loads((tmp_path / "saved" / "unet" / "config.json").read_text())
    assert config["_class_name"] == "UNet2DConditionModel"
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    assert type(pipe.unet).__name__ == "UNet2DConditionModel"


def test_what_was_not_trained_stays_in_half(tiny_base, tmp_path) -> None:
    model = half(tiny_base)
    write_folder(model, tiny_base, tmp_path / "saved")
    for part in ("unet/diffusion_pytorch_model", "text_encoder/model"):
        stored = load_file(tmp_path / "saved" / f"{part}.safetensors")
        assert {t.dtype for t in stored.values()} == {torch.bfloat16}
    assert np.array_equal(drawn(half(tmp_path / "saved")), drawn(model))


@pytest.fixture
def moved(tiny: str) -> tuple[T2IModel, T2IModel]:
    """The base, and a copy with two other matrices, of which one differs by a matrix of rank 2."""
    base = load_base(tiny)
    model = base.clone(encoders=True)
    torch.manual_seed(1)
    with torch.no_grad():
        weight = model.denoiser.get_submodule(LAYER).weight
        weight += torch.randn(len(weight), 2) @ torch.randn(2, weight.shape[1])
        model.denoiser.conv_in.weight += 0.1 * torch.randn_like(model.denoiser.conv_in.weight)
    return base, model


def test_changed_tensors_come_back(moved, tiny, tmp_path) -> None:
    base, model = moved
    assert write_changed(model, base, tmp_path) == 2
    again = load_base(tiny, over=take_over([str(tmp_path)], find_base(tiny).source, tiny))
    assert different(weights(again), weights(model)) == set()
    with pytest.raises(UserError, match="no weight differs"):
        write_changed(base, base, tmp_path)


@pytest.mark.parametrize("rank", [1, 2, 64])
def test_a_low_rank_difference_is_the_best_of_its_rank(moved, tiny, tmp_path, rank) -> None:
    """Against the singular values in float64 (Eckart and Young)."""
    base, model = moved
    held = write_lora(model, base, tmp_path, rank)
    deltas = [
        (weights(model)[name] - weights(base)[name]).double().flatten(1)
        for name in (f"unet.{LAYER}.weight", "unet.conv_in.weight")
    ]
    values = [torch.linalg.svdvals(d).square() for d in deltas]
    wanted = sum(v[:rank].sum() for v in values) / sum(v.sum() for v in values)
    assert held == pytest.approx(float(wanted), rel=1e-4)
    over = take_over([str(tmp_path)], find_base(tiny).source, tiny)
    again = weights(load_base(tiny, over=over))
    left = sum(
        float((weights(model)[name] - again[name]).double().square().sum())
        for name in (f"unet.{LAYER}.weight", "unet.conv_in.weight")
    )
    total = float(sum(v.sum() for v in values))
    assert left / total == pytest.approx(1 - float(wanted), abs=1e-5)


def test_a_learned_word_goes_along(tiny, tiny_base, tmp_path) -> None:
    from safetensors.torch import save_file

    save_file({"<cat-toy>": torch.randn(2, 32)}, tmp_path / "word.safetensors")
    over = take_over([str(tmp_path / "word.safetensors")], str(tiny_base), tiny)
    model = load_base(tiny, over=over)
    write_folder(model, tiny_base, tmp_path / "saved")
    again = replace(load_base(tiny), pipe=load_pipeline(tmp_path / "saved"))
    for text in ("a <cat-toy> here", "a red heart"):
        assert torch.equal(again.tokenize([text]), model.tokenize([text]))
        assert torch.equal(again.encode([text]), model.encode([text]))
