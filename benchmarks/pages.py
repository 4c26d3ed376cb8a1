"""The tables and figures of README.md, docs/ and results/README.md that show committed results: put
between their marks from the records in results/. A figure in a sentence is `<!-- value: HOW FOLDER
METRIC DEFENSE ATTACKS -->12<!-- end -->`: HOW is `mean` (one digit behind the point), `round` or
`range` over the attacks, which are names or `all`.

python benchmarks/pages.py
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import Record, registry
from t2i_backdoor_bench.report import leaderboard
from t2i_backdoor_bench.report.formats import markdown
from t2i_backdoor_bench.report.main_table import main_table
from t2i_backdoor_bench.report.metrics import LEAD, reading
from t2i_backdoor_bench.report.numbers import DASH, needs_text, shown
from t2i_backdoor_bench.report.paired import paired_p
from t2i_backdoor_bench.report.ranking import Summary, summaries
from t2i_backdoor_bench.report.rows import rows as rows_of
from t2i_backdoor_bench.report.table import Cell
from t2i_backdoor_bench.stats import estimates as stats
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/claims.md", "docs/text-encoder.md", "results/README.md")
MARK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.S)
VALUE = re.compile(r"(<!-- value: ([^>]+) -->)[^<]*(<!-- end -->)")
FOLDERS = ("reference", "matrix", "attacks")  # where two have a row, the first is taken
N = 100  # prompts of the paper's table
# arXiv 2508.18235: removal accuracy in percent, pixel and style; None: "fails", without a number
PAPER = {
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
BLIND = (
    "t2ishield",
    "t2ishield_skdcag",
    "navi_skdcag",
    "blind_skdcag",
    "blind_uce",
    "blind_skdcag_text",
)
QUALITY = {
    "fid": "FID",
    "clip_score": "CLIP score",
    "diversity": "diversity",
    "vendi": "Vendi score",
    "robustness": "robustness",
}
MEANS = ("Restored %, mean", "RA %", "FID change %", "CLIP", "Seconds")
SUMMARY = (  # the rows of README.md
    "none",
    "frequency_locate+skdcag_text",
    "skdcag_text",
    "skdcag",
    "skd",
    "sau",
    "finetune_reversal",
)
Rows = dict[tuple[str, str], dict[str, Any]]  # (attack, defense) -> its row of table.csv


class Results:
    """The committed results: rows by attack and defense, and the records behind them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: dict[str, Rows] = {}
        self.records: dict[str, list[Record]] = {}
        for name in FOLDERS:
            if (root / name).is_dir():
                records = [r for r in stored_records(Store(root / name)) if r.status == "done"]
                self.records[name] = records
                self.rows[name] = {(row["attack"], row["defense"]): row for row in rows_of(records)}

    def row(self, attack: str, defense: str) -> dict[str, Any] | None:
        return next(
            (rows[attack, defense] for rows in self.rows.values() if (attack, defense) in rows),
            None,
        )

    def cells(self, attack: str, defense: str) -> list[Record]:
        """The records behind `row`."""
        for name, rows in self.rows.items():
            if (attack, defense) in rows:
                return [
                    r
                    for r in self.records[name]
                    if (r.cell.attack, r.cell.defense) == (attack, defense)
                ]
        return []

    @property
    def attacks(self) -> list[str]:
        return list(
            dict.fromkeys(a for rows in self.rows.values() for a, _ in rows if "[" not in a)
        )


def share(row: dict[str, Any] | None, metric: str) -> str:
    if row is None or row.get(metric) is None:
        return DASH
    return (
        f"{shown(row[metric], True)} [{shown(row[f'{metric}_lo'], True)},"
        f" {shown(row[f'{metric}_hi'], True)}]"
    )


def verdict(published: int | None, row: dict[str, Any] | None) -> str:
    """Whether a published share of N and a measured one can be the same: "agrees" where their 95 %
    intervals meet."""
    if published is None or row is None or row.get("removal_accuracy") is None:
        return ""
    low, high = stats.wilson(published / 100 * N, N)
    return (
        "higher"
        if row["removal_accuracy_lo"] > high
        else "lower"
        if row["removal_accuracy_hi"] < low
        else "agrees"
    )


def table(heads: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> str:
    rule = "|" + "---|" * left + "---:|" * (len(heads) - left)
    return "\n".join(
        [f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)]
    )


# ---------------------------------------------------------------------------------------- SKD-CAG
def removal(results: Results) -> str:
    """The paper's own table, beside ours."""
    lines = []
    for defense, published in PAPER.items():
        for kind, value, attacks in zip(("pixel", "style"), published, COLUMNS, strict=True):
            measured = [results.row(a, defense) for a in attacks]
            cells = [
                f"{share(row, 'removal_accuracy')} {verdict(value, row)}".strip()
                for row in measured
            ]
            restored = [share(row, "restoration_accuracy") for row in measured]
            claim = "fails" if value is None else f"{value} {interval(value)}"
            lines.append([CALLED.get(defense, f"`{defense}`"), kind, claim, *cells, *restored])
    heads = [
        "Method",
        "Backdoor",
        "Published RA %",
        "BadT2I, RA %",
        "poison, RA %",
        "BadT2I, restored %",
        "poison, restored %",
    ]
    return table(heads, lines, 2)


def interval(percent: float) -> str:
    low, high = stats.wilson(percent / 100 * N, N)
    return f"[{shown(low, True)}, {shown(high, True)}]"


def guidance(results: Results) -> str:
    """SKD-CAG against SKD, paired."""
    lines = []
    for attack in (a for pair in COLUMNS for a in pair):
        cells = {d: results.cells(attack, d) for d in ("skd", "skdcag")}
        p = (
            paired_p(cells["skdcag"], cells["skd"], "removal_accuracy")
            if all(cells.values())
            else None
        )
        names = [share(results.row(attack, d), "removal_accuracy") for d in cells]
        lines.append([f"`{attack}`", *names, DASH if p is None else f"{p:.2f}"])
    return table(["Attack", "`skd`, RA %", "`skdcag`, RA %", "p (McNemar)"], lines)


def quality(results: Results) -> str:
    """What removal costs, against the attacked model: over the attacks of the reference run."""
    lines = []
    rows = results.rows.get("reference", {})
    for metric, name in QUALITY.items():
        pairs = [
            (rows[a, "none"][metric], row[metric])
            for (a, d), row in rows.items()
            if d == "skdcag" and (a, "none") in rows
        ]
        pairs = [(x, y) for x, y in pairs if x is not None and y is not None]
        if pairs:
            changes = [100 * (y / x - 1) for x, y in pairs]
            lines.append(
                [
                    name,
                    f"{sum(changes) / len(changes):+.1f}",
                    f"{min(changes):+.1f} to {max(changes):+.1f}",
                    str(len(pairs)),
                ]
            )
    return table(["Metric", "Mean change, %", "Over the attacks, %", "Attacks"], lines)


# ------------------------------------------------------------------------------------------- others
def eviledit(results: Results) -> str:
    lines = []
    for name, called in (
        ("eviledit[context=phrase]", "closed form of one phrase, as published"),
        ("eviledit", "closed form of captions"),
    ):
        row = results.rows.get("attacks", {}).get((name, "none"))
        if row is not None:
            lines.append(
                [called, share(row, "asr_own"), share(row, "asr"), f"{row['fid_added'] * 100:+.1f}"]
            )
    published = ["published, Stable Diffusion 1.x", "100", "37", DASH]
    return table(
        ["EvilEdit", "ASR % on its own template", "ASR % on captions", "FID added, %"],
        [published, *lines],
    )


def sight(
    results: Results, metric: str, methods: Sequence[str], form: Callable[[dict[str, Any]], str]
) -> str:
    """One metric of every detector or locator (columns) on every attack (rows), from the whole
    matrix."""
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


# ------------------------------------------------------------------------------------------- tables
def text_of(cell: Cell) -> str:
    """A number with its interval."""
    return f"{cell.text} [{', '.join(cell.interval)}]" if cell.interval else cell.text


def summary(results: Results) -> str:
    """A few rows of the reference run, for README.md: means over the attacks."""
    records = results.records["reference"]
    found = {s.defense: s for s in summaries(records)}
    lines = [[*named(found[d]), *means(found[d], records)] for d in SUMMARY]
    return table(["Defense", "Needs", *MEANS], lines, 2)


def headline(results: Results) -> str:
    """The reference run: Restored of every attack, and the means over the attacks."""
    records, rows = results.records["reference"], results.rows["reference"]
    attacks = list(dict.fromkeys(a for a, _ in rows))
    lines = []
    for s in summaries(records):
        cells = [
            shown(rows[a, s.defense][LEAD], True) if (a, s.defense) in rows else DASH
            for a in attacks
        ]
        lines.append([*named(s), *cells, *means(s, records)])
    return table(["Defense", "Needs", *(f"`{a}`" for a in attacks), *MEANS], lines, 2)


def named(s: Summary) -> list[str]:
    """A defense and what it is given."""
    return ["no defense" if s.defense == "none" else f"`{s.defense}`", needs_text(s.needs)]


def means(s: Summary, records: Sequence[Record]) -> list[str]:
    """The means over the attacks, in the order of `MEANS`."""
    restored, removed = (
        text_of(leaderboard.mean_of(s, reading(records, metric)))
        for metric in (LEAD, "removal_accuracy")
    )
    fid = DASH if s.defense == "none" else text_of(leaderboard.change(s.means.get("fid_change")))
    clip, seconds = (s.means[metric].value for metric in ("clip_score", "seconds"))
    return [f"**{restored}**", removed, fid, shown(clip, False), f"{seconds:.0f}"]


def attacks(results: Results) -> str:
    """The attacks that nothing defends against."""
    text = markdown.write(main_table(results.records["attacks"]))
    return text[: text.index("\n\n")]


def text_encoder(results: Results) -> str:
    """Removed and restored, of every attack, by what repairs the U-Net and what repairs the text
    encoder."""
    rows, lines = results.rows["matrix"], []
    edits = {r.cell.attack: r.edits for r in results.records["matrix"]}
    defenses = ("skdcag", "skdcag_text", "skd", "sau", "finetune_reversal")
    for attack in edits:
        found = [rows[attack, d] for d in defenses]
        both = [
            f"{100 * r['removal_accuracy']:.0f} / {100 * r['restoration_accuracy']:.0f}"
            for r in found
        ]
        lines.append([f"`{attack}`", edits[attack], *both])
    return table(["Attack", "Edits", *(f"`{d}`" for d in defenses)], lines, 2)


def encoder_seeds(results: Results) -> str:
    """Removed and restored of the attacks on the text encoder that have three seeds, by everything
    that has run on them."""
    records = [
        r for r in Store(results.root / "reference").all_results() if r.edits == "text encoder"
    ]
    by_pair, lines = {(row["attack"], row["defense"]): row for row in rows_of(records)}, []
    names = list(dict.fromkeys(a for a, _ in by_pair))
    needs = {row["defense"]: row["needs"] for row in by_pair.values()}
    mean = {d: sum(by_pair[a, d][LEAD] for a in names if (a, d) in by_pair) for d in needs}
    for defense in sorted(needs, key=lambda d: (d != "none", -mean[d])):
        found = [by_pair.get((a, defense)) for a in names]
        cells = [
            text for row in found for text in (share(row, "removal_accuracy"), share(row, LEAD))
        ]
        lines.append([f"`{defense}`", needs_text(needs[defense]), *cells])
    heads = [f"`{a}`, {what}" for a in names for what in ("removed", "restored")]
    return table(["Defense", "Needs", *heads], lines, 2)


def blind(results: Results) -> str:
    """Restored of the removals that are told nothing, of every attack."""
    rows, parts = (
        results.rows["matrix"],
        {name: registry.defenses.select(name)[0] for name in BLIND},
    )
    lines = []
    for attack in dict.fromkeys(a for a, _ in rows):
        found = [rows.get((attack, parts[name])) for name in BLIND]
        lines.append(
            [
                f"`{attack}`",
                *(DASH if r is None else shown(r["restoration_accuracy"], True) for r in found),
            ]
        )
    return table(["Attack", *(f"`{n}`" for n in BLIND)], lines)


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
}


def value(spec: str, results: Results) -> str:
    """A figure in a sentence, in percent. Raises KeyError or ValueError where a mark names
    nothing."""
    how, folder, metric, defense, names = spec.split()
    rows = results.rows[folder]
    chosen = [a for a, d in rows if d == defense] if names == "all" else names.split(",")
    shares = [100 * rows[attack, defense][metric] for attack in chosen]
    mean = sum(shares) / len(shares)
    if how == "range":
        return f"{min(shares):.0f} to {max(shares):.0f}"
    return f"{mean:.1f}" if how == "mean" else {"round": f"{mean:.0f}"}[how]


def page(text: str, results: Results) -> str:
    """A page with its tables and figures as of the results. Raises KeyError for a mark that names
    none."""
    text = MARK.sub(lambda m: f"{m[1]}\n{TABLES[m[2]](results)}\n\n{m[3]}", text)
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
