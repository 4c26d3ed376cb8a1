"""The committed runs: their tables are what their records give, byte for byte, and reports that are
made anew keep their pictures, which no samples are there to draw."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from t2i_backdoor_bench.report.html import kept, page
from t2i_backdoor_bench.report.texts import texts
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import read_plan, stored_records

RESULTS = Path(__file__).resolve().parents[2] / "results"
PICTURES = {"reference": 231, "matrix": 555}
TABLES = ("table.csv", "rows.csv", "table.md", "table.tex", "leaderboard.md", "matrix.md")


@pytest.fixture(
    scope="module", params=["reference", pytest.param("matrix", marks=pytest.mark.thorough)]
)
def copied(request, tmp_path_factory):
    """A copy of a committed run: its store, its records and its name."""
    folder = tmp_path_factory.mktemp("runs") / request.param
    shutil.copytree(RESULTS / request.param, folder)
    said: list[str] = []
    store = Store(folder, said.append)
    return store, stored_records(store), request.param, said


def test_old_records_give_the_same_tables(copied) -> None:
    store, records, _, _ = copied
    found = texts(records)
    assert set(found) == set(TABLES)
    for name in TABLES:
        assert found[name].encode() == (store.root / name).read_bytes(), name


def test_a_report_that_is_made_anew_keeps_its_pictures(copied) -> None:
    store, records, name, said = copied
    before = kept.read(store.root / "report.html")
    path = page.write(store, records)
    after = kept.read(path)
    assert path.read_text(encoding="utf-8").count("<img ") == PICTURES[name]
    assert (after.pictures, after.maps, after.unread) == (before.pictures, before.maps, 0)
    assert f"{PICTURES[name]} pictures kept from the earlier report" in said[-1]
    assert "unsafe" not in path.read_text(encoding="utf-8")[:2000]


def test_the_plan_of_each_committed_run_is_whole_and_names_its_records() -> None:
    """A changed plan counts as absent, and then what an earlier plan left stands in the tables."""
    for path in sorted([*RESULTS.glob("*/run.json"), *RESULTS.glob("studies/*/run.json")]):
        if path.parent.name.startswith("run-"):
            continue  # a run of somebody's own
        plan = read_plan(Store(path.parent))
        assert plan, path
        assert len(plan["cells"]) == len(Store(path.parent).all_results()), path


def test_committed_runs_are_packed_and_small() -> None:
    """Records are one compressed file a folder, and all results together have at most 60 MB."""
    if shutil.which("git") is None:
        pytest.skip("git is not here: nothing says which results are committed")
    asked = ["git", "ls-files", "-z", "--", str(RESULTS)]
    told = subprocess.run(asked, capture_output=True, cwd=RESULTS, check=False).stdout.decode()
    paths = [RESULTS / name for name in told.split("\0") if name and (RESULTS / name).exists()]
    if not paths:
        pytest.skip("not a clone: nothing says which results are committed")
    assert not [p for p in paths if p.parent.name == "cells"], "run_bench.py pack FOLDER"
    assert sum(p.stat().st_size for p in paths) <= 60e6
