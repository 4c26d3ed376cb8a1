"""The tables of the runs on blind removal: results/studies/stream_share, stream_kinds and
blind_repair, which are the suites of these names."""

from __future__ import annotations

from collections.abc import Sequence

from page_results import Results, share, table

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.contract.names import parts_of, read
from t2i_backdoor_bench.report.numbers import DASH
from t2i_backdoor_bench.report.rows import rows as rows_of
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

RESTORED = "restoration_accuracy"


def stream_share(results: Results) -> str:
    """Recall, accepted and restored of each defense (columns), by the share of the stream."""
    records = of_suite(results, "stream_share")
    rows = {(row["attack"], row["defense"]): row for row in rows_of(records)}
    names = [d for d in dict.fromkeys(d for _, d in rows) if d != "none"]
    lines = []
    for attack in sorted(dict.fromkeys(a for a, _ in rows), key=traffic):
        cells = [f"{100 * traffic(attack):g} %"]
        for name in names:
            row = rows.get((attack, name))
            recall, restored = (share(row, m) for m in ("location_recall", RESTORED))
            cells += [accepted(records, attack, name), recall, restored]
        lines.append(cells)
    heads = [f"`{n}` {what}" for n in names for what in ("accepted", "recall %", "restored %")]
    return table(["Triggered", *heads], lines)


def stream_kinds(results: Results) -> str:
    """What is accepted, found and restored in each stream, with and without a backdoor."""
    return by_attack(of_suite(results, "stream_kinds"), (RESTORED, "location_recall"))


def blind_repair(results: Results) -> str:
    """What is accepted and restored with little or no triggered traffic, with and without a
    backdoor."""
    return by_attack(of_suite(results, "blind_repair"), (RESTORED,))


def by_attack(records: Sequence[Record], metrics: Sequence[str]) -> str:
    titles = {RESTORED: "Restored %", "location_recall": "Recall %"}
    lines = [
        [
            f"`{row['attack']}`",
            accepted(records, row["attack"], row["defense"]),
            *(share(row, m) for m in (*metrics, "prompt_fidelity")),
        ]
        for row in rows_of(records)
        if row["defense"] != "none"
    ]
    heads = ["Attack and stream", "Accepted", *(titles[m] for m in metrics), "Prompt fidelity %"]
    return table(heads, lines)


def of_suite(results: Results, name: str) -> list[Record]:
    folder = results.root / "studies" / name
    return [r for r in stored_records(Store(folder, read_only=True)) if r.status == "done"]


def traffic(attack: str) -> float:
    """The share of the stream that a row's name gives."""
    return float(read(parts_of(attack)[-1])[1]["share"])


def accepted(records: Sequence[Record], attack: str, defense: str) -> str:
    """In how many of the runs a text was taken for the trigger."""
    found = [
        score.value
        for r in records
        if (r.cell.attack, r.cell.defense) == (attack, defense)
        and (score := r.scores.get("trigger_accepted"))
        and score.value is not None
    ]
    return f"{sum(found):.0f} of {len(found)}" if found else DASH
