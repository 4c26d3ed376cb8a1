"""A checkpoint of unknown history: what runs, what is left out, what can be measured; and an attack
result of one's own."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import different, weights
from samples import features, make_samples, score  # noqa: F401 - fixtures

import run_bench
from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import Backdoor, Defense, Samples, Target, UserError, registry
from t2i_backdoor_bench.models import catalog as bases
from t2i_backdoor_bench.models.catalog import find_base
from t2i_backdoor_bench.report import rows as tables
from t2i_backdoor_bench.report.main_table import columns
from t2i_backdoor_bench.report.publish import rebuild
from t2i_backdoor_bench.running import settings
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.scales import Scale
from t2i_backdoor_bench.running.settings import make_config
from t2i_backdoor_bench.scoring.features import Features
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records
from t2i_backdoor_bench.targets import describe, kind_of

SCALE = Scale("test", 4, 2, 4, 1, 2, 20, 0.5, (0,))
METRICS = "asr,restoration_accuracy,false_trigger_rate,drift,clip_score,trigger_effect"


@dataclasses.dataclass
class Shift(Defense):
    """Shifts the output of the U-Net."""

    by: float = 0.2

    def apply(self, model, view, seed):
        repaired = model.clone()
        with torch.no_grad():
            repaired.denoiser.conv_out.bias += self.by
        return repaired


@pytest.fixture(autouse=True)
def fakes(clean_registry, tiny):
    registry.register_defense("shift")(Shift)
    registry.register_defense("shift_with_trigger", needs=("trigger",), preset={"by": 0.1})(Shift)
    registry.register_defense("shift_with_model", needs=("clean_model",), preset={"by": 0.3})(Shift)


def config(tiny: str, tmp_path: Path, **more):
    given = {
        "suspect": True,
        "base": tiny,
        "defenses": "none,shift,shift_with_trigger,shift_with_model",
        "metrics": METRICS,
    }
    return dataclasses.replace(
        make_config(given | {"out": tmp_path / "run", "device": "cpu", "workers": 1} | more),
        scale=SCALE,
    )


def results(config):
    return {r.cell.defense: r for r in stored_records(Store(config.folder))}


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
        assert 0 < result.scores["trigger_effect"].value < 2
        assert result.scores["trigger_effect"].n == SCALE.n
    records = stored_records(Store(asked.folder))
    names = [way.name for way in columns(records, tables.rows(records))]
    assert names[:2] == ["trigger_effect", "drift"]
    assert "asr" not in names, "no column of dashes"
    for name in ("table.md", "table.tex"):
        assert "Effect" in (asked.folder / name).read_text()
    page = (asked.folder / "report.html").read_text()
    assert "What does the trigger do to the model tiny" in page
    assert "Effect of the trigger (1 - cosine to the picture without it):" in page


def test_probes_of_a_suspect_have_no_judge_and_fail_no_cell(tiny, tmp_path):
    wanted = "trigger_effect,asr_finetuned,asr_resampled"
    asked = config(tiny, tmp_path, defenses="none", metrics=wanted, trigger="mignneko", probe=True)
    assert runner.run(asked) == 0
    scores = results(asked)["none"].scores
    assert scores["trigger_effect"].value > 0
    for name in ("asr_finetuned", "asr_resampled"):
        assert scores[name].value is None
        assert "target" in scores[name].note


def test_a_picture_that_was_refused_has_no_effect(features):
    samples = make_samples()
    whole = np.array(score("trigger_effect", samples, features).each)
    assert (whole > 0).sum() > 5
    refused = np.arange(40) < 20
    samples.refused = {"clean_target": refused, "triggered": np.zeros(40, bool)}
    half = np.array(score("trigger_effect", samples, features).each)
    assert not half[:20].any(), "a false alarm is no effect of the trigger"
    assert np.array_equal(half[20:], whole[20:])


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
    for name in ("detection_auroc", "detection_auroc_decoy"):
        assert (scores[name].value is not None) is (trigger is not None)


def test_nothing_that_could_run_is_an_error(tiny, tmp_path):
    with pytest.raises(
        UserError, match="no defense of this run can work: shift_with_trigger needs trigger"
    ):
        plan(config(tiny, tmp_path, defenses="shift_with_trigger"))


def test_apart_means_not_in_all():
    assert not {"suspect", "checkpoint"} & set(registry.attacks.select("all"))
    assert "trigger_effect" not in registry.metrics.select("all")
    assert "skdcag_black" not in registry.defenses.select("all"), "it is skdcag by the paper's name"
    assert registry.attacks.select("suspect") == [settings.SUSPECT]
    assert set(registry.metrics.select(settings.SUSPECT_METRICS)) > {"asr", "trigger_effect"}


# ------------------------------------------------------------------------------------------- an
# attack result of one's own
@pytest.fixture
def attacked_folder(tiny_base, tiny_model, tmp_path: Path) -> Path:
    folder = tmp_path / "attacked"
    shutil.copytree(tiny_base, folder)
    with torch.no_grad():
        tiny_model.denoiser.conv_out.bias += 0.5
    tiny_model.denoiser.save_pretrained(folder / "unet", safe_serialization=True)
    return folder


def build(**options):
    return registry.attacks.build("checkpoint", "shapes", options)


def test_the_weights_of_a_folder_take_the_place_of_the_base(tiny_base, attacked_folder, tiny):
    base = bases.load_base(tiny)
    before = weights(base)
    attacked = build(folder=str(attacked_folder), trigger="mignneko").inject(base, None, 0)
    assert different(before, weights(base)) == set()
    assert different(before, weights(attacked)) == {"unet.conv_out.bias"}
    assert torch.equal(attacked.denoiser.conv_out.bias, base.denoiser.conv_out.bias + 0.5)
    assert different(before, weights(build().inject(base, None, 0))) == set()


def test_the_key_holds_the_weights(attacked_folder):
    first = build(folder=str(attacked_folder)).weights
    assert first == build(folder=str(attacked_folder)).weights
    file = attacked_folder / "unet" / "config.json"
    file.write_text(file.read_text() + " ")
    assert build(folder=str(attacked_folder)).weights != first


def test_with_its_clean_model_everything_runs_and_is_judged(tiny, attacked_folder, tmp_path):
    given = {
        "checkpoint.folder": str(attacked_folder),
        "checkpoint.trigger": "mignneko",
        "checkpoint.style": "black and white",
    }
    asked = config(tiny, tmp_path, suspect=False, attacks="checkpoint", set=given)
    assert runner.run(asked) == 0
    found = results(asked)
    assert set(found) == {"none", "shift", "shift_with_trigger", "shift_with_model"}
    assert found["none"].scores["asr"].value is not None
    assert found["none"].scores["drift"].value > 0, "before the attack is the clean base"


@pytest.mark.parametrize(
    ("options", "target"),
    [
        ({}, "unknown"),
        ({"style": "sepia"}, "style"),
        ({"source": "star", "target": "heart"}, "object"),
        ({"picture": "bars"}, "patch"),
    ],
)
def test_targets(tiny_model, options, target):
    found = build(**options).backdoor(tiny_model)
    assert isinstance(found, Backdoor)
    assert kind_of(found.target).name == target
    assert found.trigger is None
    assert describe(found)["trigger"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"style": "sepia", "picture": "bars"}, "one target"),
        ({"source": "star"}, "both source and target"),
        ({"style": "cubist"}, "style is 'cubist'; choose one of"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(UserError, match=words):
        build(**options)


def test_weights_that_do_not_fit_are_one_line(tiny, tmp_path, tiny_base):
    with pytest.raises(UserError, match="not a diffusers folder"):
        build(folder=str(tmp_path)).inject(bases.load_base(tiny), None, 0)


def test_a_folder_like_the_embedded_base_takes_its_settings(tiny_base, tmp_path):
    from t2i_backdoor_bench import shapes

    folder = tmp_path / "mine"
    (folder / "unet").mkdir(parents=True)
    shutil.copy(shapes.BASE / "unet" / "config.json", folder / "unet" / "config.json")
    found = find_base(str(folder))
    assert (found.source, found.settings, found.scorer) == (
        str(folder),
        "shapes",
        bases.BASES["shapes"].scorer,
    )
    assert find_base(str(tiny_base)).settings == "sd"


# --------------------------------------------------------------------------------------- the metric
class Vectors:
    """A scorer whose features are the first two pixel values."""

    name = "vectors"

    def encode_images(self, images):
        return images[:, 0, :2, 0].astype(np.float32)


def test_trigger_effect_is_one_minus_the_cosine():
    images = {c: np.zeros((3, 2, 2, 3), np.uint8) for c in ("triggered", "clean_target")}
    images["clean_target"][:, 0, :2, 0] = [(1, 0), (1, 0), (1, 0)]
    images["triggered"][:, 0, :2, 0] = [(2, 0), (0, 3), (1, 1)]
    samples = Samples([], [], Backdoor(None, Target("unknown")), images, {}, np.zeros(0), key="k")
    metric = registry.metrics.build("trigger_effect", "shapes")
    found = metric.compute(samples, Features(Vectors()))
    assert found.each == pytest.approx([0, 1, 1 - 1 / np.sqrt(2)])
    samples = dataclasses.replace(
        samples, refused={"triggered": np.array([False, True, False])}, key="other"
    )
    assert metric.compute(samples, Features(Vectors())).each == pytest.approx(
        [0, 0, 1 - 1 / np.sqrt(2)]
    )


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
        dataclasses.replace(config(tiny, tmp_path, defenses="none"), metrics="asr,fid_added", n=16)
    )
    assert "fid_added" in made.metrics
    assert "fid_added" not in made.metrics_of(next(iter(made.attacks)), "none")
