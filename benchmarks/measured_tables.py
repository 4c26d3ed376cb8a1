"""The tables of our own results: the leading runs, the whole matrix, detectors and locators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from page_results import CORE, Results, share, table, text_of

from t2i_backdoor_bench.contract import Record, registry
from t2i_backdoor_bench.report import leaderboard
from t2i_backdoor_bench.report.findings import first_of
from t2i_backdoor_bench.report.formats import markdown
from t2i_backdoor_bench.report.main_table import main_table
from t2i_backdoor_bench.report.metrics import LEAD, reading
from t2i_backdoor_bench.report.numbers import DASH, needs_text, shown
from t2i_backdoor_bench.report.ranking import Summary, summaries, winner
from t2i_backdoor_bench.report.rows import rows as rows_of
from t2i_backdoor_bench.report.table import Cell
from t2i_backdoor_bench.running.controls import is_control
from t2i_backdoor_bench.store.folder import Store

DETECTORS = (
    "t2ishield_ftt",
    "t2ishield_cda",
    "daa_i",
    "daa_s",
    "navit2i",
    "navit2i_untrusted",
    "ufid",
    "set",
    "grainps",
    "tnc",
    "amdet",
)
LOCATORS = ("t2ishield_locate", "navi_locate", "frequency_locate")
BLIND = (
    "t2ishield",
    "t2ishield_skdcag",
    "navi_skdcag",
    "blind_skdcag",
    "blind_uce",
    "blind_skdcag_text",
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


MEANS = ("Restored %, mean", "RA %", "FID change %", "CLIP", "Seconds")


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


def summary(results: Results) -> str:
    """The core run, for README.md: Worst, the means over the attacks, and what clean prompts
    lose."""
    records, lines = results.records[CORE], []
    for s in summaries(records):
        worst, attack = leaderboard.worst_cells(s)
        restored, removed = (
            text_of(leaderboard.mean_of(s, reading(records, metric)))
            for metric in (LEAD, "removal_accuracy")
        )
        kid = text_of(leaderboard.change(s.means.get("kid_change"), ""))
        name = f"**{worst.text}**" if s.place else worst.text
        worst = text_of(Cell(name, worst.value, worst.interval))
        seconds = f"{s.means['seconds'].value:.0f}" if "seconds" in s.means else DASH
        lines.append([*named(s), worst, attack.text, restored, removed, kid, seconds])
    heads = ["Defense", "Needs", "Worst %", "under", "Restored %, mean", "RA %", "KID change"]
    return table([*heads, "Seconds"], lines, 2)


def named_first(results: Results) -> str:
    """Who wins the core run, in the words of the leaderboard, and what deleting the trigger
    reaches: a control, which repairs nothing."""
    registry.defenses.load()
    known, records = registry.defenses.entries, results.records[CORE]
    repairs = [r for r in records if not is_control(known[r.cell.defense])]
    (beside,) = (s for s in summaries(records) if s.defense == "strip_trigger")
    return (
        f"{first_of(winner(repairs))} Controls are left out: deleting the trigger restores"
        f" {100 * beside.worst.value:.1f} % under its strongest attack."
    )


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
