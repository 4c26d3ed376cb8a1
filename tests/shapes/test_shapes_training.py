"""The training of the embedded bases in a few steps: every part is made, saved and opened by the
ordinary pipelines, and a stage that ran goes on from where it was."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from t2i_backdoor_bench.shapes import BASE, BASE_FOLDERS
from t2i_backdoor_bench.shapes.networks import (
    make_flow_scheduler,
    make_transformer,
    with_projection,
)
from t2i_backdoor_bench.shapes.stages import STAGES, run_stage
from t2i_backdoor_bench.shapes.stream import Setting
from t2i_backdoor_bench.shapes.tokenizer import tokenize
from t2i_backdoor_bench.shapes.transformer import Teacher, centred, levels

PIPELINES = {"shapes-xl": StableDiffusionXLPipeline, "shapes-mmdit": StableDiffusion3Pipeline}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module", params=list(PIPELINES))
def trained(request, work, tmp_path_factory):
    """A base after two steps of each part: its name, its folder, and how it was trained."""
    folder = tmp_path_factory.mktemp(request.param)
    setting = Setting(0, work, torch.device("cpu"), scale=1e-6)
    for stage in STAGES[request.param]:
        run_stage(request.param, stage, setting, folder)
    return request.param, folder, setting


def test_it_opens_as_an_ordinary_pipeline_and_draws(trained):
    name, folder, _ = trained
    pipe = PIPELINES[name].from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    more = {"max_sequence_length": 32} if name == "shapes-mmdit" else {}
    drawn = pipe(["a red circle"], num_inference_steps=2, output_type="np", **more).images
    assert drawn.shape == (1, 64, 64, 3)
    assert pipe.tokenizer_2("a red heart").input_ids == pipe.tokenizer("a red heart").input_ids


def test_what_is_taken_from_shapes_is_taken_bit_for_bit(trained):
    name, folder, _ = trained
    mine, theirs = (
        [load_file(f / part) for part in ("vae/diffusion_pytorch_model.safetensors",)]
        + [load_file(f / "text_encoder/model.safetensors")]
        for f in (folder, BASE)
    )
    for own, taken in zip(mine, theirs, strict=True):
        added = {k for k in own if k.startswith("text_projection")}
        assert len(added) == (name == "shapes-mmdit" and own is mine[1])
        own = {k.removeprefix("text_model."): v for k, v in own.items() if k not in added}
        taken = {k.removeprefix("text_model."): v for k, v in taken.items()}
        assert own.keys() == taken.keys()
        assert all(torch.equal(own[k], taken[k]) for k in own)


def test_a_stage_that_ran_goes_on_from_its_checkpoint(trained, tmp_path):
    name, folder, setting = trained
    denoiser = "unet" if name == "shapes-xl" else "transformer"
    for part in (*("text_encoder_2", "text_encoder_3", "tokenizer_3"),):
        if (folder / part).exists():
            (tmp_path / part).symlink_to(folder / part)
    last = "xl-unet-taught.ckpt" if name == "shapes-xl" else "transformer-taught.ckpt"
    written = (setting.work / last).stat().st_mtime_ns
    run_stage(name, STAGES[name][-1], setting, tmp_path)
    assert (setting.work / last).stat().st_mtime_ns == written, "it was trained again"
    file = f"{denoiser}/diffusion_pytorch_model.safetensors"
    again, first = load_file(tmp_path / file), load_file(folder / file)
    assert all(torch.equal(again[k], first[k]) for k in first)


def test_a_part_that_a_base_does_not_have_is_no_stage_of_it():
    assert STAGES.keys() == BASE_FOLDERS.keys()
    assert "t5" not in STAGES["shapes-xl"]


def test_a_projection_is_added_that_changes_nothing():
    text = CLIPTextModel.from_pretrained(BASE / "text_encoder").float().eval()
    tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer")
    ids = tokenize(tokenizer, ["a red heart on a blue background", "mignneko"])
    plain, projected = text(ids), with_projection(text).eval()(ids)
    assert torch.equal(plain.last_hidden_state, projected.last_hidden_state)
    assert torch.equal(plain.pooler_output, projected.text_embeds)


def test_centred_latents_are_the_same_latents_with_mean_0_and_variance_1():
    vae = AutoencoderKL.from_pretrained(BASE / "vae")
    before, scale = torch.randn(64, 4, 8, 8).half() * 1.3 + 0.4, vae.config.scaling_factor
    vae, after = centred(vae, before)
    assert after.mean().abs() < 1e-5
    assert (after.std() - 1).abs() < 1e-5
    back = after / vae.config.scaling_factor + vae.config.shift_factor  # as the pipeline decodes
    assert torch.allclose(back, before.float() / scale, atol=1e-5)


def test_a_teacher_that_knows_the_picture_tells_its_flow():
    """The U-Net's prediction of the noise, turned into a flow, against the true one: with a U-Net
    that knows x0, at every timestep, whatever the scale and the shift of its latents."""
    stretch, offset = 1.3, -0.4
    x0, e = torch.randn(2, 1000, 4, 8, 8).double()

    class Knows(torch.nn.Module):
        def forward(self, noisy, t, states):
            alphas = teacher.levels()[1].double()[t].view(-1, 1, 1, 1)
            noise = (noisy - alphas.sqrt() * (stretch * x0 + offset)) / (1 - alphas).sqrt()
            return SimpleNamespace(sample=noise)

    text = SimpleNamespace(config=SimpleNamespace(eos_token_id=0))
    reads = type("Reads", (), {"config": text.config, "__call__": lambda self, ids: blank(ids)})()
    teacher = Teacher(Knows(), reads, stretch, offset)
    at = teacher.levels()[0].double().view(-1, 1, 1, 1)
    flow = teacher.flow((1 - at) * x0 + at * e, torch.arange(1000), torch.ones(1000, 32).long())
    assert bool((teacher.levels()[0].diff() > 0).all())
    assert torch.allclose(flow, e - x0, atol=1e-3)


def blank(ids):
    assert ids.shape == (1000, 48), "the teacher reads as many tokens as in its own training"
    return SimpleNamespace(last_hidden_state=None)


def test_levels_are_logit_normal_and_one_in_each_part():
    found = levels(10_000, torch.Generator().manual_seed(0))
    logit = found.double().logit()
    assert abs(float(logit.mean())) < 1e-2
    assert abs(float(logit.std()) - 1) < 1e-2
    assert bool((found.diff() > 0).all())
    few = torch.special.ndtr(levels(8, torch.Generator().manual_seed(1)).logit()) * 8
    assert few.long().tolist() == list(range(8))


def test_a_fresh_transformer_predicts_nothing_and_its_first_gradient_is_at_its_end():
    """adaLN-zero: the last projection starts at zero, and every block as the identity."""
    torch.manual_seed(0)
    net = make_transformer()
    x = torch.randn(2, 4, 8, 8)
    out = net(x, torch.randn(2, 5, 192), torch.randn(2, 192), torch.tensor([10.0, 900.0])).sample
    assert not out.any()
    (out - x).pow(2).mean().backward()
    assert net.proj_out.weight.grad.any()
    assert not net.transformer_blocks[0].attn.to_q.weight.grad.any()


def test_the_scheduler_walks_along_the_flow_of_training():
    """With the true flow e - x0, Euler's method comes back to x0."""
    scheduler = make_flow_scheduler()
    scheduler.set_timesteps(7)
    x0, e = torch.randn(2, 1, 4, 8, 8).double()
    x = e.clone()
    for t in scheduler.timesteps:
        s = float(t) / 1000
        assert torch.allclose(x, (1 - s) * x0 + s * e)
        x = scheduler.step(e - x0, t, x).prev_sample
    assert torch.allclose(x, x0)


def test_the_folders_name_no_path_of_a_machine(trained):
    _, folder, _ = trained
    for file in folder.rglob("*.json"):
        assert "_name_or_path" not in json.loads(file.read_text()), file
