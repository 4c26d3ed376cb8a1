"""What of a folder is read: safetensors inside it alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from untrusted import edit, folder, refused  # noqa: F401 - a fixture

import run_bench
from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.catalog import find_base
from t2i_backdoor_bench.models.loading import load_pipeline
from t2i_backdoor_bench.models.trust import PICKLES, check_model, locate


def test_a_plain_folder_passes(folder: Path) -> None:
    check_model(folder)
    assert locate(folder) == folder


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
        "t2i-backdoor-bench convert OLD NEW",
    )


@pytest.mark.parametrize("name", ["sd-v1-4.ckpt", "models/v1-5.pt", "a/b/model.bin", "x.pth"])
def test_a_single_pickle_as_base_is_refused(name: str, capsys) -> None:
    with pytest.raises(UserError, match=r"is a pickle.*convert FILE"):
        find_base(name)
    assert run_bench.main(["--base", name]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_of_weights_that_is_not_there_is_told_where_it_goes() -> None:
    with pytest.raises(UserError, match=r"no file downloads/dreamy.*--model FILE"):
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
