"""The scorer: a CLIP that embeds pictures and texts in one space."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.contract.progress import progress
from t2i_backdoor_bench.models.embedded import SCORER, SECOND_SCORER
from t2i_backdoor_bench.scoring.networks import first_line
from t2i_backdoor_bench.scoring.scorer_folder import read_folder

EXAMPLE = "ViT-B-32:laion2b_s34b_b79k"
SECOND_VARIABLE = "T2I_SECOND_SCORER"  # names the second scorer, as --clip names the first


class Scorer:
    """A CLIP of `open_clip` that embeds images and texts. float32, evaluation mode.

    `name` goes into column names, `dim` is the dimension of an embedding, `fingerprint` identifies
    the weights.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Any,
        name: str,
        batch: int = 128,
        device: str = "cpu",
    ) -> None:
        self.model = model.float().eval().requires_grad_(False).to(device)
        self.tokenizer, self.name, self.batch, self.device = tokenizer, name, batch, device
        config = dict(model.visual.preprocess_cfg)
        size = config["size"]
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.interpolation, self.resize_mode = config["interpolation"], config["resize_mode"]
        if self.interpolation not in ("bilinear", "bicubic") or self.resize_mode not in (
            "squash",
            "shortest",
            "longest",
        ):
            raise UserError(
                f"scorer {name}: interpolation {self.interpolation!r} with resize mode"
                f" {self.resize_mode!r} is not supported"
            )
        self.fill = config.get("fill_color", 0) / 255
        self.mean = torch.tensor(config["mean"], device=device).view(1, 3, 1, 1)
        self.std = torch.tensor(config["std"], device=device).view(1, 3, 1, 1)
        self._texts: dict[str, np.ndarray] = {}

    @classmethod
    def load(cls, spec: str | Path, device: str = "cpu", batch: int = 128) -> Scorer:
        """Load a folder (open_clip_config.json, open_clip_model.safetensors, tokenizer files) or
        "model:checkpoint" of open_clip.

        Only safetensors are read. Raises UserError when the folder is incomplete, the name unknown,
        or the weights are not available.
        """
        read = read_folder if Path(spec).is_dir() else _read_published
        model, tokenizer, name = read(spec)
        return cls(model, tokenizer, name, batch, device)

    @cached_property
    def dim(self) -> int:
        """Dimension of the embeddings."""
        return int(self.encode_texts(["a picture"]).shape[1])

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify the weights and the preprocessing. A cell's key
        contains them."""
        digest = hashlib.sha256(
            json.dumps([self.size, self.interpolation, self.resize_mode], default=str).encode()
        )
        for tensor in [self.mean, self.std, *self.model.state_dict().values()]:
            digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
        return digest.hexdigest()[:16]

    def preprocess(self, images: np.ndarray) -> Tensor:
        """uint8 (n, H, W, 3) to float32 (n, 3, h, w): resize with antialiasing where the size
        differs, crop or pad, normalize.

        It resizes in floating point and clamps. PIL, which open_clip uses for files, rounds to 8
        bits between the steps; the difference is below 1/255.
        """
        x = (
            torch.from_numpy(np.ascontiguousarray(images))
            .to(self.device)
            .permute(0, 3, 1, 2)
            .float()
            / 255
        )
        height, width = self.size
        if x.shape[-2:] != (height, width):
            scale = {"shortest": max, "longest": min}.get(self.resize_mode)
            new = (height, width)
            if scale:
                factor = scale(height / x.shape[-2], width / x.shape[-1])
                new = (round(x.shape[-2] * factor), round(x.shape[-1] * factor))
            x = F.interpolate(
                x, new, mode=self.interpolation, align_corners=False, antialias=True
            ).clamp_(0, 1)
            # as open_clip and torchvision do, an odd row or column is padded at the end
            if self.resize_mode == "longest":
                top, left = (height - new[0]) // 2, (width - new[1]) // 2
                x = F.pad(
                    x, (left, width - new[1] - left, top, height - new[0] - top), value=self.fill
                )
            else:
                top, left = round((new[0] - height) / 2), round((new[1] - width) / 2)
                x = x[:, :, top : top + height, left : left + width]
        return (x - self.mean) / self.std

    def encode_images(self, images: np.ndarray) -> np.ndarray:
        """Embeddings of uint8 images (n, H, W, 3): float32 (n, d), not normalized. Raises
        ValueError for other inputs."""
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(
                f"images must be uint8 (n, H, W, 3), got {images.dtype} {images.shape}"
            )
        if not len(images):
            return np.zeros((0, self.dim), np.float32)
        parts = []
        with torch.inference_mode():
            for first in progress(
                range(0, len(images), self.batch), f"{self.name} features", unit="batch"
            ):
                x = self.preprocess(images[first : first + self.batch])
                parts.append(self.model.encode_image(x).float().cpu().numpy())
        return np.concatenate(parts)

    def encode_maps(self, images: np.ndarray) -> np.ndarray:
        """Perceptual codes of uint8 images (n, H, W, 3): float32 (n, d). For the codes a and b of
        two images, |a - b|^2 / 2 is their perceptual distance (0..2).

        This is LPIPS (Zhang et al. 2018) without its fitted weights. The channels at each position
        of a feature map are scaled to length 1, and the distance is 1 - their cosine: the mean over
        positions, then over at most five layers spread over the depth of the network. It sees
        place, size and pose, which the embedding does not.
        """
        parts = []
        with torch.inference_mode():
            for first in range(0, len(images), self.batch):
                x = self.preprocess(images[first : first + self.batch])
                maps = self.model.visual.forward_intermediates(x, intermediates_only=True)[
                    "image_intermediates"
                ]
                depths = np.linspace(0, len(maps) - 1, min(5, len(maps))).round().astype(int)
                codes = [
                    F.normalize(maps[i].float(), dim=1).flatten(1)
                    * (maps[i][0, 0].numel() * len(depths)) ** -0.5
                    for i in depths
                ]
                parts.append(torch.cat(codes, 1).cpu().numpy())
        return np.concatenate(parts)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings of `texts` (m): float32 (m, d), not normalized. Each distinct text is encoded
        once and remembered."""
        new = [t for t in dict.fromkeys(texts) if t not in self._texts]
        with torch.inference_mode():
            for first in range(0, len(new), self.batch):
                part = new[first : first + self.batch]
                vectors = (
                    self.model.encode_text(self.tokenizer(part).to(self.device))
                    .float()
                    .cpu()
                    .numpy()
                )
                self._texts.update(zip(part, vectors, strict=True))
        return (
            np.stack([self._texts[t] for t in texts])
            if len(texts)
            else np.zeros((0, self.dim), np.float32)
        )


def load_encoder(spec: str, device: str = "cpu") -> Scorer:
    """The public image encoder that a defense uses: "shapes" is that of the embedded world; any
    other `spec` is as in `Scorer.load`."""
    return Scorer.load(SCORER if spec == "shapes" else spec, device)


def second_scorer(first: str) -> str:
    """The scorer that measures beside the `first`, as `Scorer.load` takes it: what
    T2I_SECOND_SCORER names, or else the embedded base's second one beside its first; "" where there
    is none."""
    given = os.environ.get(SECOND_VARIABLE, "")
    if not given and Path(first).resolve() == SCORER.resolve():
        return str(SECOND_SCORER) if (SECOND_SCORER / "open_clip_config.json").is_file() else ""
    return given


def load_second(first: str, device: str = "cpu") -> Scorer | None:
    """The network of `second_scorer`; None where there is none. Raises UserError where it is
    missing or is the first."""
    spec = second_scorer(first)
    if spec and Path(spec).resolve() == Path(first).resolve():
        raise UserError(
            f"{SECOND_VARIABLE} names the scorer itself ({spec}): a second opinion needs another"
            " network; unset it to go without"
        )
    return Scorer.load(spec, device) if spec else None


def _read_published(spec: str | Path) -> tuple[torch.nn.Module, Any, str]:
    """Network, tokenizer and name of a checkpoint that open_clip knows, "model:checkpoint"."""
    import open_clip

    architecture, _, checkpoint = str(spec).partition(":")
    if not checkpoint:
        raise UserError(
            f"scorer {str(spec)!r} is neither a folder nor model:checkpoint of open_clip, such as"
            f" {EXAMPLE}"
        )
    config = open_clip.get_pretrained_cfg(architecture, checkpoint)
    if not config:
        known = [f"{m}:{c}" for m, c in open_clip.list_pretrained()]
        near = difflib.get_close_matches(str(spec), known, n=3, cutoff=0.4)
        raise UserError(
            f"open_clip has no {str(spec)!r}; did you mean {', '.join(near) or EXAMPLE}?"
        )
    try:
        path = open_clip.download_pretrained(config)
    except Exception as error:  # open_clip, the hub and the network raise a dozen kinds
        raise UserError(
            f"the weights of scorer {spec} are not in the local cache and cannot be fetched (give"
            f" another, or a folder, with --clip): {first_line(error)}"
        ) from error
    if Path(path).suffix != ".safetensors":
        raise UserError(
            f"the weights of scorer {spec} are only published as a pickle ({Path(path).name}),"
            " which is not read"
        )
    model = open_clip.create_model(
        architecture,
        pretrained=checkpoint,
        precision="fp32",
        force_quick_gelu=bool(config.get("quick_gelu")),
        require_pretrained=True,
    )
    return model, open_clip.get_tokenizer(architecture), str(spec).replace(":", "-")
