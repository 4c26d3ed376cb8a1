"""How long the attacks of a suite train with the triggers that it gives them.

    python benchmarks/trigger_lengths.py     # of the suite `reference`; a killed search resumes

`tune.py lengths` finds how long an attack trains with one rare word. A letter that looks like
another, a space without width or a common phrase may take longer. So each attack of the suite
trains a quarter, half and all of the steps that it declares, until it takes hold: until it succeeds
on 90 % of 32 prompts of the development split; all of them, where it never does. What was reached
is written to results/tuning/triggers.json, and the steps belong into the suite.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import tuning
from development import Development
from ended import ended
from tune_page import FOLDER, TRIGGERS
from tuning import LENGTH, LENGTHS, METRICS

from t2i_backdoor_bench.contract import Record, UserError, names, registry
from t2i_backdoor_bench.report.took_hold import TOOK_HOLD
from t2i_backdoor_bench.running.run import run as make_cells
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.suites import read_suite
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

WORK = FOLDER.parent / "run-triggers"  # models, pictures and records of the cells


def without_steps(attack: str) -> str:
    """The name of an attack without the steps that a suite gives it."""
    name, options = names.read(attack)
    steps = tuning.shortened(registry.attacks.get(name), 1.0)
    return names.label(name, {k: v for k, v in options.items() if k not in steps})


def lasting(attack: str, share: float) -> str:
    """The name of an attack that trains a share of its steps."""
    name, options = names.read(attack)
    steps = tuning.shortened(registry.attacks.get(name), share)
    return names.label(name, options | {k: str(v) for k, v in steps.items()})


def attempt(attack: str, folder: Path, **machine: Any) -> Record:
    """The undefended cell of an attack on the development split."""
    config = Config(attack, "none", scale=LENGTH, metrics=METRICS, out=folder, **machine)
    if make_cells(config, Development()) == 130:
        raise KeyboardInterrupt
    records = {r.cell.attack: r for r in stored_records(Store(folder))}
    return records[attack]


def length(attack: str, folder: Path, **machine: Any) -> dict[str, Any]:
    """The least share of its steps with which an attack takes hold, and what each share reached
    that was tried."""
    name, _ = names.read(attack)
    trains = tuning.shortened(registry.attacks.get(name), 1.0)
    reached: dict[str, dict[str, Any]] = {}
    for share in LENGTHS["attack"] if trains else (1.0,):
        record = attempt(lasting(attack, share), folder, **machine)
        done = record.status == "done"
        reached[f"{share:g}"] = tuning.values(record) if done else {"error": record.error}
        if done and tuning.value(record, "asr") >= TOOK_HOLD:
            break
    return {"share": share, "reached": reached}


def line(attack: str, found: dict[str, Any]) -> str:
    tried = [
        f"{float(share):.0%} of its steps: " + (f"{v['asr']:.1%}" if "asr" in v else v["error"])
        for share, v in found["reached"].items()
    ]
    return f"{lasting(attack, found['share'])}: {', '.join(tried)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--suite", default="reference")
    parser.add_argument("--out", type=Path, default=FOLDER / TRIGGERS)
    parser.add_argument("--work", type=Path, default=WORK, help="the run folder of the cells")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    flags = parser.parse_args()
    machine = {"workers": flags.workers, "threads": flags.threads, "device": flags.device}
    attacks = read_suite(flags.suite)["attacks"]
    if not isinstance(attacks, list):
        raise UserError(f"the suite {flags.suite} names groups of attacks; give one with a list")
    known = json.loads(flags.out.read_text("utf-8")) if flags.out.exists() else {}
    registry.attacks.load()
    for attack in map(without_steps, attacks):
        if attack not in known:
            known[attack] = length(attack, flags.work, **machine)
            flags.out.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
        print(line(attack, known[attack]), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(ended(main))
