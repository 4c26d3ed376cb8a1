"""Classes, code and models that are refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from untrusted import edit, folder, refused  # noqa: F401 - a fixture

import run_bench
from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.loading import load_pipeline
from t2i_backdoor_bench.scoring.scorer import Scorer


def test_custom_classes_are_refused(folder: Path) -> None:
    index = folder / "model_index.json"
    before = index.read_text()
    changes = [
        {"unet": ["my_unet", "MyUNet"]},
        {"unet": ["diffusers", "UNet2DModel"]},
        {"vae": ["transformers", "AutoencoderKL"]},
        {"scheduler": ["diffusers", "os.system"]},
        {"text_encoder": ["transformers", "AutoModel"]},
        {"tokenizer": "tokenizer"},
    ]
    for change in changes:
        index.write_text(before)
        edit(index, **change)
        refused(folder, "custom class", next(iter(change)))
    index.write_text(before)
    edit(index, helper=["helper", "Helper"])
    refused(folder, "'helper'", "no Stable Diffusion has")


def test_custom_pipelines_are_refused(folder: Path) -> None:
    edit(folder / "model_index.json", _class_name=["pipeline", "MyPipeline"])
    (folder / "pipeline.py").write_text(f"open({str(folder / 'owned')!r}, 'w')")
    refused(folder, "custom pipeline")
    assert not (folder / "owned").exists()


@pytest.mark.parametrize("key", ["auto_map", "trust_remote_code", "custom_pipeline"])
@pytest.mark.parametrize(
    "file",
    [
        "text_encoder/config.json",
        "tokenizer/tokenizer_config.json",
        "unet/config.json",
        "model_index.json",
    ],
)
def test_configurations_that_ask_for_code_are_refused(folder: Path, file: str, key: str) -> None:
    edit(folder / file, **{key: {"AutoModel": "modeling.Model"}})
    refused(folder, Path(file).name, "custom code", key)


def test_an_adapter_that_names_another_model_is_refused(folder: Path) -> None:
    (folder / "text_encoder" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "/somewhere/else"})
    )
    refused(folder, "adapter_config.json", "merge the adapter")


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "{}", '{"_class_name": 3}', "[" * 100_000])
def test_a_damaged_index_is_refused_in_one_line(folder: Path, text: str) -> None:
    (folder / "model_index.json").write_text(text)
    refused(folder, "model_index.json")


def test_a_missing_part_of_the_index(folder: Path) -> None:
    edit(folder / "model_index.json", vae=[None, None])
    refused(folder, "names no vae")


def test_another_family_is_refused_by_name(folder: Path, capsys, tmp_path: Path) -> None:
    edit(folder / "model_index.json", _class_name="KandinskyV22Pipeline")
    refused(folder, "is a KandinskyV22Pipeline", "this suite runs", "SD 1.x and 2.x", "SDXL")
    assert run_bench.main(["--base", str(folder), "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_another_parametrization_an_inpainting_model_and_parts_of_two_models(folder: Path) -> None:
    scheduler = folder / "scheduler" / "scheduler_config.json"
    before = scheduler.read_text()
    edit(scheduler, prediction_type="sample")
    refused(folder, "'sample'", "epsilon and v_prediction")
    scheduler.write_text(before)
    unet = folder / "unet" / "config.json"
    before = unet.read_text()
    edit(unet, sample_size=[8, 16])
    refused(folder, "not square")
    unet.write_text(before)
    edit(unet, in_channels=9)
    refused(folder, "cannot load the base model")
    unet.write_text(before)
    edit(folder / "vae" / "config.json", latent_channels=8)
    refused(folder, "cannot load the base model")


def test_a_hub_id_that_is_not_cached_is_one_line_and_status_2(tmp_path: Path) -> None:
    """Offline, in a process of its own, as a user meets it."""
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty")}
    command = [sys.executable, "run_bench.py", "--base", "sd15", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        command,
        cwd=Path(run_bench.__file__).parent,
        env=env,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith(
        "error: cannot load the base model stable-diffusion-v1-5/stable-diffusion-v1-5"
    )
    assert "not in the hub cache" in lines[0]


def test_half_precision_weights_by_their_published_name(folder: Path) -> None:
    """Some models are published as .fp16.safetensors alone."""
    for part in ("unet", "vae", "text_encoder"):
        file = next((folder / part).glob("*.safetensors"))
        file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    load_pipeline(folder)


def test_a_scorer_folder_that_asks_for_code_or_leaves_its_folder(
    tiny_scorer: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_scorer, tmp_path / "scorer"))
    config = folder / "open_clip_config.json"
    settings = json.loads(config.read_text())
    settings["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    config.write_text(json.dumps(settings))
    with pytest.raises(UserError, match="custom code"):
        Scorer.load(folder)
    del settings["model_cfg"]["text_cfg"]["tokenizer_kwargs"]
    config.write_text(json.dumps(settings))
    Scorer.load(folder)
    (folder / "open_clip_model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (folder / "open_clip_model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(UserError, match="leaves the folder"):
        Scorer.load(folder)
