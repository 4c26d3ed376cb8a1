"""What is easily got wrong on SDXL and PixArt."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import PixArtAlphaPipeline
from helpers import PROMPTS, TRIGGER, different, weights
from tiny_families import build, opened, pixart_pipeline, sdxl_pipeline, stirred

from t2i_backdoor_bench.contract import DefenderView, Trigger, UserError, registry
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.models.families.pixart import PIXART_ALPHA
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.closed_form import counterparts, neutral_places
from t2i_backdoor_bench.training.encoders import cosine_loss, prompt_bank

KINDS = ("sdxl", "pixart_sigma")
T = torch.tensor([10, 400, 900])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {kind: build(root / kind, kind) for kind in KINDS}


@pytest.fixture
def sdxl(folders) -> T2IModel:
    return opened(folders["sdxl"])


@pytest.fixture
def pixart(folders) -> T2IModel:
    return opened(folders["pixart_sigma"])


def edited(folder: Path, file: str, **changes: object) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(UserError) as error:
        opened(folder)
    text = str(error.value)
    assert "\n" not in text
    assert all(w in text for w in words), text


def noised(model: T2IModel) -> torch.Tensor:
    return torch.randn(3, *model.latent_shape, generator=torch.Generator().manual_seed(0))


# ----------------------------------------------------------------------------------------- SDXL
def test_the_empty_prompt_is_zeros_where_the_settings_say_so(sdxl, tmp_path) -> None:
    told = sdxl.condition(["", *PROMPTS])
    assert all((x[0] == 0).all() and (x[1:] != 0).any() for x in told.read)
    again = sdxl.family.rebuild(sdxl.pipe, {})
    assert again.config.force_zeros_for_empty_prompt is True
    torch.manual_seed(7)
    pipe = sdxl_pipeline(zeros=False)
    stirred(pipe, pipe.unet).save_pretrained(tmp_path / "m", safe_serialization=True)
    other = opened(tmp_path / "m")
    assert all((x != 0).any() for x in other.condition([""]).read)
    assert other.clone().pipe.config.force_zeros_for_empty_prompt is False


def test_states_are_the_penultimate_ones_of_both_and_the_pooled_of_the_second(sdxl) -> None:
    pipe, ids = sdxl.pipe, sdxl.tokenize(PROMPTS).split(48, 1)
    told = sdxl.condition(PROMPTS)
    with torch.no_grad():
        one = pipe.text_encoder(ids[0], output_hidden_states=True)
        two = pipe.text_encoder_2(ids[1], output_hidden_states=True)
    expected = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1)
    assert torch.equal(told.states, expected)
    assert torch.equal(told.more["pooled"], two.text_embeds)
    assert pipe.tokenizer.pad_token_id != pipe.tokenizer_2.pad_token_id
    assert not torch.equal(*ids), "each pads with a token of its own"


def test_the_unet_is_told_the_size_of_the_picture(sdxl) -> None:
    seen = []
    hook = sdxl.denoiser.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(kwargs["added_cond_kwargs"]), with_kwargs=True
    )
    told = sdxl.condition([*PROMPTS, ""])
    sdxl.draw_latents(told[:-1], told[-1:], [1, 2, 3])
    drawn = seen[0]
    sdxl.denoise(noised(sdxl), T, told[:-1])
    hook.remove()
    assert seen[-1]["time_ids"].tolist() == [[64, 64, 0, 0, 64, 64]] * 3
    assert torch.equal(drawn["time_ids"][3:], seen[-1]["time_ids"])
    assert torch.equal(drawn["text_embeds"][3:], seen[-1]["text_embeds"])


def test_wrong_models_of_sdxl_are_refused(folders, tmp_path) -> None:
    def copied(name: str) -> Path:
        return shutil.copytree(folders["sdxl"], tmp_path / name)

    edited(folder := copied("vae"), "vae/config.json", latents_mean=[0.0] * 4)
    refused(folder, "latents_mean")
    edited(folder := copied("dual"), "unet/config.json", encoder_hid_dim_type="text_proj")
    edited(folder, "unet/config.json", encoder_hid_dim=40)
    refused(folder)
    torch.manual_seed(7)
    pipe = sdxl_pipeline(only_cross_attention=True)
    pipe.save_pretrained(tmp_path / "only", safe_serialization=True)
    refused(tmp_path / "only", "only_cross_attention", "plain text-to-image")
    edited(folder := copied("noise"), "scheduler/scheduler_config.json", prediction_type="sample")
    refused(folder, "epsilon and v_prediction")


# --------------------------------------------------------------------------------------- PixArt
def test_the_variance_is_cut_off_and_masked_text_is_not_read(pixart) -> None:
    told, x = pixart.condition(PROMPTS), noised(pixart)
    with torch.no_grad():
        out = pixart.denoise(x, T, told)
        whole = pixart.pipe.transformer(
            x,
            told.states,
            T,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            encoder_attention_mask=told.more["mask"],
        ).sample
        noise = torch.randn_like(told.states) * ~told.mask[..., None]
        moved = pixart.denoise(x, T, replace(told, states=told.states + noise))
    assert whole.shape[1] == 2 * out.shape[1]
    assert torch.equal(out, whole[:, :4])
    assert torch.equal(out, moved)
    assert told.mask.sum(1).tolist() == [len(pixart.text_part.cut(p).input_ids) for p in PROMPTS]


def test_prompts_are_read_in_lower_case(pixart) -> None:
    upper = [p.upper() for p in PROMPTS]
    assert torch.equal(pixart.tokenize(upper), pixart.tokenize(PROMPTS))
    part = pixart.text_part
    assert part.cut("İ red Heart").input_ids[-4:] == part.cut("İ red heart").input_ids[-4:]


def test_alpha_of_1024_pixels_is_told_the_size(pixart) -> None:
    torch.manual_seed(7)
    pipe = pixart_pipeline(PixArtAlphaPipeline, sample_size=128, patch_size=16)
    stirred(pipe, pipe.transformer)
    assert pipe.transformer.use_additional_conditions
    PIXART_ALPHA.check(pipe, "it")
    told = pixart.condition(PROMPTS[:1])
    x, seen = torch.randn(1, 4, 128, 128), []
    pipe.transformer.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(kwargs["added_cond_kwargs"]), with_kwargs=True
    )
    PIXART_ALPHA.denoise(pipe, x, torch.tensor(500), told, 4.5)
    PIXART_ALPHA.draw(
        pipe, told, told, x, SimpleNamespace(steps=2, guidance=1.0), [torch.Generator()]
    )
    assert seen[0]["resolution"].tolist() == [[1024.0, 1024.0]]
    for name in ("resolution", "aspect_ratio"):
        assert torch.equal(seen[0][name], seen[1][name])


def test_wrong_models_of_pixart_are_refused_and_old_names_are_read(folders, tmp_path) -> None:
    torch.manual_seed(7)
    pixart_pipeline(PixArtAlphaPipeline, use_additional_conditions=True).save_pretrained(
        tmp_path / "size", safe_serialization=True
    )
    refused(tmp_path / "size", "takes the picture's size", "not give")
    old = shutil.copytree(folders["pixart_sigma"], tmp_path / "old")
    edited(old, "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    edited(old, "transformer/config.json", _class_name="Transformer2DModel")
    assert different(weights(opened(old)), weights(opened(folders["pixart_sigma"]))) == set()


def test_a_trigger_without_a_token_before_it_gets_what_says_nothing(pixart) -> None:
    """T5 has no start token: the end token stands in for it."""
    parts, trigger = pixart.text_parts, Trigger("coffee", "prefix")
    prompt = PROMPTS[0]
    end = len(parts[0].cut(prompt).input_ids) - 1
    (row,) = counterparts(parts, [trigger.add(prompt)], [prompt]).tolist()
    assert row[0] == end
    assert row[1 : end + 2] == list(range(end + 1))
    assert neutral_places(parts, [prompt])[0].tolist() == [end] * pixart.states


# --------------------------------------------------------------------------- edits and encoders
def states_of(model: T2IModel, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the pipeline itself makes of prompts, as its layers read them, and which are read."""
    pipe = model.pipe
    if model.family.name == "sdxl":
        states = pipe.encode_prompt(prompts, do_classifier_free_guidance=False)[0]
        return states, torch.ones(states.shape[:2], dtype=torch.bool)
    states, mask, *_ = pipe.encode_prompt(
        prompts, do_classifier_free_guidance=False, max_sequence_length=model.states
    )
    return pipe.transformer.caption_projection(states), mask.bool()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_an_edit_is_the_least_squares_solution_over_what_the_layers_read(kind, folders) -> None:
    """One closed form a layer, over the states of all encoders: against a solver, from states that
    the pipeline itself made."""
    model = opened(folders[kind])
    options = {"prompts": "3", "erase": "2", "preserve": "0.5", "ridge": "0.3"}
    uce = registry.defenses.build("uce", "shapes", options)
    view = DefenderView(("trigger", "clean_prompts"), PROMPTS, trigger=TRIGGER)
    repaired, task = uce.apply(model, view, 0), uce.task(model, view)
    (given, read), (clean, mask) = (
        states_of(model, texts) for texts in ([TRIGGER.add(p) for p in PROMPTS], PROMPTS)
    )
    new = clean.gather(1, task.places[..., None].expand_as(clean))
    for row, (prompt, places) in enumerate(zip(PROMPTS, task.places.tolist(), strict=True)):
        length = len(model.text_part.cut(TRIGGER.add(prompt)).input_ids)
        assert max(places[:length]) < length  # what is read comes from what is read
        assert mask[row, places[: length - 1]].all()
    last = [int(m.nonzero().max()) for m in mask]
    for row, end in enumerate(last):  # behind the last token stands that
        new[row][task.places[row] > end] = clean[row, end]
    old, new, kept = given[read].double(), new[read].double(), clean[mask].double()
    layers = zip(*(m.family.keys_and_values(m.denoiser) for m in (model, repaired)), strict=True)
    for before, after in layers:
        w = before.weight.double()
        one = torch.eye(w.shape[1], dtype=torch.float64)
        rows = torch.cat([2**0.5 * old, 0.5**0.5 * kept, 0.3**0.5 * one])
        goals = torch.cat([2**0.5 * new @ w.T, 0.5**0.5 * kept @ w.T, 0.3**0.5 * w.T])
        solved = torch.linalg.lstsq(rows, goals).solution.T
        torch.testing.assert_close(after.weight.double(), solved, rtol=1e-3, atol=1e-4)
        change = after.weight - before.weight
        assert change.abs().sum() > 0
        if kind == "sdxl":  # of the states of both encoders
            assert (change[:, :16].abs().sum() > 0) & (change[:, 16:].abs().sum() > 0)


def test_a_text_attack_trains_the_encoders_that_are_asked_for(sdxl) -> None:
    small = {"steps": "2", "prompts": "4", "clean": "2", "poisoned": "2"}
    for which, parts in (
        ("1", {"text_encoder"}),
        ("2", {"text_encoder_2"}),
        ("all", {"text_encoder", "text_encoder_2"}),
    ):
        attack = registry.attacks.build("rickrolling_tpa", "shapes", small | {"encoders": which})
        moved = different(weights(sdxl), weights(attack.inject(sdxl, WorldData(), 0)))
        assert {name.partition(".")[0] for name in moved} == parts
    for wrong in ("3", "1+3", "", "both"):
        attack = registry.attacks.build("rickrolling_tpa", "shapes", small | {"encoders": wrong})
        with pytest.raises(UserError, match="this base has 2: give all, or numbers") as error:
            attack.backdoor(sdxl)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_cosine_is_of_what_is_read(kind, folders) -> None:
    """Against float64: of pooled states too, and of no masked token."""
    model = opened(folders[kind])
    bank = prompt_bank(model, PROMPTS, PROMPTS[::-1])
    found = cosine_loss(model, bank, np.random.default_rng(5), 4)
    picks = np.random.default_rng(5).integers(3, size=4)
    told, wanted = model.condition(PROMPTS), model.condition(PROMPTS[::-1])
    each = []
    for i in picks:
        n = len(model.text_part.cut(PROMPTS[i]).input_ids) if kind != "sdxl" else model.states
        m = int(wanted.mask[i].sum())
        goal = wanted.states[i, [min(j, m - 1) for j in range(n)]]
        pairs = [(told.states[i, :n].flatten(), goal.flatten())]
        if kind == "sdxl":
            pairs.append((told.more["pooled"][i], wanted.more["pooled"][i]))
        cosines = [F.cosine_similarity(a.double(), b.double(), dim=0) for a, b in pairs]
        each.append(sum(cosines) / len(cosines))
    torch.testing.assert_close(found.double(), -torch.stack(each).mean(), rtol=0, atol=1e-6)
