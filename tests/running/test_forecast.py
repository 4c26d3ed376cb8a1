"""What a run will need, counted before any work: pure arithmetic on the model's configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from conftest import ROOT
from helpers import load_script
from kinds import build as build_sd
from tiny_families import FAMILIES, build, opened
from tiny_joint import JOINT, build_joint, joint_model

from t2i_backdoor_bench.contract import UserError, registry
from t2i_backdoor_bench.models.catalog import Base
from t2i_backdoor_bench.models.loading import load_pipeline
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.models.sampler import Sampler
from t2i_backdoor_bench.models.size import Size, count, measure
from t2i_backdoor_bench.running import checks, forecast
from t2i_backdoor_bench.running.budget import (
    Machine,
    Training,
    advice,
    drawing_hours,
    need,
    too_large,
    training_of,
)
from t2i_backdoor_bench.running.checks import check_settings, precision
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.settings import Config, make_config
from t2i_backdoor_bench.training.parameters import choose_parameters

# Stable Diffusion 1.5, as its configurations give it
TRAINED = {"full": 859_520_964, "kv": 19_169_280, "cross": 43_962_560, "lora": 3_188_736}
SD15 = Size(859_520_964, 123_060_480, 83_653_863, TRAINED, 8.03e11, 1.2e9)
CARD = Machine("cuda", 24e9, "float32")
FULL = Training("badt2i_pixel", "full", 8000, 32, ema=True)


def test_stable_diffusion_15_is_counted_without_weights() -> None:
    memory = load_script(ROOT / "benchmarks" / "memory.py")
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**memory.SD15)
    flops, kept = measure(unet, 64)
    assert flops == pytest.approx(8.03e11, rel=0.01)  # published: 0.4 T multiply-adds
    assert 5e8 < kept < 3e9
    assert sum(p.numel() for p in unet.parameters()) == TRAINED["full"]


def test_the_default_run_needs_what_was_counted_by_hand() -> None:
    """4 bytes a weight of U-Net, text encoder and autoencoder, CLIP, and 20 bytes for each weight
    that trains with an average."""
    found = need(SD15, FULL, CARD)
    weights = 4 * (859_520_964 + 123_060_480 + 83_653_863) + 1.7e9
    assert found.weights == weights
    assert found.trained == 20 * 859_520_964
    assert (found.weights + found.trained) / 1e9 == pytest.approx(23.2, abs=0.05)
    assert found.activations == 32 * 4 * 1.2e9
    assert found.hours == pytest.approx(8000 * 32 * 4 * 8.03e11 / 1e13 / 3600)
    half = replace(CARD, dtype="bfloat16", ways=("checkpointing", "adam8bit", "offload"))
    less = need(SD15, FULL, half)
    assert less.trained == 14 * 859_520_964
    assert less.weights == 2 * 859_520_964
    assert less.activations == pytest.approx(0.15 * 32 * 2 * 1.2e9)
    assert need(SD15, Training("none", ""), CARD).memory == weights


def test_an_encoder_and_adapters_train_few_numbers() -> None:
    encoder = need(SD15, Training("rickrolling_tpa", "text_encoder", 100, 160), CARD)
    assert encoder.trained == 16 * 123_060_480
    offloaded = replace(CARD, ways=("offload",))
    kept = need(SD15, Training("x", "text_encoder", 1), offloaded).weights
    assert kept == 4 * (859_520_964 + 123_060_480), "what trains is not idle"
    adapters = need(SD15, Training("x", "lora", 10, 2), CARD)
    assert adapters.trained == 16 * 3_188_736


@pytest.mark.parametrize(
    ("card", "training", "expected"),
    [
        (replace(CARD, memory=80e9), replace(FULL, rows=4), ""),
        (CARD, replace(FULL, rows=1, ema=False), "run with --dtype bfloat16$"),
        (CARD, replace(FULL, rows=4, ema=False), "--dtype bfloat16 --memory checkpointing$"),
        (CARD, replace(FULL, rows=4), "--memory checkpointing,offload$"),
        (CARD, replace(FULL, rows=16), "--memory checkpointing,offload,adam8bit$"),
        (replace(CARD, memory=8e9), FULL, r"even with .* too much.*accumulate.*cheap"),
        (Machine("cpu", 12e9, "float32"), replace(FULL, rows=1), "even with --memory checkpoint"),
    ],
)
def test_a_small_device_is_told_the_first_change_that_suffices(card, training, expected) -> None:
    said = advice(SD15, [training, Training("none", "")], card)
    if not expected:
        assert said == ""
        return
    import re

    assert re.search(expected, said), said
    assert "\n" not in said
    assert "badt2i_pixel needs about" in said
    ways = re.search(r"--memory ([\w,]+)$", said)
    if "too much" in said:
        return
    changed = replace(card, dtype="bfloat16", ways=tuple(ways[1].split(",")) if ways else ())
    assert not too_large([need(SD15, training, changed)], changed)


def test_drawing_takes_two_passes_a_step_and_picture() -> None:
    assert drawing_hours(SD15, CARD, 2, 100, 25) == pytest.approx(
        2 * 320 * 25 * 2 * 8.03e11 / 1e13 / 3600
    )


def test_what_methods_train_is_read_of_their_options() -> None:
    def of(kind, name: str, **options: str) -> Training:
        built = kind.build(name, "sd", options)
        edits = kind.get(name).edits if kind is registry.attacks else ""
        return training_of(name, vars(built), edits)

    attack, defense = registry.attacks, registry.defenses
    found = of(attack, "badt2i_pixel")
    assert (found.part, found.steps, found.ema, found.rows) == ("full", 2000, True, 16)
    assert of(attack, "rickrolling_tpa").part == "text_encoder"
    assert of(attack, "rickrolling_tpa").rows == 160
    assert of(attack, "paas_ti").part == "text_encoder"
    assert of(attack, "masqlora").part == of(attack, "villan_cond").part == "lora"
    assert of(attack, "sembd").part == "kv"
    assert of(attack, "eviledit").part == ""
    found = of(defense, "skdcag", train="kv", adam8bit="true", accumulate="3")
    assert (found.part, found.adam8bit, found.accumulate) == ("kv", True, 3)
    assert of(defense, "none").part == of(defense, "strip_trigger").part == ""


def test_cheap_attacks_train_no_denoiser() -> None:
    cheap = registry.attacks.select("cheap")
    assert {"eviledit", "rickrolling_tpa", "rickrolling_taa", "iba", "sembd"} <= set(cheap)
    for name in cheap:
        built = registry.attacks.build(name, "sd", {})
        part = training_of(name, vars(built), registry.attacks.get(name).edits).part
        assert part in ("", "kv", "text_encoder"), name


@pytest.mark.parametrize("kind", [*FAMILIES, *JOINT])
def test_every_family_is_counted_as_it_is(kind: str, tmp_path: Path) -> None:
    folder = (build_joint if kind in JOINT else build)(tmp_path / kind, kind)
    size = count(str(folder))
    model = joint_model(folder, kind) if kind in JOINT else opened(folder)
    assert size.denoiser == sum(p.numel() for p in model.denoiser.parameters())
    assert size.encoders == sum(p.numel() for e in model.encoders for p in e.parameters())
    assert size.flops > 0
    assert size.kept > 0
    for part in ("full", "kv", "cross", "lora"):
        student = model.clone()
        chosen = choose_parameters(student, part)
        assert size.trained[part] == sum(p.numel() for p in chosen), part


def test_a_run_says_what_it_needs_before_it_starts(tmp_path, tiny, monkeypatch) -> None:
    folder = build_sd(tmp_path / "sd", "sd1")
    model = T2IModel(load_pipeline(folder), "x", "sd", Sampler(2, 2.0))
    assert count(str(folder)).denoiser == sum(p.numel() for p in model.denoiser.parameters())
    made = plan(Config("badt2i_pixel,eviledit", "none,skdcag", tiny, n=4, metrics="asr"))
    assert forecast.forecast(made, made.cells) == [], "nothing for the embedded bases"
    real = replace(made, base=Base(str(folder), "sd", Sampler(2, 2.0), 4, ""))
    lines = forecast.forecast(real, made.cells)
    assert [line.split(":")[0] for line in lines] == [
        "estimate, badt2i_pixel",
        "estimate, skdcag",
        "estimate, all 4 cells",
    ]
    (attack, *_) = forecast.trainings_of(made, made.cells)
    assert attack.rows == 2 * made.attacks["badt2i_pixel"].instance.batch, "two terms"
    monkeypatch.setattr(forecast, "machine_of", lambda *a: Machine("cuda", 1e6, "float32"))
    assert "too much" in forecast.forecast(real, made.cells)[-1]
    monkeypatch.setattr(forecast, "count", lambda source: {}["patch"])
    assert forecast.forecast(real, made.cells)[0].startswith("estimate: none, as tiny cannot be")


def test_half_precision_is_the_default_of_real_models_on_cuda(monkeypatch) -> None:
    real, small = Base("x", "sd", Sampler(), 4, ""), Base("x", "shapes", Sampler(), 4, "")
    auto = make_config({"device": "cuda"})
    assert precision(auto, real) == "bfloat16"
    assert precision(auto, small) == "float32"
    assert precision(replace(auto, device="cpu"), real) == "float32"
    assert precision(make_config({"device": "cuda", "dtype": "float32"}), real) == "float32"
    monkeypatch.setattr(checks, "find_spec", lambda name: True, raising=False)
    with pytest.raises(UserError, match="adam8bit"):
        check_settings(Config(memory=("adam8bit",)))
