"""A process of a run keeps the memory that it frees."""

from __future__ import annotations

import resource

import pytest
import torch

from t2i_backdoor_bench.running.devices import keep_freed_memory

BYTES = 40 * 2**20  # more than glibc ever keeps by itself


def test_a_freed_block_is_used_again_without_asking_the_system() -> None:
    if not keep_freed_memory():
        pytest.skip("the C library of this system is not glibc")
    torch.ones(BYTES, dtype=torch.uint8)  # what the system hands out the first time
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(BYTES, dtype=torch.uint8)
    pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert pages < 3 * BYTES // resource.getpagesize(), "less than three of ten blocks"
