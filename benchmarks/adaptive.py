"""Does a removal, a locator or a detector survive an attacker who knows it?

    python benchmarks/adaptive.py search            # settings, on the development split; hours
    python benchmarks/adaptive.py run               # the chosen ones on the evaluation split
    python benchmarks/adaptive.py report            # results/adaptive/README.md and two suites
    python run_bench.py --suite adaptive --out results/adaptive     # Worst; `run` made a part of it

A defense that does not handle an attack loses nothing by a better one. So for every ranked defense
the search first measures plain attacks, in the order of `attackers.CANDIDATES`, until the defense
restores 80 % of one (a detector: finds 80 % of its triggered prompts). It takes the one of which
the defense restores or finds most, of those that take hold and keep their stealth. Below 20 % on
all of them there is nothing to lose, and the search of this defense ends.

That attack is hardened against the defense (`+adaptive[against=...]`). The attacker tries the
settings of `attackers.SETTINGS` in their order, with a trigger and a target of their own, until the
defense restores or finds 40 points less than of the plain attack, and keeps the setting under which
it restores or finds least, of those that take hold and keep their stealth by the rule of Worst.
Each is a cell of the development split, so that the evaluation split is seen once. All cells of a
command share a folder, and with it the plain attacks and the pictures of the clean model. A killed
command resumes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import attackers
import tuning
from adaptive_page import FILE, report, write_suites
from attackers import DEFENSES, EVALUATION, SEARCH, SETTINGS, hardened, kind
from development import Development
from ended import ended
from tune import store

from t2i_backdoor_bench.contract import Record, UserError, registry
from t2i_backdoor_bench.running.run import run as make_cells
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

RESULTS = Path("results")


def cells(config: Config, data: Development | None = None) -> list[Record]:
    """The cells of a run, made where they are not stored."""
    if make_cells(config, data) == 130:
        raise KeyboardInterrupt
    return stored_records(Store(config.folder))


def measured(attack: str, defense: str, config: Config) -> dict[str, Any]:
    """What an attack, plain or hardened, reaches on the development split (`attackers.reached`)."""
    plain = attack.partition("+")[0]
    own = tuning.other(registry.attacks.get(plain))
    found = cells(
        replace(
            config,
            attacks=attack,
            defenses=f"none,{defense}",
            scale=SEARCH,
            overrides=tuple(f"{plain}.{k}={v}" for k, v in own.items()),
        ),
        Development(),
    )
    by_defense = {r.cell.defense: r for r in found}
    return attackers.reached(by_defense["none"], by_defense[defense])


def search(names: Sequence[str], folder: Path, config: Config) -> int:
    """Find the plain attack of each defense, and try the settings against it."""
    for name in names:
        told = searched(folder).get(name, {"plain": {}, "attack": "", "tried": [], "chosen": {}})
        tried, every = told["tried"], SETTINGS[kind(name)]
        if not tried:
            told["plain"] = {a: m for a, m in told["plain"].items() if "error" not in m}
        while not tried and (attack := attackers.next_plain(name, told["plain"])):
            print(f"{name}: {attack}, plain", flush=True)
            told["plain"][attack] = measured(attack, name, config)
            told["attack"] = attackers.plain_of(told["plain"])
            keep(folder, name, told)
        attack = told["attack"]
        if not attack:
            print(f"{name}: {attackers.nothing(told['plain'])}", flush=True)
            continue
        plain = told["plain"][attack]
        most = attackers.minutes(name, attack, plain["seconds"], every[len(tried) :])
        while len(tried) < len(every) and not attackers.enough(tried, plain["left"]):
            number = f"setting {len(tried) + 1} of {len(every)}"
            print(f"{name}: {number}, {most:.0f} core-minutes at most for all", flush=True)
            setting = every[len(tried)]
            found = measured(hardened(attack, name, setting), name, config)
            tried.append({"setting": setting} | found)
            told["chosen"] = attackers.best(tried)
            told["hardened"] = hardened(attack, name, told["chosen"])
            keep(folder, name, told)
    return 0


def searched(folder: Path) -> dict[str, dict[str, Any]]:
    """What has been found so far, by defense."""
    path = folder / FILE
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def keep(folder: Path, name: str, told: dict[str, Any]) -> None:
    """Keep what is found of one defense. Commands for other defenses may run beside this one."""
    store(folder / FILE, searched(folder) | {name: told})


def run(names: Sequence[str], folder: Path, config: Config) -> int:
    """Evaluate the chosen attacks, all in one run folder; which cells are a defense's stands beside
    what was searched."""
    known = searched(folder)
    if missing := [n for n in names if not (known.get(n, {}).get("tried") or nothing_of(known, n))]:
        raise UserError(f"not searched: {', '.join(missing)}; run `adaptive.py search` first")
    for name in (n for n in names if known[n]["attack"]):
        told = known[name]
        attacks = f"{told['attack']},{told['hardened']}"
        found = cells(
            replace(config, attacks=attacks, defenses=f"none,{name}", scale=EVALUATION, out=folder)
        )
        told["cells"] = [r.cell.key for r in found]
        keep(folder, name, told)
    return 0


def nothing_of(known: dict[str, dict[str, Any]], name: str) -> bool:
    """Whether the search of a defense has ended, as there is nothing to lose."""
    told = known.get(name, {"plain": {}, "attack": ""})
    return not told["attack"] and not attackers.next_plain(name, told["plain"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("search", "run", "report"))
    every = ",".join(name for names in DEFENSES.values() for name in names)
    parser.add_argument("--methods", default=every, help="the defenses")
    parser.add_argument("--out", type=Path, default=RESULTS / "adaptive")
    parser.add_argument("--work", type=Path, default=RESULTS / "run-adaptive")
    parser.add_argument("--workers", type=int)
    flags = parser.parse_args()
    registry.attacks.load()
    if flags.what == "report":
        if not (known := searched(flags.out)):
            raise UserError("nothing is searched; run `adaptive.py search` first")
        write_suites(known)
        return report(known, flags.out)
    names = [name for name in flags.methods.split(",") if name]
    for name in names:
        kind(name)
    config = Config(workers=flags.workers, threads=1, out=flags.work)
    return {"search": search, "run": run}[flags.what](names, flags.out, config)


if __name__ == "__main__":
    raise SystemExit(ended(main))
