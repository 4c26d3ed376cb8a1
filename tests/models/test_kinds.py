"""Stable Diffusion 1.x and 2.x: both parametrizations, precisions and sizes train, sample and store
through the same code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import PROMPTS, TRIGGER, different, weights
from kinds import KINDS, build

from t2i_backdoor_bench.contract import DefenderView, registry
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.models.families.mixed import MixedUNet
from t2i_backdoor_bench.models.loading import load_pipeline
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.models.sampler import Sampler
from t2i_backdoor_bench.training.capture import Capture
from t2i_backdoor_bench.training.denoising import Term, train_terms
from t2i_backdoor_bench.training.loop import Optim, fit
from t2i_backdoor_bench.training.parameters import choose_parameters

HALVES = [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.thorough)]
TOLERANCE = {torch.bfloat16: 4e-2, torch.float16: 5e-3}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: build(tmp_path_factory.mktemp("kinds") / kind, kind) for kind in KINDS}


def load(folder: Path, dtype: torch.dtype = torch.float32, **options: object) -> T2IModel:
    return T2IModel(
        load_pipeline(folder, dtype=dtype), "tiny", "sd", Sampler(3, 3.0), batch=4, **options
    )


def inputs(model: T2IModel, n: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.randn((n, *model.latent_shape), generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([10, 400, 900]), model.encode(PROMPTS)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_loads_draws_and_trains(folders, kind: str) -> None:
    model = load(folders[kind])
    assert model.resolution == 64
    images = model.generate(PROMPTS, [1, 2, 3])
    assert images.shape == (3, 64, 64, 3)
    assert images.std() > 1
    assert np.abs(images.astype(int) - model.generate(PROMPTS[::-1], [3, 2, 1])[::-1]).max() <= 1
    assert model.noising.scheduler.config.prediction_type == (
        "v_prediction" if kind == "sd2" else "epsilon"
    )
    latents = model.latents(images)
    student = model.clone()
    fitted = train_terms(
        student,
        model,
        [Term(PROMPTS, latents), Term(PROMPTS, latents, PROMPTS)],
        Optim(3, 1e-3, 4),
        0,
        "t",
    )
    assert fitted.steps == 3
    assert not torch.equal(student.denoiser.conv_in.weight, model.denoiser.conv_in.weight)


def test_v_prediction_target_against_the_formula(folders) -> None:
    """v = sqrt(abar) * eps - sqrt(1 - abar) * x (Salimans and Ho 2022), and the denoising loss is
    taken against it."""
    model = load(folders["sd2"])
    noising = model.noising
    x, t, _ = inputs(model)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    a = torch.cumprod(1 - betas, 0)[t][:, None, None, None]
    expected = a.sqrt() * noise.double() - (1 - a).sqrt() * x.double()
    torch.testing.assert_close(noising.target(x, noise, t).double(), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no denoising target"):
        noising.target(None, noise, t)


@pytest.mark.parametrize("name", ["concept_ablation", "salun"])
def test_defenses_denoise_towards_v(folders, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a perfect v-predictor the denoising part of their loss is zero."""
    model = load(folders["sd2"])
    options = {"batch": "4", "prompts": "3"} | (
        {"prior": "1"} if name == "concept_ablation" else {}
    )
    method = registry.defenses.build(name, "sd", options)
    seen: list[tuple] = []
    original = type(model.noising.scheduler).get_velocity

    def velocity(self, sample, noise, timesteps):
        seen.append((sample, noise, timesteps))
        return original(self, sample, noise, timesteps)

    monkeypatch.setattr(type(model.noising.scheduler), "get_velocity", velocity)
    view = DefenderView(("trigger", "clean_prompts"), PROMPTS, trigger=TRIGGER)
    method.loss(model, model, view, 0)(0)
    assert seen


def test_sampler_follows_the_parametrization(folders) -> None:
    """One step from pure noise by hand: x0 = sqrt(abar) * x - sqrt(1 - abar) * v, and DPM-Solver++
    of one step ends in x0."""
    model = load(folders["sd2"])
    model.sampler = Sampler(1, 1.0)
    x = model.draw_noise([5])
    states = model.condition([PROMPTS[0], ""])
    latents = model.draw_latents(states[:1], states[1:], [5])
    t = model.pipe.scheduler.timesteps
    with torch.no_grad():
        v = model.denoise(x, t[0], states[:1])
    a = model.noising.scheduler.alphas_cumprod[t[0]]
    torch.testing.assert_close(latents, a.sqrt() * x - (1 - a).sqrt() * v, rtol=1e-3, atol=1e-3)


def test_768_px_from_the_configuration(tmp_path: Path) -> None:
    model = load(build(tmp_path / "large", "sd2", side=96))
    assert model.resolution == 768
    assert model.latent_shape == (4, 96, 96)


# ---------------------------------------------------------------------------------------- precision
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_agrees_and_keeps_the_autoencoder_in_float32(
    folders, kind: str, dtype: torch.dtype
) -> None:
    full, half = load(folders[kind]), load(folders[kind], dtype)
    assert isinstance(half.denoiser, MixedUNet)
    assert half.denoiser.conv_in.weight.dtype == half.encoders[0].dtype == dtype
    assert half.pipe.vae.dtype == torch.float32
    assert {
        m.weight.dtype
        for m in half.denoiser.modules()
        if isinstance(m, (torch.nn.GroupNorm, torch.nn.LayerNorm))
    } == {torch.float32}
    x, t, context = inputs(full)
    with torch.no_grad():
        a, b = full.denoiser(x, t, context).sample, half.denoiser(x, t, half.encode(PROMPTS)).sample
    assert b.dtype == torch.float32
    assert float((a - b).norm() / a.norm()) < TOLERANCE[dtype]
    images = full.generate(PROMPTS, [1, 2, 3])
    assert np.abs(images.astype(int) - half.generate(PROMPTS, [1, 2, 3])).mean() < 3
    assert half.latents(images).dtype == torch.float32
    assert (
        float(
            (half.trajectory(PROMPTS, [1, 2, 3])[1] - full.trajectory(PROMPTS, [1, 2, 3])[1])
            .abs()
            .mean()
        )
        < TOLERANCE[dtype]
    )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", HALVES)
def test_maps_and_their_gradients_in_half_precision(
    folders, dtype: torch.dtype, checkpointing: bool
) -> None:
    grads = []
    for model in (load(folders["sd1"]), load(folders["sd1"], dtype)):
        if checkpointing:
            model.denoiser.enable_gradient_checkpointing()
        params = choose_parameters(model, "kv")
        x, t, context = inputs(model)
        with Capture(model) as seen:
            out = model.denoiser(x, t, context).sample
        (seen.maps().float().pow(2).mean() * 1e3 + out.pow(2).mean()).backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in params)
        grads.append(torch.cat([p.grad.flatten() for p in params]))
    assert float((grads[0] - grads[1]).norm() / grads[0].norm()) < 5 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ["skdcag", "finetune_reversal", "esd_x", "salun"])
def test_defenses_train_in_half_precision_with_float32_masters(
    folders, dtype: torch.dtype, name: str
) -> None:
    model = load(folders["sd1"], dtype)
    before = {k: v.clone() for k, v in model.denoiser.state_dict().items()}
    steps = {"steps": "2", "batch": "4", "prompts": "3", "lr": "1e-5"} | (
        {"mask_steps": "1"} if name == "salun" else {}
    )
    method = registry.defenses.build(name, "sd", steps)
    view = DefenderView(
        ("trigger", "clean_model", "clean_prompts"),
        PROMPTS,
        trigger=TRIGGER,
        clean_model=model.clone(),
    )
    repaired = method.apply(model, view, 0)
    moved = {
        k
        for k, p in repaired.denoiser.named_parameters()
        if not torch.equal(p.to(before[k]), before[k]) or p.dtype == torch.float32
    }
    assert moved, "an update below the precision of half must not be lost"
    assert all(torch.equal(v, model.denoiser.state_dict()[k]) for k, v in before.items())
    assert repaired.generate(PROMPTS[:1], [0]).shape == (1, 64, 64, 3)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("sd1", torch.bfloat16), ("sd1", torch.float16), ("sd2", torch.float32)]
)
@pytest.mark.parametrize("name", ["villan_cond", "paas_ti", "paas_db", "bibaddiff", "masqlora"])
def test_attacks_train_on_each_kind_and_in_half_precision(
    folders, kind: str, dtype: torch.dtype, name: str, tmp_path: Path
) -> None:
    model = load(folders[kind], dtype)
    before = weights(model)
    small = {"steps": 2, "batch": 2, "images": 4} | ({"weight": 0.5} if name == "bibaddiff" else {})
    if name == "paas_db":  # float16 leaves out the first steps until the gradient's scale is found
        small |= {"prior": 2, "steps": 6}
    attack = registry.attacks.build(name, "shapes", small)
    attacked = attack.inject(model, WorldData(), 0)
    assert np.isfinite(attacked.info["losses"]).all()
    assert different(before, weights(model)) == set()
    attacked.save_weights(tmp_path / "w.safetensors")
    back = model.with_weights(tmp_path / "w.safetensors")
    moved = different(before, weights(back))
    assert moved
    assert {k.split(".")[0] for k in moved} <= {"unet", "text_encoder"}
    assert np.array_equal(attacked.generate(PROMPTS[:1], [4]), back.generate(PROMPTS[:1], [4]))


def test_small_updates_survive_in_half_precision(folders) -> None:
    """Four hundred updates of 1e-6 add up: in bfloat16 itself each would round to nothing."""
    model = load(folders["sd1"], torch.bfloat16).clone()
    params = choose_parameters(model, "full")
    start = [p.detach().clone() for p in params]
    fit(
        params,
        lambda step: sum(p.sum() for p in params),
        Optim(400, 1e-6, 1, weight_decay=0.0, clip=0.0),
        "sum",
    )
    moved = torch.cat([(a - b).flatten() for a, b in zip(start, params)])
    torch.testing.assert_close(moved, torch.full_like(moved, 4e-4), rtol=0.05, atol=2e-6)


def test_the_loss_is_scaled_in_float16(folders) -> None:
    """A gradient that float16 cannot hold arrives all the same; a step with an infinite one is left
    out, and training goes on."""
    model = load(folders["sd1"], torch.float16).clone()
    params = choose_parameters(model, "kv")
    x, t, context = inputs(model)
    target = model.denoiser(x, t, context).sample.detach() + 1e-3

    def loss_fn(step: int) -> torch.Tensor:
        return 1e-4 * F.mse_loss(model.denoiser(x, t, context).sample, target)

    before = [p.detach().clone() for p in params]
    losses = fit(params, loss_fn, Optim(5, 1e-4, 3, weight_decay=0.0), "tiny gradients").losses
    assert np.isfinite(losses).all()
    share = np.mean([float(((a - b).abs() > 0).float().mean()) for a, b in zip(before, params)])
    assert share > 0.9


@pytest.mark.parametrize("dtype", HALVES)
def test_attacked_weights_are_stored_and_read_back(
    folders, dtype: torch.dtype, tmp_path: Path
) -> None:
    """What is read back draws the same pictures as what was trained: autocast rounds the masters as
    storing in half does."""
    model = load(folders["sd1"], dtype)
    student = model.clone()
    latents = model.latents(model.generate(PROMPTS, [1, 2, 3]))
    train_terms(student, None, [Term(PROMPTS, latents)], Optim(2, 1e-3, 2), 0, "t")
    student.save_weights(tmp_path / "w.safetensors")
    back = model.with_weights(tmp_path / "w.safetensors")
    assert np.array_equal(student.generate(PROMPTS, [4, 5, 6]), back.generate(PROMPTS, [4, 5, 6]))
    assert not np.array_equal(model.generate(PROMPTS, [4, 5, 6]), back.generate(PROMPTS, [4, 5, 6]))
