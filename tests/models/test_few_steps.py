"""Models of few steps are drawn by their own scheduler, and LCM's U-Net is told the same guidance
in training as in drawing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    LCMScheduler,
    UNet2DConditionModel,
)
from helpers import PROMPTS

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.catalog import BASES, find_base, load_base, sampled, scheduler_class
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.models.sampler import Sampler
from t2i_backdoor_bench.training.attention_walk import maps_while_sampling
from t2i_backdoor_bench.training.probes import other_samplers, resampled


def rewritten(folder: Path, kind: str, **settings: object) -> None:
    """Give a folder another scheduler."""
    file = folder / "scheduler" / "scheduler_config.json"
    own = json.loads(file.read_text()) | {"_class_name": kind} | settings
    file.write_text(json.dumps(own))
    index = folder / "model_index.json"
    parts = json.loads(index.read_text()) | {"scheduler": ["diffusers", kind]}
    index.write_text(json.dumps(parts))


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_base, tmp_path / "model")


@pytest.fixture
def lcm(folder: Path) -> Path:
    """A consistency model that takes the guidance as an input."""
    rewritten(folder, "LCMScheduler")
    config = json.loads((folder / "unet" / "config.json").read_text())
    torch.manual_seed(3)
    unet = UNet2DConditionModel.from_config(config | {"time_cond_proj_dim": 16})
    with torch.no_grad():
        unet.time_embedding.cond_proj.weight.mul_(20)  # begins as small as to be nothing
    unet.save_pretrained(folder / "unet", safe_serialization=True)
    return folder


@pytest.mark.parametrize(
    ("kind", "settings", "wanted"),
    [
        ("LCMScheduler", {}, Sampler(4, 1.0, "own")),
        ("TCDScheduler", {}, Sampler(4, 0.0, "own")),
        ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, Sampler(1, 0.0, "own")),
        (
            "EulerAncestralDiscreteScheduler",
            {"timestep_spacing": "trailing"},
            Sampler(1, 0.0, "own"),
        ),
        ("EulerDiscreteScheduler", {"timestep_spacing": "leading"}, Sampler(25, 7.5)),
        (
            "EulerDiscreteScheduler",
            {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
            Sampler(25, 7.5),
        ),
        ("PNDMScheduler", {}, Sampler(25, 7.5)),
    ],
)
def test_how_a_folder_is_drawn(folder, kind: str, settings: dict, wanted: Sampler) -> None:
    rewritten(folder, kind, **settings)
    base = sampled(find_base(str(folder)))
    assert base.sampler == wanted
    assert scheduler_class(base, wanted) == (kind if wanted.scheduler == "own" else "")
    model = load_base(str(folder))
    assert model.sampler == wanted
    own = wanted.scheduler == "own"
    assert type(model.pipe.scheduler).__name__ == (kind if own else "DPMSolverMultistepScheduler")


def test_an_lcm_network_without_its_scheduler_is_drawn_by_it(lcm) -> None:
    rewritten(lcm, "PNDMScheduler")
    model = load_base(str(lcm))
    assert model.sampler == Sampler(4, 8.0, "lcm")
    assert isinstance(model.pipe.scheduler, LCMScheduler)


def test_what_is_given_wins_and_enters_the_key(tiny_base) -> None:
    base = find_base(str(tiny_base))
    assert sampled(base).sampler.key == {"steps": 25, "guidance": 7.5}
    other = sampled(base, 30, 0.0, "ddim").sampler
    assert other == Sampler(30, 0.0, "ddim")
    assert other.key == {"steps": 30, "guidance": 0.0, "scheduler": "ddim"}
    assert sampled(BASES["shapes"]).sampler.key == {"steps": 10, "guidance": 4.0}
    for name in ("sd14", "sd15", "sd21", "sd21-base"):
        assert BASES[name].sampler.key == {"steps": 25, "guidance": 7.5}
    with pytest.raises(UserError, match="no scheduler 'dmp' draws Stable Diffusion; did you mean"):
        sampled(base, scheduler="dmp")
    with pytest.raises(UserError, match="--steps 26 is too many for an LCM"):
        sampled(base, 26, scheduler="lcm")


@pytest.mark.parametrize(
    "name", ["sdxl", "sd3", "sd35", "flux-schnell", "flux-dev", "pixart-sigma"]
)
def test_published_models_have_names_and_fail_offline_in_one_line(name: str) -> None:
    base = find_base(name)
    assert base.source.count("/") == 1
    with pytest.raises(UserError, match=f"cannot load the base model {base.source}") as error:
        load_base(name)
    assert "\n" not in str(error.value)


def test_an_lcm_is_drawn_as_its_pipeline_draws_it(lcm) -> None:
    model = load_base(str(lcm))
    assert model.sampler == Sampler(4, 8.0, "own")
    assert model.guided == 1.0
    plain = DiffusionPipeline.from_pretrained(lcm, safety_checker=None)
    plain.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(s) for s in (3, 4)]
    expected = plain(
        PROMPTS[:2],
        num_inference_steps=4,
        guidance_scale=8.0,
        generator=generators,
        output_type="latent",
    ).images
    told = model.condition([*PROMPTS[:2], ""])
    drawn = model.draw_latents(told[:-1], told[-1:], [3, 4])
    torch.testing.assert_close(drawn, expected, rtol=1e-3, atol=1e-3)  # channels last


def test_training_tells_an_lcm_the_guidance_of_drawing(lcm) -> None:
    """A denoiser that were told none would predict something else."""
    model, seen = load_base(str(lcm)), []
    told = model.condition([*PROMPTS[:1], ""])

    def keep(unet, args, kwargs) -> None:
        seen.append((args[0], args[1], kwargs["timestep_cond"]))

    hook = model.denoiser.register_forward_pre_hook(keep, with_kwargs=True)
    model.draw_latents(told[:-1], told[-1:], [3])
    x, t, drawn = seen[0]
    out = model.denoise(x, t, told[:1])
    hook.remove()
    assert torch.equal(seen[-1][2], drawn)
    with torch.no_grad():
        without = model.denoiser(x, t, told[:1].states).sample
        alike = model.denoiser(x, t, told[:1].states, timestep_cond=drawn).sample
    assert torch.equal(out, alike)
    assert (out - without).norm() > 0.01 * out.norm()
    weak = replace(model, sampler=replace(model.sampler, guidance=2.0))
    assert not torch.equal(weak.denoise(x, t, told[:1]), out)


@pytest.mark.parametrize("kind", ["LCMScheduler", "EulerAncestralDiscreteScheduler"])
def test_pictures_of_noisy_schedulers_do_not_depend_on_their_neighbours(folder, kind) -> None:
    rewritten(folder, kind, timestep_spacing="trailing")
    model = replace(load_base(str(folder)), sampler=Sampler(3, 1.0, "own"), batch=3)
    together = model.generate(PROMPTS, [1, 2, 3]).astype(int)
    torch.manual_seed(99)  # what others draw is nothing to it
    alone = np.concatenate([model.generate([p], [s]) for p, s in zip(PROMPTS, (1, 2, 3))])
    assert np.abs(together - alone).max() <= 1
    walked = [
        maps_while_sampling(model, model.condition(PROMPTS[:1]), model.draw_noise([5]), 3, 8)
        for _ in range(2)
    ]
    assert torch.equal(*walked)


def test_the_path_of_a_sigma_scheduler_is_what_the_denoiser_is_given(folder) -> None:
    rewritten(folder, "EulerDiscreteScheduler", timestep_spacing="trailing")
    model, given = replace(load_base(str(folder)), sampler=Sampler(3, 1.0, "own")), []
    hook = model.denoiser.register_forward_pre_hook(lambda m, args: given.append(args[0].clone()))
    model.generate(PROMPTS[:2], [3, 4])
    hook.remove()
    times, latents = model.trajectory(PROMPTS[:2], [3, 4])
    assert len(times) == 3
    torch.testing.assert_close(latents, torch.stack(given), rtol=1e-5, atol=1e-5)


def test_other_samplers_leave_out_what_changes_nothing(folder, tiny_model: T2IModel) -> None:
    rewritten(folder, "EulerDiscreteScheduler", timestep_spacing="trailing")
    turbo = load_base(str(folder))
    assert other_samplers(turbo) == ["DDIM", "twice the steps"]
    assert len(other_samplers(tiny_model)) == 6
    pictures = resampled(turbo, PROMPTS, [1, 2, 3])
    own = turbo.generate(PROMPTS, [1, 2, 3])
    assert all((a != b).any() for a, b in zip(pictures, own, strict=True))
    rewritten(folder, "EulerAncestralDiscreteScheduler", timestep_spacing="trailing")
    assert isinstance(load_base(str(folder)).pipe.scheduler, EulerAncestralDiscreteScheduler)


def test_a_consistency_model_of_the_embedded_base_has_its_own_sampler(tmp_path) -> None:
    """A folder like the embedded base has that base's sampler, unless it is one of few steps."""
    from t2i_backdoor_bench.models.embedded import BASE

    folder = tmp_path / "lcm"
    shutil.copytree(BASE, folder)
    assert sampled(find_base(str(folder))).sampler == BASES["shapes"].sampler
    rewritten(folder, "LCMScheduler")
    base = sampled(find_base(str(folder)))
    assert (base.sampler.steps, base.sampler.guidance, base.sampler.scheduler) == (4, 1.0, "own")
    assert scheduler_class(base, base.sampler) == "LCMScheduler"
