"""An attacked model of one's own (the attack `checkpoint`), and what can be said of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from helpers import different, weights
from suspects import config, fakes, results  # noqa: F401 - fixtures

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import Backdoor, UserError, registry
from t2i_backdoor_bench.models import catalog as bases
from t2i_backdoor_bench.models.catalog import find_base
from t2i_backdoor_bench.targets import describe, kind_of


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
    with pytest.raises(UserError, match="is no model"):
        build(folder=str(tmp_path)).inject(bases.load_base(tiny), None, 0)


def test_a_folder_like_the_embedded_base_takes_its_settings(tiny_base, tmp_path):
    from t2i_backdoor_bench import shapes

    folder = tmp_path / "mine"
    (folder / "unet").mkdir(parents=True)
    shutil.copy(shapes.BASE / "unet" / "config.json", folder / "unet" / "config.json")
    shutil.copy(shapes.BASE / "model_index.json", folder)
    found = find_base(str(folder))
    assert (found.source, found.settings, found.scorer) == (
        str(folder),
        "shapes",
        bases.BASES["shapes"].scorer,
    )
    assert find_base(str(tiny_base)).settings == "sd"
