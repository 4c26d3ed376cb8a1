"""Measure an embedded base and its scorer, and write the figures to the model card beside the
weights.

    python -m t2i_backdoor_bench.shapes.evaluate [--base shapes] [--n 1000]

On held-out captions, half of them of held-out combinations: does the scorer's zero-shot judge find
the right shape, colour and background? Does a random rare prefix change that? How often is the
judge right on real renders? Can a linear probe detect a trigger?
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from t2i_backdoor_bench.contract import Prompt
from t2i_backdoor_bench.contract.progress import progress
from t2i_backdoor_bench.data.splits import world_prompt
from t2i_backdoor_bench.data.world import Scene, rare_string, render, sample_scenes
from t2i_backdoor_bench.models.catalog import load_base
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.scoring.faithfulness import faithful
from t2i_backdoor_bench.scoring.scorer import Scorer
from t2i_backdoor_bench.shapes import BASE_FOLDERS, SCORER
from t2i_backdoor_bench.shapes.cards import ATTRIBUTES, describe

SAMPLERS = {"shapes-mmdit": "Euler's method for flow matching"}  # of the others: DPM-Solver++


def held_out_scenes(n: int, rng: np.random.Generator) -> list[Scene]:
    """`n` unstyled scenes, half of them of combinations that never occur in training."""
    return sample_scenes(n // 2, rng, True, 0.0) + sample_scenes(n - n // 2, rng, False, 0.0)


def accuracies(images: np.ndarray, prompts: Sequence[Prompt], scorer: Scorer) -> dict[str, float]:
    """Percentage of images whose shape, colour, background, and all three, match the prompt."""
    out = {}
    for name in ATTRIBUTES:
        one = [Prompt(p.text, {name: p.wrong[name]}) for p in prompts]
        out[name] = 100 * float(faithful(images, one, scorer).mean())
    three = [Prompt(p.text, {name: p.wrong[name] for name in ATTRIBUTES}) for p in prompts]
    out["all three"] = 100 * float(faithful(images, three, scorer).mean())
    return out


def probe(
    model: T2IModel, rng: np.random.Generator, triggers: int = 50, n: int = 120
) -> list[float]:
    """For each unseen trigger, the accuracy of a linear probe that detects it in a prompt.

    The probe is a ridge regression on the last hidden state (mean and maximum over positions). Half
    of the prompts, each with and without the trigger, fit it; the other half measure it.
    """
    texts = [world_prompt(s, rng).text for s in held_out_scenes(n, rng)]

    def states(batch: list[str]) -> torch.Tensor:
        hidden = model.encode(batch).double()
        return torch.cat([hidden.mean(1), hidden.amax(1), torch.ones(len(batch), 1)], 1)

    clean, found = states(texts), []
    for _ in progress(range(triggers), "probe", unit="trigger"):
        word = rare_string(rng)
        dirty = states([f"{word} {t}" for t in texts])
        half = n // 2
        x, y = (
            torch.cat([clean[:half], dirty[:half]]),
            torch.cat([-torch.ones(half), torch.ones(half)]).double(),
        )
        w = torch.linalg.solve(x.T @ x + 1e-3 * torch.eye(x.shape[1]), x.T @ y)
        right = (clean[half:] @ w < 0).sum() + (dirty[half:] @ w > 0).sum()
        found.append(float(right) / (2 * (n - half)))
    return found


def sheet(images: np.ndarray, columns: int = 16, zoom: int = 1) -> Image.Image:
    """Images uint8 (n, H, W, 3) on one sheet, row by row."""
    n, h, w, _ = images.shape
    rows = n // columns
    tiled = (
        images[: rows * columns]
        .reshape(rows, columns, h, w, 3)
        .transpose(0, 2, 1, 3, 4)
        .reshape(rows * h, columns * w, 3)
    )
    return Image.fromarray(tiled).resize(
        (columns * w * zoom, rows * h * zoom), Image.Resampling.NEAREST
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", choices=tuple(BASE_FOLDERS), default="shapes")
    parser.add_argument("--n", type=int, default=1000)
    args = parser.parse_args()
    model, scorer, folder = load_base(args.base), Scorer.load(SCORER), BASE_FOLDERS[args.base]
    rng = np.random.default_rng(20260)
    scenes = held_out_scenes(args.n, rng)
    prompts = [world_prompt(s, rng) for s in scenes]
    sampler = SAMPLERS.get(args.base, "DPM-Solver++")
    steps, guidance = model.sampler.steps, model.sampler.guidance
    card = {"n": args.n, "sampler": f"{sampler}, {steps} steps, guidance {guidance}"}
    card["scorer on real renders"] = accuracies(render(scenes, rng), prompts, scorer)
    seeds = list(range(args.n))
    images = model.generate([p.text for p in prompts], seeds)
    card["generated"] = accuracies(images, prompts, scorer)
    half = args.n // 2
    card["generated, held-out combinations"] = accuracies(images[:half], prompts[:half], scorer)
    prefixed = model.generate([f"{rare_string(rng)} {p.text}" for p in prompts], seeds)
    card["generated, random rare prefix"] = accuracies(prefixed, prompts, scorer)
    found = probe(model, rng)
    card["trigger probe"] = {"mean": 100 * float(np.mean(found)), "least": 100 * min(found)}
    sheet(images[np.random.default_rng(1).permutation(args.n)[:64]]).save(folder / "samples.png")
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    (folder / "README.md").write_text(describe(args.base, card))
    print(describe(args.base, card))


if __name__ == "__main__":
    main()
