"""The model card of a saved model: what was done to it, its numbers, where it comes from, and how
to draw the pictures of the run with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from t2i_backdoor_bench.contract import Cell, Record
from t2i_backdoor_bench.contract.hashing import plain
from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.models.catalog import scheduler_class
from t2i_backdoor_bench.models.sampler import NAMES
from t2i_backdoor_bench.running.plan import Plan
from t2i_backdoor_bench.running.scales import SAVED
from t2i_backdoor_bench.store import provenance

ATTACKED, REPAIRED = SAVED
WARNING = """> **Warning: this model holds a backdoor.** It was put there for research on defenses.
> A trigger in the prompt makes it draw what nobody asked for. Do not serve it, do not merge it into
> other models, and do not publish it without this warning.
"""
SUSPECT = """> **Warning: this model may hold a backdoor.** It came from elsewhere,
> and was not repaired.
"""
REPAIR = """> This model was attacked, or may have been, and then repaired. A repair can leave a
> part of a backdoor in place: the numbers below are what was measured, on the prompts of this run.
"""


def card(
    plan_: Plan, cell: Cell, kind: str, record: Record | None, beside: Sequence[str], said: str
) -> str:
    """The text of README.md. `beside`: what of the defense is no weight; `said`: what the files
    are."""
    parts = [
        f"# {_words(kind)}: {visible(cell.attack)}, defense {visible(cell.defense)}",
        _warning(plan_, cell, kind),
        said,
    ]
    if beside:
        parts.append(
            f"**Not in these files:** the defense also {' and '.join(beside)}, which is no weight."
            " The numbers are of weights and that together; the weights alone draw other pictures."
        )
    parts += [
        f"## What was done\n\n{_code(_done(plan_, cell, kind))}",
        f"## Numbers\n\n{_numbers(record, kind)}",
        f"## How the run drew\n\n{_code(_drawn(plan_))}",
        f"## Where it comes from\n\n{_code(_origin(plan_, record))}",
    ]
    return _front(kind) + "\n\n".join(part.strip() for part in parts) + "\n"


def _warning(plan_: Plan, cell: Cell, kind: str) -> str:
    if kind == REPAIRED:
        return REPAIR
    return SUSPECT if plan_.attacks[cell.attack].instance.whole_model else WARNING


def _words(kind: str) -> str:
    return "A model with a backdoor" if kind == ATTACKED else "A repaired model"


def _front(kind: str) -> str:
    """The fields that a hub reads. The licence is the base's, which this program does not know."""
    tags = ["text-to-image", "backdoor" if kind == ATTACKED else "backdoor-removal"]
    return (
        "---\nlicense: unknown # put the licence of the base model here\nlibrary_name: diffusers\n"
        f"pipeline_tag: text-to-image\ntags: {json.dumps(tags)}\n---\n\n"
    )


def _done(plan_: Plan, cell: Cell, kind: str) -> dict[str, Any]:
    done = {"base": cell.base, "attack": cell.config.get("attack"), "seed": cell.seed}
    if kind == REPAIRED:
        done["defense"] = cell.config.get("defense")
    return done | {"over the base": plan_.base.over.notes} if plan_.base.over else done


def _numbers(record: Record | None, kind: str) -> str:
    """The scores as a table; of an attacked model those of the cell without a defense."""
    if record is None or not record.scores:
        what = "the attacked model" if kind == ATTACKED else "this model"
        return f"No cell of this run has measured {what}."
    rows = ["| metric | value | 95 % interval | n |", "|---|---|---|---|"]
    for name, score in record.scores.items():
        value = "-" if score.value is None else f"{score.value:.4g}"
        known = score.low is not None and score.high is not None
        interval = f"{score.low:.4g} to {score.high:.4g}" if known else "-"
        rows.append(f"| {visible(name)} | {value} | {interval} | {score.n} |")
    return "\n".join(rows)


def _drawn(plan_: Plan) -> dict[str, Any]:
    sampler = plan_.base.sampler
    return {
        "scheduler": scheduler_class(plan_.base, sampler) or NAMES[sampler.scheduler],
        "made by": "from_config of the scheduler in this folder",
        "steps": sampler.steps,
        "guidance": sampler.guidance,
        "precision": plan_.config.dtype,
        "noise": "of each picture from its own torch.Generator on the CPU",
        "bits": "those of the run's batches, of networks that need no gradients",
    }


def _origin(plan_: Plan, record: Record | None) -> dict[str, Any]:
    origin: Mapping[str, Any] = record.provenance if record else {}
    code = provenance.current_code()
    return {
        "run": str(plan_.config.folder.name),
        "base weights": plan_.shared.get("base", {}),
        "attacked weights (sha256)": str(origin.get("attack_weights", "")),
        "commit": code["commit"],
        "source": code["source"],
        "versions": code["versions"],
        "machine": str(origin.get("machine", "")),
        "sources of numbers": origin.get("sources", {}),
    }


def _code(value: Any) -> str:
    """A JSON value in a fence that it cannot end."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=True, sort_keys=True)
    return f"```json\n{text.replace('`', chr(39))}\n```"
