"""The benchmark of throughput on the same classes in small."""

from __future__ import annotations

import sys

import pytest
import torch
from conftest import ROOT


@pytest.fixture
def throughput(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    import throughput

    yield throughput
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    for name in ("throughput", "random_models"):
        sys.modules.pop(name)


def test_every_model_is_measured_beside_plain_code(throughput, capsys) -> None:
    words = "--tiny --rounds 1 --batch 1 --steps 1 --threads 1"
    throughput.main(words.split())
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("| s")
    ]
    assert [row[0] for row in rows] == ["sd15"] * 2 + ["sdxl"] * 2 + ["sd3"] * 2
    assert all(float(row[i]) > 0 for row in rows for i in (2, 3, 4))


def test_the_architectures_are_the_published_ones(throughput) -> None:
    from diffusers import SD3Transformer2DModel, UNet2DConditionModel

    known = {"sd15": 859_520_964, "sdxl": 2_567_463_684, "sd3": 2_028_328_000}
    for name, config in throughput.MODELS.items():
        kind = SD3Transformer2DModel if name == "sd3" else UNet2DConditionModel
        with torch.device("meta"):
            network = kind(**config)
        assert sum(p.numel() for p in network.parameters()) == known[name], name


def test_an_unknown_model_is_refused(throughput, capsys) -> None:
    with pytest.raises(SystemExit):
        throughput.main(["--models", "sd16"])
    assert "known: sd15, sdxl, sd3" in capsys.readouterr().err
