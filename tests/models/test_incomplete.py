"""Models whose files lack something are refused: libraries would go on with random weights or an
empty vocabulary."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from untrusted import edit, folder, refused  # noqa: F401 - a fixture

import run_bench
from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.loading import load_pipeline
from t2i_backdoor_bench.scoring.scorer import Scorer


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("at", [0, -1])
def test_a_weight_that_is_in_no_file_is_named(folder: Path, part: str, at: int) -> None:
    file = next((folder / part).glob("*.safetensors"))
    weights = load_file(file)
    name = sorted(n for n in weights if not n.endswith("position_ids"))[at]
    del weights[name]
    save_file(weights, file, metadata={"format": "pt"})
    refused(folder, f"{folder / part} is incomplete", name.removeprefix("text_model."))


def test_an_encoder_that_is_whole_in_half_precision_alone_loads(folder: Path) -> None:
    file = folder / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    half = {name: w.half() if w.is_floating_point() else w for name, w in weights.items()}
    save_file(half, file.with_name("model.fp16.safetensors"), metadata={"format": "pt"})
    load_pipeline(folder)
    half.popitem()
    save_file(half, file.with_name("model.fp16.safetensors"), metadata={"format": "pt"})
    refused(folder, "text_encoder is incomplete")


@pytest.mark.parametrize("gone", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_without_its_files_is_refused_before_any_work(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], gone: str
) -> None:
    (folder / "tokenizer" / gone).unlink()
    refused(folder, "tokenizer has no", gone, "incomplete")
    flags = ["--base", str(folder), "--attacks", "badt2i_pixel", "--out", str(tmp_path / "run")]
    assert run_bench.main(flags) == 2
    assert "incomplete" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    file = folder / "tokenizer" / "tokenizer.json"
    found = json.loads(file.read_text())
    found["model"] |= {"merges": [], "vocab": dict(list(found["model"]["vocab"].items())[:600])}
    found["model"]["vocab"] |= {"<|startoftext|>": 600, "<|endoftext|>": 601}
    found["added_tokens"] = []
    file.write_text(json.dumps(found))
    refused(folder, "the tokenizer knows", "incomplete")


def test_a_scorer_without_its_tokenizer_is_refused(tiny_scorer: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_scorer, tmp_path / "scorer"))
    (copy / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer.json.*incomplete"):
        Scorer.load(copy)
