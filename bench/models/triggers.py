"""Whether the tokenizers let a trigger through."""

from __future__ import annotations

from collections.abc import Sequence

from t2i_backdoor_bench.contract import Trigger, UserError
from t2i_backdoor_bench.models.families.conditioning import TextPart


def check_trigger(parts: Sequence[TextPart], trigger: Trigger, prompts: Sequence[str]) -> None:
    """Raise UserError if all tokenizers of a model drop the trigger or truncate it away, or if it
    holds a special token of one. Where one alone does, the others read the trigger."""
    for part in parts:
        special = [t for t in part.tokenizer.all_special_tokens if t in trigger.text]
        if special:
            raise UserError(
                f"the trigger {trigger.text!r} holds the tokenizer's special token {special[0]!r};"
                " choose another trigger"
            )
    for prompt in prompts:
        clean, poisoned = ([p.ids(text) for p in parts] for text in (prompt, trigger.add(prompt)))
        if clean == poisoned:
            raise UserError(
                f"the tokenizer drops the trigger {trigger.text!r}: the prompt's tokens do not"
                " change; choose another trigger"
            )
        if all(len(ids) > p.reads for ids, p in zip(poisoned, parts, strict=True)):
            most = max(p.reads for p in parts)
            many = next(len(i) for i, p in zip(poisoned, parts, strict=True) if p.reads == most)
            raise UserError(
                f"the trigger {trigger.text!r} makes a prompt of {many} tokens, of which {most} are"
                " read: it, or what it stands before, would be truncated; choose a shorter one"
            )
