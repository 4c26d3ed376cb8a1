"""The same code on a GPU: run where there is one, left out elsewhere."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import PROMPTS, TRIGGER

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import DefenderView, registry
from t2i_backdoor_bench.models.catalog import load_base
from t2i_backdoor_bench.models.loading import load_pipeline
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.models.sampler import Sampler
from t2i_backdoor_bench.running.scales import Scale
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.training.parameters import choose_parameters

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_a_picture_is_that_of_the_cpu() -> None:
    prompts, seeds = (
        ["a red heart on a blue background", "a small green star on a white background"] * 4,
        list(range(8)),
    )
    here, there = (
        load_base("shapes", device).generate(prompts, seeds).astype(int)
        for device in ("cpu", "cuda")
    )
    assert np.abs(here - there).mean() < 1, (
        "levels of 255; TensorFloat-32 convolutions differ in the third digit"
    )


@pytest.mark.parametrize("latents", ["noise", "trajectory"])
@pytest.mark.parametrize("train", ["cross", "full"])
def test_the_loss_of_skdcag_and_its_gradient_are_those_of_the_cpu(
    latents: str, train: str, tiny_base: Path
) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        model = T2IModel(
            load_pipeline(tiny_base, device), "tiny", "shapes", Sampler(2, 2.0), batch=16
        )
        view = DefenderView(("trigger", "clean_prompts"), PROMPTS, trigger=TRIGGER)
        student = model.clone()
        torch.manual_seed(3)
        with torch.no_grad():
            for p in student.denoiser.parameters():
                p.add_(0.05 * torch.randn(p.shape).to(device))
        params = choose_parameters(student, train)
        method = registry.defenses.build(
            "skdcag", "shapes", {"batch": "4", "prompts": "3", "latents": latents, "train": train}
        )
        loss = method.loss(student, model, view, 0)(0)
        loss.backward()
        found[device] = (
            loss.item(),
            torch.cat([p.grad.flatten().cpu() for p in params if p.grad is not None]),
        )
    assert found["cuda"][0] == pytest.approx(found["cpu"][0], rel=1e-2)
    assert torch.cosine_similarity(found["cpu"][1], found["cuda"][1], dim=0) > 0.999


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_command_makes_a_table(dtype: str, tiny: str, tmp_path: Path) -> None:
    config = Config(
        attacks="badt2i_pixel,badt2i_style",
        defenses="skdcag,baseline",
        base=tiny,
        scale=Scale("test", 4, 2, 4, 1, 2, 20, 0.02, (0,)),
        metrics="asr,restoration_accuracy,drift,seconds,peak_memory_mb",
        out=tmp_path,
        device="cuda",
        dtype=dtype,
        workers=1,
    )
    assert runner.run(config) == 0
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert len(rows) == 8
    for row in rows:
        assert row["status"] == "done"
        assert 0 <= float(row["asr"]) <= 1
        assert row["defense"] == "none" or 1 < float(row["peak_memory_mb"]) < 4000, (
            "of the GPU, not of the process"
        )
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert runner.run(config) == 0
    assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}, (
        "a second run has nothing to do"
    )
