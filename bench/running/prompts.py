"""The evaluation prompts of a run, written down for its readers."""

from __future__ import annotations

from collections.abc import Iterable

from t2i_backdoor_bench.contract import Data, Record
from t2i_backdoor_bench.data.splits import required_word
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.prompts import PROMPTS, prompts_key, trigger_words


def store_prompts(store: Store, data: Data, records: Iterable[Record]) -> None:
    """Store the prompts of the finished cells, once for all cells that share them: the report
    shows the verdict on each prompt."""
    for record in records:
        name = f"prompts/{prompts_key(record)}"
        if record.status == "done" and store.read_record(name, PROMPTS) is None:
            store.write_record(name, {"target": prompts_of(data, record)})


def prompts_of(data: Data, record: Record) -> list[str]:
    """The evaluation prompts of a cell, before the trigger is put in."""
    n, seed = record.cell.config["evaluation"]["n"], record.cell.seed
    contains = required_word(data, *trigger_words(record))
    return [p.text for p in data.prompts("evaluation", n, seed, contains)]
