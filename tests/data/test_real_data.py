"""The real command on Stable Diffusion folders and captioned pictures, to a table: what a user with
a GPU runs, in small."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from kinds import KINDS, build
from PIL import Image

import run_bench
from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.catalog import picture_side, reads
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.settings import Config

METRICS = (
    "asr,removal_accuracy,restoration_accuracy,false_trigger_rate,"
    "asr_moved,clip_score,kid,prompt_fidelity,robustness,drift,diversity"
)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty captioned pictures of other sizes than the model's, one of them missing and one
    broken."""
    folder = tmp_path_factory.mktemp("data") / "pets"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(20):
        name, animal = f"{i}.jpg", ("dog", "dog and a cat")[i % 2]
        Image.fromarray(rng.integers(0, 256, (90 + i, 120, 3), dtype=np.uint8)).save(folder / name)
        rows.append({"file_name": name, "text": f"a {animal} on a field number {i}"})
    rows += [
        {"file_name": "gone.jpg", "text": "a dog that is gone"},
        {"file_name": "torn.jpg", "text": "a torn dog"},
    ]
    (folder / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: build(tmp_path_factory.mktemp("bases") / kind, kind) for kind in KINDS}


def command(
    base: Path,
    data: Path,
    scorer: Path,
    out: Path,
    *more: str,
    attacks: str = "badt2i_pixel",
    defenses: str = "none,skdcag",
) -> int:
    """The command with few steps, prompts and pictures; `more` comes last and wins."""
    flags = [
        "--base",
        str(base),
        "--data",
        str(data),
        "--clip",
        str(scorer),
        "--scale",
        "smoke",
        "--n",
        "3",
        "--steps",
        "2",
        "--metrics",
        METRICS,
    ]
    flags += ["--out", str(out), "--attacks", attacks, "--defenses", defenses, "--device", "cpu"]
    flags += ["--no-controls"]
    for name in attacks.split(","):
        options = [
            "images=3",
            "steps=2",
            "batch=4",
            "trigger=mignneko",
            *(["size=20"] if "pixel" in name else []),
        ]
        flags += [f for o in options for f in ("--set", f"{name}.{o}")]
    for name in defenses.split(","):
        options = (
            ["prompts=2", *([] if name == "uce" else ["steps=2", "batch=4"])]
            if name != "none"
            else []
        )
        flags += [f for o in options for f in ("--set", f"{name}.{o}")]
    return run_bench.main([*flags, *more])


@pytest.mark.parametrize("kind", ["sd1"])  # the test of half precision has sd2
def test_from_folders_to_a_table(
    kind: str, bases, pictures: Path, tiny_scorer: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "run"
    status = command(
        bases[kind],
        pictures,
        tiny_scorer,
        out,
        defenses="none,skdcag,finetune_reversal,concept_ablation,uce",
    )
    said = capsys.readouterr()
    assert status == 0, said.err
    assert (
        "2 of 22 rows are left out: 1 broken picture (torn.jpg); 1 missing picture (gone.jpg)"
        in said.err
    )
    table = pd.read_csv(out / "table.csv").set_index("defense")
    assert (table.status == "done").all()
    assert len(table) == 5
    for column in (
        "asr",
        "removal_accuracy",
        "restoration_accuracy",
        "prompt_fidelity",
        "clip_score",
        "kid",
        "drift",
    ):
        assert table[column].notna().all(), column
    run = json.loads((out / "run.json").read_text())["payload"]
    assert run["protocol"]["data"].startswith("pets (")
    assert run["protocol"]["evaluation"]["real"] == run["config"]["scale"]["real"] < 20
    assert run["protocol"]["scorer"] == tiny_scorer.name
    assert all(p.startswith("a ") for p in run["example_prompts"])
    assert (
        command(
            bases[kind],
            pictures,
            tiny_scorer,
            out,
            defenses="none,skdcag,finetune_reversal,concept_ablation,uce",
        )
        == 0
    )
    assert "5 of 5 cells are stored" in capsys.readouterr().err


def test_object_and_style_attacks(
    bases, pictures: Path, tiny_scorer: Path, tmp_path: Path, capsys
) -> None:
    names = "badt2i_style,badt2i_object,poison_style"
    flags = ("--set", "badt2i_object.images=2", "--n", "2")
    assert (
        command(
            bases["sd1"],
            pictures,
            tiny_scorer,
            tmp_path / "run",
            *flags,
            attacks=names,
            defenses="none",
        )
        == 0
    ), capsys.readouterr()
    table = pd.read_csv(tmp_path / "run" / "table.csv").set_index("attack")
    assert table.asr.notna().all()


def test_half_precision_to_a_table(
    bases, pictures: Path, tiny_scorer: Path, tmp_path: Path
) -> None:
    half = ("--dtype", "bfloat16")
    assert command(bases["sd2"], pictures, tiny_scorer, tmp_path / "run", *half) == 0
    assert pd.read_csv(tmp_path / "run" / "table.csv").asr.notna().all()


def test_keys_follow_the_data_and_the_scorer(
    bases, pictures: Path, tiny_scorer: Path, tmp_path: Path
) -> None:
    config = Config(
        "badt2i_pixel",
        "none",
        str(bases["sd1"]),
        n=3,
        metrics=METRICS,
        data=str(pictures),
        clip=str(tiny_scorer),
    )
    from dataclasses import replace

    key = plan(config).cells[0].key
    assert key == plan(config).cells[0].key
    assert key != plan(replace(config, data=f"{pictures},rows=19")).cells[0].key
    assert key != plan(replace(config, data="")).cells[0].key
    assert key != plan(replace(config, clip="ViT-B-32:laion2b_s34b_b79k")).cells[0].key


def refused(capsys, *words: str, **given: object) -> None:
    assert given.pop("status") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert all(w in error for w in words), error


def test_too_few_pictures_and_prompts_before_any_work(
    bases, pictures: Path, tiny_scorer: Path, tmp_path: Path, capsys
) -> None:
    given = (bases["sd1"], pictures, tiny_scorer, tmp_path / "run")
    refused(
        capsys,
        "badt2i_pixel trains on 400 captioned images",
        status=command(*given, "--set", "badt2i_pixel.images=400"),
    )
    refused(
        capsys, "evaluation split of pets", "15 are asked for", status=command(*given, "--n", "15")
    )
    refused(
        capsys,
        "prompts 50 is not between 1 and",
        status=command(*given, "--set", "skdcag.prompts=50"),
    )
    flags = ("--set", "badt2i_object.source=zebra")
    refused(
        capsys, "'zebra'", status=command(*given, *flags, attacks="badt2i_object", defenses="none")
    )
    assert not (tmp_path / "run" / "cells").exists()


def test_a_large_base_wants_pictures(
    tmp_path: Path, tiny_scorer: Path, pictures: Path, capsys
) -> None:
    """Pictures of the embedded world are 64 px: a base of 128 px cannot train on them."""
    base = build(tmp_path / "large", "sd1", side=16)
    assert picture_side(str(base)) == 128
    assert run_bench.main(["--base", str(base), "--out", str(tmp_path / "run")]) == 2
    assert "--data" in capsys.readouterr().err
    assert command(base, pictures, tiny_scorer, tmp_path / "run", defenses="none") == 0


def test_captions_that_the_model_would_truncate(bases) -> None:
    fits = reads(str(bases["sd1"]))
    assert fits("a dog")
    assert not fits("a dog and a cat " * 10)


def test_sizes_are_read_without_weights(bases, tmp_path: Path) -> None:
    assert picture_side(str(bases["sd2"])) == 64
    file = bases["sd2"] / "unet" / "config.json"
    before = file.read_text()
    try:
        file.write_text(json.dumps(json.loads(before) | {"sample_size": [8, 8]}))
        with pytest.raises(UserError, match="not square"):
            picture_side(str(bases["sd2"]))
    finally:
        file.write_text(before)
    assert torch.get_num_threads() == 1
