"""The tables that compare our results with published numbers, and what guidance and removal
change."""

from __future__ import annotations

from typing import Any

from page_results import Results, share, table
from sentences import difference_text

from t2i_backdoor_bench.report.numbers import DASH, p_text, shown
from t2i_backdoor_bench.report.paired import difference, paired_p
from t2i_backdoor_bench.stats import estimates as stats
from t2i_backdoor_bench.stats.estimates import Difference

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
COSTS = ("skdcag", "skd", "skdcag_text")  # the defenses whose costs stand in a table
QUALITY = {  # metric: name, and what its differences are multiplied by
    "prompt_fidelity": ("prompt fidelity, points", 100),
    "clip_score": ("CLIP score", 1),
    "fid": ("FID", 1),
    "diversity": ("diversity", 1),
    "vendi": ("Vendi score", 1),
    "robustness": ("robustness, points", 100),
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
        names = [share(results.row(attack, d), "removal_accuracy") for d in cells]
        pair = (cells["skdcag"], cells["skd"])
        found = difference(*pair, "removal_accuracy") if all(pair) else None
        p = paired_p(*pair, "removal_accuracy") if all(pair) else None
        lines.append([f"`{attack}`", *names, difference_text(found), p_text(p)])
    heads = ["`skd`, RA %", "`skdcag`, RA %", "Difference, points", "p (McNemar)"]
    return table(["Attack", *heads], lines)


def quality(results: Results) -> str:
    """What removal costs, against the attacked model: over the attacks of the reference run."""
    records = results.records["reference"]
    lines = []
    for metric, (name, factor) in QUALITY.items():
        cells = []
        for defense in COSTS:
            rows = [[r for r in records if r.cell.defense == d] for d in (defense, "none")]
            found = difference(*rows, metric, attacks_fixed=True) if all(rows) else None
            cells.append(DASH if found is None else scaled_text(found, factor))
        lines.append([name, *cells])
    return table(["Metric", *(f"`{d}`" for d in COSTS)], lines)


def scaled_text(found: Difference, factor: float) -> str:
    """A difference in a metric's own units, with its interval over training seeds."""
    value, low, high = (None if v is None else f"{factor * v:+.2f}" for v in found[:3])
    return f"{value} [{low}, {high}]" if low is not None else f"{value}"


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
