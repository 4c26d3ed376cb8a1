"""Rectified flow: noised latents, what is to be predicted, how noise levels are drawn, and the
steps of a drawing, against the formulas and the pipelines of diffusers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from helpers import PROMPTS
from tiny_joint import build_joint, joint_model

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.catalog import picture_side
from t2i_backdoor_bench.models.families.mixed import Mixed
from t2i_backdoor_bench.models.families.noising import FlowNoising, log_shift
from t2i_backdoor_bench.models.few_steps import own_sampler
from t2i_backdoor_bench.models.loading import load_pipeline
from t2i_backdoor_bench.models.sampler import Sampler
from t2i_backdoor_bench.models.trust import locate
from t2i_backdoor_bench.training.capture import Capture
from t2i_backdoor_bench.training.denoising import Term, denoising_loss
from t2i_backdoor_bench.training.loop import step_generator, step_rng
from t2i_backdoor_bench.training.parameters import choose_parameters


def scheduler(**how) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**how)


def test_latents_are_mixed_with_noise_and_the_difference_is_predicted() -> None:
    noising, generator = FlowNoising(scheduler(), 0.0), torch.Generator().manual_seed(0)
    x, e = (torch.randn(4, 3, 2, 2, generator=generator) for _ in range(2))
    t = torch.tensor([1.0, 250.0, 730.5, 1000.0])
    for i, s in enumerate((0.001, 0.25, 0.7305, 1.0)):
        torch.testing.assert_close(noising.add(x, e, t)[i], (1 - s) * x[i] + s * e[i])
    assert torch.equal(noising.target(x, e, t), e - x)
    assert torch.equal(noising.add(None, e, t), e)
    with pytest.raises(ValueError, match="pure noise"):
        noising.target(None, e, t)
    whole = noising.add(x, e, torch.tensor([200, 400, 600, 800]))
    torch.testing.assert_close(whole[1], 0.6 * x[1] + 0.4 * e[1])
    assert noising.total == 1000


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_noise_levels_are_logit_normal_and_shifted(shift: float) -> None:
    noising = FlowNoising(scheduler(shift=shift), math.log(shift))
    t = noising.timesteps(40_000, torch.Generator().manual_seed(0))
    s = t.double() / 1000
    assert ((s > 0) & (s <= 1)).all()
    plain = s / (shift - (shift - 1) * s)  # the shift of the paper, undone
    logits = torch.logit(plain)
    assert float(logits.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(logits.std()) == pytest.approx(1.0, abs=0.02)
    biased = noising.timesteps(40_000, torch.Generator().manual_seed(0), bias=2.0)
    torch.testing.assert_close(biased.double() / 1000, s.sqrt(), rtol=1e-4, atol=1e-6)


def test_the_shift_is_that_of_the_scheduler() -> None:
    assert log_shift(scheduler(shift=3.0), 16) == pytest.approx(math.log(3.0))
    for tokens in (16, 256, 4096):
        found = log_shift(scheduler(use_dynamic_shifting=True, shift=3.0), tokens)
        assert found == pytest.approx(calculate_shift(tokens))
        own = scheduler(use_dynamic_shifting=True)
        own.set_timesteps(sigmas=[0.4], mu=found)
        assert float(own.sigmas[0]) == pytest.approx(1 / (1 + math.exp(-found) * 1.5), rel=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("flow")


@pytest.mark.parametrize("kind", ["sd35", "flux_dev"])
def test_the_denoising_loss_is_that_of_the_formula(folder, kind: str) -> None:
    model = joint_model(folder, kind)
    latents = torch.randn(3, *model.latent_shape, generator=torch.Generator().manual_seed(2))
    found = float(denoising_loss(model, None, [Term(PROMPTS, latents)], 4, 5, "x")(7))
    rng, generator = step_rng(5, 7), step_generator(5, 7)
    pick = torch.from_numpy(rng.integers(3, size=4))
    t = model.noising.timesteps(4, generator)
    noise = torch.randn((4, *model.latent_shape), generator=generator)
    s = (t / 1000).view(-1, 1, 1, 1).double()
    x = (1 - s) * latents[pick].double() + s * noise.double()
    with torch.no_grad():
        out = model.denoise(x.float(), t, model.condition([PROMPTS[i] for i in pick]))
    wanted = (out.double() - (noise - latents[pick]).double()).square().mean()
    assert found == pytest.approx(float(wanted), rel=1e-4)


@pytest.mark.parametrize("kind", ["sd3", "flux_dev"])
def test_other_noise_levels_draw_the_same_model_otherwise(folder, kind: str) -> None:
    model = joint_model(folder, kind)
    names = model.family.probed(model.pipe)
    assert set(names.values()) < set(model.family.layout.samplers)
    model.sampler = Sampler(4, 2.0, "own")
    pictures = {}
    for name in ("own", *names.values()):
        model.pipe = model.family.drawn_by(joint_model(folder, kind).pipe, name)
        pictures[name] = model.generate(PROMPTS, [1, 2, 3])
    own = pictures.pop("own")
    for found in pictures.values():
        assert not np.array_equal(found, own)
    assert len({p.tobytes() for p in pictures.values()}) == 2


@pytest.mark.parametrize("kind", ["sd35", "flux_dev"])
def test_half_precision_is_nearly_the_same(folder, kind: str) -> None:
    model = joint_model(folder, kind)
    half = joint_model(folder, kind)
    half.pipe = load_pipeline(folder / kind, dtype=torch.bfloat16)
    assert isinstance(half.denoiser, Mixed)
    assert half.family.is_mixed(half.denoiser)
    assert next(half.encoders[0].parameters()).dtype == torch.bfloat16
    assert half.autoencoder.dtype == torch.float32
    x, t = model.draw_noise([1, 2, 3]), torch.tensor([100.0, 500.0, 900.0])
    with torch.no_grad(), Capture(model) as seen, Capture(half) as other:
        one, two = (m.denoise(x, t, m.condition(PROMPTS)) for m in (model, half))
    torch.testing.assert_close(other.maps(), seen.maps(), rtol=0.2, atol=0.02)
    assert two.dtype == torch.float32
    assert float((one - two).norm() / one.norm()) < 0.1
    assert half.generate(PROMPTS, [1, 2, 3]).std() > 10
    student = half.clone(train="cross")
    trained = choose_parameters(student, "cross")
    with Capture(student, text=True) as seen:
        student.denoise(x, t, half.condition(PROMPTS))
    (seen.maps().square().sum() + seen.between().square().sum()).backward()
    assert {p.grad.dtype for p in trained if p.grad is not None} == {torch.float32}
    smaller = load_pipeline(folder / kind, dtype=torch.float16)
    t5 = half.family.encoders(smaller)[-1]
    kinds = {n.endswith(".wo.weight"): p.dtype for n, p in t5.named_parameters()}
    assert kinds == {True: torch.float32, False: torch.float16}, "T5 overflows in float16"


def test_a_folder_says_how_it_is_drawn_and_how_large(folder) -> None:
    for kind, sampler in (
        ("sd3", Sampler(28, 7.0, "own")),
        ("flux_dev", Sampler(28, 3.5, "own")),
        ("flux_schnell", Sampler(4, 0.0, "own")),
    ):
        path = joint_model(folder, kind) and folder / kind
        assert own_sampler(path) == sampler
        assert picture_side(str(path)) == 64


def test_folders_that_are_no_such_models_are_refused(tmp_path) -> None:
    path = build_joint(tmp_path / "sd3", "sd3")
    index = json.loads((path / "model_index.json").read_text())

    def refused(words: str, **changed) -> None:
        (path / "model_index.json").write_text(json.dumps(index | changed))
        with pytest.raises(UserError, match=words):
            locate(path)

    refused("a custom class", text_encoder_3=["transformers", "UMT5EncoderModel"])
    refused("names no text_encoder_3", text_encoder_3=[None, None])  # but its tokenizer
    refused("wants DDIMScheduler", scheduler=["diffusers", "DDIMScheduler"])
    (path / "model_index.json").write_text(json.dumps(index))
    config = path / "text_encoder_3" / "config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"d_model": 40}))
    with pytest.raises(UserError, match="cannot load the base model"):
        load_pipeline(path)
    config.write_text(json.dumps(settings))
    vocabulary = path / "tokenizer_3" / "tokenizer.json"
    whole = json.loads(vocabulary.read_text())
    few = whole["model"]["vocab"][:20]
    vocabulary.write_text(json.dumps(whole | {"model": whole["model"] | {"vocab": few}}))
    with pytest.raises(UserError, match="the tokenizer knows 20 tokens"):
        load_pipeline(path)
    vocabulary.write_text(json.dumps(whole))
    config = path / "transformer" / "config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"sample_size": [8, 16]}))
    with pytest.raises(UserError, match="not square"):
        picture_side(str(path))
