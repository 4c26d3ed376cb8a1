"""What saves memory changes no number: checkpointing, slicing, offload."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from helpers import PROMPTS, weights

import run_bench
from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.models import offload
from t2i_backdoor_bench.models.catalog import load_base
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.scales import Scale
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records
from t2i_backdoor_bench.training.denoising import Term, train_terms
from t2i_backdoor_bench.training.loop import Optim, fit
from t2i_backdoor_bench.training.parameters import choose_parameters


def output(model: T2IModel) -> torch.Tensor:
    x = torch.randn((3, *model.latent_shape), generator=torch.Generator().manual_seed(0))
    return model.denoiser(x, torch.tensor([10, 400, 900]), model.encode(PROMPTS)).sample


def test_checkpointing_and_slicing_change_nothing_but_rounding(tiny_base: Path) -> None:
    plain, saving = (
        load_base(str(tiny_base)),
        load_base(str(tiny_base), memory=("checkpointing", "slicing")),
    )
    assert saving.denoiser.is_gradient_checkpointing
    assert saving.clone().denoiser.is_gradient_checkpointing
    assert not plain.denoiser.is_gradient_checkpointing
    assert "Sliced" in type(next(iter(saving.denoiser.attn_processors.values()))).__name__
    torch.testing.assert_close(output(plain), output(saving), rtol=1e-4, atol=1e-5)
    results = []
    for model in (plain, saving):
        student = model.clone(train="kv")
        latents = torch.randn((3, *model.latent_shape), generator=torch.Generator().manual_seed(1))
        losses = train_terms(
            student,
            model,
            [Term(PROMPTS, latents, PROMPTS[::-1])],
            Optim(3, 1e-3, 3),
            0,
            "t",
            train="kv",
        ).losses
        results.append((losses, weights(student)))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-4)
    for key in results[0][1]:
        torch.testing.assert_close(results[0][1][key], results[1][1][key], rtol=1e-3, atol=1e-4)


def test_checkpointing_keeps_fewer_activations(tiny_base: Path) -> None:
    kept = []
    for memory in ((), ("checkpointing",)):
        model = load_base(str(tiny_base), memory=memory).clone()
        choose_parameters(model, "full")
        sizes: list[int] = []

        def pack(x: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            output(model).sum()
        kept.append(sum(sizes))
    assert kept[1] < 0.5 * kept[0]


def test_memory_is_a_flag_and_in_the_key_only_where_it_is_set(tiny, capsys, tmp_path: Path) -> None:
    assert run_bench.main(["--memory", "magic", "--out", str(tmp_path)]) == 2
    assert "not one of checkpointing, slicing" in capsys.readouterr().err
    plain = plan(Config("badt2i_pixel", "none", tiny)).cells[0]
    assert "memory" not in plain.config["shared"]
    saving = plan(Config("badt2i_pixel", "none", tiny, memory=("slicing", "checkpointing"))).cells[
        0
    ]
    assert saving.config["shared"]["memory"] == ["checkpointing", "slicing"]


class Elsewhere(torch.nn.Linear):
    """A network whose place is a word: the test has one device."""

    def __init__(self, place: str) -> None:
        super().__init__(1, 1)
        self.place = torch.device(place)
        self.seen: list[str] = []

    def to(self, device):
        self.place = torch.device(device)
        self.seen.append(self.place.type)
        return self


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "device_of", lambda part: part.place)


def test_parts_lie_elsewhere_for_a_block_and_come_back_whatever_happens(places) -> None:
    a, b = Elsewhere("cuda"), Elsewhere("cpu")
    with offload.placed("cpu", [a, b, a]):
        assert a.place.type == b.place.type == "cpu"
        with offload.placed("cuda", [a]):  # an offloaded part is used
            assert a.place.type == "cuda"
        assert a.place.type == "cpu"
    with pytest.raises(RuntimeError, match="diverged"), offload.placed("cpu", [a, b]):
        raise RuntimeError("diverged")
    assert a.place.type == "cuda"
    assert a.seen == ["cpu", "cuda", "cpu", "cuda", "cpu", "cuda"]
    assert b.seen == [], "what lies there already is not touched"


def test_moving_is_no_change_of_weights_and_no_inference() -> None:
    """float64 stands for the other device: `to` puts new storage behind the same parameters."""
    layer = torch.nn.Linear(2, 2)
    before = [(id(p), p._version) for p in layer.parameters()]
    with torch.inference_mode(), torch.inference_mode(False):
        layer.to(torch.float64).to(torch.float32)
    assert [(id(p), p._version) for p in layer.parameters()] == before
    layer(torch.zeros(1, 2)).sum().backward()
    assert layer.weight.grad is not None


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, frozenset]]:
    """What a run does from now on (train, encode, decode), each with the parts that wait then."""
    log: list[tuple[str, frozenset]] = []
    waiting: set[int] = set()
    real, names = offload.placed, {}

    @contextlib.contextmanager
    def placed(device, parts):
        parts = list(parts)
        before = set(waiting)
        (waiting.update if str(device) == "cpu" and len(parts) > 2 else waiting.difference_update)(
            {id(p) for p in parts}
        )
        with real(device, parts):
            yield
        waiting.clear()
        waiting.update(before)

    def noted(kind, function):
        def call(*args, **more):
            log.append((kind, frozenset(names[i] for i in waiting if i in names)))
            return function(*args, **more)

        return call

    monkeypatch.setattr("t2i_backdoor_bench.running.shared.placed", placed)
    monkeypatch.setattr("t2i_backdoor_bench.models.networks.placed", placed)
    monkeypatch.setattr("t2i_backdoor_bench.training.denoising.fit", noted("train", fit))
    monkeypatch.setattr("diffusers.AutoencoderKL.encode", noted("encode", AutoencoderKL.encode))
    monkeypatch.setattr("diffusers.AutoencoderKL.decode", noted("decode", AutoencoderKL.decode))
    opened = Shared.load

    def load(shop) -> None:
        opened(shop)
        names.update(
            {
                id(shop.model.encoders[0]): "text",
                id(shop.model.pipe.vae): "vae",
                id(shop.features.scorer.model): "scorer",
            }
        )

    monkeypatch.setattr(Shared, "load", load)
    return log


def test_what_is_idle_waits_while_a_method_works_and_is_there_where_it_is_used(
    tiny, tmp_path: Path, log
) -> None:
    """A run of an attack and a defense: its numbers are those without, and each part waits in
    training and is there for its use."""
    scale = Scale("test", 4, 0, 0, 0, 1, 4, 1.0, (0,))
    steps = (
        "badt2i_pixel.steps=2",
        "badt2i_pixel.images=4",
        "badt2i_pixel.batch=4",
        "finetune_reversal.steps=2",
        "finetune_reversal.batch=4",
    )
    config = Config(
        "badt2i_pixel",
        "finetune_reversal",
        tiny,
        scale,
        metrics="kid,drift",
        overrides=steps,
        workers=1,
        out=tmp_path / "plain",
    )
    found = []
    for memory in ((), ("offload",)):
        run = dataclasses.replace(config, memory=memory, out=tmp_path / f"run{len(memory)}")
        assert runner.run(run, show=False) == 0
        (record,) = stored_records(Store(run.folder))
        found.append({k: v.value for k, v in record.scores.items()})
        if not memory:
            assert {gone for _, gone in log} == {frozenset()}
            log.clear()
    assert found[0] == found[1]
    assert {gone for kind, gone in log if kind == "train"} == {frozenset({"text", "vae", "scorer"})}
    assert all("vae" not in gone for kind, gone in log if kind in ("encode", "decode"))
    assert {kind for kind, _ in log} == {"train", "encode", "decode"}
