"""What was published beside what the committed results measure: docs/claims.md, from the records in results/.

    python benchmarks/claims.py

Text is in claims.md beside this file; every number that was measured here is put between its marks.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import stats, tables
from bench.paired import paired_p
from bench.publish import stored_records
from bench.store import Store
from bench.tables import DASH, Record, shown

TEXT = Path(__file__).with_suffix(".md")
FOLDERS = ("reference", "matrix", "attacks")  # where two have a row, the first is taken
N = 100  # prompts of the paper's table
PAPER = {  # arXiv 2508.18235: removal accuracy in percent, pixel and style; None: "fails", without a number
    "finetune_reversal": (97, 81),
    "skd": (97, 90),
    "skdcag_gaussian": (100, 85),
    "skdcag": (98, 93),
    "skdcag_random_words": (45, 76),
    "sau": (100, None),
}
CALLED = {"skdcag": "`skdcag` (target black)", "finetune_reversal": "`finetune_reversal` (oracle)"}
COLUMNS = (("badt2i_pixel", "poison_pixel"), ("badt2i_style", "poison_style"))
DETECTORS = ("t2ishield_ftt", "t2ishield_cda", "daa_i", "daa_s", "navit2i", "ufid")
LOCATORS = ("t2ishield_locate", "navi_locate", "frequency_locate")
QUALITY = {"fid": "FID", "clip_score": "CLIP score", "diversity": "diversity", "vendi": "Vendi score", "robustness": "robustness"}
Rows = dict[tuple[str, str], dict[str, Any]]  # (attack, defense) -> its row of table.csv


class Results:
    """The committed results: rows by attack and defense, and the records behind them."""

    def __init__(self, root: Path) -> None:
        self.rows: dict[str, Rows] = {}
        self.records: dict[str, list[Record]] = {}
        for name in FOLDERS:
            if (root / name).is_dir():
                records = [r for r in stored_records(Store(root / name)) if r[0].status == "done"]
                self.records[name] = records
                self.rows[name] = {(row["attack"], row["defense"]): row for row in tables.rows(records)}

    def row(self, attack: str, defense: str) -> dict[str, Any] | None:
        return next((rows[attack, defense] for rows in self.rows.values() if (attack, defense) in rows), None)

    def cells(self, attack: str, defense: str) -> list[Record]:
        """The records behind `row`."""
        for name, rows in self.rows.items():
            if (attack, defense) in rows:
                return [r for r in self.records[name] if (r[0].cell.attack, r[0].cell.defense) == (attack, defense)]
        return []

    @property
    def attacks(self) -> list[str]:
        return list(dict.fromkeys(a for rows in self.rows.values() for a, _ in rows if "[" not in a))


def share(row: dict[str, Any] | None, metric: str) -> str:
    if row is None or row.get(metric) is None:
        return DASH
    return f"{shown(row[metric], True)} [{shown(row[f'{metric}_lo'], True)}, {shown(row[f'{metric}_hi'], True)}]"


def verdict(published: int | None, row: dict[str, Any] | None) -> str:
    """Whether a published share of N and a measured one can be the same: "agrees" where their 95 % intervals meet."""
    if published is None or row is None or row.get("removal_accuracy") is None:
        return ""
    low, high = stats.wilson(published / 100 * N, N)
    return "higher" if row["removal_accuracy_lo"] > high else "lower" if row["removal_accuracy_hi"] < low else "agrees"


def table(heads: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> str:
    rule = "|" + "---|" * left + "---:|" * (len(heads) - left)
    return "\n".join([f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)])


# --------------------------------------------------------------------------------------------------------------------- SKD-CAG
def removal(results: Results) -> str:
    """The paper's own table, beside ours."""
    lines = []
    for defense, published in PAPER.items():
        for kind, value, attacks in zip(("pixel", "style"), published, COLUMNS, strict=True):
            measured = [results.row(a, defense) for a in attacks]
            cells = [f"{share(row, 'removal_accuracy')} {verdict(value, row)}".strip() for row in measured]
            restored = [share(row, "restoration_accuracy") for row in measured]
            claim = "fails" if value is None else f"{value} {interval(value)}"
            lines.append([CALLED.get(defense, f"`{defense}`"), kind, claim, *cells, *restored])
    heads = ["Method", "Backdoor", "Published RA %", "BadT2I, RA %", "poison, RA %", "BadT2I, restored %", "poison, restored %"]
    return table(heads, lines, 2)


def interval(percent: float) -> str:
    low, high = stats.wilson(percent / 100 * N, N)
    return f"[{shown(low, True)}, {shown(high, True)}]"


def guidance(results: Results) -> str:
    """SKD-CAG against SKD, paired."""
    lines = []
    for attack in (a for pair in COLUMNS for a in pair):
        cells = {d: results.cells(attack, d) for d in ("skd", "skdcag")}
        p = paired_p(cells["skdcag"], cells["skd"], "removal_accuracy") if all(cells.values()) else None
        names = [share(results.row(attack, d), "removal_accuracy") for d in cells]
        lines.append([f"`{attack}`", *names, DASH if p is None else f"{p:.2f}"])
    return table(["Attack", "`skd`, RA %", "`skdcag`, RA %", "p (McNemar)"], lines)


def quality(results: Results) -> str:
    """What removal costs, against the attacked model: over the attacks of the reference run."""
    lines = []
    rows = results.rows.get("reference", {})
    for metric, name in QUALITY.items():
        pairs = [(rows[a, "none"][metric], row[metric]) for (a, d), row in rows.items() if d == "skdcag" and (a, "none") in rows]
        pairs = [(x, y) for x, y in pairs if x is not None and y is not None]
        if pairs:
            changes = [100 * (y / x - 1) for x, y in pairs]
            lines.append([name, f"{sum(changes) / len(changes):+.1f}", f"{min(changes):+.1f} to {max(changes):+.1f}", str(len(pairs))])
    return table(["Metric", "Mean change, %", "Over the attacks, %", "Attacks"], lines)


# --------------------------------------------------------------------------------------------------------------------- others
def eviledit(results: Results) -> str:
    lines = []
    for name, called in (("eviledit[context=phrase]", "closed form of one phrase, as published"), ("eviledit", "closed form of captions")):
        row = results.rows.get("attacks", {}).get((name, "none"))
        if row is not None:
            lines.append([called, share(row, "asr_own"), share(row, "asr"), f"{row['fid_added'] * 100:+.1f}"])
    published = ["published, Stable Diffusion 1.x", "100", "37", DASH]
    return table(["EvilEdit", "ASR % on its own template", "ASR % on captions", "FID added, %"], [published, *lines])


def sight(results: Results, metric: str, methods: Sequence[str], form: Callable[[dict[str, Any]], str]) -> str:
    """One metric of every detector or locator (columns) on every attack (rows), from the whole matrix."""
    rows, lines = results.rows.get("matrix", {}), []
    for attack in dict.fromkeys(a for a, _ in rows):
        cells = []
        for method in methods:
            row = rows.get((attack, method))
            cells.append(DASH if row is None or row.get(metric) is None else form(row))
        lines.append([f"`{attack}`", *cells])
    return table(["Attack", *(f"`{m}`" for m in methods)], lines)


def detectors(results: Results) -> str:
    def form(row: dict[str, Any]) -> str:
        low, high = row["detection_auroc_lo"], row["detection_auroc_hi"]
        decoy = row.get("detection_auroc_decoy")
        seen = "**" if low > 0.5 else ""
        text = f"{seen}{row['detection_auroc']:.2f}{seen} [{low:.2f}, {high:.2f}]"
        return text if decoy is None else f"{text} / {decoy:.2f}"

    return sight(results, "detection_auroc", DETECTORS, form)


def locators(results: Results) -> str:
    def form(row: dict[str, Any]) -> str:
        return f"{shown(row['location_precision'], True)} / {shown(row['location_recall'], True)}"

    return sight(results, "location_recall", LOCATORS, form)


PARTS = {
    "removal": removal,
    "guidance": guidance,
    "quality": quality,
    "eviledit": eviledit,
    "detectors": detectors,
    "locators": locators,
}


def page(root: Path) -> str:
    """The whole page. Raises ValueError where the text lacks a mark."""
    results, text = Results(root), TEXT.read_text()
    for name, make in PARTS.items():
        mark = f"<!-- {name} -->"
        if text.count(mark) != 1:
            raise ValueError(f"{TEXT.name} must have one mark {mark}")
        text = text.replace(mark, make(results))
    return re.sub(r"\n{3,}", "\n\n", text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--page", type=Path, default=Path("docs/claims.md"))
    args = parser.parse_args()
    args.page.write_text(page(args.results))
    print(args.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
