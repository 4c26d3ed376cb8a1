"""What a run claims, one claim an attack and defense: measured here, beside what others
reported."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import Record, UserError
from t2i_backdoor_bench.report.metrics import metric_names
from t2i_backdoor_bench.report.rows import rows
from t2i_backdoor_bench.report.site.names import slug
from t2i_backdoor_bench.store.claims import CLAIM
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

COLUMNS = ("attack", "defense", "metric", "value", "source")
Reported = Mapping[tuple[str, str], Mapping[str, Mapping[str, Any]]]  # by attack and defense


def read_reported(path: Path) -> Reported:
    """Numbers that a paper reports, from a CSV file with the columns attack, defense, metric, value
    and source. Raises UserError."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if not set(COLUMNS) <= set(reader.fieldnames or ()):
                raise UserError(f"{path} needs the columns {', '.join(COLUMNS)}")
            for line in reader:
                number = {"value": float(line["value"]), "source": line["source"]}
                found.setdefault((line["attack"], line["defense"]), {})[line["metric"]] = number
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is no table of reported numbers: {error}") from None
    return found


def claims(store: Store, reported: Reported) -> dict[str, Any]:
    """By file name, one claim an attack and defense of the run: who makes it, of what, `measured`
    with the ends of intervals, and `reported` with the source. Raises UserError for reported
    numbers of what the run does not have."""
    records = stored_records(store)
    maker = store.read_record("claim", CLAIM) or {}
    table = {(row["attack"], row["defense"]): row for row in rows(records)}
    if left := [f"{a} x {d}" for a, d in reported if (a, d) not in table]:
        raise UserError(f"reported numbers are of cells that this run does not have: {left[0]}")
    return {
        f"{slug(attack)}--{slug(defense)}.json": _claim(
            row, records, maker, reported.get((attack, defense), {})
        )
        for (attack, defense), row in table.items()
    }


def _claim(
    row: Mapping[str, Any],
    records: Sequence[Record],
    maker: Mapping[str, Any],
    reported: Mapping[str, Any],
) -> dict[str, Any]:
    own = [r for r in records if (r.cell.attack, r.cell.defense) == (row["attack"], row["defense"])]
    measured = {
        name: {"value": row[name], "low": row.get(f"{name}_lo"), "high": row.get(f"{name}_hi")}
        for name in metric_names(records)
        if row.get(name) is not None
    }
    return {
        "by": maker.get("by", ""),
        "run": maker.get("title", ""),
        "base": row["base"],
        "attack": row["attack"],
        "defense": row["defense"],
        "needs": row["needs"].split(),
        "protocol": own[0].measured_by,
        "scale": own[0].protocol.get("scale", ""),
        "seeds": [r.cell.seed for r in own],
        "cells": [r.cell.key for r in own],
        "status": row["status"],
        "measured": measured,
        "reported": dict(reported),
    }
