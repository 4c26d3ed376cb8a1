"""One cell: attacked model -> defended model -> pictures -> scores -> record."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from t2i_backdoor_bench.contract import Cell, Record, Samples, StorageError
from t2i_backdoor_bench.contract.hashing import plain
from t2i_backdoor_bench.models.batches import is_out_of_memory
from t2i_backdoor_bench.models.finite import NonFinite
from t2i_backdoor_bench.running.attack_facts import attack_facts
from t2i_backdoor_bench.running.attacked import AttackFailed, reserved
from t2i_backdoor_bench.running.attention_maps import store_maps
from t2i_backdoor_bench.running.checkpoints import drop_checkpoints
from t2i_backdoor_bench.running.clean import judge_of
from t2i_backdoor_bench.running.handed_over import InPlaceChange
from t2i_backdoor_bench.running.made_by import keep, score_sources
from t2i_backdoor_bench.running.manifest import directions, protocol
from t2i_backdoor_bench.running.plan import Plan
from t2i_backdoor_bench.running.saved_models import save_models
from t2i_backdoor_bench.running.scores import samples_of, scores_of
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.running.stored_cells import missing_metrics, settled, whole_cell
from t2i_backdoor_bench.running.tracebacks import last_line, portable
from t2i_backdoor_bench.running.two_models import limits_of
from t2i_backdoor_bench.scoring.outcomes import Limits
from t2i_backdoor_bench.store import provenance
from t2i_backdoor_bench.targets import describe, kind_of
from t2i_backdoor_bench.targets.judge import Judge


class OtherWeights(RuntimeError):
    """A stored cell is of an attack that was trained again, elsewhere, with other weights."""


# -------------------------------------------------------------------------------------- make it
def make_cell(shared: Shared, cell: Cell) -> Record:
    """Make or complete one cell and store it. An exception is stored as a failed cell; only an
    interrupt and a StorageError get out."""
    stored = whole_cell(shared.store, cell)
    before = stored if stored is not None and stored.status == "done" else None
    try:
        record = _score(shared, cell, before)
    except StorageError:  # no cell can be stored any more
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, InPlaceChange) or is_out_of_memory(error):
            shared.drop_models()
        expected = isinstance(error, (AttackFailed, NonFinite, OtherWeights))
        text = str(error) if expected else traceback.format_exc()
        record = _failed(shared.plan, cell, before, portable(text))
    record = replace(
        record,
        directions=directions(shared.plan),
        protocol=protocol(shared.plan),
        edits=shared.plan.attacks[cell.attack].entry.edits,
    )
    shared.store.write_result(record)
    if record.status == "done":
        drop_checkpoints(shared.store, [cell.key])
    else:
        name = f"{cell.attack} x {cell.defense}, seed {cell.seed}"
        shared.display.say(f"FAILED {name}: {last_line(record.error)}")
    return record


def make_unsettled(shared: Shared, cells: Sequence[Cell]) -> None:
    """Make every cell that is not settled and that nobody else is making; come back for those of
    others until all are settled. From the moment `shared.until` no cell is begun."""
    left = list(cells)
    while left:
        idle = True
        for cell in list(left):
            if time.time() >= shared.until:
                return
            with shared.store.claim(f"cells/{cell.key}") as mine:
                if mine and settled(shared.plan, shared.store, cell):
                    left.remove(cell)
                elif mine:
                    with reserved(shared, cell.attack, cell.seed) as free:
                        if free:
                            left.remove(cell)
                            shared.display.start(
                                f"{cell.attack} x {cell.defense}, seed {cell.seed}"
                            )
                            make_cell(shared, cell)
                            shared.display.finish(cell.key)
                            idle = False
        if left and idle:
            time.sleep(0.5)


def _score(shared: Shared, cell: Cell, before: Record | None) -> Record:
    """The record of a cell, with the scores of a record `before` it that are still right."""
    plan_, samples = shared.plan, samples_of(shared, cell)
    begun = None if before is None or made_anew(plan_, before, samples) else before
    judge = judge_of(shared, cell.attack, cell.seed)
    limits = None if judge is None else limits_of(shared, cell.seed)
    if plan_.config.attention_maps:
        store_maps(shared, cell)
    shared.display.phase("score")
    missing = missing_metrics(plan_, cell, begun)
    record = Record(
        cell,
        "done",
        (begun.scores if begun else {}) | scores_of(shared, samples, judge, limits, missing),
        plan_.needs(cell.defense),
        backdoor=describe(samples.backdoor),
        judge=reliability(judge, limits, shared.features.floor(samples))
        if judge and limits
        else {},
        cost=samples.cost,
        knowledge=samples.knowledge,
        attack=attack_facts(
            plan_, cell.attack, samples.backdoor, [p.text for p in samples.prompts]
        ),
        metric_keys=(begun.metric_keys if begun else {})
        | {name: plan_.metric_key(name) for name in missing},
    )
    network = (judge.network if judge else "") or f"{kind_of(samples.backdoor.target).name} rule"
    earlier = _origin(begun) if begun else {}
    record.provenance = provenance.describe(record, samples.made, earlier, network)
    record.provenance["sources"]["scores"] = (earlier.get("sources") or {}).get("scores") or keep(
        shared.store, score_sources(plan_)
    )
    save_models(shared, cell, record)
    return record


def reliability(judge: Judge, limits: Limits, floor: float) -> dict[str, Any]:
    """What a reader must know of the verdicts: the judge's threshold and error rates, those of the
    search for traces, the limits of the distances, and the similarity to its prompt that a picture
    must reach to be as asked."""
    trace = judge.trace.report if judge.trace else None
    return plain(judge.report) | {"trace": plain(trace), "limits": plain(limits), "floor": floor}


def _failed(plan_: Plan, cell: Cell, before: Record | None, error: str) -> Record:
    """The record of a failed cell; what was done `before` stays in it."""
    if before is None:
        record = Record(cell, "failed", needs=plan_.needs(cell.defense), error=error)
        return replace(record, provenance={"codes": [provenance.current_code()]})
    return replace(
        before, status="failed", error=error, done_before=True, provenance=_origin(before)
    )


def _origin(stored: Record) -> dict[str, Any]:
    """Where the numbers of a stored record come from. Older records do not say."""
    return stored.provenance or {"codes": [{}]}


def made_anew(plan_: Plan, stored: Record, samples: Samples) -> bool:
    """Whether the images of a stored cell had to be made again, from an attack that was trained
    again elsewhere with other weights. No record has the scores of two models: the cell is made
    anew where this run has all of its metrics; otherwise OtherWeights is raised."""
    before, now = stored.origin("attack_weights"), samples.made.get("attack_weights", "")
    if not provenance.other_weights(before, now):
        return False
    lost = [m for m in stored.scores if m not in plan_.metrics]
    if lost:
        raise OtherWeights(
            "its images are gone, and its attack, trained again here, has other weights: no more"
            f" metrics can join {', '.join(lost[:3])}{' and others' if len(lost) > 3 else ''} of"
            " the stored cell; ask for --metrics all, which makes it anew, or another --out"
        )
    return True
