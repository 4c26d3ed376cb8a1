"""Peak memory and time of one SKD-CAG step on a U-Net of the true Stable Diffusion 1.5
architecture, by what is trained.

    python benchmarks/memory.py          every mode, each in a process of its own
    python benchmarks/memory.py --modes kv,lora --steps 2 --threads 2
    python benchmarks/memory.py --modes kv,kv-copies --no-checkpointing

The U-Net (860 M parameters, 64x64 latents, context 77x768) has random weights: memory and time do
not depend on them. `kv`, `cross` and `lora` train this part, and the frozen teacher shares the rest
of the tensors; `-copies` behind a mode gives student and teacher a full copy each, as is usually
done. `full` trains everything, so that its teacher is a second copy by nature. A step is a draw of
batch and noise, the teacher's pass, the student's pass, backward, clipping and AdamW's update.
Bytes are the largest resident size of the process (on CUDA: the allocator's peak); the baseline is
that of the process with one model loaded.

`full` takes some 20 GB; `kv`, `cross` and `lora` under 9.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import time

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from t2i_backdoor_bench import shapes
from t2i_backdoor_bench.contract import DefenderView, Trigger, registry
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.loop import Optim, fit
from t2i_backdoor_bench.training.parameters import choose_parameters

MODES = ("kv", "cross", "lora", "full", "kv-copies", "cross-copies", "lora-copies")
TOKENS, WIDTH = 77, 768
SD15 = {  # unet/config.json of Stable Diffusion 1.5
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": (
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ),
    "up_block_types": (
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    ),
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": WIDTH,
}


def make_model(device: str, checkpointing: bool, unet: dict | None = None) -> T2IModel:
    """A pipeline whose U-Net has the true architecture; the text encoder has one layer and the
    autoencoder few channels, as neither is part of a step."""
    tokenizer = CLIPTokenizer.from_pretrained(shapes.BASE / "tokenizer", model_max_length=TOKENS)
    torch.manual_seed(0)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=1,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
    )
    network = UNet2DConditionModel(**(unet or SD15)).to(memory_format=torch.channels_last)
    scheduler = DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    pipe = StableDiffusionPipeline(
        vae, text, tokenizer, network, scheduler, None, None, requires_safety_checker=False
    ).to(device)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False).eval()
    if checkpointing:
        pipe.unet.enable_gradient_checkpointing()
    return T2IModel(pipe, "sd15-random", "sd")


def peak_bytes(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def measure(
    mode: str, steps: int, batch: int, device: str, checkpointing: bool, unet: dict | None = None
) -> dict[str, float]:
    """One mode, in this process: peak and baseline in bytes, median seconds a step, parameters
    trained, the last loss."""
    train, _, copies = mode.partition("-")
    model = make_model(device, checkpointing, unet)
    baseline = peak_bytes(device)
    prompts = [p.text for p in WorldData().prompts("defender", 8, 0)]
    view = DefenderView(("trigger", "clean_prompts"), prompts, trigger=Trigger("mignneko"))
    options = {
        "train": train,
        "batch": str(batch),
        "prompts": str(len(prompts)),
        "latents": "noise",
        "preserve": "0",
    }
    method = registry.defenses.build("skdcag", "sd", options)
    student = model.clone() if copies else model.clone(train=train)
    params = choose_parameters(student, train)
    loss_fn, times = method.loss(student, model, view, 0), []

    def timed(step: int) -> torch.Tensor:
        times.append(time.perf_counter())
        return loss_fn(step)

    fitted = fit(params, timed, Optim(steps, 1e-6, batch), mode)
    times.append(time.perf_counter())
    seconds = sorted(b - a for a, b in itertools.pairwise(times))[(len(times) - 1) // 2]
    found = {
        "mode": mode,
        "peak": peak_bytes(device),
        "baseline": baseline,
        "seconds": seconds,
        "parameters": fitted.parameters,
    }
    return found | {"loss": fitted.losses[-1]}


def table(rows: list[dict[str, float]]) -> str:
    lines = [
        "| mode | peak GB | above one model GB | seconds a step | trained parameters |",
        "|---|---:|---:|---:|---:|",
    ]
    for r in rows:
        gb = [f"{b / 1e9:.2f}" for b in (r["peak"], r["peak"] - r["baseline"])]
        lines.append(
            f"| {r['mode']} | {gb[0]} | {gb[1]} | {r['seconds']:.1f} | {r['parameters']:,} |"
        )
    return "\n".join(lines)


def measure_apart(mode: str, args: argparse.Namespace) -> dict[str, float] | None:
    """One mode, in a process of its own. None where the process fails."""
    command = [sys.executable, __file__, "--one", mode, "--device", args.device]
    for name in ("steps", "batch", "threads"):
        command += [f"--{name}", str(vars(args)[name])]
    command += ["--no-checkpointing"] if args.no_checkpointing else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(f"{mode}: the process ended with {done.returncode} (out of memory?)", file=sys.stderr)
        return None
    found = json.loads(done.stdout.strip().splitlines()[-1])
    print(
        f"{mode}: {found['peak'] / 1e9:.2f} GB, {found['seconds']:.1f} s",
        file=sys.stderr,
        flush=True,
    )
    return found


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--modes", default=",".join(MODES), help="separated by commas (default: all)"
    )
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--no-checkpointing", action="store_true", help="keep all activations for the backward pass"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    parser = make_parser()
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one:
        checkpointing = not args.no_checkpointing
        print(json.dumps(measure(args.one, args.steps, args.batch, args.device, checkpointing)))
        return
    modes = args.modes.split(",")
    if unknown := set(modes) - set(MODES):
        parser.error(f"unknown modes {', '.join(sorted(unknown))}; known: {', '.join(MODES)}")
    rows = [found for mode in modes if (found := measure_apart(mode, args)) is not None]
    how = "all activations kept" if args.no_checkpointing else "gradient checkpointing"
    print(
        f"SD 1.5 U-Net, float32, {args.device}, batch {args.batch}, {how}, {args.threads} threads,"
        f" {args.steps} step(s)\n\n{table(rows)}"
    )


if __name__ == "__main__":
    main()
