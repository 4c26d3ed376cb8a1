"""Every way in which a method trains: killed in the middle and begun again, it gives the same model
to the bit, without a step taken twice. Methods do nothing for it but train copies of their
model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import PROMPTS, TRIGGER, weights
from in_memory import InMemory, Killed

from t2i_backdoor_bench.contract import DefenderView, registry
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.models.checkpoints import Checkpoints
from t2i_backdoor_bench.models.model import T2IModel

DATA = WorldData()
METHODS = {
    "poison_pixel": {"images": 4, "batch": 4, "ema": 0.9},
    "masqlora": {"images": 4, "batch": 4},  # dropout
    "paas_ti": {"images": 4, "batch": 2},
    "sembd": {"batch": 4, "prompts": 4},
    "rickrolling_tpa": {"prompts": 4, "clean": 2, "poisoned": 2, "milestone": 2},
    "iba": {"prompts": 4},
    "skdcag": {"prompts": 3, "latents": "trajectory", "refresh": 2, "preserve": 1, "steps": 5},
    "skdcag train=text_encoder": {"prompts": 3, "batch": 4, "latents": "trajectory", "refresh": 2},
    "skdcag train=lora": {"prompts": 3, "batch": 4, "latents": "noise"},
    "skdcag_released": {"prompts": 3, "stale_maps": "true", "steps": 8},
    "esd_x": {"prompts": 3, "batch": 4, "latents": "trajectory", "refresh": 3},
    "salun": {"prompts": 3, "batch": 4, "mask_steps": 2},
}


def made(name: str, model: T2IModel, files: InMemory | None) -> T2IModel:
    """The model that a method makes of `model`, with checkpoints at every step."""
    name, _, more = name.partition(" ")
    kind = registry.attacks if name in registry.attacks.groups["all"] else registry.defenses
    options = {"steps": "4"} | {k: str(v) for k, v in METHODS[f"{name} {more}".strip()].items()}
    options |= {"train": more.partition("=")[2]} if more else {}
    known = kind.get(name).cls.__dataclass_fields__
    method = kind.build(name, "shapes", {k: v for k, v in options.items() if k in known})
    given = replace(model, checkpoints=Checkpoints(files, every=0.0))
    torch.manual_seed(0)
    if kind is registry.attacks:
        return method.inject(given, DATA, 0)
    needs = ("trigger", "clean_prompts")
    return method.apply(given, DefenderView(needs, PROMPTS, trigger=TRIGGER), 0)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_goes_on_where_it_was_killed(name: str, tiny_model: T2IModel) -> None:
    before = weights(tiny_model)
    whole, files = made(name, tiny_model, None), InMemory(die_after=3)
    with pytest.raises(Killed):
        made(name, tiny_model, files)
    again = made(name, tiny_model, files)
    one, two = weights(whole), weights(again)
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert any(not torch.equal(one[k], before[k]) for k in one)
    assert [step for _, step in files.steps] == list(range(1, whole.info["steps"] + 1))
    for key, value in whole.info.items():
        assert key == "seconds" or again.info[key] == value, key
