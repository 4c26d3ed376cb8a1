"""What a run shows, in sentences, and which of its cells have no result."""

from __future__ import annotations

from collections.abc import Sequence

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.metrics import LEAD
from t2i_backdoor_bench.report.numbers import shown
from t2i_backdoor_bench.report.ranking import Summary, summaries
from t2i_backdoor_bench.report.rows import rows
from t2i_backdoor_bench.stats.estimates import Estimate

WORKS = 0.5  # attack success of the undefended model, below which there is little to defend against


def percent(estimate: Estimate) -> str:
    """ "98.4 % [97.1, 99.1]"."""
    value, low, high = estimate
    ends = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * value:.1f} %{ends}"


def given(needs: str) -> str:
    """ "given the trigger and clean pairs"."""
    words = {"trigger": "the trigger", "clean_model": "the clean model"}
    names = [words.get(n, n.replace("_", " ")) for n in needs.split()]
    return f"given {' and '.join(names) or 'nothing'}"


def findings(records: Sequence[Record]) -> list[str]:
    """What the run shows, in a sentence each: do the backdoors work, who repairs best among those
    that are given the same, and whose removal is no repair."""
    table = summaries(records)
    undefended = next((s for s in table if s.defense == "none"), None)
    means = undefended.means if undefended is not None else {}
    out = _success(records) if "removal_accuracy" in means else []
    ranked = [s for s in table if s.rank]
    for needs in dict.fromkeys(s.needs for s in ranked):
        out.append(_first_of([s for s in ranked if s.needs == needs]))
    out += [_effect(table)] if "trigger_effect" in means else []
    for s in table:
        removal, lead = s.means.get("removal_accuracy"), s.means.get(LEAD)
        if s.defense != "none" and removal and lead and removal.value - lead.value > 0.2:
            out.append(
                f"{s.defense} removes the backdoor from {100 * removal.value:.1f} % of the"
                f" triggered pictures, but only {100 * lead.value:.1f} % show what was asked for."
            )
    return out


def _success(records: Sequence[Record]) -> list[str]:
    """How often the attacks succeed where nothing is defended."""
    undefended = [r for r in rows(records) if r["defense"] == "none"]
    asr = [(r["attack"], r["asr"]) for r in undefended if r.get("asr") is not None]
    if not asr:
        return []
    name, least = min(asr, key=lambda pair: pair[1])
    mean = sum(v for _, v in asr) / len(asr)
    if len(asr) == 1:
        tail = f" ({name})"
    elif least == max(v for _, v in asr):
        tail = ", with every attack"
    else:
        tail = f", least with {name} ({100 * least:.1f} %)"
    out = [
        f"Without a defense {100 * mean:.1f} % of the triggered pictures show the backdoor{tail}."
    ]
    loose = [a for a, v in asr if v < WORKS]
    if loose:
        out.append(
            f"Not taken hold: {', '.join(loose)} (below {100 * WORKS:.0f} %); rows of such"
            " an attack say nothing of a defense."
        )
    return out


def _first_of(rivals: Sequence[Summary]) -> str:
    """The best of the defenses that are given the same."""
    first = rivals[0]
    over = ""
    if first.attacks > 1:
        attack, value = first.worst
        over = f" on average over {first.attacks} attacks (worst {100 * value:.1f} %, {attack})"
    kept = " without loss of quality" if first.lost == [] else ""
    tied = [s.defense for s in rivals[1:] if s.tied]
    return (
        f"{given(first.needs).capitalize()}, {first.defense} restores {percent(first.means[LEAD])}"
        f" of the triggered pictures{kept}{over}"
        + (f"; not separated from it: {', '.join(tied)}" if tied else "")
        + "."
    )


def _effect(table: Sequence[Summary]) -> str:
    """What the trigger of a suspected checkpoint does, without and with each defense."""
    found = [(s.defense, s.means["trigger_effect"]) for s in table if "trigger_effect" in s.means]
    texts = [
        f"{shown(e.value, False)} {'undefended' if d == 'none' else f'after {d}'}" for d, e in found
    ]
    return (
        f"Effect of the trigger (1 - cosine to the picture without it): {', '.join(texts)}. Compare"
        " with harmless words in its place."
    )


def cells_without_result(records: Sequence[Record]) -> list[tuple[str, str]]:
    """The cells that failed or have not run, with the last line of the message."""
    out = []
    for record in records:
        if record.status != "done":
            text = (record.error.strip().splitlines() or ["has not run yet"])[-1]
            cell = record.cell
            out.append((f"{cell.attack} x {cell.defense}, seed {cell.seed}", text))
    return out
