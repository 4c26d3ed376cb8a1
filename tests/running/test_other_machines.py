"""An attack that was trained again, elsewhere, is another model: nothing is paired with it or
completed with it, and the tables say so."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
from methods import SCALE, Back, Shift
from test_drawing import Rewrites

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import Cell, Metric, Record, Score
from t2i_backdoor_bench.contract.hashing import digest
from t2i_backdoor_bench.report import leaderboard
from t2i_backdoor_bench.report import rows as tables
from t2i_backdoor_bench.report.paired import changes, paired_p
from t2i_backdoor_bench.running.cost import machine
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.store import provenance
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

CODE = {
    "commit": "a" * 40,
    "dirty": False,
    "source": "1",
    "versions": {"python": "3.11", "torch": "2.4.1"},
}


def record(
    defense: str,
    each: tuple[bool, ...],
    weights: str,
    seed: int = 0,
    of: str = "one",
    fid: float = 1.0,
):
    share = Score(sum(each) / len(each), 0.0, 1.0, len(each), each=each)
    scores = {"restoration_accuracy": share, "fid": Score(fid, fid - 0.1, fid + 0.1, 10)}
    origin = {"codes": [CODE], "attack_weights": weights, "machine": of}
    directions = {
        "restoration_accuracy": {"better": "higher", "percent": True},
        "fid": {"better": "lower", "percent": False},
    }
    cell = Cell("b", "a", defense, seed, f"{defense}{seed}")
    return Record(cell, "done", scores, directions=directions, provenance=origin)


GOOD, BAD = (True,) * 12, (False,) * 12


def test_cells_of_other_weights_are_not_paired() -> None:
    ours, theirs = [record("x", GOOD, "11")], [record("none", BAD, "11", fid=0.5)]
    assert paired_p(ours, theirs, "restoration_accuracy") == pytest.approx(2 * 0.5**12)
    assert changes(ours, theirs, "fid") == {0: 1.0}
    other = [record("none", BAD, "22", fid=0.5)]
    assert paired_p(ours, other, "restoration_accuracy") is None
    assert changes(ours, other, "fid") == {}


def test_of_several_seeds_those_of_the_same_weights_are_paired() -> None:
    ours = [record("x", GOOD, "11"), record("x", GOOD, "12", seed=1)]
    theirs = [record("none", BAD, "21"), record("none", GOOD, "12", seed=1, fid=2.0)]
    assert paired_p(ours, theirs, "restoration_accuracy") == 1.0
    assert changes(ours, theirs, "fid") == {1: -0.5}


def test_a_record_that_does_not_name_its_weights_is_paired_as_before() -> None:
    assert (
        paired_p([record("x", GOOD, "")], [record("none", BAD, "22")], "restoration_accuracy")
        < 0.001
    )


def test_the_tables_warn_and_hold_no_p_of_two_models() -> None:
    mixed = [
        record("none", BAD, "11"),
        record("skdcag", GOOD, "11"),
        record("skd", BAD, "22", of="two"),
    ]
    text = provenance.warning(mixed)
    assert "an attack trained more than once, so that there is nothing to pair (a, seed 0)" in text
    assert "on two and one, so that seconds do not compare" in text
    by_defense = {row["defense"]: row for row in tables.rows(mixed)}
    assert by_defense["skd"]["p_restoration_vs_skdcag"] is by_defense["skd"]["fid_change"] is None
    assert by_defense["none"]["p_restoration_vs_skdcag"] < 0.001
    assert text in leaderboard.to_markdown(mixed).replace("\\", "")
    assert {row["attack_weights"] for row in tables.long_rows(mixed)} == {"11", "22"}
    assert {row["machine"] for row in tables.long_rows(mixed)} == {"one", "two"}
    same = [
        record("none", BAD, "11"),
        record("skdcag", GOOD, "11"),
        record("skd", GOOD, "12", seed=1),
    ]
    assert provenance.warning(same) == ""


def test_a_machine_that_is_not_named_is_another() -> None:
    text = provenance.warning([record("none", BAD, "11"), record("skd", BAD, "11", of="")])
    assert "on one and machines that their records do not name" in text


@pytest.fixture
def config(tmp_path, tiny, clean_registry):
    clean_registry.register_attack("shift_attack")(Shift)
    clean_registry.register_defense("shift_back", needs=("trigger",))(Back)
    return Config(
        "shift_attack", "none", tiny, SCALE, metrics="asr", out=tmp_path / "run", workers=1
    )


def elsewhere(folder) -> None:
    """Make the records of a run those of another machine: published without images and models, of
    weights that no training here gives."""
    for name in ("models", "samples"):
        shutil.rmtree(folder / name)
    for path in (folder / "cells").iterdir():
        payload = json.loads(path.read_text())["payload"]
        payload["extra"]["provenance"] |= {"attack_weights": "f" * 64, "machine": "another"}
        payload["scores"]["asr"]["value"] = 0.125
        path.write_text(json.dumps({"sha256": digest(payload), "payload": payload}))


def test_a_record_of_other_weights_is_made_anew_and_not_completed(config) -> None:
    assert runner.run(config) == 0
    (first,) = stored_records(Store(config.folder))
    elsewhere(config.folder)
    assert runner.run(dataclasses.replace(config, metrics="asr,kid")) == 0
    (result,) = stored_records(Store(config.folder))
    assert result.scores["asr"] == first.scores["asr"], "not the score of the other model"
    assert set(result.scores) == {"asr", "kid"}
    assert result.origin("attack_weights") == first.origin("attack_weights")
    assert result.origin("machine") == machine("cpu") != ""


def test_metrics_that_cannot_join_a_record_leave_it_whole(config, capsys) -> None:
    """With fewer metrics than the record has, making it anew would lose what is published."""
    assert runner.run(dataclasses.replace(config, metrics="asr,kid")) == 0
    elsewhere(config.folder)
    (before,) = stored_records(Store(config.folder))
    for _ in range(2):
        assert runner.run(dataclasses.replace(config, metrics="asr,drift")) == 1
        assert (
            "its attack, trained again here, has other weights: no more metrics can join kid"
            in capsys.readouterr().err
        )
    (failed,) = stored_records(Store(config.folder))
    assert failed.status == "failed"
    assert failed.scores == before.scores
    assert runner.run(dataclasses.replace(config, metrics="asr,kid")) == 0
    (after,) = stored_records(Store(config.folder))
    assert (after.scores, after.status) == (before.scores, "done"), "as it was"
    assert after.origin("attack_weights") == "f" * 64


def test_a_metric_that_fails_leaves_the_scores_of_a_finished_cell(config, clean_registry) -> None:
    @clean_registry.register_metric("broken", better="lower")
    @dataclasses.dataclass
    class Broken(Metric):
        works: bool = False

        def compute(self, samples, features):
            if not self.works:
                raise RuntimeError("the metric broke")
            return Score(1.0)

    assert runner.run(config) == 0
    (before,) = stored_records(Store(config.folder))
    shutil.rmtree(config.folder / "models")  # a second attack would say that the cell was made anew
    both = dataclasses.replace(config, metrics="asr,broken")
    assert runner.run(both) == 1
    (failed,) = stored_records(Store(config.folder))
    assert (failed.status, failed.scores) == ("failed", before.scores)
    assert "the metric broke" in failed.error
    assert runner.run(dataclasses.replace(both, overrides=("broken.works=true",))) == 0
    (mended,) = stored_records(Store(config.folder))
    assert mended.scores == before.scores | {"broken": Score(1.0)}
    assert not (config.folder / "models").exists(), "nothing was trained or drawn again"


def test_pictures_of_other_weights_are_drawn_again(config, clean_registry) -> None:
    """Kept pictures of lost weights are of another model: a screen round the attacked model does
    not serve them as its own."""
    clean_registry.register_defense("purifier")(Rewrites)
    assert runner.run(config) == 0
    store = Store(config.folder)
    (cell,) = plan(config).cells
    arrays, meta = store.read_arrays(f"samples/{cell.key}")
    wrong = {
        k: np.full_like(v, 7) if v.dtype == np.uint8 and v.ndim == 4 else v
        for k, v in arrays.items()
    }
    store.write_arrays(
        f"samples/{cell.key}", wrong, meta | {"made": meta["made"] | {"attack_weights": "f" * 64}}
    )
    both = dataclasses.replace(config, defenses="none,purifier")
    assert runner.run(both) == 0
    for found in plan(both).cells:
        again, made = store.read_arrays(f"samples/{found.key}")
        assert made["made"]["attack_weights"] == meta["made"]["attack_weights"]
        assert not (again["clean"] == 7).all()


def test_a_run_that_adds_a_defense_to_results_of_elsewhere_says_so(config, capsys) -> None:
    assert runner.run(config) == 0
    elsewhere(config.folder)
    capsys.readouterr()
    assert runner.run(dataclasses.replace(config, defenses="none,shift_back")) == 0
    shown = capsys.readouterr()
    assert (
        "shift_attack, seed 0: trained here, its weights are not those of its 1 stored cells"
        in shown.err
    )
    assert "nothing to pair (shift_attack, seed 0)" in " ".join(shown.out.split())
    with (config.folder / "rows.csv").open() as file:
        weights = {row["defense"]: row["attack_weights"] for row in csv.DictReader(file)}
    assert weights["none"] == "f" * 16 != weights["shift_back"]


def test_a_run_of_one_place_says_nothing(config, capsys) -> None:
    assert runner.run(config) == 0
    shutil.rmtree(config.folder / "models")  # trained again, the same
    shutil.rmtree(config.folder / "samples")
    assert runner.run(dataclasses.replace(config, defenses="none,shift_back")) == 0
    shown = capsys.readouterr()
    assert "trained here" not in shown.err
    assert "Warning" not in shown.out
