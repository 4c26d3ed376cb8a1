"""Batches: halved where memory is short, and without a say in the numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from shifts import config, methods  # noqa: F401 - fixtures

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.models import batches
from t2i_backdoor_bench.models import catalog as bases
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

CPU_SAYS = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"
    " tried to allocate 8 bytes"
)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(CPU_SAYS), MemoryError()]
)
def test_batches_are_halved_until_they_fit(error, capsys) -> None:
    done, tried = [], []

    def make(rows: slice) -> None:
        part = list(range(11))[rows]
        tried.append(len(part))
        if len(part) > 2:
            raise error
        done.extend(part)

    assert batches.in_batches(11, 8, make, "draw") == 2
    assert done == list(range(11))
    assert tried == [8, 4, 2, 2, 2, 2, 2, 1]
    assert "draw: out of memory; going on with 2 images at a time" in capsys.readouterr().err


def test_batches_grow_while_half_of_the_memory_is_free() -> None:
    tried = []

    def make(rows: slice) -> None:
        tried.append(len(range(100)[rows]))

    assert batches.in_batches(100, 4, make, "draw", lambda: max(tried) / 40) == 32
    assert tried == [4, 8, 16, 32, 32, 8], "32 of 40 are in use: no more"


def test_a_size_that_did_not_fit_is_not_tried_again() -> None:
    tried = []

    def make(rows: slice) -> None:
        tried.append(len(range(40)[rows]))
        if tried[-1] > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert batches.in_batches(40, 4, make, "draw", lambda: 0.1) == 8
    assert tried == [4, 8, 16, 8, 8, 8, 4]


def test_only_a_gpu_has_room_to_ask_for() -> None:
    assert batches.memory_used(torch.device("cpu")) is None


def test_what_does_not_fit_alone_and_other_errors_get_out() -> None:
    def tight(rows: slice) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def broken(rows: slice) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(torch.OutOfMemoryError):
        batches.in_batches(4, 4, tight, "draw")
    with pytest.raises(RuntimeError, match="shapes"):
        batches.in_batches(4, 4, broken, "draw")


def test_a_run_with_little_memory_draws_in_smaller_batches(config, monkeypatch, capsys) -> None:
    from t2i_backdoor_bench.models.model import T2IModel

    one = dataclasses.replace(config, attacks="shift_attack", defenses="none")
    assert runner.run(one) == 0
    sample = T2IModel.draw_latents

    def tight(self, context, empty, seeds, on_step=None):
        if len(seeds) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sample(self, context, empty, seeds, on_step)

    monkeypatch.setattr(T2IModel, "draw_latents", tight)
    two = dataclasses.replace(one, out=one.folder.with_name("tight"))
    assert runner.run(two) == 0
    assert "out of memory; going on with 2 images at a time" in capsys.readouterr().err
    key = plan(one).cells[0].key
    a, b = (Store(c.folder).read_arrays(f"samples/{key}")[0] for c in (one, two))
    for name in a:
        assert np.abs(a[name].astype(int) - b[name]).max() <= 1


def test_numbers_for_batches_of_1_and_of_32(config, tiny, monkeypatch) -> None:
    """What holds: shares by a rule are equal; images differ by at most one grey level, in few
    pixels; means follow."""
    found = {}
    for size in (1, 32):
        monkeypatch.setitem(bases.BASES, tiny, dataclasses.replace(bases.BASES[tiny], batch=size))
        run = dataclasses.replace(
            config,
            attacks="shift_attack",
            defenses="none",
            out=config.folder.with_name(f"batch{size}"),
        )
        assert runner.run(run) == 0
        (record,) = (r for r in stored_records(Store(run.folder)))
        found[size] = record.scores, Store(run.folder).read_arrays(f"samples/{record.cell.key}")[0]
    (one, a), (many, b) = found[1], found[32]
    assert one["asr"] == many["asr"]
    for name in ("kid", "drift"):
        assert one[name].value == pytest.approx(many[name].value, rel=1e-2, abs=1e-4)
    for name in a:
        far = np.abs(a[name].astype(int) - b[name])
        assert far.max() <= 1
        assert (far > 0).mean() < 0.01
