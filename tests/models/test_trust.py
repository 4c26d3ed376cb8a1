"""A third-party model cannot run code, nor make the suite read outside its folder; every refusal is
one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import run_bench
from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.catalog import find_base
from t2i_backdoor_bench.models.loading import load_pipeline
from t2i_backdoor_bench.models.trust import PICKLES, check_model, locate
from t2i_backdoor_bench.scoring.scorer import Scorer


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "model"))


def refused(folder: Path | str, *words: str) -> None:
    with pytest.raises(UserError) as error:
        load_pipeline(folder)
    text = str(error.value)
    assert "\n" not in text
    assert all(w in text for w in words), text


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_plain_folder_passes(folder: Path) -> None:
    check_model(folder)
    assert locate(folder) == folder


# ------------------------------------------------------------------------------------------ pickles
@pytest.mark.parametrize("suffix", PICKLES)
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_pickles_are_refused_by_name_with_how_to_convert(
    folder: Path, part: str, suffix: str
) -> None:
    file = next((folder / part).glob("*.safetensors"))
    file.rename(file.with_suffix(suffix))
    refused(
        folder,
        f"{part} holds {file.stem}{suffix}",
        "only safetensors",
        "save_pretrained(NEW, safe_serialization=True)",
    )


@pytest.mark.parametrize("name", ["sd-v1-4.ckpt", "models/v1-5.pt", "a/b/model.bin", "x.pth"])
def test_a_single_pickle_as_base_is_refused(name: str, capsys) -> None:
    with pytest.raises(UserError, match=r"is a pickle.*from_single_file"):
        find_base(name)
    assert run_bench.main(["--base", name]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_single_safetensors_file_is_told_how_to_become_a_folder() -> None:
    with pytest.raises(UserError, match=r"single file.*from_single_file"):
        find_base("downloads/dreamy.safetensors")


def test_a_folder_of_one_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"")
    refused(tmp_path, "model.ckpt is a pickle")


def test_a_malicious_pickle_beside_an_index_is_never_opened(folder: Path, tmp_path: Path) -> None:
    """The shards of a .bin index are pickles; they may be there, as on the hub, and are not
    opened."""
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(
        b"cos\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntR."
    )
    edit_index(
        folder / "unet" / "diffusion_pytorch_model.bin.index.json",
        {"w": "diffusion_pytorch_model.bin"},
    )
    load_pipeline(folder)
    assert not (tmp_path / "owned").exists()


# -------------------------------------------------------------------------------------------- paths
def edit_index(file: Path, shards: dict[str, object]) -> None:
    file.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": shards}))


@pytest.mark.parametrize(
    "shard",
    [
        "../vae/diffusion_pytorch_model.safetensors",
        "/etc/passwd",
        "sub/x.safetensors",
        "..",
        "a\\b",
        3,
    ],
)
def test_shards_stay_in_their_folder(folder: Path, shard: object) -> None:
    edit_index(
        folder / "unet" / "diffusion_pytorch_model.safetensors.index.json",
        {"conv_in.weight": shard},
    )
    refused(folder, "index.json", repr(shard), "leaves its folder")


def test_a_shard_that_is_a_pickle_or_is_not_there(folder: Path) -> None:
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    edit_index(index, {"conv_in.weight": "diffusion_pytorch_model.bin"})
    refused(folder, "a pickle")
    edit_index(index, {"conv_in.weight": "diffusion_pytorch_model-00001-of-00002.safetensors"})
    refused(folder, "is not there")
    index.write_text("[]")
    refused(folder, "no index of shards")


@pytest.mark.parametrize("part", ["../unet", "/etc", "a/b", ".", "unet/../vae"])
def test_parts_are_names_not_paths(folder: Path, part: str) -> None:
    edit(folder / "model_index.json", **{part: ["diffusers", "UNet2DConditionModel"]})
    refused(folder, repr(part), "leave the model's folder")


@pytest.mark.parametrize(
    "where",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "tokenizer/tokenizer.json",
        "model_index.json",
        "vae",
    ],
)
def test_links_that_leave_the_folder_are_refused(folder: Path, tmp_path: Path, where: str) -> None:
    (tmp_path / "outside").mkdir()
    target = tmp_path / "outside" / Path(where).name
    shutil.move(folder / where, target)
    (folder / where).symlink_to(target)
    refused(folder, "is a link that leaves the folder")


def test_links_inside_the_folder_and_of_a_hub_cache_are_fine(folder: Path, tmp_path: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.move(weights, folder / "shared.safetensors")
    weights.symlink_to("../shared.safetensors")
    load_pipeline(folder)
    repository = tmp_path / "models--owner--name"
    snapshot = Path(shutil.copytree(folder, repository / "snapshots" / "abc", symlinks=True))
    (repository / "blobs").mkdir()
    shutil.move(snapshot / "shared.safetensors", repository / "blobs" / "f00")
    (snapshot / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (snapshot / "unet" / "diffusion_pytorch_model.safetensors").symlink_to("../../../blobs/f00")
    load_pipeline(snapshot)
    (tmp_path / "blobs" / "f0").mkdir(parents=True)
    shutil.move(repository / "blobs" / "f00", tmp_path / "blobs" / "f0" / "f00")
    (repository / "blobs" / "f00").symlink_to("../../blobs/f0/f00")
    load_pipeline(snapshot)
    (repository / "blobs" / "f00").unlink()
    shutil.move(tmp_path / "blobs" / "f0" / "f00", tmp_path / "f00")
    (repository / "blobs" / "f00").symlink_to(tmp_path / "f00")
    refused(snapshot, "is a link that leaves the folder")


# --------------------------------------------------------------------------------------------- code
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


# ---------------------------------------------------------------------------------- what cannot run
def test_sdxl_is_refused_with_the_reason(folder: Path, capsys, tmp_path: Path) -> None:
    edit(
        folder / "model_index.json",
        _class_name="StableDiffusionXLPipeline",
        text_encoder_2=["transformers", "CLIPTextModelWithProjection"],
    )
    refused(folder, "StableDiffusionXLPipeline", "two text encoders", "SD 1.x and 2.x")
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


# ------------------------------------------------------------------------------------------- scorer
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
