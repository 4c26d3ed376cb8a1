"""A record as JSON values, and back.

Records travel: what a file of others holds has the types that this program writes, or the file
counts as damaged. `RECORD` and `PLAN` say what must be where, in `store.forms`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t2i_backdoor_bench.contract import Cell, Record, Score
from t2i_backdoor_bench.contract.hashing import plain
from t2i_backdoor_bench.store.forms import (
    anything,
    each,
    flag,
    maybe,
    name,
    number,
    obj,
    of_all,
    one_of,
    share,
    text,
    whole,
)

# fields of a record that lie one level lower in its file
EXTRA = (
    "metric_keys",
    "directions",
    "protocol",
    "provenance",
    "edits",
    "knowledge",
    "attack",
    "done_before",
)

PART = obj(name=text, options=of_all(anything))
CONFIG = obj(
    shared=obj(base=obj(weights=text)),
    attack=maybe(PART),
    defense=maybe(each(PART)),
    evaluation=obj(n=whole),
    seed=whole,
)
SCORE = obj(
    required=("value",),
    closed=True,
    value=maybe(number),
    low=maybe(number),
    high=maybe(number),
    n=whole,
    network=text,
    note=text,
    each=maybe(each(number, flag)),
)
DIRECTION = obj(
    about=text,
    better=one_of("higher", "lower", "none"),
    figure=text,
    group=text,
    only=text,
    order=whole,
    percent=flag,
    short=text,
    tables=each(text),
    title=text,
    unit=flag,
)
RATES = {"false_positive_rate": share, "true_positive_rate": share, "threshold": number, "n": whole}
JUDGE = obj(**RATES, floor=maybe(number), limits=maybe(of_all(number)), trace=maybe(obj(**RATES)))
PROTOCOL = obj(
    protocol=whole,
    base=text,
    scale=text,
    prompts=text,
    scorer=text,
    training=number,
    evaluation=of_all(whole),
    sampler=obj(name=text, steps=whole, guidance=number),
)
CODE = obj(commit=text, dirty=flag, source=text, versions=of_all(text))
PROVENANCE = obj(
    attack=text,
    attack_weights=text,
    base=text,
    codes=each(CODE),
    judge=text,
    machine=text,
    networks=of_all(text),
    seed=whole,
    sources=of_all(text),
)
BACKDOOR = obj(
    trigger=maybe(obj(text=text, place=text, replaces=maybe(text))),
    target=maybe(obj(kind=text, source=maybe(text))),
)
ATTACK = obj(poison_share=maybe(number))
RECORD = obj(
    required=("cell", "status", "scores", "needs"),
    closed=True,
    cell=obj(
        required=("base", "attack", "defense", "seed", "key"),
        closed=True,
        base=name,
        attack=name,
        defense=name,
        seed=whole,
        key=name,
        config=CONFIG,
    ),
    status=one_of("done", "failed"),
    scores=of_all(SCORE),
    needs=each(name),
    backdoor=BACKDOOR,
    judge=JUDGE,
    cost=of_all(maybe(number), losses=of_all(each(number)), losses_attack=each(number)),
    error=text,
    extra=obj(
        metric_keys=of_all(text),
        directions=of_all(DIRECTION),
        protocol=PROTOCOL,
        provenance=PROVENANCE,
        edits=text,
        knowledge=of_all(whole),
        attack=ATTACK,
        done_before=flag,
    ),
)
PLAN = obj(
    required=("cells", "needs", "protocol", "directions"),
    cells=each(
        obj(
            required=("attack", "defense", "seed", "key"),
            closed=True,
            attack=name,
            defense=name,
            seed=whole,
            key=name,
        )
    ),
    needs=of_all(each(name)),
    protocol=obj(PROTOCOL, required=("base",)),
    directions=of_all(DIRECTION),
    judges=of_all(JUDGE),
    example_prompts=maybe(each(text)),
    hardware=maybe(of_all(anything)),
    versions=maybe(of_all(text)),
    commit=text,
    citations=maybe(
        each(
            obj(
                required=("short", "methods", "bibtex"), short=text, methods=each(text), bibtex=text
            )
        )
    ),
    commands=each(of_all(anything)),
)
# what an attack said of its training, beside its weights; a list of source files
MADE = of_all(anything, sources=text, made=CODE, losses=each(number))
SOURCES = of_all(text)


def as_json(record: Record) -> dict[str, Any]:
    """The record as its file holds it."""
    fields = plain(record)
    extra = {k: fields.pop(k) for k in EXTRA}
    if not record.done_before:
        del extra["done_before"]
    return fields | {"extra": extra}


def parse_result(payload: Mapping[str, Any]) -> Record:
    """The inverse of `as_json`, for a payload that has the form RECORD."""
    fields = {k: v for k, v in payload.items() if k != "extra"}
    fields["cell"] = Cell(**fields["cell"])
    fields["scores"] = {name: Score(**score) for name, score in fields["scores"].items()}
    fields["needs"] = tuple(fields["needs"])
    extra = {k: v for k, v in payload.get("extra", {}).items() if k in EXTRA}
    return Record(**fields, **extra)
