"""Train an embedded base from a seed, part by part.

    python -m t2i_backdoor_bench.shapes.train [--base shapes] [--seed 0] [--work FOLDER]
        [--only STAGE] [--device cuda --workers 12] [--scale 0.15]

`shapes` is trained whole, with its scorers. The other bases take its tokenizer, its autoencoder and
its text encoder as they are: `shapes-b` trains a U-Net from another seed, `shapes-xl` and
`shapes-mmdit` train a second text encoder, `shapes-mmdit` a T5 encoder, and each its denoiser.

A stage that was killed resumes from its last checkpoint. The data of a step depends only on the
seed and the number of the step. The default numbers of steps of `shapes` are for one GPU, those of
the others for one CPU core; `--scale` shortens every stage.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from t2i_backdoor_bench.shapes import BASE_FOLDERS
from t2i_backdoor_bench.shapes.stages import STAGES, run_stage
from t2i_backdoor_bench.shapes.stream import Setting

SEEDS = {"shapes-b": 1}  # of the other bases: 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", choices=tuple(BASE_FOLDERS), default="shapes")
    parser.add_argument("--seed", type=int, help="default: 0, and 1 for shapes-b")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("results/shapes-training"),
        help="checkpoints (git-ignored)",
    )
    parser.add_argument(
        "--only", choices=sorted({s for v in STAGES.values() for s in v}), help="train only this"
    )
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches ahead")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="multiplies the steps of every stage"
    )
    args = parser.parse_args()
    if args.only and args.only not in STAGES[args.base]:
        parser.error(f"{args.base} has no part {args.only}; {', '.join(STAGES[args.base])}")
    seed = SEEDS.get(args.base, 0) if args.seed is None else args.seed
    work = args.work / f"seed-{seed}" if seed else args.work
    work.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")  # TF32 where there is a GPU
    torch.backends.cudnn.benchmark = True
    setting = Setting(seed, work, args.device, args.workers, args.scale)
    for stage in STAGES[args.base] if args.only is None else (args.only,):
        run_stage(args.base, stage, setting, BASE_FOLDERS[args.base])


if __name__ == "__main__":
    main()
