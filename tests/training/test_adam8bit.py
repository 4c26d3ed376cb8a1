"""Adam in 8 bits, and the benchmark of memory."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
import torch
from conftest import ROOT
from helpers import PROMPTS, TRIGGER
from torch import nn

from t2i_backdoor_bench.contract import DefenderView, UserError, registry
from t2i_backdoor_bench.models.families.stable_diffusion import STABLE_DIFFUSION
from t2i_backdoor_bench.training import loop as finetune
from t2i_backdoor_bench.training.loop import Optim, fit, make_optimizer
from t2i_backdoor_bench.training.parameters import Trainable, check_training


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
        ("trigger", "clean_model", "clean_prompts"),
        PROMPTS,
        trigger=TRIGGER,
        clean_model=tiny_model,
    )
    with pytest.raises(Stop):
        (
            built.inject(tiny_model, WorldData(), 0)
            if kind is registry.attacks
            else built.apply(tiny_model, view, 0)
        )


@pytest.mark.thorough
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
