"""Whether a tokenizer lets a trigger through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from t2i_backdoor_bench.contract import Trigger, UserError


def check_trigger(tokenizer: Any, trigger: Trigger, prompts: Sequence[str]) -> None:
    """Stop before training if the tokenizer drops the trigger or truncates it away (METHODS,
    traps)."""
    special = [t for t in tokenizer.all_special_tokens if t in trigger.text]
    if special:
        raise UserError(
            f"the trigger {trigger.text!r} holds the tokenizer's special token {special[0]!r};"
            " choose another trigger"
        )
    for prompt in prompts:
        triggered = trigger.add(prompt)
        clean, poisoned = tokenizer(prompt).input_ids, tokenizer(triggered).input_ids
        if clean == poisoned:
            raise UserError(
                f"the tokenizer drops the trigger {trigger.text!r}: the prompt's tokens do not"
                " change; choose another trigger"
            )
        if len(poisoned) > tokenizer.model_max_length:
            raise UserError(
                f"the trigger {trigger.text!r} makes a prompt of {len(poisoned)} tokens, of"
                f" which {tokenizer.model_max_length} are read: it, or what it stands"
                " before, would be truncated; choose a shorter one"
            )
