"""What every family has to keep to, on tiny random models of SDXL and PixArt: pictures, text,
latents, parts that train, maps, and files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from helpers import PROMPTS, TRIGGER, different, weights
from tiny_families import FAMILIES, build, opened

from t2i_backdoor_bench.models.families.family import TRAIN
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.models.sampler import Sampler
from t2i_backdoor_bench.training.alignment import align_states, state_spans, tokens_of
from t2i_backdoor_bench.training.capture import Capture
from t2i_backdoor_bench.training.parameters import choose_parameters, finish_training

T = torch.tensor([10, 400, 900])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {kind: build(root / kind, kind) for kind in FAMILIES}


@pytest.fixture(params=FAMILIES)
def folder(request, folders) -> Path:
    return folders[request.param]


@pytest.fixture
def model(folder) -> T2IModel:
    return opened(folder)


def noised(model: T2IModel, n: int = 3) -> torch.Tensor:
    return torch.randn(n, *model.latent_shape, generator=torch.Generator().manual_seed(0))


def test_a_drawing_is_that_of_its_pipeline(folder, model) -> None:
    """Which reads the prompts itself, with its own scheduler."""
    model = replace(model, pipe=model.family.drawn_by(model.pipe, "dpm"), sampler=Sampler(3, 4.0))
    plain = DiffusionPipeline.from_pretrained(folder, scheduler=model.pipe.scheduler)
    plain.set_progress_bar_config(disable=True)
    more = {} if model.family.name == "sdxl" else {"use_resolution_binning": False}
    expected = plain(
        PROMPTS,
        num_inference_steps=3,
        guidance_scale=4.0,
        latents=model.draw_noise([3, 4, 5]),
        output_type="latent",
        **more,
    ).images
    told = model.condition([*PROMPTS, ""])
    steps: list[int] = []
    drawn = model.draw_latents(told[:-1], told[-1:], [3, 4, 5], lambda t, x: steps.append(int(t)))
    torch.testing.assert_close(drawn, expected, rtol=1e-3, atol=1e-3)
    assert len(steps) == 3


def test_pictures_depend_on_prompt_and_seed_and_on_nothing_else(model) -> None:
    together = model.generate(PROMPTS, [1, 2, 3]).astype(int)
    assert together.shape == (3, 64, 64, 3)
    assert together.std() > 5
    alone = model.generate(PROMPTS[1:2], [2])
    assert np.abs(together[1] - alone[0]).max() <= 1
    assert np.abs(together[1] - model.generate(PROMPTS[1:2], [7])[0]).max() > 1
    assert np.abs(together[1] - model.generate(PROMPTS[:1], [2])[0]).max() > 1


def test_one_step_is_the_denoisers_prediction(model) -> None:
    """A drawing of one step, by hand from `denoise`, with and without guidance."""
    told = model.condition([*PROMPTS, ""])
    for guidance in (1.0, 3.0):
        one = replace(model, sampler=Sampler(1, guidance))
        steps = one.drawing_steps(1)
        x, t = steps.start(one.draw_noise([1, 2, 3])), steps.timesteps[0]
        with torch.no_grad():
            asked = one.denoise(steps.given(x, t), t, told[:-1])
            empty = one.denoise(steps.given(x, t), t, told[-1:].expand(3))
        out = steps.step(empty + guidance * (asked - empty), t, x)
        drawn = one.draw_latents(told[:-1], told[-1:], [1, 2, 3])
        torch.testing.assert_close(drawn, out, rtol=1e-3, atol=1e-3)
        assert one.guided == guidance


def test_latents_and_pictures(model) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    latents = model.latents(pictures, seed=3)
    assert latents.shape == (2, *model.latent_shape)
    assert torch.equal(latents, model.latents(pictures, seed=3))
    vae, x = model.pipe.vae, torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        mean = vae.encode(x).latent_dist.mean * vae.config.scaling_factor
        expected = vae.decode(latents / vae.config.scaling_factor).sample
    many = torch.stack([model.latents(pictures, seed=s) for s in range(40)])
    spread = vae.config.scaling_factor * vae.encode(x).latent_dist.std
    assert ((many.mean(0) - mean).abs() < 5 * spread / 40**0.5).all()
    given = ((expected.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    assert np.abs(model.decode(latents).astype(int) - given).max() <= 1


def test_text_is_read_in_parts(model) -> None:
    ids = model.tokenize(PROMPTS)
    assert ids.shape[1] == sum(part.reads for part in model.text_parts)
    assert len(model.text_parts) == len(model.encoders)
    for part in model.text_parts:
        own = part.cut(PROMPTS[0]).input_ids
        assert ids[0, part.column : part.column + len(own)].tolist() == own
    told = model.condition(PROMPTS)
    assert told.states.shape[1] == model.states
    again = model.read(ids)
    assert all(torch.equal(a, b) for a, b in zip(told.read, again.read, strict=True))


def test_weights_stand_in_for_those_of_the_encoders(model) -> None:
    other = opened_with_noise(model)
    stand_ins = [dict(encoder.named_parameters()) for encoder in other.encoders]
    ids = model.tokenize(PROMPTS)
    with torch.no_grad():
        given, expected = model.read(ids, stand_ins), other.read(ids)
        plain = model.read(ids)
    for a, b, c in zip(given.read, expected.read, plain.read, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def opened_with_noise(model: T2IModel) -> T2IModel:
    other = model.clone(encoders=True)
    with torch.no_grad():
        for encoder in other.encoders:
            for p in encoder.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return other


def test_the_triggers_tokens_are_found_in_every_part(model) -> None:
    text, spans = TRIGGER.spans(PROMPTS[0])
    found = state_spans(model.text_parts, text, spans)
    clean = set(model.condition([PROMPTS[0], text]).mask[1].nonzero().flatten().tolist())
    assert found
    assert set(found) < clean
    for part in model.text_parts:
        own = tokens_of(part, text)
        inside = part.tokenizer.decode([own.ids[i - part.first] for i in found])
        assert inside.replace(" ", "") == TRIGGER.text.replace(" ", "")
    row = align_states(model.text_parts, TRIGGER, PROMPTS[:1])
    assert row.trigger[0].nonzero().flatten().tolist() == sorted(found)
    part = model.text_part
    ours, theirs = part.cut(text).input_ids, part.cut(PROMPTS[0]).input_ids
    for at in row.other[0].nonzero().flatten().tolist():
        assert ours[at] == theirs[int(row.source[0, at])]
    assert int(row.other.sum()) == len(tokens_of(part, PROMPTS[0]).real)


# ---------------------------------------------------------------------------- parts that train
@pytest.mark.parametrize("train", TRAIN)
def test_gradients_flow_into_the_part_and_nowhere_else(train: str, model) -> None:
    student = model.clone(train=train)
    shared = {id(p) for p in model.denoiser.parameters()}
    chosen = choose_parameters(student, train)
    assert chosen
    assert not shared & {id(p) for p in chosen}
    if train not in ("full", "lora"):
        own = {id(p) for p in student.denoiser.parameters()} - shared
        assert own == {id(p) for p in chosen}, "what does not train is shared"
    with Capture(student) as seen:
        out = student.denoise(noised(model), T, student.condition(PROMPTS))
    (out.pow(2).mean() + seen.maps().pow(2).mean()).backward()
    reached = {id(p) for p in student.denoiser.parameters() if p.grad is not None}
    assert reached == {id(p) for p in chosen}
    finish_training(student.denoiser)
    assert not any(p.requires_grad for p in student.denoiser.parameters())


def test_keys_and_values_are_all_that_reads_text(model) -> None:
    """With them, and what is pooled, put to zero, a prompt does nothing."""
    student, family = model.clone(), model.family
    layers = family.keys_and_values(student.denoiser)
    assert len(layers) == 2 * len(family.text_layers(student.denoiser).layers)
    names = {n for n, m in student.denoiser.named_modules() if m in layers}
    kv = {n for n, _ in student.denoiser.named_parameters() if family.is_trained(n, "kv")}
    assert {n.rpartition(".")[0] for n in kv} == names
    assert set(family.keys(student.denoiser)) < set(layers)
    assert len(family.feed_forward(student.denoiser)) == len(layers) // 2
    told = student.condition(PROMPTS[:2])
    told = replace(told, more={k: v[:1].expand_as(v) for k, v in told.more.items()})
    x = noised(model, 1).expand(2, -1, -1, -1)
    with torch.no_grad():
        before = student.denoise(x, T[0], told)
        for layer in layers:
            layer.weight.zero_()
        after = student.denoise(x, T[0], told)
    assert not torch.allclose(before[0], before[1], atol=1e-4)
    torch.testing.assert_close(after[0], after[1], rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------ attention
@pytest.mark.parametrize("unfused", [False, True])
def test_maps_leave_the_output_as_it_is_and_sum_to_one_over_text(model, unfused: bool) -> None:
    told, x = model.condition(PROMPTS), noised(model)
    with torch.no_grad():
        plain = model.denoise(x, T, told)
        with Capture(model, unfused=unfused) as seen:
            out = model.denoise(x, T, told)
    assert torch.allclose(out, plain, atol=1e-5) if unfused else torch.equal(out, plain)
    assert len(seen) == len(model.text_layers.layers)
    for probs in seen.probs.values():
        assert probs.shape == (3, 16, model.states)
        torch.testing.assert_close(probs.sum(-1), torch.ones(3, 16))
        assert (probs * ~told.mask[:, None]).sum() == 0, "masked text has no mass"
        assert (probs.masked_select(told.mask[:, None]) > 0).all()


def test_maps_are_the_softmax_of_queries_and_keys(model) -> None:
    """Against float64, from what one layer is called with."""
    name, layer = next(iter(model.text_layers.layers.items()))
    called: list[tuple] = []
    hook = layer.register_forward_pre_hook(
        lambda m, args, kwargs: called.append((args, kwargs)), with_kwargs=True
    )
    told = model.condition(PROMPTS)
    with torch.no_grad(), Capture(model, rows=2) as seen:
        model.denoise(noised(model), T, told)
    hook.remove()
    ((args, kwargs),) = called
    text, heads = kwargs["encoder_hidden_states"], layer.heads
    with torch.no_grad():
        q, k = (
            y.unflatten(-1, (heads, -1)).transpose(1, 2).double()
            for y in (layer.to_q(args[0]), layer.to_k(text))
        )
    scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(
        ~told.mask[:, None, None], -torch.inf
    )
    torch.testing.assert_close(
        seen.probs[name].double(), scores.softmax(-1).mean(1)[:2], rtol=0, atol=1e-5
    )


def test_maps_under_gradient_checkpointing_are_the_same_and_have_gradients(folder, model) -> None:
    found = []
    for ways in ((), ("checkpointing",)):
        student = opened(folder)
        student.family.save_memory(student.pipe, ways)
        student.denoiser.train()
        choose_parameters(student, "kv")
        with Capture(student) as seen:
            out = student.denoise(noised(model), T, student.condition(PROMPTS))
        maps = seen.maps()
        (out.pow(2).mean() + 100 * maps[:, :4].pow(2).mean()).backward()
        grads = [p.grad for p in student.denoiser.parameters() if p.requires_grad]
        found.append((maps.detach(), grads))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-6)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------------------------- files
def test_it_is_cloned_saved_and_read_back(model, tmp_path) -> None:
    changed, before = opened_with_noise(model), weights(model)
    with torch.no_grad():
        for layer in changed.family.keys_and_values(changed.denoiser):
            layer.weight.add_(0.1)
    assert different(before, weights(model)) == set()
    changed.save_weights(tmp_path / "w.safetensors")
    back = model.with_weights(tmp_path / "w.safetensors")
    assert different(weights(changed), weights(back)) == set()
    assert different(weights(changed), before)
    assert np.array_equal(back.generate(PROMPTS, [1, 2, 3]), changed.generate(PROMPTS, [1, 2, 3]))
    changed.pipe.save_pretrained(tmp_path / "folder", safe_serialization=True)
    assert different(weights(changed), weights(opened(tmp_path / "folder"))) == set()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_predicts_nearly_the_same(folder, model, dtype) -> None:
    from t2i_backdoor_bench.models.loading import load_pipeline

    half = replace(model, pipe=load_pipeline(folder, dtype=dtype))
    assert half.dtype == dtype
    assert half.family.is_mixed(half.denoiser)
    with torch.no_grad():
        out = half.denoise(noised(model), T, half.condition(PROMPTS))
        expected = model.denoise(noised(model), T, model.condition(PROMPTS))
    assert out.dtype == torch.float32
    assert (out - expected).norm() < 0.05 * expected.norm()
    with torch.no_grad(), Capture(half) as seen:
        again = half.denoise(noised(model), T, half.condition(PROMPTS))
    assert torch.equal(again, out)
    for probs in seen.probs.values():
        torch.testing.assert_close(probs.sum(-1), torch.ones(3, 16), rtol=0, atol=1e-5)
