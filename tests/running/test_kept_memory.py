"""A process of a run keeps the memory that it frees."""

from __future__ import annotations

import subprocess
import sys

import pytest

# a process of its own: in one that has worked, blocks lie where others were
PROGRAM = """
import resource, sys, torch
from t2i_backdoor_bench.running.devices import keep_freed_memory

if len(sys.argv) > 1 and not keep_freed_memory():
    sys.exit("no glibc")
many = 40 * 2**20  # more than glibc ever keeps by itself
torch.ones(many, dtype=torch.uint8)  # what the system hands out the first time
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(many, dtype=torch.uint8)
pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(pages * resource.getpagesize() / many)
"""


def test_a_freed_block_is_used_again_without_asking_the_system() -> None:
    def blocks(*arguments: str) -> float | None:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=300
        )
        return None if "no glibc" in done.stderr else float(done.stdout)

    kept, handed_back = blocks("keep"), blocks()
    if kept is None or handed_back < 9:
        pytest.skip("no glibc, or pages so large that few are counted")
    assert kept < 3
