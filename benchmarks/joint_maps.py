"""Memory and time of the maps of text tokens in joint attention at the size of SD 3 at 1024 px (one
block, one row, 24 heads of 64, 4,096 tokens of the picture, 333 of text), forward and backward,
beside a softmax that keeps the whole matrix.

python benchmarks/joint_maps.py chunks
python benchmarks/joint_maps.py whole
"""

from __future__ import annotations

import resource
import sys
import time

import torch
from torch import Tensor

from t2i_backdoor_bench.training.joint_maps import summed_joint

HEADS, WIDTH, PIXELS, WORDS = 24, 64, 4096, 333


def whole(q: Tensor, text: Tensor, picture: Tensor) -> Tensor:
    """The same maps from the whole matrix."""
    q, keys = (
        x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, torch.cat([text, picture], 1))
    )
    return (q @ keys.transpose(-1, -2) / WIDTH**0.5).softmax(-1)[..., :WORDS].mean(1)


def peak() -> float:
    """The most memory that this process has had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main(way: str) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    sizes = (PIXELS, WORDS, PIXELS)
    q, text, picture = (
        torch.randn(1, n, HEADS * WIDTH, generator=generator, requires_grad=True) for n in sizes
    )
    before, begun = peak(), time.perf_counter()
    maps = summed_joint([(q, text, picture)], HEADS) if way == "chunks" else whole(q, text, picture)
    forward = peak() - before
    maps.square().sum().backward()
    seconds = time.perf_counter() - begun
    print(f"{way}: {forward:.2f} GB, {peak() - before:.2f} GB with backward, {seconds:.1f} s")


if __name__ == "__main__":
    main(sys.argv[1])
