"""`accept`: what a stranger submitted is unpacked and checked, and a random sample of its cells is
made again."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import Cell, Record, UserError, registry
from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.running.agreement import damaged_files, disagreements
from t2i_backdoor_bench.running.compare import name_of
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.plan import Plan, plan, with_metrics
from t2i_backdoor_bench.running.verify import (
    MOST,
    Found,
    check_protocol,
    make_again,
    open_run,
    reasons,
    stored_by_key,
    to_redo,
)
from t2i_backdoor_bench.store.archives import unpack
from t2i_backdoor_bench.store.claims import CLAIM, records_digest
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.signatures import check, check_key, sign

SAMPLE = 3  # cells that are made again, if nothing else is asked for


def accept(
    archive: Path,
    folder: Path,
    by: str,
    changed_files: Callable[[Store], list[str]],
    sample: int = SAMPLE,
    fetch: bool = False,
    key: Path | None = None,
) -> int:
    """Unpack what `submit` wrote to `folder`, check it without a model, and make `sample` of its
    cells again, chosen at random. `accepted.json` in the folder then says by whom, which cells, and
    how many agreed, signed where there is an SSH `key`. Returns 0 where everything does, 1 where
    something differs. Raises UserError where the archive is not what `submit` wrote."""
    if sample < 1 or not by.strip():
        raise UserError("accept makes at least one cell again, and --by says who does it")
    check_key(key)
    unpack(archive, folder)
    for name in ("accepted.json", "accepted.json.sig"):  # nobody accepts their own run
        (folder / name).unlink(missing_ok=True)
    store, manifest, config = open_run(folder, fetch)
    claim = store.read_record("claim", CLAIM)
    if claim is None or claim["records"] != records_digest(store):
        raise UserError(f"{archive} has no claim.json that is of its records: submit writes it")
    signature = check(store.path("claim.json"))
    if signature and not signature.valid and not signature.trouble:
        raise UserError(f"{archive} has a claim.json that was changed: {signature.text}")
    with tempfile.TemporaryDirectory() as elsewhere:
        plan_ = plan(to_redo(config, Path(elsewhere)))
        records = stored_by_key(plan_, store, manifest)
        check_protocol(store, [r for r in records.values() if r.status == "done"])
        wrong, wide = _on_paper(plan_, store, manifest, records)
        wrong += changed_files(store)
        if wrong:
            _print(f"{archive} does not agree with itself; no cell was made again", wrong)
            return 1
        cells = {c.key: c for c in wide.cells if c.key in records}
        chosen = random.SystemRandom().sample(list(cells.values()), min(sample, len(cells)))
        found = [_again(plan_, wide, c, records, Path(elsewhere), store) for c in chosen]
    texts = [f"{name_of(c)}: {t}" for c, f in zip(chosen, found, strict=True) for t in f.wrong]
    agreed = sum(not f.wrong for f in found)
    write(Store(folder, lambda text: None), by, chosen, agreed, len(cells), texts)
    if key:
        sign(store.path("accepted.json"), key)
    head = f"{folder}: {agreed} of {len(chosen)} cells, made again, have the same numbers"
    why = reasons(manifest, [records[c.key] for c in chosen], config) if texts else []
    said = [f"claim.json: {signature.text}"] if signature else []
    _print(head, [*said, *(name_of(c) for c in chosen), *texts[:MOST], *why])
    return int(agreed < len(chosen))


def _print(head: str, rest: Sequence[str]) -> None:
    print("\n".join(visible(line) for line in [head, *(f"  {text}" for text in rest)]))


def _on_paper(
    plan_: Plan, store: Store, manifest: Mapping[str, Any], records: Mapping[str, Record]
) -> tuple[list[str], Plan]:
    """What does not agree without drawing anything, and the plan with every stored metric."""
    known = registry.metrics.entries
    wide = with_metrics(plan_, {m for r in records.values() for m in r.scores if m in known})
    wrong = [*disagreements(plan_, wide, store, manifest, records), *damaged_files(store)]
    return wrong, wide


def _again(
    plan_: Plan, wide: Plan, cell: Cell, records: Mapping[str, Record], twin: Path, store: Store
) -> Found:
    found = Found()
    make_again(plan_, wide, [cell], records, twin, Display(), store, found)
    return found


def write(
    store: Store, by: str, chosen: Sequence[Cell], agreed: int, of: int, differences: Sequence[str]
) -> None:
    """Write `accepted.json`, which the site shows."""
    store.write_record(
        "accepted",
        {
            "by": by,
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "records": records_digest(store),
            "cells": [name_of(cell) for cell in chosen],
            "agreed": agreed,
            "of": of,
            "differences": list(differences[:MOST]),
        },
    )
