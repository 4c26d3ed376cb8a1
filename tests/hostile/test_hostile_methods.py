"""Methods of others that change what they were given, or what the process is in: their own cell
fails, and the numbers of the others are as without them."""

from __future__ import annotations

import dataclasses
import os
import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from fakes import change, config, fakes, records  # noqa: F401 - fixtures

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import Defense, option
from t2i_backdoor_bench.running.handed_over import InPlaceChange, digests, untouched


def halve(model) -> None:
    for p in model.denoiser.parameters():
        p.data.mul_(0.5)


def swap_rows(model) -> None:
    weight = model.denoiser.conv_in.weight.data
    weight[[0, 1]] = weight[[1, 0]]


def one_bit(model) -> None:
    bits = next(iter(model.encoders[0].parameters())).data.view(torch.int32).view(-1)
    bits[-1] ^= 1


def autoencoder(model) -> None:
    next(iter(model.autoencoder.parameters())).data.add_(1)


def replaced(model) -> None:
    model.denoiser.conv_out.bias = torch.nn.Parameter(model.denoiser.conv_out.bias + 1)


def buffers(model) -> None:
    model.denoiser.register_buffer("extra", torch.zeros(3))


EDITS = {f.__name__: f for f in (halve, swap_rows, one_bit, autoencoder, replaced, buffers)}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("ends", ["well", "in an error", "by sys.exit"])
def test_every_change_in_place_is_seen(tiny_model, edit, ends) -> None:
    error = {"well": None, "in an error": ValueError("x"), "by sys.exit": SystemExit(0)}[ends]
    with pytest.raises(InPlaceChange, match=r"the defense x changed .*model\.clone\(\)"):
        work(tiny_model, EDITS[edit], error)


def work(model, edit, error: BaseException | None) -> None:
    with untouched(model, "the defense x"):
        edit(model)
        if error is not None:
            raise error


def test_an_interrupt_gets_out(tiny_model) -> None:
    with pytest.raises(KeyboardInterrupt):
        work(tiny_model, halve, KeyboardInterrupt())


def test_what_works_on_a_clone_passes(tiny_model) -> None:
    with untouched(tiny_model, "x"):
        halve(tiny_model.clone())
        tiny_model.generate(["a cat"], [0])
    with pytest.raises(ValueError, match="own"):
        work(tiny_model, lambda model: None, ValueError("own"))


def test_digests_see_where_numbers_lie() -> None:
    network = torch.nn.Linear(5000, 3)
    known = {str(digests({"a": network}))}
    with torch.no_grad():
        for i, j in ((0, 1), (4095, 4096), (0, 4096), (4999, 5000), (14_999, 3)):
            weight = network.weight.view(-1)
            weight[[i, j]] = weight[[j, i]].clone()
            known.add(str(digests({"a": network})))
    assert len(known) == 6
    half = torch.nn.Linear(8, 8).to(torch.bfloat16)
    assert digests({"a": half}) != digests({"a": half.to(torch.float16)})


def test_a_method_may_be_the_first_that_asks_an_encoder_for_its_states(tiny_model) -> None:
    """As the first reading of SDXL and SD 3 does, in a run that goes on."""
    encoder, ids = tiny_model.encoders[0], torch.zeros(1, 4, dtype=torch.long)
    for _ in range(2):
        with untouched(tiny_model, "x"):
            inside = encoder(ids, output_hidden_states=True).hidden_states
        after = encoder(ids, output_hidden_states=True).hidden_states
        assert len(inside) == len(after) == encoder.config.num_hidden_layers + 1


def test_hooks_and_the_state_of_the_process_are_as_before(tiny_model, monkeypatch) -> None:
    before = tiny_model.generate(["a cat"], [0])
    folder, threads = os.getcwd(), torch.get_num_threads()
    states = random.random, torch.rand
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    wanted = float(torch.rand(())), random.random(), float(np.random.rand())
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    with untouched(tiny_model, "x"):
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(threads + 1)
        torch.set_grad_enabled(False)
        torch.manual_seed(99)
        np.random.seed(99)
        random.seed(99)
        os.chdir("/")
        os.environ["T2I_LPIPS_WEIGHTS"] = "/somewhere"
        tiny_model.denoiser.conv_in.register_forward_hook(lambda *a: torch.zeros_like(a[-1]))
        tiny_model.denoiser.conv_in.register_forward_pre_hook(lambda *a: None)
        torch.nn.modules.module.register_module_forward_hook(lambda *a: torch.zeros_like(a[-1]))
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
    assert os.getcwd() == folder
    assert "T2I_LPIPS_WEIGHTS" not in os.environ
    assert (float(torch.rand(())), random.random(), float(np.random.rand())) == wanted
    assert (random.random, torch.rand) == states
    assert np.array_equal(tiny_model.generate(["a cat"], [0]), before)
    with pytest.raises(ValueError, match="x"):
        work(tiny_model, lambda m: torch.set_default_dtype(torch.float64), ValueError("x"))
    assert torch.get_default_dtype() == torch.float32


@dataclass
class Halves(Defense):
    """Halves all weights of what it was given, and returns a clone."""

    steps: int = option(1, low=1)

    def apply(self, model, view, seed):
        made = model.clone()
        halve(model)
        torch.set_default_dtype(torch.float64)
        return dataclasses.replace(made, info={"steps": 1, "parameters": 0, "images": 0})


def test_the_cells_of_others_are_as_without_it(config, clean_registry) -> None:
    clean_registry.register_defense("a_first_one")(Halves)
    assert runner.run(change(config, defenses="none,fake_defense")) == 0
    alone = records(config)
    both = change(config, defenses="none,a_first_one,fake_defense", out=config.folder / "both")
    assert runner.run(both) == 1
    found = records(both)
    assert "must work on model.clone()" in found["fake_attack", "a_first_one", 0].error
    for cell in (("fake_attack", "none", 0), ("fake_attack", "fake_defense", 0)):
        scores = {k: (s.value, s.each) for k, s in alone[cell].scores.items()}
        assert {k: (s.value, s.each) for k, s in found[cell].scores.items()} == scores
