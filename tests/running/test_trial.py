"""`--limit`: the first prompts alone, marked so that nobody takes it for the real thing."""

from __future__ import annotations

import dataclasses

import pytest
from fakes import SCALE, change, config, fakes, records, table  # noqa: F401 - fixtures

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.report.numbers import prompts_text
from t2i_backdoor_bench.report.ranking import summaries
from t2i_backdoor_bench.report.site.runs import Run
from t2i_backdoor_bench.running.described import read_config
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.scales import SCALES
from t2i_backdoor_bench.running.settings import make_config
from t2i_backdoor_bench.running.submission import notes
from t2i_backdoor_bench.running.trial_data import FirstPrompts
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

TEN = dataclasses.replace(SCALE, n=10)


def test_a_trial_has_the_first_prompts_of_the_whole_run() -> None:
    whole, trial = WorldData(), FirstPrompts(WorldData(), 40)
    first = whole.prompts("evaluation", 40, 3)[:7]
    assert trial.prompts("evaluation", 7, 3) == first
    assert whole.prompts("evaluation", 7, 3) != first, "the data alone would draw others"
    assert trial.prompts("train", 7, 3) == whole.prompts("train", 7, 3)
    assert trial.prompts("evaluation", 50, 3) == whole.prompts("evaluation", 50, 3)


@pytest.mark.parametrize(("limit", "n"), [(7, 7), (0.25, 25), (0.001, 1), (99, 99)])
def test_the_limit_is_a_number_or_a_share_as_in_lm_eval(limit: float, n: int) -> None:
    size = make_config({"limit": limit}).size
    assert (size.n, size.first_of) == (n, 100)
    assert size.evaluation["first_of"] == 100
    assert size.real == SCALES["quick"].real


def test_a_limit_that_leaves_all_is_no_trial() -> None:
    for settings in ({"limit": 100}, {"limit": 5000}, {"n": 20, "limit": 20}):
        size = make_config(settings).size
        assert size == make_config({k: v for k, v in settings.items() if k != "limit"}).size
        assert "first_of" not in size.evaluation
    both = make_config({"n": 20, "limit": 0.5}).size
    assert (both.n, both.first_of) == (10, 20), "of what --n asks for"


@pytest.mark.parametrize("limit", [0, -1, 1.5, float("nan"), float("inf")])
def test_no_limit_is_one_line(limit: float) -> None:
    with pytest.raises(UserError, match=r"--limit .* must be a whole number, or a share"):
        make_config({"limit": limit})


def test_a_trial_shares_no_cell_and_every_reader_is_told(config, capsys) -> None:
    whole = change(config, scale=TEN)
    trial = change(whole, limit=4.0)
    few = change(whole, n=4)
    keys = [{c.key for c in plan(c).cells} for c in (whole, trial, few)]
    assert not keys[1] & (keys[0] | keys[2])
    assert runner.run(trial) == 0
    assert "a trial: the first 4 of 10 evaluation prompts" in capsys.readouterr().err
    found = records(trial)["fake_attack", "none", 0]
    assert found.protocol["evaluation"]["first_of"] == 10
    assert found.scores["asr"].n == 4
    assert {(row["n"], row["first_of"]) for row in table(trial)} == {("4", "10")}
    assert prompts_text(found.protocol).startswith("the first 4 of 10 prompts")
    page = (config.folder / "report.html").read_text()
    assert "This is a trial with the first of 10 prompts" in page
    assert "the first 4 of 10 prompts" in (config.folder / "table.md").read_text()
    assert any("no rank" in text and "trial" in text for text in notes(records(trial), TEN))
    store = Store(config.folder)
    run = Run.__new__(Run)
    object.__setattr__(run, "records", stored_records(store))
    assert run.smoke, "the site names no winner of it"
    ranked = [s for s in summaries(stored_records(store)) if s.defense != "none"]
    assert ranked
    assert all(s.place is None and s.reasons[0].short == "a trial" for s in ranked)
    again = read_config(store.read_record("run"))
    assert again.size == trial.size
    assert {c.key for c in plan(dataclasses.replace(again, base=config.base)).cells} == keys[1]


def test_one_prompt_is_too_few(config) -> None:
    with pytest.raises(UserError, match=r"--limit 0.05 is too few"):
        plan(change(config, scale=TEN, limit=0.05))
