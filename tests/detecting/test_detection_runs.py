"""Detectors, locators and probes through the runner, on a tiny random model."""

from __future__ import annotations

import csv
import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
from fakes import METRICS, SCALE, FakeAttack, FakeDefense, change, forbid_drawing, records, table

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import Defense, registry
from t2i_backdoor_bench.detecting.screening import screened
from t2i_backdoor_bench.report.metrics import COST
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.stats.estimates import auroc
from t2i_backdoor_bench.store.folder import Store

DETECTION = (
    "detection_auroc,detection_tpr,detection_f1,detection_ms,refusal_rate,"
    "detection_tpr_1,detection_auroc_reworded,refusal_reworded"
)
ASKED: list[str] = []


@dataclass
class FakeDetector(Defense):
    """Scores a prompt by its length, and counts what it is asked."""

    prompts: int = 20

    @property
    def needs_prompts(self) -> int:
        return self.prompts

    def apply(self, model, view, seed):
        def score(prompts):
            ASKED.extend(prompts)
            return np.array([len(p) + 100 * ("mignneko" in p) for p in prompts], float)

        return screened(model, score, view.first(self.prompts), 0.05)


@pytest.fixture(autouse=True)
def fakes(clean_registry, tiny):
    ASKED.clear()
    registry.register_attack("fake_attack")(FakeAttack)
    registry.register_defense("fake_defense", needs=("trigger", "clean_prompts"))(FakeDefense)
    registry.register_defense("fake_detector", needs=("clean_prompts",), screens=True)(FakeDetector)


@pytest.fixture
def config(tmp_path, tiny):
    return Config(
        "fake_attack",
        "none,fake_detector",
        tiny,
        SCALE,
        metrics=f"{METRICS},{DETECTION}",
        out=tmp_path / "run",
        workers=1,
    )


def test_scores_are_stored_and_measured(config):
    assert runner.run(config) == 0
    assert len(ASKED) == len(set(ASKED)), "a prompt is scored once"
    cell = plan(config).cells[1]
    arrays, meta = Store(config.folder).read_arrays(f"samples/{cell.key}")
    clean, triggered = arrays["score/clean"], arrays["score/triggered"]
    assert (triggered - clean > 100).all()
    assert arrays["refused/triggered"].all()
    assert set(arrays) >= {"score/moved", "score/perturbed", "refused/diverse", "score/reworded"}
    assert "reworded" not in arrays, "nobody draws them"
    scores = records(config)["fake_attack", "fake_detector", 0].scores
    assert scores["detection_auroc"].value == auroc(clean, triggered) == 1
    assert scores["detection_tpr"].value == 1
    reworded = auroc(arrays["score/reworded"], triggered)
    assert scores["detection_auroc_reworded"].value == reworded
    assert scores["refusal_reworded"].value == arrays["refused/reworded"].mean()
    assert "needs 100 clean prompts" in scores["detection_tpr_1"].note
    refused = arrays["refused/clean"].mean()
    assert scores["refusal_rate"].value == refused
    assert scores["detection_f1"].value == pytest.approx(2 / (2 + refused))
    assert scores["detection_ms"].value == meta["cost"]["detection_ms"] > 0
    assert (arrays["clean"].reshape(4, -1).max(1) == 0).tolist() == arrays["refused/clean"].astype(
        bool
    ).tolist()
    again = change(config, metrics="all")
    assert runner.run(again) == 0
    assert (
        records(again)["fake_attack", "fake_detector", 0].scores["detection_auroc"]
        == scores["detection_auroc"]
    )


def test_what_only_detectors_are_measured_by_leaves_other_records_whole(config, monkeypatch):
    runner.run(change(config, metrics=METRICS))
    key = plan(config).cells[0].key
    (config.folder / "samples" / f"{key}.safetensors").unlink()  # as published records are
    forbid_drawing(monkeypatch)
    assert runner.run(config) == 0
    none, detector = table(config)
    assert none["detection_auroc"] == none["refusal_rate"] == none["detection_ms"] == ""
    assert detector["detection_auroc"] == "1"
    with (config.folder / "rows.csv").open() as file:
        notes = {(r["defense"], r["metric"]): r["note"] for r in csv.DictReader(file)}
    assert "detector" in notes["none", "detection_auroc"]


def test_a_composition_that_ends_without_a_screen_says_so(config, clean_registry):
    @dataclass
    class Open(Defense):
        """Takes the screen off."""

        def apply(self, model, view, seed):
            return dataclasses.replace(model, screen=None)

    registry.register_defense("fake_open")(Open)
    both = change(config, defenses="fake_detector+fake_open")
    assert runner.run(both) == 0
    for score in records(both)["fake_attack", "fake_detector+fake_open", 0].scores.values():
        assert score.value is not None or "no detector" in score.note
    assert table(both)[0]["refusal_rate"] == ""


def test_two_cold_runs_agree_but_for_the_cost(config, tmp_path):
    other = change(config, out=tmp_path / "again")
    assert runner.run(config) == runner.run(other) == 0
    one, two = (
        [{k: v for k, v in row.items() if k not in COST} for row in table(c)]
        for c in (config, other)
    )
    assert one == two
