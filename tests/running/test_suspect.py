"""A checkpoint of unknown history: what runs, what is left out, and what can be measured."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from suspects import METRICS, SCALE, config, fakes, results  # noqa: F401 - fixtures

import run_bench
from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import UserError, registry
from t2i_backdoor_bench.report import rows as tables
from t2i_backdoor_bench.report.main_table import columns
from t2i_backdoor_bench.report.publish import rebuild
from t2i_backdoor_bench.running import short_settings
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records


def test_without_a_trigger(tiny, tmp_path, capsys):
    asked = config(tiny, tmp_path)
    assert runner.run(asked) == 0
    found, said = results(asked), capsys.readouterr()
    assert set(found) == {"none", "shift"}
    assert "left out: shift_with_trigger needs trigger" in said.err
    assert "left out: shift_with_model needs clean_model" in said.err
    for result in found.values():
        assert result.status == "done"
        for metric in ("asr", "restoration_accuracy", "trigger_effect"):
            assert result.scores[metric].value is None
            assert result.scores[metric].note
        assert result.scores["clip_score"].value is not None
    assert found["none"].scores["drift"].value == 0, "before the defense is the suspect itself"
    assert found["shift"].scores["drift"].value > 0
    for name in ("report.html", "table.csv", "table.tex", "run.yaml"):
        assert (asked.folder / name).stat().st_size > 100
    assert rebuild(asked.folder) == 0


def test_with_a_trigger(tiny, tmp_path):
    asked = config(tiny, tmp_path, trigger="mignneko")
    assert runner.run(asked) == 0
    found = results(asked)
    assert set(found) == {"none", "shift", "shift_with_trigger"}
    for result in found.values():
        assert result.backdoor["trigger"]["text"] == "mignneko"
        assert result.scores["asr"].value is None
        assert "target" in result.scores["asr"].note
        effect = result.scores["trigger_effect"]
        assert np.isfinite(effect.value)
        assert effect.n == SCALE.harmless
        assert "beside 9 harmless words on 4 prompts" in effect.note
        assert "before the attack" not in effect.note, "nobody has a model from before"
    records = stored_records(Store(asked.folder))
    names = [way.name for way in columns(records, tables.rows(records))]
    assert names[:2] == ["trigger_effect", "drift"]
    assert "asr" not in names, "no column of dashes"
    for name in ("table.md", "table.tex"):
        assert "Effect" in (asked.folder / name).read_text()
    page = (asked.folder / "report.html").read_text()
    assert "What does the trigger do to the model tiny" in page
    assert "Effect of the trigger beyond harmless words in its place" in page


def test_probes_of_a_suspect_have_no_judge_and_fail_no_cell(tiny, tmp_path):
    wanted = "trigger_effect,asr_finetuned,asr_resampled"
    asked = config(tiny, tmp_path, defenses="none", metrics=wanted, trigger="mignneko", probe=True)
    assert runner.run(asked) == 0
    scores = results(asked)["none"].scores
    assert scores["trigger_effect"].value is not None
    for name in ("asr_finetuned", "asr_resampled"):
        assert scores[name].value is None
        assert "target" in scores[name].note


DETECTORS = {"t2ishield_ftt.walk": 2, "t2ishield_ftt.size": 4, "t2ishield_ftt.prompts": 20}


@pytest.mark.parametrize("trigger", [None, "mignneko"])
def test_detectors(tiny, tmp_path, trigger):
    """A detector needs nothing: it says of a suspect how many clean prompts it refuses and, of a
    word, whether it tells it from others."""
    more = {"trigger": trigger} if trigger else {}
    wanted = "trigger_effect,refusal_rate,detection_auroc,detection_auroc_decoy,clip_score"
    asked = config(
        tiny, tmp_path, defenses="none,t2ishield_ftt", metrics=wanted, set=DETECTORS, **more
    )
    assert runner.run(asked) == 0
    scores = results(asked)["t2ishield_ftt"].scores
    assert 0 <= scores["refusal_rate"].value <= 1
    assert (scores["detection_auroc"].value is not None) is (trigger is not None)
    assert "too few" in scores["detection_auroc_decoy"].note or trigger is None


def test_nothing_that_could_run_is_an_error(tiny, tmp_path):
    with pytest.raises(
        UserError, match="no defense of this run can work: shift_with_trigger needs trigger"
    ):
        plan(config(tiny, tmp_path, defenses="shift_with_trigger"))


def test_apart_means_not_in_all():
    assert not {"suspect", "checkpoint"} & set(registry.attacks.select("all"))
    assert "trigger_effect" not in registry.metrics.select("all")
    assert "skdcag_black" not in registry.defenses.select("all"), "it is skdcag by the paper's name"
    assert registry.attacks.select("suspect") == [short_settings.SUSPECT]
    assert set(registry.metrics.select(short_settings.SUSPECT_METRICS)) > {"asr", "trigger_effect"}


def test_the_command(tiny, tmp_path, capsys):
    assert (
        run_bench.main(["--base", tiny, "--suspect", "--attacks", "all", "--out", str(tmp_path)])
        == 2
    )
    assert "leave out --attacks" in capsys.readouterr().err
    assert run_bench.main(["--base", tiny, "--trigger", "x", "--out", str(tmp_path)]) == 2
    assert "--trigger goes with --suspect" in capsys.readouterr().err


def test_what_an_attack_added_is_not_asked_of_a_model_without_a_past(tiny, tmp_path):
    made = plan(
        dataclasses.replace(config(tiny, tmp_path, defenses="none"), metrics="asr,kid_added", n=16)
    )
    assert "kid_added" in made.metrics
    assert "kid_added" not in made.metrics_of(next(iter(made.attacks)), "none")
