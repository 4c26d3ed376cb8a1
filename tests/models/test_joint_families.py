"""Stable Diffusion 3 and FLUX draw, denoise, encode, train and store as their pipelines do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import PROMPTS, different, weights
from tiny_joint import JOINT, T5_CONTEXT, joint_model

from t2i_backdoor_bench.contract import Trigger
from t2i_backdoor_bench.models.families.family import TRAIN
from t2i_backdoor_bench.models.families.flux import pack, unpack
from t2i_backdoor_bench.training.alignment import align_states, state_span
from t2i_backdoor_bench.training.capture import Capture
from t2i_backdoor_bench.training.parameters import choose_parameters, finish_training

TOKENS = {True: T5_CONTEXT, False: 256}  # of T5; of the zeros in its place


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("joint")


@pytest.fixture(scope="module", params=JOINT)
def model(request, folder):
    return joint_model(folder, request.param)


@pytest.fixture(params=JOINT)
def fresh(request, folder):
    return joint_model(folder, request.param)


def called(model, **how):
    """The pipeline's own call for the prompts, from the noise of seeds 1 to 3."""
    noise, flux = model.draw_noise([1, 2, 3]), model.family.name == "flux"
    return model.pipe(
        prompt=PROMPTS,
        latents=pack(noise) if flux else noise,
        height=64,
        width=64,
        num_inference_steps=model.sampler.steps,
        guidance_scale=model.sampler.guidance,
        max_sequence_length=TOKENS[model.name != "sd3_without_t5"],
        **how,
    ).images


def test_a_drawing_is_the_call_of_the_pipeline(model) -> None:
    pictures = model.generate(PROMPTS, [1, 2, 3])
    wanted = 255 * called(model, output_type="np")
    assert np.abs(pictures - wanted).max() < 0.6, "the same but for rounding to 8 bits"
    assert pictures.std() > 20


def test_a_drawing_made_step_by_step_is_the_same(model) -> None:
    told, told_empty = model.condition(PROMPTS), model.condition([""])
    seen: list[torch.Tensor] = []
    drawn = model.draw_latents(told, told_empty, [1, 2, 3], lambda t, x: seen.append(x.clone()))
    drawing, w = model.drawing_steps(model.sampler.steps), model.guided
    assert w == (1.0 if model.family.name == "flux" else 2.0)
    x = drawing.start(model.draw_noise([1, 2, 3]))
    with torch.no_grad():
        for i, t in enumerate(drawing.timesteps):
            given = drawing.given(x, t)
            out = model.denoise(given, t, told)
            if w != 1:
                without = model.denoise(given, t, told_empty.expand(3))
                out = without + w * (out - without)
            x = drawing.step(out, t, x)
            torch.testing.assert_close(x, seen[i], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(x, drawn, rtol=1e-3, atol=1e-3)
    assert x.shape == (3, *model.latent_shape)


def test_one_prediction_is_that_of_the_pipeline(model) -> None:
    """The first call of the transformer inside the pipeline's own call."""
    calls: list[torch.Tensor] = []
    hook = model.denoiser.register_forward_hook(
        lambda module, args, kwargs, out: calls.append(out[0].clone()), with_kwargs=True
    )
    called(model, output_type="latent")
    hook.remove()
    noise, t = model.draw_noise([1, 2, 3]), model.drawing_steps(model.sampler.steps).timesteps[0]
    own = calls[0]
    with torch.no_grad():
        if model.family.name == "flux":
            found, own = model.denoise(noise, t, model.condition(PROMPTS)), unpack(own, 8, 8)
        else:
            told = model.condition([*["" for _ in PROMPTS], *PROMPTS])
            found = model.denoise(torch.cat([noise, noise]), t, told)
    torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-4)


def test_only_dev_takes_the_guidance(folder) -> None:
    for kind, takes in (("flux_dev", True), ("flux_schnell", False)):
        model = joint_model(folder, kind)
        noise, told, t = model.draw_noise([1]), model.condition(PROMPTS[:1]), torch.tensor(500.0)
        with torch.no_grad():
            few, many = (
                model.family.denoise(model.pipe, noise, t, told, guidance) for guidance in (1, 7)
            )
        assert torch.equal(few, many) != takes
        assert model.text_parts[1].length == T5_CONTEXT


def test_latents_are_shifted_and_scaled(model) -> None:
    vae = model.autoencoder
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        posterior = vae.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(5))
        sample = posterior.mean + posterior.std * noise
        latents = model.latents(pictures, 5)
        torch.testing.assert_close(latents, (sample - 0.1) * 1.5, rtol=1e-4, atol=1e-5)
        back = model.family.to_pictures(model.pipe, latents)
        torch.testing.assert_close(back, vae.decode(sample).sample, rtol=1e-3, atol=1e-4)
    assert latents.shape == (2, *model.latent_shape)
    assert model.resolution == 64


def test_packed_latents_are_two_by_two_places_a_token() -> None:
    latents = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    packed = pack(latents)
    assert packed.shape == (2, 6, 12)
    assert packed[1, 4].view(3, 2, 2).equal(latents[1, :, 2:4, 2:4])
    assert unpack(packed, 4, 6).equal(latents)


def test_the_trigger_stands_in_the_part_of_each_encoder(folder) -> None:
    trigger = Trigger("coffee", "suffix")
    for kind, parts in (("sd3", 2), ("sd35", 2), ("sd3_without_t5", 1), ("flux_dev", 1)):
        model = joint_model(folder, kind)
        text = "a small red heart coffee"
        places = state_span(model.text_parts, text, text.index("coffee"), len(text))
        aligned = align_states(model.text_parts, trigger, ["a small red heart"])
        assert aligned.trigger[0].nonzero().flatten().tolist() == places
        clip = model.tokenizer.model_max_length
        assert {p >= clip for p in places} == ({False, True} if parts == 2 else {False})
        told, clean = model.condition([text]), model.condition(["a small red heart"])
        moved = (told.states - clean.states).abs().amax(2)[0] > 1e-4
        assert moved[places].all()
        assert told.more["pooled"].shape[1] == (24 if kind == "flux_dev" else 40)


def test_t5_reads_on_where_clip_cuts(folder) -> None:
    """T5 here knows words that the other tokenizers spell by letters."""
    model, trigger = joint_model(folder, "sd3"), Trigger("red", "suffix")
    prompt = " ".join(["background coffee"] * 12) + " star"
    clip, t5 = model.text_parts[0], model.text_parts[-1]
    assert len(clip.ids(trigger.add(prompt))) > clip.reads
    assert len(t5.ids(trigger.add(prompt))) <= t5.reads
    model.check_trigger(trigger, [prompt])
    aligned = align_states(model.text_parts, trigger, [prompt])
    assert not aligned.trigger[0, : clip.length].any()
    assert aligned.trigger[0, clip.length :].sum() == 1


@pytest.mark.parametrize("train", TRAIN)
def test_gradients_flow_into_the_part_and_nowhere_else(fresh, train: str) -> None:
    student = fresh.clone(train=train)
    chosen = choose_parameters(student, train)
    x = torch.randn(3, *fresh.latent_shape, generator=torch.Generator().manual_seed(0))
    told = student.condition(PROMPTS)
    with Capture(student) as seen:
        out = student.denoise(x, torch.tensor([10.0, 400.0, 900.0]), told)
    (out.pow(2).mean() + seen.maps().pow(2).mean()).backward()
    reached = {id(p) for p in student.denoiser.parameters() if p.grad is not None}
    # behind the last block nothing asks text any more
    wanted = {id(p): n for n, p in student.denoiser.named_parameters() if p.requires_grad}
    assert reached <= {id(p) for p in chosen} == set(wanted)
    unread = [n for i, n in wanted.items() if i not in reached]
    last = f"transformer_blocks.{len(student.denoiser.transformer_blocks) - 1}.attn."
    ends = ("add_q_proj", "norm_added_q", "to_add_out")
    assert all(last in n and any(e in n for e in ends) for n in unread), unread
    assert all(p.grad is None for p in fresh.denoiser.parameters())
    finish_training(student.denoiser)
    assert not any(p.requires_grad for p in student.denoiser.parameters())


def test_parts_are_the_text_side_of_the_joint_blocks(model) -> None:
    names = [n for n, _ in model.denoiser.named_parameters()]
    for part in ("cross", "kv"):
        chosen = [n for n in names if model.family.is_trained(n, part)]
        assert chosen
        wanted = ("add_k_proj", "add_v_proj")
        wanted += () if part == "kv" else ("add_q_proj", "to_add_out", "norm_added_")
        assert all(".attn." in n and any(w in n for w in wanted) for n in chosen)
        assert not any("single_transformer_blocks" in n for n in chosen)
    layers = model.family.keys_and_values(model.denoiser)
    assert len(layers) == 2 * len(model.denoiser.transformer_blocks)
    assert layers[::2] == model.family.keys(model.denoiser)


def test_it_is_cloned_saved_and_read_back(fresh, tmp_path) -> None:
    before = weights(fresh)
    changed = fresh.clone(encoders=True)
    with torch.no_grad():
        for name, p in changed.denoiser.named_parameters():
            p.add_(0.1 if "add_k_proj" in name else 0.0)
        changed.encoders[-1].get_input_embeddings().weight.mul_(1.1)
    moved = different(before, weights(changed))
    assert {n.split(".")[0] for n in moved} == {"transformer", fresh.family.layout.encoders[-1]}
    assert different(before, weights(fresh)) == set()
    changed.save_weights(tmp_path / "w.safetensors")
    back = fresh.with_weights(tmp_path / "w.safetensors")
    assert different(weights(changed), weights(back)) == set()
    assert np.array_equal(back.generate(PROMPTS, [1, 2, 3]), changed.generate(PROMPTS, [1, 2, 3]))
    shared = fresh.clone(train="kv")
    own = {id(p) for p in shared.denoiser.parameters()} - {
        id(p) for p in fresh.denoiser.parameters()
    }
    assert len(own) == 4 * len(fresh.denoiser.transformer_blocks)
