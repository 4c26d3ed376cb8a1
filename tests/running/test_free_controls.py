"""The controls that the command puts beside the defenses of a run, and what they cost: nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import CALLS, METRICS, SCALE, change, config, fakes, records  # noqa: F401 - fixtures

from t2i_backdoor_bench import command
from t2i_backdoor_bench.contract import registry
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running.controls import FREE, chosen_defenses, is_control
from t2i_backdoor_bench.running.manifest import yaml_of
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.probe_pictures import probe_prompts
from t2i_backdoor_bench.running.scales import SCALES


def test_they_draw_and_train_nothing(config, monkeypatch):
    config = change(config, metrics=f"{METRICS},false_trigger_rate")
    assert command.run(config) == 0
    before, calls = records(config), list(CALLS)

    def forbidden(self, prompts, seeds, *more, **named):
        # a picture that is refused is black without a step
        assert self.refuses(prompts).all(), f"{len(prompts)} pictures are drawn"
        return drawn(self, prompts, seeds, *more, **named)

    drawn = T2IModel.generate
    monkeypatch.setattr(T2IModel, "generate", forbidden)
    asked = change(config, controls=True)
    assert command.run(asked) == 0
    found = records(asked)
    assert [d for _, d, _ in found] == ["none", "fake_defense", *FREE]
    assert calls == CALLS
    assert {k: found[k] for k in before} == before, "the other rows are the same"
    strip, refuse = (found["fake_attack", name, 0].scores for name in FREE)
    none = found["fake_attack", "none", 0].scores
    # the word is gone: the attacked model on clean prompts
    assert strip["asr"].value == none["false_trigger_rate"].value
    assert refuse["asr"].value == 0


NAMES = {
    "none,fake_defense": ["none", "fake_defense", *FREE],
    "fake_defense,none,refuse_all": ["fake_defense", "none", "refuse_all", "strip_trigger"],
    "fake_defense": ["fake_defense"],  # the undefended pictures would be drawn for them alone
    "none": ["none"],
    "none,strip_trigger": ["none", "strip_trigger"],
}


@pytest.mark.parametrize("asked", NAMES)
def test_which_runs_have_them(config, asked):
    given = change(config, defenses=asked)
    assert chosen_defenses(given) == asked.split(",")
    assert chosen_defenses(replace(given, controls=True)) == NAMES[asked]
    assert chosen_defenses(replace(given, controls=True, attacks="suspect")) == asked.split(",")


def test_the_command_asks_for_them_and_files_name_their_rows(config, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(command, "run", lambda given: found.append(given.controls) or 0)
    file = tmp_path / "run.yaml"
    file.write_text(yaml_of(plan(change(config, controls=True, scale=SCALES["smoke"]))))
    assert "controls" not in file.read_text()
    assert "strip_trigger" in file.read_text()
    for flags in ([], ["--no-controls"], ["--config", str(file)], ["--suite", "patch_size"]):
        assert command.main([*flags, "--out", str(tmp_path / "new")]) == 0
    assert command.main(["--config", str(file), "--controls"]) == 0
    assert found == [True, False, False, False, True]


def test_what_repairs_nothing_is_not_trained_on(config):
    """Whether it comes back is asked of a removal."""
    size = replace(SCALE, recovered=2, resampled=2)
    plan_ = plan(change(config, controls=True, scale=size, metrics="all"))
    many = {c.defense: sum(probe_prompts(plan_, c).values()) for c in plan_.cells}
    assert many == {"none": 6, "fake_defense": 6, "strip_trigger": 0, "refuse_all": 0}
    kinds = {name: is_control(entry) for name, entry in registry.defenses.entries.items()}
    assert kinds["clean_model"]
    assert not any(kinds[name] for name in ("none", "skdcag", "clean_finetune", "ufid"))
