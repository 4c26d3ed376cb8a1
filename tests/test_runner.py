"""The runner on a tiny random model with fake methods: keys, resume, damage, isolation of failures, composition, command line."""

from __future__ import annotations

import csv
import dataclasses
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import run_bench
from bench import bases, registry, runner, workshop
from bench import plan as plans
from bench.plan import SCALES, Config, Scale, plan
from bench.store import Store
from bench.tables import COST
from bench.types import Backdoor, Target, Trigger, UserError

SCALE = Scale("test", 4, 2, 4, 1, 2, 20, 0.5, (0,))
CALLS: list[str] = []
METRICS = "asr,restoration_accuracy,kid"


@dataclass
class FakeAttack:
    """Shifts the U-Net's output."""

    steps: int = 10
    shift: float = 0.5
    trigger: str = "mignneko"
    side: int = 8
    broken: bool = False
    in_place: bool = False

    def backdoor(self, model):
        return Backdoor(Trigger(self.trigger), Target("patch", patch=np.zeros((self.side, self.side, 3), np.uint8)))

    def inject(self, model, data, seed):
        CALLS.append(f"attack {seed}")
        if self.broken:
            raise RuntimeError("the attack broke")
        attacked = model if self.in_place else model.clone()
        with torch.no_grad():
            attacked.unet.conv_out.bias += self.shift
        return dataclasses.replace(attacked, info={"steps": self.steps, "parameters": 4, "images": 8})


@dataclass
class FakeDefense:
    """Shifts it back by a half."""

    steps: int = 4
    shift: float = -0.25
    reads: str = ""
    broken: bool = False
    interrupt: bool = False
    in_place: bool = False

    def apply(self, model, view, seed):
        CALLS.append(f"defense {self.shift} {seed}")
        if self.interrupt:
            raise KeyboardInterrupt
        if self.broken:
            raise RuntimeError("the defense broke")
        for name in self.reads.split():
            getattr(view, name)
        repaired = model if self.in_place else model.clone()
        with torch.no_grad():
            repaired.unet.conv_out.bias += self.shift
        return dataclasses.replace(repaired, info={"steps": self.steps, "parameters": 4, "images": 2})


@dataclass
class FakeScreen:
    """Refuses what holds the trigger, and rewrites nothing."""

    def apply(self, model, view, seed):
        word = view.trigger.text
        return dataclasses.replace(model, screen=lambda prompt: word in prompt)


@pytest.fixture(autouse=True)
def fakes(clean_registry, tiny):
    CALLS.clear()
    registry.register_attack("fake_attack")(FakeAttack)
    registry.register_attack("fake_attack_two", preset={"shift": 1.0})(FakeAttack)
    registry.register_defense("fake_defense", needs=("trigger",))(FakeDefense)
    registry.register_defense("fake_other", needs=("clean_pairs", "clean_model"), preset={"shift": -0.1})(FakeDefense)
    registry.register_defense("fake_screen", needs=("trigger",))(FakeScreen)


@pytest.fixture
def config(tmp_path, tiny):
    return Config("fake_attack", "none,fake_defense", tiny, SCALE, metrics=METRICS, out=tmp_path / "run", workers=1)


def records(config):
    store = Store(config.folder)
    found = [store.read_result(c.key) for c in plan(config).cells]
    return {(r.cell.attack, r.cell.defense, r.cell.seed): r for r, _ in filter(None, found)}


def table(config):
    with (config.folder / "table.csv").open() as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------------------------------------------------------------- keys
def keys(config):
    return {(c.attack, c.defense, c.seed): c.key for c in plan(config).cells}


def change(config, **fields):
    return dataclasses.replace(config, **fields)


def test_keys_are_stable(config):
    assert keys(config) == keys(change(config, out=None, fresh=True, threads=1, metrics="asr"))


def test_a_late_option_is_in_the_key_only_where_it_is_set(config, clean_registry):
    @dataclass
    class Older:
        steps: int = 4

        def apply(self, model, view, seed):
            return model

    @dataclass
    class Newer(Older):
        part: str = registry.option("all", late=True)

    found = []
    for cls, overrides in ((Older, ()), (Newer, ()), (Newer, ("fake_late.part=first",))):
        registry.defenses.entries.pop("fake_late", None)
        registry.register_defense("fake_late")(cls)
        found.append(set(keys(change(config, defenses="fake_late", overrides=overrides)).values()))
    assert found[0] == found[1]
    assert found[1] != found[2]


def test_keys_change_with_what_a_cell_depends_on(config):
    here = keys(config)
    for other in (
        change(config, n=3),
        change(config, dtype="float16"),
        change(config, overrides=("fake_attack.shift=0.6",)),
        change(config, scale=dataclasses.replace(SCALE, training=1.0)),
    ):
        assert set(here.values()).isdisjoint(keys(other).values())
    only = keys(change(config, overrides=("fake_defense.shift=-0.5",)))
    assert only["fake_attack", "none", 0] == here["fake_attack", "none", 0]
    assert only["fake_attack", "fake_defense", 0] != here["fake_attack", "fake_defense", 0]
    two = keys(change(config, seeds=(0, 1)))
    assert set(here.items()) < set(two.items())
    assert len(set(two.values())) == 4


def test_keys_change_with_the_weights_of_base_and_scorer(config, monkeypatch):
    here = plan(config)
    monkeypatch.setattr(plans, "fingerprint", lambda source: "other weights")
    other = plan(config)
    assert here.cells[0].key != other.cells[0].key
    assert here.attack_key("fake_attack", 0) != other.attack_key("fake_attack", 0)
    monkeypatch.setattr(plans, "fingerprint", lambda source: here.shared["base"]["weights"])
    assert plan(config).cells[0].key == here.cells[0].key
    monkeypatch.setattr(plans, "scorer_fingerprint", lambda spec: "other scorer")
    other = plan(config)
    assert here.cells[0].key != other.cells[0].key
    assert here.attack_key("fake_attack", 0) == other.attack_key("fake_attack", 0)


def test_attacked_weights_do_not_depend_on_the_evaluation(config):
    assert plan(config).attack_key("fake_attack", 0) == plan(change(config, n=3, metrics="asr")).attack_key("fake_attack", 0)
    assert plan(config).before_key(0, "") != plan(change(config, n=3)).before_key(0, "")


def test_training_scales_steps_but_not_those_that_the_user_set(config):
    assert plan(config).attacks["fake_attack"].instance.steps == 5
    assert plan(change(config, overrides=("fake_attack.steps=7",))).attacks["fake_attack"].instance.steps == 7


def test_fingerprint_sees_a_changed_weight(tmp_path):
    (tmp_path / "unet").mkdir()
    weights = tmp_path / "unet" / "w.safetensors"
    weights.write_bytes(b"1")
    (tmp_path / "README.md").write_text("a card")
    first = plans.fingerprint(str(tmp_path))
    (tmp_path / "README.md").write_text("another card")
    assert plans.fingerprint(str(tmp_path)) == first
    weights.write_bytes(b"2")
    assert plans.fingerprint(str(tmp_path)) != first


# --------------------------------------------------------------------------------------------------------------------- runs
def test_a_run_writes_everything_and_resumes_with_nothing_to_do(config, capsys):
    assert runner.run(config) == 0
    assert CALLS == ["attack 0", "defense -0.25 0"]
    for name in ("table.csv", "rows.csv", "table.tex", "table.md", "grid.png", "run.json"):
        assert (config.folder / name).stat().st_size > 0
    manifest = Store(config.folder).read_record("run")
    assert {"config", "versions", "hardware", "commit", "judges", "protocol", "cells", "commands"} <= set(manifest)
    assert manifest["judges"]["fake_attack seed 0"]["n"] == 2
    none, defended = table(config)
    assert (none["defense"], none["status"], none["seconds"], none["needs"]) == ("none", "done", "0", "")
    assert defended["needs"] == "trigger"
    assert float(defended["seconds"]) > 0
    assert defended["steps"] == "2"
    first = (config.folder / "table.csv").read_text()
    capsys.readouterr()
    assert runner.run(config) == 0
    assert len(CALLS) == 2
    assert (config.folder / "table.csv").read_text() == first
    assert "2 of 2 cells are stored" in capsys.readouterr().err


def test_two_cold_runs_agree_but_for_the_cost(config, tmp_path):
    other = change(config, out=tmp_path / "again")
    assert runner.run(config) == runner.run(other) == 0
    one, two = ([{k: v for k, v in row.items() if k not in COST} for row in table(c)] for c in (config, other))
    assert one == two


def test_fresh_makes_everything_anew(config):
    runner.run(config)
    runner.run(change(config, fresh=True))
    assert CALLS == ["attack 0", "defense -0.25 0"] * 2


def test_a_new_metric_needs_no_generation(config, monkeypatch):
    runner.run(change(config, metrics="asr"))
    monkeypatch.setattr(runner.Workshop, "_draw", lambda *args: pytest.fail("generated again"))
    assert runner.run(config) == 0
    assert len(CALLS) == 2
    assert set(records(config)["fake_attack", "none", 0].scores) == set(METRICS.split(","))


def test_changed_metric_options_are_recomputed(config):
    runner.run(config)
    found = records(config)["fake_attack", "none", 0].scores
    runner.run(change(config, overrides=("kid.subset_size=2",)))
    again = records(config)["fake_attack", "none", 0].scores
    assert again["kid"].value != found["kid"].value
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
    assert "FAILED fake_attack x fake_defense, seed 0: RuntimeError: the defense broke" in capsys.readouterr().err
    CALLS.clear()
    assert runner.run(broken) == 1
    assert CALLS == ["defense -0.25 0"]


def test_a_failed_attack_fails_its_cells_once(config):
    both = change(config, attacks="fake_attack,fake_attack_two", overrides=("fake_attack.broken=true",))
    assert runner.run(both) == 1
    assert CALLS.count("attack 0") == 2
    found = records(both)
    assert "the attack broke" in found["fake_attack", "none", 0].error
    assert "the attack broke" in found["fake_attack", "fake_defense", 0].error
    assert found["fake_attack_two", "fake_defense", 0].status == "done"


def test_records_hold_no_folder_of_this_machine(config):
    runner.run(change(config, overrides=("fake_defense.broken=true",)))
    text = "".join(p.read_text() for p in (config.folder / "cells").iterdir())
    assert str(runner.Path(runner.__file__).resolve().parents[1]) not in text
    assert str(config.folder) not in text


def test_interrupt_keeps_what_is_done(config, capsys):
    stopped = change(config, overrides=("fake_defense.interrupt=true",))
    assert runner.run(stopped) == 130
    assert "interrupted: 1 of 2 cells are done; the same command resumes" in capsys.readouterr().err
    assert list(records(stopped)) == [("fake_attack", "none", 0)]
    assert runner.rebuild(stopped.folder) == 0
    assert [(r["status"], r["asr"] == "") for r in table(stopped)] == [("done", False), ("missing", True)]


def test_a_method_that_edits_its_input_fails_and_harms_no_other(config, tmp_path):
    runner.run(config)
    right = table(config)[0]["kid"]
    edits = change(config, defenses="fake_defense,none", overrides=("fake_defense.in_place=true",), out=tmp_path / "edits")
    assert runner.run(edits) == 1
    found = records(edits)
    assert "must work on model.clone()" in found["fake_attack", "fake_defense", 0].error
    assert {r["defense"]: r["kid"] for r in table(edits)}["none"] == right


# --------------------------------------------------------------------------------------------------------------------- needs
def test_a_defense_that_reads_what_it_did_not_declare_fails(config):
    for reads in ("clean_model", "clean_pairs"):
        sly = change(config, defenses="fake_defense", overrides=(f"fake_defense.reads={reads}",))
        assert runner.run(sly) == 1
        assert all("Undeclared" in r.error and reads in r.error for r in records(sly).values())
    honest = change(config, defenses="fake_other", overrides=("fake_other.reads=clean_model clean_pairs",))
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
    assert workshop.noise_seeds(3, 4) == [workshop.noise_seed(3, i) for i in range(4)]
    seeds = {workshop.noise_seed(s, i, k) for s in range(3) for i in range(20) for k in range(3)}
    assert len(seeds) == 180
    assert all(0 <= s < 2**63 for s in seeds)


def test_conditions_are_paired(config):
    planned = plan(config)
    shop = runner.Workshop(planned, Store(config.folder), runner.Display())
    made = shop.conditions(0, FakeAttack().backdoor(None), "")
    clean, seeds = made["clean"]
    assert [t.removeprefix("mignneko ") for t in made["triggered"][0]] == clean
    assert made["triggered"][1] == seeds
    assert made["perturbed"][1] == seeds[:2]
    assert made["moved"][1] == seeds[:4]
    assert made["diverse"] == ([clean[0]] * 2, [workshop.noise_seed(0, 0, k) for k in range(2)])
    target = shop.conditions(0, None, "star")["clean_target"]
    assert all("star" in t for t in target[0])
    assert target[1] == seeds


# -------------------------------------------------------------------------------------------------------------- command line
def line(capsys):
    out = capsys.readouterr()
    assert out.err.count("\n") == 1, out.err
    assert out.err.startswith("error: ")
    return out.err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--attacks", "fake_atack"], "did you mean fake_attack"),
        (["--defenses", "fake_defens"], "did you mean fake_defense"),
        (["--defenses", "none+fake_defens"], "did you mean fake_defense"),
        (["--metrics", "asrr"], "did you mean asr"),
        (["--base", "shapse"], "did you mean shapes"),
        (["--scale", "tiny"], "invalid choice"),
        (["--seeds", "a"], "whole numbers"),
        (["--n", "many"], "invalid int"),
        (["--n", "1"], "too few"),
        (["--fast"], "unrecognized"),
        (["--device", "gpu9"], "unknown device"),
        (["--threads", "0"], "1 or more"),
        (["--set", "fake_attack.steps=many"], "must be int"),
        (["--set", "fake_attack.stepz=3"], "no option 'stepz'; it has steps"),
        (["--set", "fake_atack.steps=3"], "did you mean fake_attack"),
        (["--set", "fake_attack"], "name.option=value"),
        (["--set", "fake_attack.trigger="], "trigger is empty"),
        (["--set", "fake_attack.side=65"], "does not fit"),
        (["--set", f"fake_attack.trigger={'long ' * 60}"], "truncated"),
        (["--n", "8", "--metrics", "fid"], "--n 16"),
        (["--tables-only", "--out", "/nonexistent/run"], "no run folder"),
        (["--defenses", "skd", "--set", "skd.prompts=400"], "prompts 400 is not between 1 and the 300"),
    ],
)
def test_bad_input_is_one_line_and_status_2(flags, says, tiny, tmp_path, capsys):
    start = ["--attacks", "fake_attack", "--defenses", "none,fake_defense", "--base", tiny, "--scale", "smoke", "--metrics", "asr"]
    assert run_bench.main([*start, "--out", str(tmp_path / "run"), *flags]) == 2
    assert says in line(capsys)
    assert not CALLS


def test_unwritable_output_folder(tiny, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    start = ["--attacks", "fake_attack", "--defenses", "none", "--base", tiny, "--metrics", "asr"]
    assert run_bench.main([*start, "--out", str(tmp_path / "file" / "run")]) == 2
    assert "cannot write to the output folder" in line(capsys)


def test_weights_that_are_not_there(tiny, tiny_base, tmp_path, capsys, monkeypatch):
    missing = dataclasses.replace(bases.BASES[tiny], scorer=str(tmp_path / "no-scorer"))
    monkeypatch.setitem(bases.BASES, tiny, missing)
    start = ["--attacks", "fake_attack", "--defenses", "none", "--metrics", "asr", "--out", str(tmp_path / "run")]
    assert run_bench.main([*start, "--base", tiny]) == 2
    assert "no-scorer" in line(capsys)
    (tmp_path / "empty").mkdir()
    assert run_bench.main([*start, "--base", str(tmp_path / "empty")]) == 2
    assert "no model_index.json" in line(capsys)
    assert not CALLS


def test_the_command_runs_lists_and_rebuilds(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(SCALES, "smoke", SCALE)
    flags = ["--attacks", "fake_attack", "--defenses", "fake_defense", "--base", tiny, "--scale", "smoke", "--metrics", METRICS]
    assert run_bench.main([*flags, "--seeds", "0,1", "--workers", "1", "--out", str(tmp_path / "run")]) == 0
    assert "fake_defense" in capsys.readouterr().out
    first = (tmp_path / "run" / "table.csv").read_text()
    assert ",2,4," in first  # seeds, n
    (tmp_path / "run" / "table.csv").unlink()
    assert run_bench.main(["--tables-only", "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "table.csv").read_text() == first
    assert len(CALLS) == 4
    capsys.readouterr()
    assert run_bench.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert "fake_other" in listed
    assert "clean_model, clean_pairs" in listed
    assert "sd15" in listed


def test_a_small_scale_leaves_fid_out_with_its_reason(config):
    few = change(config, scale=dataclasses.replace(SCALE, metrics="fid"), metrics=None, defenses="none")
    assert runner.run(few) == 0
    assert table(few)[0]["fid"] == ""
    with (few.folder / "rows.csv").open() as file:
        assert "as many images as features" in next(csv.DictReader(file))["note"]


def test_run_json_is_strict_json(config):
    runner.run(config)
    json.loads((config.folder / "run.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_unknown_device_is_a_user_error():
    with pytest.raises(UserError, match="cpu"):
        runner.find_device("abacus")
