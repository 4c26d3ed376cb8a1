"""What a run shows, in sentences, and which of its cells have no result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.beyond_deletion import beyond_deletion
from t2i_backdoor_bench.report.metrics import LEAD, RELATIVE
from t2i_backdoor_bench.report.numbers import shown
from t2i_backdoor_bench.report.paired import of_two_metrics
from t2i_backdoor_bench.report.places import MARGIN, MIXED, TIE
from t2i_backdoor_bench.report.ranking import (
    LEAST_FIDELITY,
    Leaders,
    Summary,
    fidelity_before,
    leaders,
    summaries,
    winner,
)
from t2i_backdoor_bench.report.rows import rows
from t2i_backdoor_bench.report.took_hold import counted, left_out_text, took_hold
from t2i_backdoor_bench.stats.estimates import Estimate

NO_REPAIR = 0.2  # removed but not as asked, beyond what the base draws wrong itself
NAMED = 3  # so many rows are named; the others are counted


def smoke_note(records: Sequence[Record]) -> str:
    """What a smoke run says of itself; "" of another."""
    protocol = records[0].protocol if records else {}
    if protocol.get("scale") != "smoke" and protocol.get("training", 1) >= 1:
        return ""
    return (
        "This is a smoke run: it shows that everything works; its numbers say nothing of the"
        " methods."
    )


def percent(estimate: Estimate) -> str:
    """ "98.4 % [97.1, 99.1]"."""
    value, low, high = estimate
    ends = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * value:.1f} %{ends}"


def given(needs: str) -> str:
    """ "given the trigger and clean pairs"."""
    words = {
        "trigger": "the trigger",
        "clean_model": "the clean model",
        "clean_text_encoder": "the clean text encoder",
        "stream": "a stream of prompts",
    }
    names = [words.get(n, n.replace("_", " ")) for n in needs.split()]
    return f"given {' and '.join(names) or 'nothing'}"


def findings(records: Sequence[Record]) -> list[str]:
    """What the run shows, in a sentence each: who wins, whether the backdoors work, who is first
    among those that are given the same, what removal adds over deleting the trigger, and whose
    removal is no repair."""
    table = summaries(records)
    named = winner(records, table)
    out = [first_of(named)] if any(map(_defended, records)) else []
    out += _success(records)
    out += [first_of(group) for group in leaders(table).values() if group.rows != named.rows]
    out += beyond_deletion(table, records)
    effect = any(s.defense == "none" and "trigger_effect" in s.means for s in table)
    out += [_effect(table)] if effect else []
    return [*out, *_no_repair(table, records)]


def _defended(record: Record) -> bool:
    """Whether a defense was tried here, and how much it restores was judged."""
    score = record.scores.get(LEAD)
    return record.cell.defense != "none" and score is not None and score.value is not None


def first_of(group: Leaders) -> str:
    """The first of the defenses that are given the same, and what is not told apart from it; or why
    nothing is ranked."""
    if not group.rows:
        return f"No defense is ranked: {group.why}."
    first, *level = group.rows
    over, relative = "", first.means.get(RELATIVE)
    if first.attacks > 1:
        mean = 100 * first.means[LEAD].value
        over = f" under its strongest attack ({first.worst.attack}), and {mean:.1f} % in the mean"
        over += f" over {first.attacks} attacks"
    share = f"{percent(first.worst.restored)} of the triggered pictures{over}"
    if relative is not None:
        share += f"; {percent(relative)} relative to the model before the attack"
    what = given(first.needs)
    if group.ranked == 1:
        return f"Of the defenses {what}, only {first.defense} is ranked: it restores {share}."
    if not level:
        return f"Of the ranked defenses {what}, {first.defense} restores most: {share}."
    more = f" and {len(level) - NAMED} more" if len(level) > NAMED else ""
    return (
        f"Of the ranked defenses {what}, none is shown to restore most: {first.defense} restores"
        f" {share}; not told apart: {', '.join(map(_level, level[:NAMED]))}{more}."
    )


def _level(s: Summary) -> str:
    """A row that is not told apart from the one above, and how far that is shown."""
    step, value = s.place.step, f"{100 * s.worst.value:.1f} %"
    how = {
        TIE: f"tied within {100 * MARGIN:.0f} points",
        MIXED: f"differs on {step.differs} of {step.attacks} attacks",
    }
    return f"{s.defense} ({value}, {how.get(s.place.verdict, 'neither tied nor told apart')})"


def _success(records: Sequence[Record]) -> list[str]:
    """How often the attacks succeed where nothing is defended, and which did not take hold."""
    reasons = took_hold(records)
    asr = [
        (r["attack"], r["asr"])
        for r in rows(records)
        if r["defense"] == "none" and r.get("asr") is not None and not reasons[r["attack"]]
    ]
    left_out = [text] if (text := left_out_text(reasons)) else []
    if not asr:
        return left_out
    name, least = min(asr, key=lambda pair: pair[1])
    mean = sum(v for _, v in asr) / len(asr)
    if len(asr) == 1:
        tail = f" ({name})"
    elif least == max(v for _, v in asr):
        tail = ", with every attack"
    else:
        tail = f", least with {name} ({100 * least:.1f} %)"
    return [
        f"Without a defense {100 * mean:.1f} % of the triggered pictures show the backdoor{tail}.",
        *left_out,
    ]


def _no_repair(table: Sequence[Summary], records: Sequence[Record]) -> Iterator[str]:
    """The defenses that remove the backdoor and do not show what was asked for: by more than what
    the model before the attack draws wrong, and with no verdict where that draws most wrong."""
    attacks = counted(records)
    kept = [r for r in records if r.cell.attack in attacks]
    before = fidelity_before([r for r in kept if r.cell.defense == "none"])
    if before is None or before < LEAST_FIDELITY:
        return
    for s in table:
        own = [r for r in kept if r.cell.defense == s.defense]
        gap = None if s.defense == "none" else of_two_metrics(own, "removal_accuracy", LEAD)
        if gap is None or gap.low is None or gap.low <= 1 - before + NO_REPAIR:
            continue
        removed, share = s.means["removal_accuracy"].value, s.means[LEAD].value
        text = f"{100 * share:.1f} % show what was asked for"
        if relative := s.means.get(RELATIVE):
            text += f", {100 * relative.value:.1f} % relative to the model before the attack"
        yield (
            f"{s.defense} removes the backdoor from {100 * removed:.1f} % of the triggered"
            f" pictures, but only {text}."
        )


def _effect(table: Sequence[Summary]) -> str:
    """What the trigger of a suspected checkpoint does, without and with each defense."""
    found = [(s.defense, s.means["trigger_effect"]) for s in table if "trigger_effect" in s.means]
    texts = [
        f"{shown(e.value, False)} {'undefended' if d == 'none' else f'after {d}'}" for d, e in found
    ]
    return (
        "Effect of the trigger beyond harmless words in its place, in their standard deviations:"
        f" {', '.join(texts)}."
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
