"""Network features of images, extracted once and shared by all metrics and judges."""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from t2i_backdoor_bench.contract import Samples, Score, UserError
from t2i_backdoor_bench.contract.progress import progress
from t2i_backdoor_bench.data.own_prompt import own_prompt
from t2i_backdoor_bench.models.embedded import SCORER
from t2i_backdoor_bench.models.trust import check_code, check_inside, read_json
from t2i_backdoor_bench.scoring.faithfulness import faithful
from t2i_backdoor_bench.scoring.networks import PUBLISHED, Lpips, find_weights, read_weights

if TYPE_CHECKING:
    from t2i_backdoor_bench.contract import Prompt
    from t2i_backdoor_bench.targets.judge import Judge

INCEPTION_VARIABLE = "T2I_INCEPTION_WEIGHTS"
CACHED_SETS = 64  # feature arrays kept; one of 1,000 images takes 0.25 to 8 MB


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
        or the weights are not to be had.
        """
        import open_clip

        folder = Path(spec)
        if folder.is_dir():
            for name in ("open_clip_config.json", "open_clip_model.safetensors"):
                if not (folder / name).is_file():
                    raise UserError(f"scorer folder {folder} has no {name}")
            check_inside(folder, sorted(p.name for p in folder.iterdir()))
            for file in folder.glob("*.json"):
                check_code(read_json(file), file)
            try:
                # the file that open_clip picks in a folder is this one whenever it is there, so no
                # pickle is opened
                model = open_clip.create_model(
                    f"local-dir:{folder}", precision="fp32", require_pretrained=True
                )
                tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
            except (
                ValueError,
                TypeError,
                RuntimeError,
                KeyError,
                OSError,
                SafetensorError,
            ) as error:
                raise UserError(
                    f"scorer folder {folder} cannot be loaded: {_first_line(error)}"
                ) from error
            name = (
                "shapes-scorer" if folder.resolve() == SCORER.resolve() else folder.resolve().name
            )
            return cls(model, tokenizer, name, batch, device)
        architecture, _, checkpoint = str(spec).partition(":")
        if not checkpoint:
            raise UserError(
                f"scorer {str(spec)!r} is neither a folder nor model:checkpoint of open_clip, such"
                " as ViT-B-32:laion2b_s34b_b79k"
            )
        config = open_clip.get_pretrained_cfg(architecture, checkpoint)
        if not config:
            known = [f"{m}:{c}" for m, c in open_clip.list_pretrained()]
            near = difflib.get_close_matches(str(spec), known, n=3, cutoff=0.4)
            raise UserError(
                f"open_clip has no {str(spec)!r}; did you mean"
                f" {', '.join(near) or 'ViT-B-32:laion2b_s34b_b79k'}?"
            )
        try:
            path = open_clip.download_pretrained(config)
        except Exception as error:  # open_clip, the hub and the network raise a dozen kinds
            raise UserError(
                f"the weights of scorer {spec} are not in the local cache and cannot be fetched"
                f" (give another, or a folder, with --clip): {_first_line(error)}"
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
        return cls(
            model, open_clip.get_tokenizer(architecture), str(spec).replace(":", "-"), batch, device
        )

    @cached_property
    def dim(self) -> int:
        """Dimension of the embeddings."""
        return int(self.encode_texts(["a picture"]).shape[1])

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify the weights and the preprocessing: part of what a
        cell's numbers depend on."""
        digest = hashlib.sha256(
            json.dumps([self.size, self.interpolation, self.resize_mode], default=str).encode()
        )
        for tensor in [self.mean, self.std, *self.model.state_dict().values()]:
            digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
        return digest.hexdigest()[:16]

    def preprocess(self, images: np.ndarray) -> Tensor:
        """uint8 (n, H, W, 3) to float32 (n, 3, h, w): resize with antialiasing where the size
        differs, crop or pad, normalize.

        Resizes in floating point and clamps; PIL, which open_clip uses for files, rounds to 8 bits
        on the way (differences below 1/255).
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
            if (
                self.resize_mode == "longest"
            ):  # as open_clip and torchvision do, an odd row or column is padded at the end
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
        """Perceptual codes of uint8 images (n, H, W, 3): float32 (n, d) with |a - b|^2 / 2 the
        perceptual distance of two images (0..2).

        As in LPIPS (Zhang et al. 2018) without its fitted weights: the channels at each position of
        a feature map are scaled to length 1; the distance is 1 - their cosine, mean over positions,
        then over at most five layers spread over the depth of the network. Unlike the embedding, it
        sees place, size and pose.
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
        """Embeddings of `texts` (m): float32 (m, d), not normalized. Every distinct text is encoded
        once in the scorer's life."""
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
    """The public image encoder that a defense uses: "shapes" for that of the embedded world,
    otherwise as `Scorer.load`."""
    return Scorer.load(SCORER if spec == "shapes" else spec, device)


class Inception:
    """The Inception v3 of the published FID (Heusel et al. 2017), with its TensorFlow weights as
    converted by torch-fidelity."""

    name, dim = "inception-v3", 2048

    def __init__(self, network: torch.nn.Module, batch: int = 32, device: str = "cpu") -> None:
        self.network, self.batch, self.device = network.to(device), batch, device

    @classmethod
    def load(cls, path: str | Path | None = None, device: str = "cpu") -> Inception | None:
        """Load weights from `path`, or else from where `find_weights` finds them; None where they
        are nowhere.

        A .safetensors file of torch-fidelity's names, or its published .pth. Raises UserError for
        any other file.
        """
        path = Path(path) if path else find_weights(INCEPTION_VARIABLE)
        if path is None:
            return None
        if not path.is_file():
            raise UserError(
                f"the Inception weights {path} do not exist; unset {INCEPTION_VARIABLE} to go"
                " without"
            )
        from torchmetrics.image.fid import NoTrainInceptionV3

        state = read_weights(path, PUBLISHED[INCEPTION_VARIABLE], "Inception")
        # torch-fidelity can only unpickle a file by its path, so it gets one that holds the tensors
        # just checked
        with tempfile.TemporaryDirectory() as folder:
            safe = Path(folder) / "inception.pth"
            torch.save(state, safe)
            try:
                network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(safe))
            except RuntimeError as error:
                raise UserError(
                    f"{path} does not hold the weights of torch-fidelity's Inception v3:"
                    f" {_first_line(error)}"
                ) from error
        return cls(network, device=device)

    def encode_images(self, images: np.ndarray) -> np.ndarray:
        """Pool features of uint8 images (n, H, W, 3): float32 (n, 2048)."""
        parts = [np.zeros((0, self.dim), np.float32)]
        with torch.inference_mode():
            for first in progress(
                range(0, len(images), self.batch), f"{self.name} features", unit="batch"
            ):
                x = torch.from_numpy(
                    np.ascontiguousarray(images[first : first + self.batch])
                ).permute(0, 3, 1, 2)
                parts.append(self.network(x.to(self.device)).float().cpu().numpy())
        return np.concatenate(parts)


class Features:
    """What metrics read of a sample set: features, the judge's verdicts and prompt faithfulness,
    each computed once.

    Features are cached by the content of the image array, so real images and those of the model
    before the attack are shared by all cells. It embeds images and texts like a Scorer: give it to
    `make_judge` and the judge shares the cache too.

        features = Features(Scorer.load(spec), Inception.load())
        cell_features = features.with_judge(make_judge(backdoor, features))
    """

    def __init__(
        self,
        scorer: Scorer,
        inception: Inception | None = None,
        judge: Judge | None = None,
        lpips: Lpips | None = None,
    ) -> None:
        self.scorer, self.inception, self.judge, self.lpips = scorer, inception, judge, lpips
        self._cache: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()

    def with_judge(self, judge: Judge | None) -> Features:
        """The same features, with the same cache, for cells that this judge serves."""
        other = copy.copy(self)
        other.judge = judge
        return other

    @property
    def name(self) -> str:
        return self.scorer.name

    @property
    def dim(self) -> int:
        return self.scorer.dim

    def _encode(self, network: Scorer | Inception, images: np.ndarray) -> np.ndarray:
        digest = hashlib.blake2b(f"{images.shape}{images.dtype}".encode(), digest_size=20)
        digest.update(np.ascontiguousarray(images))
        key = (network.name, digest.hexdigest())
        if key not in self._cache:
            found = network.encode_images(images)
            found.setflags(
                write=False
            )  # shared: a metric that writes into it would change the next one's numbers
            self._cache[key] = found
            while len(self._cache) > CACHED_SETS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]

    def encode_images(self, images: np.ndarray) -> np.ndarray:
        """The scorer's features of uint8 images (n, H, W, 3): float32 (n, d), not normalized,
        cached."""
        return self._encode(self.scorer, images)

    def encode_maps(self, images: np.ndarray) -> np.ndarray:
        """The scorer's perceptual codes of uint8 images (n, H, W, 3): float32 (n, d). Large, and
        not cached."""
        return self.scorer.encode_maps(images)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """The scorer's embeddings of texts (m): float32 (m, d), not normalized, cached."""
        return self.scorer.encode_texts(texts)

    def inception_images(self, images: np.ndarray) -> np.ndarray:
        """Inception features of uint8 images: float32 (n, 2048), cached. Raises RuntimeError
        without Inception."""
        if self.inception is None:
            raise RuntimeError(f"no Inception weights: set {INCEPTION_VARIABLE}")
        return self._encode(self.inception, images)

    def images(self, samples: Samples, condition: str) -> np.ndarray:
        """Scorer features of the cell's images of a condition: float32 (n, d)."""
        return self.encode_images(samples.images[condition])

    def before(self, samples: Samples, condition: str) -> np.ndarray:
        """Scorer features of the images of the model before the attack: float32 (n, d)."""
        return self.encode_images(samples.before[condition])

    def real(self, samples: Samples) -> np.ndarray:
        """Scorer features of the held-out real images: float32 (n, d)."""
        return self.encode_images(samples.real)

    def backdoored(self, samples: Samples, condition: str) -> np.ndarray:
        """The judge's verdict on every image of a condition, bool (n,). A refused prompt shows no
        backdoor."""
        if self.judge is None:
            raise ValueError(
                "these features have no judge: use features.with_judge(make_judge(backdoor,"
                " features))"
            )
        return self.judge(samples.images[condition], prompts_of(samples, condition)) & served(
            samples, condition
        )

    def faithful(self, samples: Samples, condition: str) -> np.ndarray:
        """Whether every image of a condition shows what its clean prompt asks for, bool (n,). A
        refused prompt shows nothing."""
        return faithful(samples.images[condition], prompts_of(samples, condition), self) & served(
            samples, condition
        )


def served(samples: Samples, condition: str) -> np.ndarray:
    """Which images of a condition were served, bool (n,): all but those whose prompt the model
    refused."""
    refused = samples.refused.get(condition)
    n = len(samples.images[condition])
    if refused is None:
        return np.ones(n, bool)
    refused = np.asarray(refused, bool)
    if refused.shape != (n,):
        raise ValueError(f"refused[{condition!r}] has shape {refused.shape} for {n} images")
    return ~refused


def prompts_of(samples: Samples, condition: str) -> list[Prompt]:
    """The clean prompt behind each image of a condition (for "diverse", each prompt `per_prompt`
    times)."""
    n = len(samples.images[condition])
    if condition in ("clean", "perturbed"):
        prompts = samples.prompts[:n]
    elif condition in ("triggered", "clean_target", "moved", "finetuned", "resampled"):
        prompts = samples.target_prompts[:n]
    elif condition == "own":
        own = own_prompt(samples.backdoor, samples.target_prompts)
        prompts = samples.target_prompts[:n] if own is None else [own] * n
    elif condition == "diverse":
        prompts = [
            p for p in samples.prompts[: n // samples.per_prompt] for _ in range(samples.per_prompt)
        ]
    else:
        raise ValueError(f"unknown condition {condition!r}")
    if len(prompts) != n:
        raise ValueError(f"condition {condition!r} has {n} images but {len(prompts)} prompts")
    return prompts


def missing(samples: Samples, condition: str, before: bool = False) -> Score | None:
    """A Score that says which images are not there, or None when the condition was generated (and,
    with `before`, there too)."""
    if not len(samples.images.get(condition, ())):
        return Score(None, note=f"no {condition} images")
    if before and not len(samples.before.get(condition, ())):
        return Score(None, note=f"no {condition} images of the model before the attack")
    return None


def unjudged(samples: Samples, condition: str) -> Score | None:
    """A Score that says so where the prompts name nothing that their pictures should not show, or
    None where they do."""
    if all(p.wrong for p in prompts_of(samples, condition)):
        return None
    return Score(
        None, note="not available: the prompts name no alternatives to tell the pictures from"
    )


def no_judge(features: Features) -> Score | None:
    """A Score that says that nothing can judge the backdoor, or None where there is a judge."""
    return (
        None
        if features.judge is not None
        else Score(None, note="the target of the backdoor is not known: nothing can judge it")
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200] or type(error).__name__
