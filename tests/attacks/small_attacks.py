"""Attacks with settings that take seconds, and what each may change: shared by their tests."""

from __future__ import annotations

from t2i_backdoor_bench.contract import attacks
from t2i_backdoor_bench.data.splits import WorldData

attacks.load()
NAMES = attacks.groups["core"]
EVERY = [
    name for name, entry in attacks.entries.items() if entry.edits != "nothing"
]  # the others: test_own_checkpoint.py
SMALL = {
    "steps": 2,
    "batch": 4,
    "images": 8,
    "prior": 4,
    "prompts": 6,
    "clean": 2,
    "poisoned": 2,
    "milestone": 1,
}
LORA = r"unet\..*\.attn[12]\.to_(q|k|v|out\.0)\.weight"
MAY_CHANGE = {  # by what an attack says that it edits: the names of the weights
    "U-Net": r"unet\..*",
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
