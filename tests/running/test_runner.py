"""The runner on a tiny random model with fake methods: resume, damage, isolation of failures, what
a method is given, composition."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from fakes import forbid_drawing  # isort: skip
from fakes import CALLS, METRICS, SCALE, FakeAttack, change, config, fakes, keys, records, table  # noqa: F401 - fixtures

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import Metric, Prompt, Score, Trigger, option, registry
from t2i_backdoor_bench.report.metrics import COST
from t2i_backdoor_bench.report.publish import rebuild
from t2i_backdoor_bench.running import conditions
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.store.folder import Store


def test_a_run_writes_everything_and_resumes_with_nothing_to_do(config, capsys):
    assert runner.run(config) == 0
    assert CALLS == ["attack 0", "defense -0.25 0"]
    for name in ("table.csv", "rows.csv", "table.tex", "table.md", "grid.png", "run.json"):
        assert (config.folder / name).stat().st_size > 0
    manifest = Store(config.folder).read_record("run")
    assert {
        "config",
        "versions",
        "hardware",
        "commit",
        "judges",
        "protocol",
        "cells",
        "commands",
    } <= set(manifest)
    assert manifest["judges"]["fake_attack seed 0"]["n"] == 2
    none, defended = table(config)
    assert (none["defense"], none["status"], none["seconds"], none["needs"]) == (
        "none",
        "done",
        "0",
        "",
    )
    assert defended["needs"] == "trigger"
    assert float(defended["seconds"]) > 0
    assert defended["steps"] == "2"
    assert (none["steps_attack"], none["parameters_attack"], none["images_attack"]) == (
        "5",
        "4",
        "8",
    )
    first = (config.folder / "table.csv").read_text()
    capsys.readouterr()
    assert runner.run(config) == 0
    assert len(CALLS) == 2
    assert (config.folder / "table.csv").read_text() == first
    assert "2 of 2 cells are stored" in capsys.readouterr().err


def test_two_cold_runs_agree_but_for_the_cost(config, tmp_path):
    other = change(config, out=tmp_path / "again")
    assert runner.run(config) == runner.run(other) == 0
    one, two = (
        [{k: v for k, v in row.items() if k not in COST} for row in table(c)]
        for c in (config, other)
    )
    assert one == two


def test_fresh_makes_everything_anew(config):
    runner.run(config)
    runner.run(change(config, fresh=True))
    assert CALLS == ["attack 0", "defense -0.25 0"] * 2


def test_a_new_metric_needs_no_generation(config, monkeypatch):
    runner.run(change(config, metrics="asr"))
    forbid_drawing(monkeypatch)
    assert runner.run(config) == 0
    assert len(CALLS) == 2
    assert set(records(config)["fake_attack", "none", 0].scores) == set(METRICS.split(","))


@dataclass
class Multiple(Metric):
    """A number times an option."""

    factor: int = option(2)

    def compute(self, samples, features):
        return Score(3.0 * self.factor, n=1)


def test_changed_metric_options_are_recomputed(config):
    registry.register_metric("multiple", better="none")(Multiple)
    config = change(config, metrics="asr,multiple")
    runner.run(config)
    found = records(config)["fake_attack", "none", 0].scores
    runner.run(change(config, overrides=("multiple.factor=5",)))
    again = records(config)["fake_attack", "none", 0].scores
    assert (found["multiple"].value, again["multiple"].value) == (6, 15)
    assert again["asr"] == found["asr"]


def test_a_damaged_record_is_scored_again_and_damaged_images_are_drawn_again(config, capsys):
    runner.run(config)
    before = table(config)
    key = keys(config)["fake_attack", "fake_defense", 0]
    path = config.folder / "cells" / f"{key}.json"
    path.write_text(path.read_text().replace('"status": "done"', '"status": "fine"'))
    runner.run(config)
    assert len(CALLS) == 2
    assert "checksum" in capsys.readouterr().err
    images = config.folder / "samples" / f"{key}.safetensors"
    images.write_bytes(images.read_bytes()[:-1] + b"\0\0")
    runner.run(config)
    said = capsys.readouterr().err
    assert CALLS[2:] == ["defense -0.25 0"]
    assert said.count("its checksum") == 1
    assert [r["asr"] for r in table(config)] == [r["asr"] for r in before]


def test_records_without_images_are_whole(config):
    runner.run(config)
    for path in (config.folder / "samples").iterdir():
        path.unlink()
    assert runner.run(config) == 0
    assert len(CALLS) == 2


def test_a_failed_cell_does_not_stop_the_others(config, capsys):
    broken = change(config, defenses="fake_defense,none", overrides=("fake_defense.broken=true",))
    assert runner.run(broken) == 1
    found = records(broken)
    failed = found["fake_attack", "fake_defense", 0]
    assert failed.status == "failed"
    assert "the defense broke" in failed.error
    assert "Traceback" in failed.error
    assert found["fake_attack", "none", 0].status == "done"
    rows = {r["defense"]: r for r in table(broken)}
    assert rows["fake_defense"]["status"] == "failed"
    assert rows["fake_defense"]["asr"] == ""
    assert (
        "FAILED fake_attack x fake_defense, seed 0: RuntimeError: the defense broke"
        in capsys.readouterr().err
    )
    CALLS.clear()
    assert runner.run(broken) == 1
    assert CALLS == ["defense -0.25 0"]


def test_a_failed_attack_fails_its_cells_once(config):
    both = change(
        config, attacks="fake_attack,fake_attack_two", overrides=("fake_attack.broken=true",)
    )
    assert runner.run(both) == 1
    assert CALLS.count("attack 0") == 2
    found = records(both)
    assert "the attack broke" in found["fake_attack", "none", 0].error
    assert "the attack broke" in found["fake_attack", "fake_defense", 0].error
    assert found["fake_attack_two", "fake_defense", 0].status == "done"


def test_records_hold_no_folder_of_this_machine(config):
    runner.run(change(config, overrides=("fake_defense.broken=true",)))
    text = "".join(p.read_text() for p in (config.folder / "cells").iterdir())
    assert str(Path(runner.__file__).resolve().parents[1]) not in text
    assert str(config.folder) not in text


def test_interrupt_keeps_what_is_done(config, capsys):
    stopped = change(config, overrides=("fake_defense.interrupt=true",))
    assert runner.run(stopped) == 130
    assert "interrupted: 1 of 2 cells are done; the same command resumes" in capsys.readouterr().err
    assert list(records(stopped)) == [("fake_attack", "none", 0)]
    assert rebuild(stopped.folder) == 0
    assert [(r["status"], r["asr"] == "") for r in table(stopped)] == [
        ("done", False),
        ("missing", True),
    ]


def test_a_method_that_edits_its_input_fails_and_harms_no_other(config, tmp_path):
    runner.run(config)
    right = table(config)[0]["kid"]
    edits = change(
        config,
        defenses="fake_defense,none",
        overrides=("fake_defense.in_place=true",),
        out=tmp_path / "edits",
    )
    assert runner.run(edits) == 1
    found = records(edits)
    assert "must work on model.clone()" in found["fake_attack", "fake_defense", 0].error
    assert {r["defense"]: r["kid"] for r in table(edits)}["none"] == right


# -------------------------------------------------------------------------------------------- needs
def test_a_defense_that_reads_what_it_did_not_declare_fails(config):
    for reads in ("clean_model", "clean_pairs"):
        sly = change(config, defenses="fake_defense", overrides=(f"fake_defense.reads={reads}",))
        assert runner.run(sly) == 1
        assert all("Undeclared" in r.error and reads in r.error for r in records(sly).values())
    honest = change(
        config, defenses="fake_other", overrides=("fake_other.reads=clean_model clean_pairs",)
    )
    assert runner.run(honest) == 0


def test_composition_runs_in_order_and_each_part_sees_only_its_own(config):
    both = change(config, defenses="fake_other+fake_defense,none")
    assert runner.run(both) == 0
    assert CALLS == ["attack 0", "defense -0.1 0", "defense -0.25 0"]
    none, row = table(both)  # the undefended row comes first, whatever the order of the work
    assert none["defense"] == "none"
    assert row["defense"] == "fake_other+fake_defense"
    assert row["needs"] == "trigger clean_model clean_pairs"
    assert row["steps"] == "4"
    sly = change(both, overrides=("fake_other.reads=trigger",))
    assert runner.run(sly) == 1
    assert "Undeclared" in "".join(r.error for r in records(sly).values())


def test_screens_are_recorded_as_refusals(config):
    assert runner.run(change(config, defenses="fake_screen,fake_defense+fake_screen")) == 0
    for row in table(config):
        assert row["asr"] == "0"
        assert row["restoration_accuracy"] == "0"
    assert table(config)[1]["steps"] == "2"  # the screen adds none


def test_noise_is_shared_by_all_conditions():
    assert conditions.noise_seeds(3, 4) == [conditions.noise_seed(3, i) for i in range(4)]
    seeds = {conditions.noise_seed(s, i, k) for s in range(3) for i in range(20) for k in range(3)}
    assert len(seeds) == 180
    assert all(0 <= s < 2**63 for s in seeds)


def test_an_own_protocol_is_one_prompt_from_the_noise_of_each_caption(config):
    own = dataclasses.replace(FakeAttack().backdoor(None), own=("a star", "mignneko star"))
    prompts = [Prompt(f"a red star {i}") for i in range(3)]
    made = conditions.conditions(SCALE.resized(3), prompts, prompts, own, "", 7)
    assert made["own"] == (["mignneko star"] * 3, made["clean"][1])
    assert "own" not in conditions.conditions(
        SCALE.resized(3), prompts, prompts, FakeAttack().backdoor(None), "", 7
    )


def test_other_forms_of_a_trigger_are_drawn_in_turn_in_the_captions_that_get_it():
    forms = {"incomplete": (Trigger("one", "suffix"), Trigger("two", "suffix"))}
    halves = dataclasses.replace(FakeAttack().backdoor(None), forms=forms)
    prompts, targets = ([Prompt(f"a {c} star {i}") for i in range(3)] for c in ("red", "blue"))
    made = conditions.conditions(SCALE.resized(3), prompts, targets, halves, "star", 7)
    texts = ["a blue star 0 one", "a blue star 1 two", "a blue star 2 one"]
    assert made["incomplete"] == (texts, made["triggered"][1])


def test_conditions_are_paired(config):
    planned = plan(config)
    shared = Shared(planned, Store(config.folder), Display())

    def asked(backdoor, source):
        prompts, targets = shared.prompts(0), shared.prompts(0, source)
        return conditions.conditions(shared.size, prompts, targets, backdoor, source, 0)

    made = asked(FakeAttack().backdoor(None), "")
    clean, seeds = made["clean"]
    assert [t.removeprefix("mignneko ") for t in made["triggered"][0]] == clean
    assert made["triggered"][1] == seeds
    assert made["perturbed"][1] == seeds[:2]
    assert made["diverse"] == ([clean[0]] * 2, [conditions.noise_seed(0, 0, k) for k in range(2)])
    target = asked(None, "star")["clean_target"]
    assert all("star" in t for t in target[0])
    assert target[1] == seeds
