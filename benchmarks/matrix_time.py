"""Where each second of a run goes: attacks, defenses, drawing, scoring, start.

    python run_bench.py --fresh --out results/run-time
    python benchmarks/matrix_time.py results/run-time

Reads run.json, in which each command notes what its processes spent in each phase, and the records,
which have the seconds of trainings. With several processes the seconds are those of all of them
together; they are of a clock, so a busy machine has more. `--last` reads the last command alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import Record, UserError
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import read_plan, stored_records

# what a process is in, as the display says it, and what that is
PARTS = {
    "start": "start",
    "train the attack": "attack",
    "defend": "defense",
    "generate before the attack": "drawing, clean",
    "generate": "drawing",
    "harmless words": "drawing",
    "screen": "screening",
    "probe": "probes",
    "score": "scoring",
}


def parts(commands: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of all processes of commands, by part of the work."""
    found: dict[str, float] = {}
    for command in commands:
        for phase, seconds in command.get("phases", {}).items():
            part = PARTS.get(phase, phase)
            found[part] = found.get(part, 0.0) + float(seconds)
    return found


def slowest(records: Sequence[Record]) -> list[tuple[str, float]]:
    """The seconds of each attack, trained once a seed, and of each defense over all its cells."""
    attacks: dict[tuple[str, int], float] = {}
    found: dict[str, float] = {}
    for record in (r for r in records if r.status == "done"):
        cell, cost = record.cell, record.cost
        attacks[cell.attack, cell.seed] = float(cost.get("seconds_attack") or 0.0)
        name = f"defense {cell.defense}"
        found[name] = found.get(name, 0.0) + float(cost.get("seconds") or 0.0)
    for (attack, _), seconds in attacks.items():
        name = f"attack {attack}"
        found[name] = found.get(name, 0.0) + seconds
    return sorted(found.items(), key=lambda pair: -pair[1])


def lines(store: Store, last: bool = False) -> list[str]:
    """What is printed of a run folder. Raises UserError where it does not say."""
    commands = read_plan(store).get("commands", [])
    commands = [c for c in commands if c.get("phases") and c.get("cells_made")]
    commands = commands[-1:] if last else commands
    found = parts(commands)
    whole = sum(found.values())
    if not whole:
        raise UserError(f"{store.root} does not say where its seconds went: run it anew")
    cells = sum(c["cells_made"] for c in commands)
    wall = sum(float(c.get("wall_seconds", 0.0)) for c in commands)
    out = [f"{cells} cells in {wall:.0f} s; {whole:.0f} s of all processes together:"]
    out += [
        f"{part:16}{seconds:9.1f} s {100 * seconds / whole:5.1f} %"
        for part, seconds in sorted(found.items(), key=lambda pair: -pair[1])
    ]
    out.append("of that, by the records (trainings alone):")
    out += [f"{name:40}{s:9.1f} s" for name, s in slowest(stored_records(store)) if s > 0]
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="a run folder")
    parser.add_argument("--last", action="store_true", help="of its last command alone")
    flags = parser.parse_args()
    try:
        print("\n".join(lines(Store(flags.folder, print, read_only=True), flags.last)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
