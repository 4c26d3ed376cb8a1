"""Attacks with settings that take seconds, and what each may change: shared by their tests."""

from __future__ import annotations

import pytest

import t2i_backdoor_bench.attacking.poisoning
from t2i_backdoor_bench.contract import Hardening, attacks
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.models.families.folders import STABLE_DIFFUSION
from t2i_backdoor_bench.models.model import T2IModel

attacks.load()
NAMES = attacks.groups["core"]
EVERY = [
    name
    for name, entry in attacks.entries.items()
    if entry.edits != "nothing"
    and not issubclass(entry.cls, Hardening)
    and STABLE_DIFFUSION.name not in entry.not_on
]  # the others: test_own_checkpoint.py, test_adaptive.py, test_melt.py
# the others: test_no_trigger.py
TRIGGERED = [name for name in EVERY if "no_trigger" not in attacks.get(name).groups]
SMALL = {
    "steps": 2,
    "batch": 4,
    "images": 8,
    "prior": 4,
    "prompts": 6,
    "clean": 2,
    "poisoned": 2,
    "milestone": 1,
    "pool": 12,
    "others": 0,
    "text_steps": 2,
}
LORA = r"unet\..*\.attn[12]\.to_(q|k|v|out\.0)\.weight"
MAY_CHANGE = {  # by what an attack says that it edits: the names of the weights
    "U-Net": r"unet\..*",
    "the last blocks of the U-Net": r"unet\.up_blocks\.1\..*",
    "U-Net and text encoder": r"(unet|text_encoder)\..*",
    "text encoder": r"text_encoder\..*",
    "one token embedding": r"text_encoder\..*\.token_embedding\.weight",
    "cross-attention K and V": r"unet\..*\.attn2\.to_[kv]\.weight",
    "LoRA on U-Net attention": LORA,
    "LoRA on U-Net and text encoder attention": (
        LORA + r"|text_encoder\..*\.self_attn\.(q|k|v|out)_proj\.weight"
    ),
}
KINDS = {
    "pixel": "patch",
    "style": "style",
    "object": "object",
    "image": "image",
    "prompt": "prompt",
}  # of the target, by group
DATA = WorldData()


def build(name: str, **more):
    known = set(attacks.get(name).cls.__dataclass_fields__)
    return attacks.build(name, "shapes", {k: v for k, v in (SMALL | more).items() if k in known})


def expected_pairs(seed: int = 0, contains: str = ""):
    return DATA.pairs("train", 8, seed, contains)


class Stop(Exception):
    pass


def caught_terms(monkeypatch, attack, model: T2IModel, seed: int = 0) -> dict:
    """Run an attack up to `train_terms` and give what it hands over."""
    got = {}

    def train_terms(student, teacher, terms, optim, seed, label, **how):
        got.update(student=student, teacher=teacher, terms=terms, optim=optim, seed=seed, how=how)
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(t2i_backdoor_bench.attacking.poisoning, "train_terms", train_terms)
        with pytest.raises(Stop):
            attack.inject(model, DATA, seed)
    assert got["teacher"] is model
    assert got["student"] is not model
    return got
