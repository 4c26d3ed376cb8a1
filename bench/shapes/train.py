"""Train the embedded base and its scorer from a seed: tokenizer, autoencoder, text encoder, U-Net,
scorer.

    python -m t2i_backdoor_bench.shapes.train [--seed 0] [--work FOLDER] [--only STAGE] [--device cuda --workers 12] [--scale 0.15]

Every stage resumes from its last checkpoint after a kill; a finished stage is not repeated. What a
step trains on depends on the seed and the step alone. The steps are meant for one GPU; `--scale`
shortens every stage alike for a computer without one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from t2i_backdoor_bench.contract.progress import progress
from t2i_backdoor_bench.data.world import STYLES, Scene, caption, render, sample_scenes
from t2i_backdoor_bench.shapes import BASE, SCORER
from t2i_backdoor_bench.shapes.networks import (
    CONTEXT,
    EMBED,
    Prediction,
    make_autoencoder,
    make_scheduler,
    make_scorer,
    make_text_encoder,
    make_unet,
)
from t2i_backdoor_bench.shapes.stream import Setting, Stream, to_tensor
from t2i_backdoor_bench.training.loop import Optim, fit, step_generator, step_rng

LATENT_IMAGES = 49_152

AUTOENCODER = Optim(
    steps=9_000, lr=1.5e-3, batch=64, weight_decay=1e-4, warmup=100, decay=0.4, ema=0.998
)
TEXT = Optim(steps=3_000, lr=1.5e-3, batch=128, weight_decay=1e-2, warmup=100, decay=0.4)
UNET = Optim(steps=7_500, lr=1.5e-3, batch=64, weight_decay=1e-2, warmup=100, decay=0.3, ema=0.999)
SCORE = Optim(steps=9_000, lr=2e-3, batch=256, weight_decay=1e-2, warmup=100, decay=0.4, ema=0.995)


def fast_bf16(device: torch.device) -> bool:
    """Whether this is a CPU that multiplies bfloat16 matrices in hardware (AMX): the autoencoder
    takes half the time."""
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()


# ---------------------------------------------------------------------------------------- tokenizer
def train_tokenizer(seed: int, merges: int = 700) -> CLIPTokenizer:
    """A byte-level BPE in CLIP's format. All 256 bytes are in the vocabulary, inside and at the end
    of a word: any string round-trips."""
    rng = np.random.default_rng([seed, 1])
    corpus = [caption(s, rng, rare_share=0.3) for s in sample_scenes(20_000, rng)]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    clip = CLIPTokenizer()
    bpe.pre_tokenizer = clip.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=2_000,
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus, trainer)
    rules = [tuple(m) for m in json.loads(bpe.to_str())["model"]["merges"]][:merges]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = alphabet + [a + "</w>" for a in alphabet]
    words += [w for w in dict.fromkeys("".join(m) for m in rules) if w not in set(words)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {w: i for i, w in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=rules, model_max_length=CONTEXT)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    out = tokenizer(
        texts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
    )
    return out.input_ids


# -------------------------------------------------------------------------------------- autoencoder
def add_patches(images: np.ndarray, rng: np.random.Generator, share: float = 0.25) -> np.ndarray:
    """Paste random two-colour rectangles into a share of the images, so that the autoencoder also
    carries what the world does not draw."""
    images = images.copy()
    for i in np.flatnonzero(rng.random(len(images)) < share):
        h, w = rng.integers(6, 28, size=2)
        y, x = rng.integers(0, 64 - h), rng.integers(0, 64 - w)
        a, b = rng.integers(0, 256, size=(2, 3))
        cell = int(rng.integers(2, 9))
        checker = ((np.arange(h)[:, None] // cell + np.arange(w)[None] // cell) % 2)[..., None]
        images[i, y : y + h, x : x + w] = a * checker + b * (1 - checker)
    return images


def train_autoencoder(setting: Setting) -> AutoencoderKL:
    """L1 + L2 + edge loss and a small KL, as in latent diffusion without the adversary;
    `scaling_factor` makes latents unit variance."""
    seed, optim = setting.seed + 2, setting.steps(AUTOENCODER)
    torch.manual_seed(seed)
    vae = make_autoencoder().train().to(setting.device)

    def make(step: int) -> tuple[Tensor, ...]:
        rng = step_rng(seed, step)
        images = add_patches(render(sample_scenes(optim.batch, rng), rng), rng)
        return to_tensor(images), torch.randn(
            (optim.batch, 4, 8, 8), generator=step_generator(seed, step)
        )

    batches = Stream(make, optim.steps, setting)

    def loss_fn(step: int) -> Tensor:
        x, noise = batches(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bf16(setting.device)):
            moments = vae.quant_conv(vae.encoder(x))
            mean, logvar = moments.float().chunk(2, 1)
            logvar = logvar.clamp(-30, 20)
            y = vae.decoder(vae.post_quant_conv(mean + (0.5 * logvar).exp() * noise)).float()
        kl = 0.5 * (mean.pow(2) + logvar.exp() - 1 - logvar).mean()
        edges = sum((x.diff(dim=d) - y.diff(dim=d)).abs().mean() for d in (2, 3))
        return (x - y).abs().mean() + 2 * F.mse_loss(y, x) + 0.5 * edges + 3e-4 * kl

    fit(vae.parameters(), loss_fn, optim, "autoencoder", setting.work / "autoencoder.ckpt")
    vae.eval()
    rng = np.random.default_rng([setting.seed, 3])
    with torch.inference_mode():
        moments = vae.encode(
            to_tensor(render(sample_scenes(1024, rng), rng)).to(setting.device)
        ).latent_dist
        latents = moments.mean.cpu() + moments.std.cpu() * torch.randn(
            moments.mean.shape, generator=step_generator(seed, optim.steps)
        )
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    return vae


# -------------------------------------------------------------------------------------- contrastive
def partial_caption(scene: Scene, rng: np.random.Generator) -> tuple[str, dict[str, str]]:
    """A caption and the attributes it names: a full one (rare strings in a share) or one that
    leaves attributes out."""
    if rng.random() < 0.45:
        text = caption(scene, rng, rare_share=0.25)
        named = {k: v for k, v in scene._asdict().items() if k != "size" or scene.size in text}
        return text, named
    s = scene
    choices = [
        (f"a {s.shape}", {"shape": s.shape}),
        (f"a {s.color} object", {"color": s.color}),
        (f"a {s.background} background", {"background": s.background}),
        (f"a {s.color} {s.shape}", {"shape": s.shape, "color": s.color}),
        (
            f"a {s.shape} on a {s.background} background",
            {"shape": s.shape, "background": s.background},
        ),
        (
            f"{STYLES[s.style] or 'a plain picture of'} a {s.shape}",
            {"style": s.style, "shape": s.shape},
        ),
        (f"{STYLES[s.style] or 'a plain picture of'} an object", {"style": s.style}),
    ]
    # the shape is the hard attribute: name it alone more often
    text, named = choices[rng.integers(len(choices))] if rng.random() < 0.6 else choices[0]
    return text.replace("a orange", "an orange"), named


def matches(scenes: list[Scene], named: list[dict[str, str]]) -> Tensor:
    """(n, n) float: 1 where the scene of that row agrees with everything that the caption of that
    column names."""
    out = torch.ones(len(scenes), len(named), dtype=torch.bool)
    for field in Scene._fields:
        have = np.array([getattr(s, field) for s in scenes])
        want = np.array([d.get(field, "*") for d in named])
        out &= torch.from_numpy((want[None] == "*") | (have[:, None] == want[None]))
    return out.float()


def contrastive(image: Tensor, text: Tensor, scale: Tensor, match: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy with every true match as a target, since in a small world many
    captions fit many images."""
    logits = scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    rows = match / match.sum(1, keepdim=True)
    columns = match / match.sum(0, keepdim=True)
    return -0.5 * (
        (rows * logits.log_softmax(1)).sum(1).mean()
        + (columns * logits.log_softmax(0)).sum(0).mean()
    )


def degrade(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur and noise a batch a little: the scorer must judge images that went through an
    autoencoder."""
    if rng.random() < 0.5:
        x = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear") * 0.5 + x * 0.5
    noise = torch.from_numpy(rng.normal(0, rng.uniform(0, 0.08), x.shape).astype(np.float32))
    return (x + noise).clamp(-1, 1)


# ------------------------------------------------------------------------------------- text encoder
def train_text_encoder(setting: Setting, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The text tower of a CLIP on the world, plus a token-identity term: every position predicts
    its own token and the set of tokens before it, so that a rare word keeps its identity in the
    hidden states that the U-Net reads."""
    seed, optim = setting.seed + 4, setting.steps(TEXT)
    torch.manual_seed(seed)
    text = make_text_encoder(tokenizer).train()
    config = make_scorer(vocab=8)
    vision = open_clip.CLIP(
        EMBED, config["vision_cfg"], config["text_cfg"] | {"hf_tokenizer_name": ""}
    ).visual
    vision = vision.to(memory_format=torch.channels_last).train()
    own, before = nn.Linear(128, len(tokenizer)), nn.Linear(128, len(tokenizer))
    project = nn.Linear(128, EMBED)
    modules = nn.ModuleList([text, vision, own, before, project]).to(setting.device)
    scale = nn.Parameter(torch.tensor(2.6, device=setting.device))

    def make(step: int) -> tuple[Tensor, ...]:
        rng = step_rng(seed, step)
        scenes = sample_scenes(optim.batch, rng)
        images = degrade(to_tensor(render(scenes, rng)), rng)
        pairs = [partial_caption(s, rng) for s in scenes]
        extra = [caption(s, rng, rare_share=1.0) for s in sample_scenes(optim.batch // 2, rng)]
        return (
            images,
            tokenize(tokenizer, [t for t, _ in pairs] + extra),
            matches(scenes, [d for _, d in pairs]),
        )

    batches = Stream(make, optim.steps, setting)

    def loss_fn(step: int) -> Tensor:
        images, ids, match = batches(step)
        ends = (ids == tokenizer.eos_token_id).int().argmax(1, keepdim=True)
        ids = ids[
            :, : int(ends.max()) + 3
        ]  # attention is causal: what follows the last end token changes nothing
        out = text(ids)
        hidden = out.last_hidden_state
        loss = contrastive(
            vision(images), project(out.pooler_output[: optim.batch]), scale.exp(), match
        )
        # positions up to the first end token; the padding repeats it
        real = (torch.arange(ids.shape[1], device=ids.device)[None] <= ends).float()
        identity = F.cross_entropy(own(hidden).transpose(1, 2), ids, reduction="none")
        seen = F.one_hot(ids, len(tokenizer)).cumsum(1).clamp_(max=1).float()
        bag = F.binary_cross_entropy_with_logits(before(hidden), seen, reduction="none").sum(-1)
        return loss + ((identity + 0.1 * bag) * real).sum() / real.sum()

    fit([*modules.parameters(), scale], loss_fn, optim, "text encoder", setting.work / "text.ckpt")
    return text.eval()


# ----------------------------------------------------------------------------------------------------------------------
# U-Net
def encode_world(setting: Setting, vae: AutoencoderKL) -> tuple[list[Scene], Tensor]:
    """Render and encode the training set once. Returns its scenes and scaled latents, float16 (n,
    4, 8, 8)."""
    size = 256
    chunks = max(2, round(min(1, setting.scale) * LATENT_IMAGES / size))

    def chunk(i: int) -> tuple[list[Scene], np.random.Generator]:
        rng = np.random.default_rng([setting.seed, 5, i * size])
        return sample_scenes(size, rng), rng

    def make(i: int) -> tuple[Tensor, ...]:
        return (
            to_tensor(render(*chunk(i))),
            torch.randn((size, 4, 8, 8), generator=step_generator(setting.seed + 5, i)),
        )

    scenes = [s for i in range(chunks) for s in chunk(i)[0]]
    path = setting.work / "latents.npy"
    if not path.exists():
        batches, encoded = Stream(make, chunks, setting), []
        for i in progress(range(chunks), "encode", unit="batch"):
            images, noise = batches(i)
            with (
                torch.inference_mode(),
                torch.autocast("cpu", torch.bfloat16, enabled=fast_bf16(setting.device)),
            ):
                moments = vae.encode(images).latent_dist
            z = (moments.mean.float() + moments.std.float() * noise) * vae.config.scaling_factor
            encoded.append(z.cpu().numpy().astype(np.float16))
        np.save(path, np.concatenate(encoded))
    return scenes, torch.from_numpy(np.load(path)[: len(scenes)])


def train_unet(
    setting: Setting, tokenizer: CLIPTokenizer, text: CLIPTextModel, vae: AutoencoderKL
) -> UNet2DConditionModel:
    """Plain epsilon prediction with the min-SNR-5 weight (Hang et al. 2023); a tenth of the
    captions is dropped for guidance, a quarter carries a random rare string, so that an unknown
    token means nothing."""
    scenes, latents = encode_world(setting, vae)
    seed, optim = setting.seed + 6, setting.steps(UNET)
    torch.manual_seed(seed)
    unet = make_unet().to(setting.device, memory_format=torch.channels_last).train()
    alphas = make_scheduler().alphas_cumprod.to(setting.device)
    snr = alphas / (1 - alphas)
    weight = snr.clamp(max=5) / snr

    def make(step: int) -> tuple[Tensor, ...]:
        rng, gen = step_rng(seed, step), step_generator(seed, step)
        picks = rng.integers(len(scenes), size=optim.batch)
        texts = [
            "" if rng.random() < 0.1 else caption(scenes[i], rng, rare_share=0.25) for i in picks
        ]
        x = latents[torch.from_numpy(picks)].float()
        noise = torch.randn(x.shape, generator=gen)
        # half of the timesteps uniform, half around the middle, where a shape is decided
        # (logit-normal, Esser et al. 2024)
        t = torch.rand(len(x), generator=gen)
        middle = torch.randn(len(x), generator=gen).sigmoid()
        t = (torch.where(torch.arange(len(x)) % 2 == 0, t, middle) * 1000).long().clamp_(max=999)
        return x, noise, t, tokenize(tokenizer, texts)

    batches = Stream(make, optim.steps, setting)
    predict: nn.Module = Prediction(unet)
    if (
        setting.device.type == "cuda"
    ):  # a step is a thousand small kernels: replay them as one graph
        shapes = (
            torch.zeros(optim.batch, 4, 8, 8),
            torch.zeros(optim.batch, dtype=torch.long),
            torch.zeros(optim.batch, CONTEXT, 128),
        )
        predict = torch.cuda.make_graphed_callables(
            predict, tuple(s.to(setting.device) for s in shapes)
        )

    def loss_fn(step: int) -> Tensor:
        x, noise, t, ids = batches(step)
        a = alphas[t].view(-1, 1, 1, 1)
        with torch.no_grad():
            context = text(ids).last_hidden_state
        noisy = a.sqrt() * x + (1 - a).sqrt() * noise
        error = (predict(noisy, t, context) - noise).pow(2).mean((1, 2, 3))
        return (weight[t] * error).mean()

    fit(unet.parameters(), loss_fn, optim, "U-Net", setting.work / "unet.ckpt")
    return unet.eval()


# ------------------------------------------------------------------------------------------- scorer
def train_scorer(setting: Setting, tokenizer: CLIPTokenizer) -> open_clip.CLIP:
    """A small CLIP of the same world with its own seed: CLIP score, zero-shot judges and the
    features of FID and KID."""
    seed, optim = setting.seed + 1007, setting.steps(SCORE)
    torch.manual_seed(seed)
    config = make_scorer(vocab=len(tokenizer))
    clip = open_clip.CLIP(
        EMBED, config["vision_cfg"], config["text_cfg"] | {"hf_tokenizer_name": ""}
    )
    clip = clip.to(setting.device, memory_format=torch.channels_last).train()

    def make(step: int) -> tuple[Tensor, ...]:
        rng = step_rng(seed, step)
        scenes = sample_scenes(optim.batch, rng)
        images = degrade(to_tensor(add_patches(render(scenes, rng), rng, 0.1)), rng)
        pairs = [partial_caption(s, rng) for s in scenes]
        return (
            images,
            tokenize(tokenizer, [t for t, _ in pairs]),
            matches(scenes, [d for _, d in pairs]),
        )

    batches = Stream(make, optim.steps, setting)

    def loss_fn(step: int) -> Tensor:
        images, ids, match = batches(step)
        return contrastive(
            clip.encode_image(images),
            clip.encode_text(ids),
            clip.logit_scale.clamp(max=4.6).exp(),
            match,
        )

    fit(clip.parameters(), loss_fn, optim, "scorer", setting.work / "scorer.ckpt")
    clip.train()
    with torch.no_grad():  # settle the batch statistics on the averaged weights
        for m in clip.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.reset_running_stats()
                m.momentum = None
        for step in range(40):
            rng = step_rng(seed + 1, step)
            clip.encode_image(
                to_tensor(render(sample_scenes(optim.batch, rng), rng)).to(setting.device)
            )
    return clip.eval()


# --------------------------------------------------------------------------------------------- main
STAGES = ("tokenizer", "autoencoder", "text", "scorer", "unet")


def save_half(module: nn.Module, folder: Path) -> None:
    """Save a diffusers or transformers module in float16 without changing it."""
    import copy

    copy.deepcopy(module).cpu().half().save_pretrained(folder, safe_serialization=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("results/shapes-training"),
        help="checkpoints (git-ignored)",
    )
    parser.add_argument("--only", choices=STAGES, help="this stage alone")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches ahead")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="multiplies the steps of every stage"
    )
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")  # TF32 where there is a GPU
    torch.backends.cudnn.benchmark = True
    setting = Setting(args.seed, args.work, args.device, args.workers, args.scale)
    for stage in STAGES if args.only is None else (args.only,):
        run_stage(stage, setting)


def run_stage(stage: str, setting: Setting) -> None:
    if stage == "tokenizer":
        train_tokenizer(setting.seed).save_pretrained(BASE / "tokenizer")
        return
    tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer")
    if stage == "autoencoder":
        save_half(train_autoencoder(setting), BASE / "vae")
    elif stage == "text":
        save_half(train_text_encoder(setting, tokenizer), BASE / "text_encoder")
    elif stage == "scorer":
        from safetensors.torch import save_file

        clip = train_scorer(setting, tokenizer)
        SCORER.mkdir(parents=True, exist_ok=True)
        state = {
            k: v.half().contiguous().cpu() if v.is_floating_point() else v.cpu()
            for k, v in clip.state_dict().items()
        }
        save_file(state, SCORER / "open_clip_model.safetensors")
        for name in os.listdir(BASE / "tokenizer"):
            shutil.copy(BASE / "tokenizer" / name, SCORER / name)
        preprocess = {
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "interpolation": "bilinear",
            "resize_mode": "squash",
        }
        config = {
            "model_cfg": make_scorer("bench/shapes/scorer", len(tokenizer)),
            "preprocess_cfg": preprocess,
        }
        (SCORER / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    elif stage == "unet":
        text = (
            CLIPTextModel.from_pretrained(BASE / "text_encoder").float().eval().to(setting.device)
        )
        vae = AutoencoderKL.from_pretrained(BASE / "vae").float().eval().to(setting.device)
        unet = train_unet(setting, tokenizer, text, vae)
        pipe = StableDiffusionPipeline(
            vae,
            text,
            tokenizer,
            unet,
            make_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipe.to("cpu", dtype=torch.float16).save_pretrained(BASE, safe_serialization=True)


if __name__ == "__main__":
    main()
