"""The tables and figures of README.md, docs/ and results/README.md that show committed results: put
between their marks from the records in results/. A figure in a sentence is `<!-- value: HOW FOLDER
METRIC DEFENSE ATTACKS -->12<!-- end -->`: HOW is `mean` (one digit behind the point), `round` or
`range` over the attacks, which are names or `all` (that took hold). A sentence about two defenses
is `<!-- compare: FOLDER METRIC ONE OTHER ATTACKS -->...<!-- end -->`: it says no more than the
interval of their difference over training seeds shows. `<!-- winner -->...<!-- end -->` says who
wins the core run.

python benchmarks/pages.py
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from base_tables import base_agreement, base_attacks, base_defenses
from measured_tables import (
    attacks,
    blind,
    detectors,
    encoder_seeds,
    headline,
    locators,
    named_first,
    summary,
    text_encoder,
)
from page_results import Results
from published_tables import eviledit, guidance, quality, removal
from sentences import compared
from zoo_report import of_results

from t2i_backdoor_bench.report.paired import difference
from t2i_backdoor_bench.report.took_hold import counted

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "docs/claims.md",
    "docs/families.md",
    "docs/pitfalls.md",
    "docs/text-encoder.md",
    "docs/vet-a-model.md",
    "results/README.md",
)
MARK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.S)
COMPARE = re.compile(r"(<!-- compare: ([^>]+) -->).*?(<!-- end -->)", re.S)
WINNER = re.compile(r"(<!-- winner -->).*?(<!-- end -->)", re.S)
VALUE = re.compile(r"(<!-- value: ([^>]+) -->)[^<]*(<!-- end -->)")
TABLES = {
    "summary": summary,
    "headline": headline,
    "attacks": attacks,
    "text-encoder": text_encoder,
    "encoder-seeds": encoder_seeds,
    "removal": removal,
    "guidance": guidance,
    "quality": quality,
    "eviledit": eviledit,
    "detectors": detectors,
    "locators": locators,
    "blind": blind,
    "zoo": of_results,
    "base-attacks": base_attacks,
    "base-defenses": base_defenses,
    "base-agreement": base_agreement,
}


def value(spec: str, results: Results) -> str:
    """A figure in a sentence, in percent. Raises KeyError or ValueError where a mark names
    nothing."""
    how, folder, metric, defense, names = spec.split()
    rows = results.rows[folder]
    kept = counted(results.records.get(folder, []))  # no mean has attacks that did not take hold
    every = [a for a, d in rows if d == defense and (not kept or a in kept)]
    chosen = every if names == "all" else names.split(",")
    shares = [100 * rows[attack, defense][metric] for attack in chosen]
    mean = sum(shares) / len(shares)
    if how == "range":
        return f"{min(shares):.0f} to {max(shares):.0f}"
    return f"{mean:.1f}" if how == "mean" else {"round": f"{mean:.0f}"}[how]


def comparison(spec: str, results: Results) -> str:
    """A sentence about two defenses, over the attacks that are named or `all`. Raises ValueError
    for a mark that names no records."""
    folder, metric, one, other, names = spec.split()
    rows = {
        name: [
            r
            for r in results.records[folder]
            if r.cell.defense == name and (names == "all" or r.cell.attack in names.split(","))
        ]
        for name in (one, other)
    }
    if not all(rows.values()):
        raise ValueError(f"no records of {one} and {other} in {folder}")
    found = difference(rows[one], rows[other], metric, attacks_fixed=True)
    return compared(f"`{one}`", f"`{other}`", found)


def page(text: str, results: Results) -> str:
    """A page with its tables and figures as of the results. Raises KeyError for a mark that names
    none."""
    text = MARK.sub(lambda m: f"{m[1]}\n{TABLES[m[2]](results)}\n\n{m[3]}", text)
    text = WINNER.sub(lambda m: f"{m[1]}{named_first(results)}{m[2]}", text)
    text = COMPARE.sub(lambda m: f"{m[1]}{comparison(m[2], results)}{m[3]}", text)
    return VALUE.sub(lambda m: f"{m[1]}{value(m[2], results)}{m[3]}", text)


def main() -> int:
    results = Results(ROOT / "results")
    for name in PAGES:
        path = ROOT / name
        path.write_text(page(path.read_text(encoding="utf-8"), results), encoding="utf-8")
        print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
