"""Does a removal, a locator or a detector survive an attacker who knows it?

    python benchmarks/adaptive.py search            # settings, on the development split; hours
    python benchmarks/adaptive.py run               # the chosen ones on the evaluation split
    python benchmarks/adaptive.py report            # results/adaptive/README.md

For every ranked defense `badt2i_object` is hardened against it (`+adaptive[against=...]`). The
attacker tries the settings below in their order, with a trigger and objects of their own, until the
defense restores 40 points less than of the plain attack (a detector: finds 40 points less of the
triggered prompts), and keeps the setting under which it restores or finds least, of those that take
hold and keep their stealth. Each is a cell of the development split, so that the evaluation split
is seen once. A killed command resumes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tuning
from development import Development
from ended import ended
from sentences import difference_text
from tune import store

from t2i_backdoor_bench.contract import Record, UserError, registry
from t2i_backdoor_bench.contract.names import label
from t2i_backdoor_bench.report.pooling import pool
from t2i_backdoor_bench.report.took_hold import TOOK_HOLD
from t2i_backdoor_bench.report.worst import noticed
from t2i_backdoor_bench.running.run import run as make_cells
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.stats.paired import paired_difference
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

RESULTS = Path("results")
RANKED = (
    "skdcag",
    "skd",
    "skdcag_text",
    "uce",
    "esd_x",
    "concept_ablation",
    "finetune_reversal",
    "encoder_align",
    "trace_mend",
    "frequency_locate+skdcag",
)
DETECTORS = (
    "t2ishield_ftt",
    "t2ishield_cda",
    "navit2i_untrusted",
    "ufid",
    "daa_i",
    "daa_s",
    "grainps",
    "set",
    "tnc",
    "amdet",
)
PLAIN = "badt2i_object"
# The form's own values first; then further and harder rehearsals.
SETTINGS: tuple[dict[str, Any], ...] = ({}, {"rate": 3}, {"rate": 2, "share": 0.5}, {"rounds": 16})
UNSEEN: tuple[dict[str, Any], ...] = ({}, {"settings": 12}, {"settings": 12, "share": 0.5})
RESTORED, FOUND = "restoration_accuracy", "detection_tpr"  # what is lost of removals and detectors
ENOUGH = 0.4  # of what is restored or found: the search ends where that much is lost
SEEDS = (0, 1)
FILE = "search.json"


def hardened(defense: str, setting: dict[str, Any]) -> str:
    """The attack as a run takes it."""
    options = {"against": defense} | {k: tuning.text(v) for k, v in setting.items()}
    return f"{PLAIN}+{label('adaptive', options)}"


def cells(config: Config, data: Development | None = None) -> dict[tuple[str, str], Record]:
    """The cells of a run, made where they are not stored, by attack and defense; of several seeds
    the last ones."""
    if make_cells(config, data) == 130:
        raise KeyboardInterrupt
    found = stored_records(Store(config.folder))
    return {(r.cell.attack, r.cell.defense): r for r in found}


def try_setting(defense: str, setting: dict[str, Any], config: Config) -> dict[str, Any]:
    """What a setting reaches on the development split: of the attack without a defense, and what is
    restored or found of it and of the plain attack."""
    name = hardened(defense, setting)
    own = tuning.other(registry.attacks.get(PLAIN))
    found = cells(
        replace(
            config,
            attacks=f"{PLAIN},{name}",
            defenses=f"none,{defense}",
            scale=tuning.LENGTH,
            metrics=f"{tuning.METRICS},{FOUND}",
            overrides=tuple(f"{PLAIN}.{k}={v}" for k, v in own.items()),
        ),
        Development(),
    )
    if error := next((r.error for r in found.values() if r.status != "done"), ""):
        return {"setting": setting, "error": error}
    attacked, repaired = found[name, "none"], found[name, defense]
    took_hold = tuning.value(attacked, "asr") >= TOOK_HOLD
    return {
        "setting": setting,
        "attack": tuning.values(attacked),
        "kept": took_hold and tuning.of_attack(attacked).kept,
        "left": tuning.value(repaired, measure(defense)),
        "plain": tuning.value(found[PLAIN, defense], measure(defense)),
    }


def best(tried: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The setting under which least is left of what the defense restores or finds, of those that
    take hold and keep their stealth; of all, where none does."""
    done = [t for t in tried if "error" not in t]
    kept = [t for t in done if t["kept"]] or done
    return min(kept, key=lambda t: t["left"])["setting"] if kept else {}


def search(names: Sequence[str], folder: Path, config: Config) -> int:
    """Try the settings against each defense that has not been searched."""
    path = folder / FILE
    for name in names:
        known = searched(folder)
        tried = known.get(name, {}).get("tried", [])
        every = UNSEEN if name in DETECTORS else SETTINGS
        while len(tried) < len(every) and not enough(tried):
            print(f"{name}: setting {len(tried) + 1} of {len(every)}", flush=True)
            tried.append(try_setting(name, every[len(tried)], config))
            known[name] = {"tried": tried, "chosen": best(tried)}
            store(path, known)
    return 0


def searched(folder: Path) -> dict[str, dict[str, Any]]:
    """What has been found so far, by defense."""
    path = folder / FILE
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def enough(tried: Sequence[dict[str, Any]]) -> bool:
    return any(t.get("kept") and t["plain"] - t["left"] >= ENOUGH for t in tried)


def measure(name: str) -> str:
    """The metric of which the attacker takes as much as possible."""
    return FOUND if name in DETECTORS else RESTORED


def run(names: Sequence[str], folder: Path, config: Config) -> int:
    """Evaluate the chosen attacks, each defense in a run folder of its own."""
    known = searched(folder)
    if missing := [name for name in names if name not in known]:
        raise UserError(f"not searched: {', '.join(missing)}; run `adaptive.py search` first")
    for name in names:
        attacks = f"{PLAIN},{hardened(name, known[name]['chosen'])}"
        cells(
            replace(
                config, attacks=attacks, defenses=f"none,{name}", seeds=SEEDS, out=folder / name
            )
        )
    return 0


def line(name: str, told: dict[str, Any], records: Sequence[Record]) -> str:
    """A defense's row of the page."""
    chosen = hardened(name, told["chosen"])
    restored = {
        attack: {
            r.cell.seed: np.array(r.scores[measure(name)].each)
            for r in records
            if (r.cell.attack, r.cell.defense) == (attack, name)
        }
        for attack in (PLAIN, chosen)
    }
    plain, hard = ({"attack": by_seed} for by_seed in restored.values())
    share = [100 * np.mean(list(by_seed.values())) for by_seed in restored.values()]
    lost = paired_difference(hard, plain, attacks_fixed=True)
    bare = [r for r in records if (r.cell.attack, r.cell.defense) == (chosen, "none")]
    asr = pool([r.scores["asr"] for r in bare]).value
    setting = ", ".join(f"{k} {tuning.text(v)}" for k, v in told["chosen"].items()) or "its own"
    seen = noticed(bare).get(chosen)
    kept = f"lost: {', '.join(seen)}" if seen else "kept"
    return (
        f"| `{name}` | {len(told['tried'])} | {setting} | {100 * asr:.1f} | {kept} |"
        f" {share[0]:.1f} | {share[1]:.1f} | {difference_text(lost)} |"
    )


def report(folder: Path) -> int:
    known = searched(folder)
    lines = [
        "# Attackers who know the defense",
        "",
        "Written by `python benchmarks/adaptive.py report` from the records beside it, which"
        " `python benchmarks/adaptive.py search` and `run` made. How it is done: the first lines of"
        f" [adaptive.py](../../benchmarks/adaptive.py). At most {len(SETTINGS)} settings of"
        f" `+adaptive` were tried against each removal, and {len(UNSEEN)} against each detector,"
        f" which tries further ones of the attack by itself. {len(SEEDS)} seeds, scale `quick`; the"
        " interval is over seeds. *Stealth* is of the hardened attack without a defense. *Found* is"
        " the share of triggered prompts that a detector finds at 5 % of clean ones refused.",
    ]
    for kind, names, what in (("removal", RANKED, "restored"), ("detector", DETECTORS, "found")):
        lines += [
            "",
            f"| {kind} | settings | chosen | ASR % | stealth | {what}, plain % |"
            f" {what}, hardened % | difference, points |",
            "|---|---:|---|---:|---|---:|---:|---:|",
        ]
        for name in (n for n in names if (folder / n).is_dir()):
            found = stored_records(Store(folder / name, read_only=True))
            lines.append(line(name, known[name], found))
    (folder / "README.md").write_text("\n".join(lines) + "\n", "utf-8")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("search", "run", "report"))
    parser.add_argument("--methods", default=",".join(RANKED + DETECTORS), help="the defenses")
    parser.add_argument("--out", type=Path, default=RESULTS / "adaptive")
    parser.add_argument("--work", type=Path, default=RESULTS / "run-adaptive")
    parser.add_argument("--workers", type=int)
    flags = parser.parse_args()
    registry.attacks.load()
    config = Config(workers=flags.workers, threads=1, out=flags.work)
    if flags.what == "report":
        return report(flags.out)
    names = [name for name in flags.methods.split(",") if name]
    return {"search": search, "run": run}[flags.what](names, flags.out, config)


if __name__ == "__main__":
    raise SystemExit(ended(main))
