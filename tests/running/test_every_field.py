"""No field of a record or of run.json can be changed without a line of `verify`, but for those that
are listed here, which docs/trust.md names."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from forged import Forger, finished, forger  # noqa: F401 - fixtures

from t2i_backdoor_bench.running.agreement import about_record, about_run
from t2i_backdoor_bench.running.compare import MEASURED, compare_records
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.forms import WrongForm
from t2i_backdoor_bench.store.record_format import RECORD, parse_result

# who made a cell: `codes` looks at commits and sources alone, where this is a clone
MAKERS = ("extra.provenance.codes.", "extra.provenance.sources.", "extra.provenance.machine")
# where and when a run was made; `config` is read back as the settings of the plan
APART = ("config", "versions", "hardware", "commit", "commands")


def changed(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, (int, float)) else f"{value}x"


def each_change(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The value with one leaf changed, once for each leaf, and the path of that leaf."""
    pairs = (
        value.items()
        if isinstance(value, Mapping)
        else enumerate(value)
        if isinstance(value, list)
        else None
    )
    if pairs is None:
        yield path, changed(value)
        return
    for name, inner in list(pairs):
        for where, other in each_change(inner, f"{path}.{name}" if path else str(name)):
            whole = copy.copy(value)
            whole[name] = other
            yield where, whole


@pytest.mark.parametrize("pictures", [True, False])
def test_no_field_of_a_record_can_be_changed(
    finished: Config, forger: Forger, pictures: bool
) -> None:
    """Of a folder with pictures, and of one as it is published."""
    plan_, payload = plan(replace(finished, out=None)), forger.record()
    key, honest = payload["cell"]["key"], parse_result(payload)
    asked = plan_.metrics_of("shift_attack", "shift_back")
    if not pictures:
        for path in (forger.folder / "samples").iterdir():
            path.unlink()
    store = Store(forger.folder, lambda text: None, read_only=True)
    passed = set()
    for where, other in each_change(payload):
        try:
            RECORD(other, "")
        except WrongForm:
            continue
        record = parse_result(other)
        if not about_record(plan_, plan_, store, record, key) and not compare_records(
            record, honest, asked
        ):
            passed.add(where)
    assert not about_record(plan_, plan_, store, honest, key)
    costs = set() if pictures else {f"cost.{name}" for name in MEASURED if name in honest.cost}
    costs -= {f"cost.{name}" for name in honest.scores}
    assert {where for where in passed if not where.startswith(MAKERS)} == costs


def test_no_part_of_run_json_can_be_changed(
    finished: Config, forger: Forger, tmp_path: Path
) -> None:
    plan_ = plan(replace(finished, out=tmp_path))
    store = Store(forger.folder, lambda text: None, read_only=True)
    records = {key: parse_result(payload) for key, payload in forger.cells.items()}
    assert not about_run(plan_, store, forger.manifest, records)
    for part in set(forger.manifest) - set(APART):
        changes = list(each_change({part: forger.manifest[part]}))
        for where, other in (changes[0], changes[len(changes) // 2], changes[-1]):
            found = about_run(plan_, store, forger.manifest | other, records)
            assert len(found) == 1, where
            assert where in found[0]
