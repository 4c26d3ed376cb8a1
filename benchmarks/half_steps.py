"""Do defenses restore as much with half of their training steps?

    python benchmarks/half_steps.py run       # after `tune.py run`; a killed run resumes
    python benchmarks/half_steps.py report    # results/tuning/half-steps.md

Every searched defense is trained with the settings that the search chose, for half of its steps, as
in the search, and for all of them; on the attacked models, prompts and noise of the search, which
are of the development split.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tuning
from ended import ended
from sentences import difference_text
from tune import FOLDER, WORK, try_on

from t2i_backdoor_bench.contract import Record, options_of, registry
from t2i_backdoor_bench.stats.paired import Difference, paired_difference

RECORD = "steps.json"
METRICS = ("restoration_accuracy", "prompt_fidelity")


def searched(folder: Path) -> dict[str, dict[str, str]]:
    """What the search chose, by the name of a defense that trains a number of steps."""
    registry.defenses.load()
    found = {}
    for path in sorted(folder.glob("defense-*.json")):
        told = json.loads(path.read_text("utf-8"))
        known = options_of(registry.defenses.get(told["method"]).cls)
        if told["chosen"] is not None and "steps" in known and known["steps"][1].scales:
            found[told["method"]] = {k: tuning.text(v) for k, v in told["options"].items()}
    return found


def both(name: str, options: dict[str, str]) -> tuple[str, str]:
    """The defense with half of its steps, as the scale makes them, and with all."""
    entry = registry.defenses.get(name)
    whole = tuning.variant(entry, options | {"steps": str(whole_steps(name))})
    return tuning.variant(entry, options), whole


def whole_steps(name: str) -> int:
    """The steps that a defense declares for the embedded base."""
    half = int(tuning.steps(registry.defenses.get(name))["steps"])
    return round(half / tuning.SIZE_OF["defense"].training)


def run(folder: Path, work: Path, names: Sequence[str]) -> int:
    path = folder / RECORD
    kept = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for name, options in searched(folder).items():
        told = kept.get(name, {})
        done = told.get("options") == options and set(told["cells"]) == set(tuning.DEFENDED)
        if (names and name not in names) or done:
            continue
        pair = both(name, options)
        cells: dict[str, dict[str, list[list[float]]]] = {}
        for attack in tuning.DEFENDED:
            found = try_on(attack, pair, work, workers=1, threads=1)
            records = [found[one][0] for one in pair]
            cells[attack] = {metric: [each(r, metric) for r in records] for metric in METRICS}
        kept[name] = {"options": options, "variants": pair, "cells": cells}
        path.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    return 0


def each(record: Record, metric: str) -> list[float]:
    """A number a picture."""
    found = record.scores[metric].each
    if found is None:
        raise ValueError(f"{record.cell.attack} x {record.cell.defense} has no {metric}")
    return [float(x) for x in found]


def change(cells: dict[str, dict[str, list[list[float]]]], metric: str) -> Difference:
    """All steps less half of them, over the attacks."""
    half, whole = (
        {a: {0: np.array(c[metric][i]) > 0.5} for a, c in cells.items()} for i in range(2)
    )
    return paired_difference(whole, half, attacks_fixed=True)


def report(folder: Path) -> int:
    kept = json.loads((folder / RECORD).read_text("utf-8"))
    now = searched(folder)
    other = [f"`{name}`" for name, told in sorted(kept.items()) if told["options"] != now.get(name)]
    attacks = {attack for told in kept.values() for attack in told["cells"]}
    lines = [
        "# Half of the steps",
        "",
        "Written by `python benchmarks/half_steps.py report` from the record beside it, which"
        " `python benchmarks/half_steps.py run` made: what all steps restore more than half of"
        f" them, in points, of 32 prompts of each of {len(attacks)} attacks of the development"
        " split.",
        *(
            [f"Attacks that had not taken hold are left out: {', '.join(sorted(out))}."]
            if (out := set(tuning.DEFENDED) - attacks)
            else []
        ),
        *([f"The search has chosen other settings of {', '.join(other)} since."] if other else []),
        "",
        "| defense | steps, all | restored, half % | restored, all % | difference |"
        " clean prompts shown, difference |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, told in sorted(kept.items()):
        half, whole = (
            np.mean([c["restoration_accuracy"][i] for c in told["cells"].values()])
            for i in range(2)
        )
        changes = [difference_text(change(told["cells"], metric)) for metric in METRICS]
        steps = whole_steps(name)
        lines.append(
            f"| `{name}` | {steps} | {100 * half:.1f} | {100 * whole:.1f} | {' | '.join(changes)} |"
        )
    every = {f"{n} {a}": c for n, told in kept.items() for a, c in told["cells"].items()}
    changes = [difference_text(change(every, metric)) for metric in METRICS]
    lines.append(f"| all of them, mean | | | | {' | '.join(changes)} |")
    (folder / "half-steps.md").write_text("\n".join(lines) + "\n", "utf-8")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--methods", default="", help="names; without them all")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--work", type=Path, default=WORK, help="the run folder of the cells")
    flags = parser.parse_args()
    if flags.what == "report":
        registry.defenses.load()
        return report(flags.out)
    names = [name for name in flags.methods.split(",") if name]
    return run(flags.out, flags.work, names)


if __name__ == "__main__":
    raise SystemExit(ended(main))
