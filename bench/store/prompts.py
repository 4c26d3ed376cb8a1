"""Which record of a run folder holds the evaluation prompts of a cell."""

from __future__ import annotations

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.contract.hashing import digest
from t2i_backdoor_bench.store.forms import each, obj, text

PROMPTS = obj(target=each(text))  # what the record of prompts holds


def prompts_key(record: Record) -> str:
    """The record `prompts/<key>` holds the evaluation prompts of a cell. Cells with the same
    prompts share it."""
    config = record.cell.config
    kept = {k: config.get(k) for k in ("shared", "evaluation")}
    source, replaces = trigger_words(record)
    rest = {"replaces": replaces} if replaces else {}
    return digest(kept | {"seed": record.cell.seed, "source": source} | rest)


def trigger_words(record: Record) -> tuple[str, str]:
    """The word that the backdoor is about, and what its trigger replaces; "" for none."""
    target, trigger = (record.backdoor.get(part) or {} for part in ("target", "trigger"))
    return target.get("source") or "", trigger.get("replaces") or ""
