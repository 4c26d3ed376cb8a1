"""The tables that compare our results with published numbers, and what guidance and removal
change."""

from __future__ import annotations

from typing import Any

from page_results import Results, share, table

from t2i_backdoor_bench.report.numbers import DASH, shown
from t2i_backdoor_bench.report.paired import paired_p
from t2i_backdoor_bench.stats import estimates as stats

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
QUALITY = {
    "fid": "FID",
    "clip_score": "CLIP score",
    "diversity": "diversity",
    "vendi": "Vendi score",
    "robustness": "robustness",
}


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
