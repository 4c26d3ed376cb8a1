"""Saving memory changes no result: shared tensors, adapters, checkpointing and slicing compute what
two full copies compute."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import ROOT
from diffusers import AutoencoderKL
from helpers import PROMPTS, TRIGGER, different, weights
from torch import nn

import run_bench
from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import DefenderView, UserError, registry
from t2i_backdoor_bench.models import offload
from t2i_backdoor_bench.models.catalog import load_base
from t2i_backdoor_bench.models.families.stable_diffusion import STABLE_DIFFUSION
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.scales import Scale
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records
from t2i_backdoor_bench.training import loop as finetune
from t2i_backdoor_bench.training import lora
from t2i_backdoor_bench.training.denoising import Term, train_terms
from t2i_backdoor_bench.training.loop import Optim, fit, make_optimizer
from t2i_backdoor_bench.training.parameters import (
    Trainable,
    adapt,
    check_training,
    choose_parameters,
    finish_training,
)

LORA = {"steps": "2", "batch": "4", "prompts": "3", "lr": "1e-3", "train": "lora"}
PARTS = ["full", "cross", "kv", "noncross", "lora"]


def storage(model: T2IModel) -> dict[str, int]:
    return {k: p.data_ptr() for k, p in model.denoiser.named_parameters()}


@pytest.mark.parametrize("train", [*PARTS, "none"])
def test_a_clone_copies_what_trains_and_shares_the_rest(tiny_model, train: str) -> None:
    clone = tiny_model.clone(train=train)
    mine, theirs = storage(tiny_model), storage(clone)
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert (mine[name] == theirs[name]) is not STABLE_DIFFUSION.is_trained(name, train), name
    assert not {id(m) for m in clone.denoiser.modules()} & {
        id(m) for m in tiny_model.denoiser.modules()
    }
    assert different(weights(tiny_model), weights(clone)) == set()


@pytest.mark.parametrize(
    "name", ["skdcag", "finetune_reversal", "clean_finetune", "esd_x", "concept_ablation"]
)
@pytest.mark.parametrize("train", ["kv", "cross", "lora"])
def test_sharing_equals_two_full_copies(
    tiny_model, name: str, train: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = (np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8), PROMPTS * 2)
    clean = tiny_model.clone()
    torch.manual_seed(5)
    with torch.no_grad():
        for p in clean.denoiser.parameters():
            p.add_(0.05 * torch.randn_like(p))
    view = DefenderView(
        ("trigger", "clean_model", "clean_pairs"),
        PROMPTS,
        trigger=TRIGGER,
        clean_model=clean,
        clean_pairs=pairs,
    )
    options = {"steps": "2", "batch": "4", "lr": "1e-3", "train": train} | (
        {} if name == "clean_finetune" else {"prompts": "3"}
    )
    shared_method = registry.defenses.build(name, "shapes", options)
    before = weights(tiny_model)
    shared = shared_method.apply(tiny_model, view, 0)
    assert different(before, weights(tiny_model)) == set(), "the teacher is frozen"
    original = T2IModel.clone
    monkeypatch.setattr(
        T2IModel, "clone", lambda self, encoders=False, train="full": original(self, encoders)
    )
    copies = shared_method.apply(tiny_model, view, 0)
    moved = different(before, weights(shared))
    assert moved
    attention = {
        "kv": (".attn2.to_k", ".attn2.to_v"),
        "cross": (".attn2.",),
        "lora": (".attn1.", ".attn2."),
    }[train]
    assert all(any(a in k for a in attention) for k in moved), moved
    a, b = weights(shared), weights(copies)
    assert a.keys() == b.keys() == before.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-5, atol=1e-6)


# --------------------------------------------------------------------------------------------- LoRA
def adapted(model: T2IModel) -> tuple[T2IModel, list[nn.Parameter]]:
    student = model.clone(train="lora")
    return student, choose_parameters(student, "lora")


def output(model: T2IModel) -> torch.Tensor:
    x = torch.randn((3, *model.latent_shape), generator=torch.Generator().manual_seed(0))
    return model.denoiser(x, torch.tensor([10, 400, 900]), model.encode(PROMPTS)).sample


def test_adapters_start_at_nothing_and_alone_get_gradients(tiny_model) -> None:
    student, params = adapted(tiny_model)
    torch.testing.assert_close(output(student), output(tiny_model), rtol=0, atol=0)
    output(student).pow(2).mean().backward()
    trained = {n for n, p in student.denoiser.named_parameters() if p.grad is not None}
    assert trained == {n for n, _ in student.denoiser.named_parameters() if ".lora_" in n}
    assert len(params) == len(trained)
    assert all(p.grad is None for p in tiny_model.denoiser.parameters())
    again = adapted(tiny_model)[1]
    assert all(torch.equal(a, b) for a, b in zip(params, again)), (
        "adapters begin the same in every run"
    )


def test_merging_computes_w_plus_ba_and_leaves_a_plain_network(tiny_model) -> None:
    student, params = adapted(tiny_model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in params:
            p.copy_(0.05 * torch.randn(p.shape, generator=generator))
    factors = {
        n.removesuffix(".lora_A.default.weight"): p.detach().clone()
        for n, p in student.denoiser.named_parameters()
        if ".lora_A." in n
    }
    seconds = {
        n.removesuffix(".lora_B.default.weight"): p.detach().clone()
        for n, p in student.denoiser.named_parameters()
        if ".lora_B." in n
    }
    with torch.no_grad():
        wanted = output(student)
    before = weights(tiny_model)
    finish_training(student.denoiser)
    assert [type(m) for m in student.denoiser.modules()] == [
        type(m) for m in tiny_model.denoiser.modules()
    ]
    assert not any(p.requires_grad for p in student.denoiser.parameters())
    torch.testing.assert_close(output(student), wanted, rtol=1e-4, atol=1e-5)
    assert different(before, weights(tiny_model)) == set(), "the shared weights were not written"
    assert factors.keys() == seconds.keys()
    assert any(n.endswith("attn1.to_out.0") for n in factors)
    old, new = tiny_model.denoiser.state_dict(), student.denoiser.state_dict()
    for name in factors:
        expected = old[f"{name}.weight"].double() + seconds[name].double() @ factors[name].double()
        torch.testing.assert_close(new[f"{name}.weight"].double(), expected, rtol=1e-5, atol=1e-6)
    for name in old.keys() - {f"{n}.weight" for n in factors}:
        assert torch.equal(old[name], new[name])


def test_adapted_models_are_stored_cloned_and_defended_again(tiny_model, tmp_path: Path) -> None:
    view = DefenderView(("trigger",), PROMPTS, trigger=TRIGGER)
    repaired = registry.defenses.build("skdcag", "shapes", LORA).apply(tiny_model, view, 0)
    repaired.save_weights(tmp_path / "w.safetensors")
    back = tiny_model.with_weights(tmp_path / "w.safetensors")
    assert np.array_equal(back.generate(PROMPTS, [1, 2, 3]), repaired.generate(PROMPTS, [1, 2, 3]))
    twice = registry.defenses.build("skdcag", "shapes", LORA).apply(repaired, view, 1)
    assert different(weights(twice), weights(repaired))
    assert repaired.info["parameters"] < sum(p.numel() for p in tiny_model.denoiser.parameters())


def test_adapters_on_a_text_encoder_merge_to_w_plus_ba(tiny_model) -> None:
    attacked = tiny_model.clone(encoders=True)
    encoder, before = attacked.encoders[0], weights(tiny_model)
    plain = attacked.embed(PROMPTS).states
    params = adapt(encoder, STABLE_DIFFUSION.encoder_lora_targets, 3)
    names = {n for n, p in encoder.named_parameters() if p.requires_grad}
    assert len(names) == len(params) == 2 * 2 * 4, "layers, A and B, projections"
    assert all(p.shape[0] == 3 or p.shape[1] == 3 for p in params)
    assert torch.equal(plain, attacked.embed(PROMPTS).states), "B is zero"
    torch.manual_seed(0)
    with torch.no_grad():
        for p in params:
            p.normal_(0, 0.3)
    deltas = {
        n.removesuffix(".lora_A.default.weight"): (
            dict(encoder.named_parameters())[n.replace("lora_A", "lora_B")].detach() @ p.detach()
        )
        for n, p in encoder.named_parameters()
        if ".lora_A." in n
    }
    adapted = attacked.embed(PROMPTS).states.detach()
    finish_training(encoder)
    torch.testing.assert_close(attacked.embed(PROMPTS).states, adapted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(adapted, plain, atol=1e-2)
    after = weights(attacked)
    assert different(before, after) == {f"text_encoder.{n}.weight" for n in deltas}
    for name, delta in deltas.items():
        was, now = (found[f"text_encoder.{name}.weight"] for found in (before, after))
        torch.testing.assert_close(now, was + delta, rtol=1e-4, atol=1e-5)


def test_lora_without_peft_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tiny, tmp_path: Path, capsys
) -> None:
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, found=importlib.util.find_spec: None if name == "peft" else found(name),
    )
    with pytest.raises(UserError, match="needs the package peft"):
        lora.add_lora(nn.Linear(2, 2), ["to_q"])
    flags = [
        "--attacks",
        "badt2i_pixel",
        "--defenses",
        "skdcag",
        "--base",
        tiny,
        "--scale",
        "smoke",
        "--out",
        str(tmp_path / "run"),
    ]
    assert run_bench.main([*flags, "--set", "skdcag.train=lora", "--metrics", "asr"]) == 2
    assert "pip install" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(UserError, match=r"needs the package peft: pip install \S+$"):
        registry.attacks.build("villan_cond", "shapes").check_machine("cpu")


# ------------------------------------------------------------------------ checkpointing and slicing
def test_checkpointing_and_slicing_change_nothing_but_rounding(tiny_base: Path) -> None:
    plain, saving = (
        load_base(str(tiny_base)),
        load_base(str(tiny_base), memory=("checkpointing", "slicing")),
    )
    assert saving.denoiser.is_gradient_checkpointing
    assert saving.clone().denoiser.is_gradient_checkpointing
    assert not plain.denoiser.is_gradient_checkpointing
    assert "Sliced" in type(next(iter(saving.denoiser.attn_processors.values()))).__name__
    torch.testing.assert_close(output(plain), output(saving), rtol=1e-4, atol=1e-5)
    results = []
    for model in (plain, saving):
        student = model.clone(train="kv")
        latents = torch.randn((3, *model.latent_shape), generator=torch.Generator().manual_seed(1))
        losses = train_terms(
            student,
            model,
            [Term(PROMPTS, latents, PROMPTS[::-1])],
            Optim(3, 1e-3, 3),
            0,
            "t",
            train="kv",
        ).losses
        results.append((losses, weights(student)))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-4)
    for key in results[0][1]:
        torch.testing.assert_close(results[0][1][key], results[1][1][key], rtol=1e-3, atol=1e-4)


def test_checkpointing_keeps_fewer_activations(tiny_base: Path) -> None:
    kept = []
    for memory in ((), ("checkpointing",)):
        model = load_base(str(tiny_base), memory=memory).clone()
        choose_parameters(model, "full")
        sizes: list[int] = []

        def pack(x: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            output(model).sum()
        kept.append(sum(sizes))
    assert kept[1] < 0.5 * kept[0]


def test_memory_is_a_flag_and_in_the_key_only_where_it_is_set(tiny, capsys, tmp_path: Path) -> None:
    assert run_bench.main(["--memory", "magic", "--out", str(tmp_path)]) == 2
    assert "not one of checkpointing, slicing" in capsys.readouterr().err
    plain = plan(Config("badt2i_pixel", "none", tiny)).cells[0]
    assert "memory" not in plain.config["shared"]
    saving = plan(Config("badt2i_pixel", "none", tiny, memory=("slicing", "checkpointing"))).cells[
        0
    ]
    assert saving.config["shared"]["memory"] == ["checkpointing", "slicing"]


# ------------------------------------------------------------------------------------------ offload
class Elsewhere(torch.nn.Linear):
    """A network whose place is a word: the test has one device."""

    def __init__(self, place: str) -> None:
        super().__init__(1, 1)
        self.place = torch.device(place)
        self.seen: list[str] = []

    def to(self, device):
        self.place = torch.device(device)
        self.seen.append(self.place.type)
        return self


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "device_of", lambda part: part.place)


def test_parts_lie_elsewhere_for_a_block_and_come_back_whatever_happens(places) -> None:
    a, b = Elsewhere("cuda"), Elsewhere("cpu")
    with offload.placed("cpu", [a, b, a]):
        assert a.place.type == b.place.type == "cpu"
        with offload.placed("cuda", [a]):  # what is put aside is used
            assert a.place.type == "cuda"
        assert a.place.type == "cpu"
    with pytest.raises(RuntimeError, match="diverged"), offload.placed("cpu", [a, b]):
        raise RuntimeError("diverged")
    assert a.place.type == "cuda"
    assert a.seen == ["cpu", "cuda", "cpu", "cuda", "cpu", "cuda"]
    assert b.seen == [], "what lies there already is not touched"


def test_moving_is_no_change_of_weights_and_no_inference() -> None:
    """float64 stands for the other device: `to` puts new storage behind the same parameters."""
    layer = torch.nn.Linear(2, 2)
    before = [(id(p), p._version) for p in layer.parameters()]
    with torch.inference_mode(), torch.inference_mode(False):
        layer.to(torch.float64).to(torch.float32)
    assert [(id(p), p._version) for p in layer.parameters()] == before
    layer(torch.zeros(1, 2)).sum().backward()
    assert layer.weight.grad is not None


def test_what_is_idle_waits_while_a_method_works_and_is_there_where_it_is_used(
    tiny, tmp_path: Path, monkeypatch
) -> None:
    """A run of an attack and a defense: its numbers are those without, and each part waits in
    training and is there for its use."""
    log: list[tuple[str, frozenset]] = []
    waiting: set[int] = set()
    real, names = offload.placed, {}

    @contextlib.contextmanager
    def placed(device, parts):
        parts = list(parts)
        before = set(waiting)
        (waiting.update if str(device) == "cpu" and len(parts) > 2 else waiting.difference_update)(
            {id(p) for p in parts}
        )
        with real(device, parts):
            yield
        waiting.clear()
        waiting.update(before)

    def noted(kind, function):
        def call(*args, **more):
            log.append((kind, frozenset(names[i] for i in waiting if i in names)))
            return function(*args, **more)

        return call

    monkeypatch.setattr("t2i_backdoor_bench.running.workshop.placed", placed)
    monkeypatch.setattr("t2i_backdoor_bench.models.model.placed", placed)
    monkeypatch.setattr("t2i_backdoor_bench.training.denoising.fit", noted("train", fit))
    monkeypatch.setattr("diffusers.AutoencoderKL.encode", noted("encode", AutoencoderKL.encode))
    monkeypatch.setattr("diffusers.AutoencoderKL.decode", noted("decode", AutoencoderKL.decode))
    opened = Shared.load

    def load(shop) -> None:
        opened(shop)
        names.update(
            {
                id(shop.model.encoders[0]): "text",
                id(shop.model.pipe.vae): "vae",
                id(shop.features.scorer.model): "scorer",
            }
        )

    monkeypatch.setattr(Shared, "load", load)
    scale = Scale("test", 4, 0, 0, 0, 1, 4, 1.0, (0,))
    steps = (
        "badt2i_pixel.steps=2",
        "badt2i_pixel.images=4",
        "badt2i_pixel.batch=4",
        "finetune_reversal.steps=2",
        "finetune_reversal.batch=4",
    )
    config = Config(
        "badt2i_pixel",
        "finetune_reversal",
        tiny,
        scale,
        metrics="kid,drift",
        overrides=steps,
        workers=1,
        out=tmp_path / "plain",
    )
    found = []
    for memory in ((), ("offload",)):
        run = dataclasses.replace(config, memory=memory, out=tmp_path / f"run{len(memory)}")
        assert runner.run(run, show=False) == 0
        (record,) = stored_records(Store(run.folder))
        found.append({k: v.value for k, v in record.scores.items()})
        if not memory:
            assert {gone for _, gone in log} == {frozenset()}
            log.clear()
    assert found[0] == found[1]
    assert {gone for kind, gone in log if kind == "train"} == {frozenset({"text", "vae", "scorer"})}
    assert all("vae" not in gone for kind, gone in log if kind in ("encode", "decode"))
    assert {kind for kind, _ in log} == {"train", "encode", "decode"}


# ----------------------------------------------------------------------------------------------------------------
# 8-bit Adam
def test_adam8bit_is_asked_for_or_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"train": "full", "adam8bit": True}
    check_training("cpu")
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        check_training("cuda", **asked)
    fake, seen = ModuleType("bitsandbytes.optim"), []
    fake.AdamW8bit = lambda params, **options: seen.append((params, options)) or "eight bits"
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", fake)
    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    with pytest.raises(UserError, match="CUDA device, not on cpu"):
        check_training("cpu", **asked)
    check_training("cuda:0", **asked)
    params = Trainable([nn.Parameter(torch.zeros(2))])
    assert (
        make_optimizer(params, Optim(1, 2e-4, 1, weight_decay=0.3, adam8bit=True)) == "eight bits"
    )
    groups = [{"params": [*params], "rate": 1.0}]
    assert seen == [(groups, {"lr": 2e-4, "betas": (0.9, 0.999), "weight_decay": 0.3})]
    assert isinstance(make_optimizer(params, Optim(1, 2e-4, 1)), torch.optim.AdamW)


@pytest.mark.parametrize(
    "name",
    ["skdcag", "finetune_reversal", "badt2i_pixel", "poison_style", "masqlora", "villan_cond"],
)
def test_methods_hand_the_options_to_the_optimizer(
    name: str, tiny_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    def made(params: list, optim: Optim) -> None:
        assert optim.adam8bit
        assert optim.accumulate == 3
        raise Stop

    monkeypatch.setattr(finetune, "make_optimizer", made)
    kind = registry.attacks if name in registry.attacks.groups["all"] else registry.defenses
    options = {"adam8bit": "true", "accumulate": "3", "steps": "1"}
    options |= (
        {"prompts": "3", "latents": "noise"} if kind is registry.defenses else {"images": "4"}
    )
    built = kind.build(name, "shapes", options)
    from t2i_backdoor_bench.data.splits import WorldData

    view = DefenderView(
        ("trigger", "clean_model"), PROMPTS, trigger=TRIGGER, clean_model=tiny_model
    )
    with pytest.raises(Stop):
        (
            built.inject(tiny_model, WorldData(), 0)
            if kind is registry.attacks
            else built.apply(tiny_model, view, 0)
        )


# ------------------------------------------------------------------------------------ the benchmark
def test_the_benchmark_measures_every_mode_on_a_small_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import memory
    finally:
        sys.path.pop(0)
    small = memory.SD15 | {
        "sample_size": 8,
        "block_out_channels": (32, 32, 32, 32),
        "norm_num_groups": 8,
    }
    rows = {mode: memory.measure(mode, 2, 1, "cpu", True, small) for mode in memory.MODES}
    for mode in ("kv", "cross", "lora"):
        assert rows[mode]["loss"] == pytest.approx(rows[f"{mode}-copies"]["loss"], rel=1e-4)
        assert (
            rows[mode]["parameters"]
            == rows[f"{mode}-copies"]["parameters"]
            < rows["full"]["parameters"]
        )
    assert memory.table(list(rows.values())).count("\n") == 1 + len(memory.MODES)
    with torch.device("meta"):
        true = memory.UNet2DConditionModel(**memory.SD15)
    assert sum(p.numel() for p in true.parameters()) == 859_520_964
    fit_names = {n for n, _ in true.named_parameters() if STABLE_DIFFUSION.is_trained(n, "kv")}
    assert len(fit_names) == 32
    assert fit is finetune.fit
