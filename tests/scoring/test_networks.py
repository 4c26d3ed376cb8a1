"""Published networks: found in a given folder or the cache, refused when they are something else,
"not available" when absent."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from samples import FakeScorer, features, make_samples, score
from torchmetrics.functional.image import lpips as published

import run_bench
from t2i_backdoor_bench.contract import Prompt, UserError
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.scoring.features import Features
from t2i_backdoor_bench.scoring.networks import PUBLISHED, Lpips, find_weights

__all__ = ["features"]  # a fixture


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    for variable in PUBLISHED:
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def alexnet(tmp_path: Path) -> tuple[torch.nn.Module, Path]:
    torch.manual_seed(0)
    network = torchvision.models.alexnet(weights=None).eval()
    file = tmp_path / "weights" / "alexnet-owt-7be5be79.safetensors"
    file.parent.mkdir()
    save_file({k: v for k, v in network.state_dict().items() if k.startswith("features.")}, file)
    return network, file


@pytest.mark.parametrize("variable", PUBLISHED)
def test_where_weights_are_looked_for(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_weights(variable) is None
    cached = tmp_path / "hub" / "checkpoints" / PUBLISHED[variable]
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"")
    assert find_weights(variable) == cached
    monkeypatch.setenv(variable, str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="do not exist"):
        find_weights(variable)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(UserError, match=f"holds no {PUBLISHED[variable]}"):
        find_weights(variable)
    (tmp_path / "elsewhere" / PUBLISHED[variable]).write_bytes(b"")
    assert find_weights(variable) == tmp_path / "elsewhere" / PUBLISHED[variable]
    monkeypatch.setenv(variable, str(cached))
    assert find_weights(variable) == cached


def test_lpips_against_the_formula(alexnet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean over positions of sum_c w_c (a_c - b_c)^2 of channels of length 1, summed over five
    layers; float64 by hand."""
    network, file = alexnet
    monkeypatch.setenv("T2I_LPIPS_WEIGHTS", str(file.parent))
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 5, 64, 64, 3), dtype=np.uint8)
    b[0] = a[0]
    fitted = torch.load(
        Path(inspect.getfile(published)).parent / "lpips_models" / "alex.pth",
        map_location="cpu",
        weights_only=True,
    )
    shift, scale = (
        torch.tensor([-0.030, -0.088, -0.188]).double(),
        torch.tensor([0.458, 0.448, 0.450]).double(),
    )
    expected = torch.zeros(5, dtype=torch.float64)
    with torch.no_grad():
        x, y = (
            ((torch.from_numpy(i).double() / 127.5 - 1 - shift) / scale).permute(0, 3, 1, 2)
            for i in (a, b)
        )
        for i, layer in enumerate(network.double().features):
            x, y = layer(x), layer(y)
            if i in (1, 4, 7, 9, 11):
                unit = [v / (v.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for v in (x, y)]
                weight = fitted[f"lin{(1, 4, 7, 9, 11).index(i)}.model.1.weight"].double()
                expected += ((unit[0] - unit[1]).pow(2) * weight).sum(1).mean((1, 2))
            x, y = x.clone(), y.clone()
    found = Lpips.load()
    found.batch = 2
    distances = found.distances(a, b)
    assert distances.shape == (5,)
    assert distances[0] == 0
    assert distances[1:].min() > 0
    np.testing.assert_allclose(distances, expected.numpy(), rtol=1e-4, atol=1e-6)
    assert found.distances(a[:0], b[:0]).shape == (0,)


def test_lpips_metric_or_not_available(features, alexnet, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = make_samples()
    absent = score("lpips", samples, features)
    assert absent.value is None
    assert "not available" in absent.note
    monkeypatch.setenv("T2I_LPIPS_WEIGHTS", str(alexnet[1]))
    grown = {
        k: np.repeat(np.repeat(v["clean"], 8, 1), 8, 2)
        for k, v in (("images", samples.images), ("before", samples.before))
    }
    large = dataclasses.replace(
        samples, images={"clean": grown["images"]}, before={"clean": grown["before"]}
    )
    found = score("lpips", large, Features(FakeScorer(), lpips=Lpips.load()))
    assert found.value > 0
    assert found.network == "lpips-alex"
    assert (
        score(
            "lpips",
            dataclasses.replace(large, before={"clean": grown["images"]}),
            Features(FakeScorer(), lpips=Lpips.load()),
        ).value
        == 0
    )


def test_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "alexnet.pth")
    monkeypatch.setenv("T2I_LPIPS_WEIGHTS", str(tmp_path / "alexnet.pth"))
    with pytest.raises(UserError, match="not the published AlexNet"):
        Lpips.load()
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "a.safetensors")
    monkeypatch.setenv("T2I_LPIPS_WEIGHTS", str(tmp_path / "a.safetensors"))
    with pytest.raises(UserError, match="does not hold the weights of AlexNet"):
        Lpips.load()


def test_scores_with_and_without_weights_are_two(
    tiny: str, alexnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys() -> dict[str, str]:
        made = plan(Config("badt2i_pixel", "none", tiny))
        return {m: made.metric_key(m) for m in ("lpips", "fid_inception", "drift")}

    without = keys()
    monkeypatch.setenv("T2I_LPIPS_WEIGHTS", str(alexnet[1]))
    given = keys()
    assert given["lpips"] != without["lpips"]
    assert (given["drift"], given["fid_inception"]) == (without["drift"], without["fid_inception"])


def test_prompts_without_alternatives_are_not_available(features) -> None:
    prompts = [Prompt(f"p{i}") for i in range(40)]
    samples = make_samples(prompts=prompts, target_prompts=prompts)
    for name in ("prompt_fidelity", "robustness", "restoration_accuracy"):
        found = score(name, samples, features)
        assert found.value is None
        assert found.note.startswith("not available")
    assert score("asr", samples, features).value is not None


@pytest.mark.parametrize(
    "clip", ["ViT-B-32:laion2b_s34b_b79k", "ViT-B-99:nothing", "no-such-folder"]
)
def test_a_clip_that_is_not_there_is_one_line(clip: str, tiny: str, tmp_path: Path, capsys) -> None:
    flags = [
        "--attacks",
        "badt2i_pixel",
        "--defenses",
        "none",
        "--base",
        tiny,
        "--scale",
        "smoke",
        "--out",
        str(tmp_path / "run"),
    ]
    assert run_bench.main([*flags, "--clip", clip]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert clip in line
