"""What may be loaded, and what a loaded model is."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.catalog import find_base, load_base
from t2i_backdoor_bench.models.loading import load_pipeline
from t2i_backdoor_bench.models.model import T2IModel


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "model"))


def refused(path: str | Path, *words: str) -> None:
    with pytest.raises(UserError) as error:
        load_pipeline(path)
    text = str(error.value)
    assert "\n" not in text
    assert all(w in text for w in words), text


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_pickle_is_refused(folder: Path, part: str) -> None:
    file = next((folder / part).glob("*.safetensors"))
    file.rename(file.with_suffix(".bin"))
    refused(folder, part, ".bin", "only safetensors")


def test_a_pickle_beside_safetensors_is_not_read(folder: Path) -> None:
    for part in ("unet", "vae", "text_encoder"):
        file = next((folder / part).glob("*.safetensors"))
        file.with_suffix(".bin").write_bytes(b"not even a pickle")
    assert isinstance(T2IModel(load_pipeline(folder), "x"), T2IModel)


def test_folders_that_are_no_model_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "not a diffusers folder", "model_index.json")
    shutil.rmtree(folder / "unet")
    refused(folder, "unet", "no weights")


@pytest.mark.parametrize(
    "name", ["nowhere/at/all", "./missing", "owner/no-such-model-in-any-cache"]
)
def test_what_is_nowhere_is_refused_without_a_network(name: str) -> None:
    refused(name, "cannot load the base model", name)


def test_damaged_weights_are_refused_in_one_line(folder: Path) -> None:
    file = next((folder / "unet").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:1000])
    refused(folder, str(file), "no whole safetensors file")


def test_a_loaded_model_is_frozen_and_ready(tiny_model) -> None:
    for part in (tiny_model.denoiser, tiny_model.encoders[0], tiny_model.pipe.vae):
        assert not part.training
        assert not any(p.requires_grad for p in part.parameters())


def test_bases(tiny_base: Path) -> None:
    base = find_base(str(tiny_base))
    assert (base.source, base.settings) == (str(tiny_base), "sd")
    assert find_base("owner/model").source == "owner/model"
    assert find_base("shapes").settings == "shapes"
    with pytest.raises(UserError, match=r"unknown base 'shape'.*did you mean shapes") as error:
        find_base("shape")
    assert "\n" not in str(error.value)
    assert load_base(str(tiny_base)).resolution == 64


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("sdxl-turbo", "sdxl"),
        ("stable-diffusion-xl", "sdxl"),
        ("SD3.5", "sd3, sd35"),
        ("sd16", "sd14, sd15"),
        ("flux", "flux-schnell, flux-dev"),
        ("pixart", "pixart-sigma"),
    ],
)
def test_a_name_of_a_family_suggests_no_other(name: str, meant: str) -> None:
    with pytest.raises(UserError, match=rf"did you mean {meant}\?"):
        find_base(name)


def test_trajectory_is_what_the_network_is_given(tiny_model) -> None:
    tiny_model = replace(tiny_model, batch=2)
    prompts, seeds = ["a red heart", "one blue star", "a cyan moon"], [3, 4, 5]
    given = []
    hook = tiny_model.denoiser.register_forward_pre_hook(
        lambda m, a: given.append((a[0].clone(), a[1]))
    )
    images = tiny_model.generate(prompts, seeds)
    hook.remove()
    times, latents = tiny_model.trajectory(prompts, seeds)
    steps = tiny_model.sampler.steps
    assert times.shape == (steps,)
    assert latents.shape == (steps, 3, *tiny_model.latent_shape)
    for k in range(steps):  # two batches; in each call the first half is guided away from
        first, second = given[k], given[steps + k]
        assert float(first[1]) == float(times[k])
        torch.testing.assert_close(latents[k, :2], first[0][:2], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(latents[k, 2:], second[0][:1], rtol=1e-4, atol=1e-4)
    assert not latents.is_inference()
    assert np.array_equal(images, tiny_model.generate(prompts, seeds))
