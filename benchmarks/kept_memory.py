"""Time of a drawing step and of a training step where a process keeps the memory that it frees,
against one that hands it back.

    python benchmarks/kept_memory.py [--rounds 5]

Each round starts a process of each kind, in turn, on one thread. The seconds are of the processor,
so that other load on the machine counts for little; the ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time

STEPS, BATCH = 30, 32


def seconds(keep: bool) -> tuple[float, float, int]:
    """Processor seconds of a step of drawing and of training, and the blocks of memory that the
    system handed out for each step of drawing."""
    import resource

    import torch

    from t2i_backdoor_bench.models.catalog import load_base
    from t2i_backdoor_bench.running.devices import keep_freed_memory

    torch.set_num_threads(1)
    if keep and not keep_freed_memory():
        raise SystemExit("this system's C library is not glibc: nothing to compare")
    unet = load_base("shapes").pipe.unet.requires_grad_(True)
    x = torch.randn(BATCH, 4, unet.config.sample_size, unet.config.sample_size)
    text = torch.randn(BATCH, 24, unet.config.cross_attention_dim)

    def draw() -> None:
        with torch.inference_mode():
            unet(x, 5, text)

    def train() -> None:
        unet(x[:16], 5, text[:16]).sample.square().mean().backward()

    found = []
    for step in (draw, train):
        for _ in range(3):
            step()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        begun = time.process_time()
        for _ in range(STEPS):
            step()
        found.append((time.process_time() - begun) / STEPS)
        if step is draw:
            pages = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) // STEPS
    return found[0], found[1], pages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        found = [[pool.apply(seconds, (keep,)) for keep in (False, True)] for _ in range(rounds)]
    for i, what in enumerate(("drawing", "training")):
        ratio = statistics.median(kept[i] / back[i] for back, kept in found)
        print(f"{what}: {ratio:.2f} of the time")
    back, kept = found[-1]
    print(f"pages handed out a step of drawing: {back[2]} and {kept[2]}")


if __name__ == "__main__":
    main()
