"""How many DPM-Solver++ steps are enough: pictures and scores against those of DDIM, from the same
noise.

    python benchmarks/sampler_steps.py                                        the embedded base
    python benchmarks/sampler_steps.py --base sd15 --device cuda --n 64 --data NAME --clip MODEL

DDIM with `--reference` steps (default 200) draws the reference. A row is a sampler and its steps:
seconds a picture, root mean square difference to the reference (0..1), and the CLIP score. Prompts
are of the development split. Both sets have the same prompts and noise, so that a distance of sets,
such as KID, says less than the difference of the pictures.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

import numpy as np
from diffusers import DDIMScheduler

from t2i_backdoor_bench.contract import Backdoor, Samples, Target, Trigger, registry
from t2i_backdoor_bench.models.catalog import MEMORY, find_base, load_base
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running.choose_data import choose_data
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.scoring.features import Features
from t2i_backdoor_bench.scoring.scorer import Scorer

SAMPLERS = ("DPM-Solver++", "DDIM")


def draw(model: T2IModel, name: str, steps: int, prompts: list[str]) -> tuple[np.ndarray, float]:
    """Pictures uint8 (n, H, W, 3) of one sampler, and the seconds of one."""
    other = model.clone(train="none")
    settings = dict(model.pipe.scheduler.config)
    if (
        name == "DDIM"
    ):  # the last step of DDIM ends at the first noise level of Stable Diffusion, not at none
        other.pipe.scheduler = DDIMScheduler.from_config(
            settings, clip_sample=False, set_alpha_to_one=False, timestep_spacing="trailing"
        )
    other = replace(other, sampler=replace(model.sampler, steps=steps))
    begun = time.perf_counter()
    images = other.generate(prompts, list(range(len(prompts))), f"{name} {steps}")
    return images, (time.perf_counter() - begun) / len(prompts)


def scores(
    images: np.ndarray, reference: np.ndarray, prompts: list, features: Features
) -> tuple[float, float]:
    """Root mean square difference to the reference, and CLIP score."""
    samples = Samples(
        prompts,
        prompts,
        Backdoor(Trigger(), Target("style", style="sepia")),
        {"clean": images},
        {},
        reference,
    )
    error = (
        np.mean(
            [
                np.sqrt(np.mean((a.astype(np.float32) - b) ** 2))
                for a, b in zip(images, reference, strict=True)
            ]
        )
        / 255
    )
    clip = registry.metrics.build("clip_score", "shapes").compute(samples, features).value
    return float(error), clip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="shapes")
    parser.add_argument("--data", default="")
    parser.add_argument("--clip", default="")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", default="", choices=("", *MEMORY))
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--steps", default="5,10,15,20,25,50")
    parser.add_argument("--reference", type=int, default=200)
    args = parser.parse_args()
    base = find_base(args.base)
    data = choose_data(Config(base=args.base, data=args.data), base)
    prompts = data.prompts("development", args.n, 0)
    texts = [p.text for p in prompts]
    model = load_base(args.base, args.device, memory=[args.memory])
    features = Features(Scorer.load(args.clip or base.scorer, args.device))
    reference, seconds = draw(model, "DDIM", args.reference, texts)
    print(
        f"{args.base}, {args.n} prompts of {data.name}, guidance {model.sampler.guidance};"
        f" reference: DDIM, {args.reference} steps\n"
    )
    print(
        "| sampler | steps | seconds a picture | RMS difference | CLIP score |\n"
        "|---|---:|---:|---:|---:|"
    )
    print(
        f"| DDIM | {args.reference} | {seconds:.3f} | 0 |"
        f" {scores(reference, reference, prompts, features)[1]:.2f} |"
    )
    for name in SAMPLERS:
        for steps in (int(s) for s in args.steps.split(",")):
            images, seconds = draw(model, name, steps, texts)
            error, clip = scores(images, reference, prompts, features)
            print(f"| {name} | {steps} | {seconds:.3f} | {error:.4f} | {clip:.2f} |")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
