"""The real command on the embedded base: real training, generation and metrics, and the numbers in
the tables."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ["--attacks", "eviledit", "--defenses", "none,skdcag", "--no-controls"]
COMMAND += ["--scale", "smoke", "--n", "20", "--set", "eviledit.prompts=200"]
COMMAND += ["--set", "skdcag.steps=150", "--set", "skdcag.prompts=100"]


def bench(*flags: str) -> subprocess.CompletedProcess:
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "run_bench.py", *flags],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("e2e") / "run"
    done = bench(*COMMAND, "--out", str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "eviledit" in done.stdout
    return out


def test_the_attack_works_and_the_defense_removes_it(run: Path):
    table = pd.read_csv(run / "table.csv").set_index("defense")
    assert table.status.tolist() == ["done", "done"]
    assert table.loc["none", "asr"] >= 0.75
    assert table.loc["none", "false_trigger_rate"] <= 0.1
    assert table.loc["skdcag", "asr"] <= 0.25
    assert table.loc["skdcag", "removal_accuracy"] == pytest.approx(
        1 - table.loc["skdcag", "asr"], abs=1e-3
    )
    assert (
        table.loc["skdcag", "restoration_accuracy"]
        >= 0.6
        > table.loc["none", "restoration_accuracy"]
    )
    assert (table.asr_lo <= table.asr).all()
    assert (table.asr <= table.asr_hi).all()
    # a model that only draws noise would remove the backdoor too: it must still draw what clean
    # prompts ask for
    assert table.loc["skdcag", "prompt_fidelity"] >= 0.7
    assert (table.drift > 0).all()


def test_files(run: Path):
    for name in ("table.csv", "rows.csv", "table.tex", "table.md", "grid.png", "run.json"):
        assert (run / name).stat().st_size > 100, name
    assert "toprule" in (run / "table.tex").read_text()


def test_a_second_run_has_nothing_to_do_and_changes_nothing(run: Path):
    before = (run / "table.csv").read_bytes()
    written = (run / "report.html").stat().st_mtime_ns
    done = bench(*COMMAND, "--out", str(run))
    assert done.returncode == 0
    assert "2 of 2 cells are stored" in done.stderr
    assert (run / "table.csv").read_bytes() == before
    # nothing was written again: what finished was known without planning it (`running.repeated`)
    assert (run / "report.html").stat().st_mtime_ns == written


def test_tables_only_without_a_model(run: Path):
    before = (run / "table.csv").read_bytes()
    (run / "table.csv").unlink()
    assert bench("--tables-only", "--out", str(run)).returncode == 0
    assert (run / "table.csv").read_bytes() == before
