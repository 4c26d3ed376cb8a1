"""The published weights that some metrics need, and LPIPS. A metric whose weights are missing says
so; nothing else takes their place."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.contract.progress import progress

# variable -> the published file's name, whose end is the start of its SHA-256
PUBLISHED = {
    "T2I_INCEPTION_WEIGHTS": "weights-inception-2015-12-05-6726825d.pth",
    "T2I_LPIPS_WEIGHTS": "alexnet-owt-7be5be79.pth",
}


def find_weights(variable: str) -> Path | None:
    """The weights file of an environment variable, which names the file or its folder. Where the
    variable is not set, the published file in torch's hub cache. None where there is neither.

    Raises UserError where the variable names a file that does not exist.
    """
    name = PUBLISHED[variable]
    given = os.environ.get(variable)
    if not given:
        cached = Path(torch.hub.get_dir()) / "checkpoints" / name
        return cached if cached.is_file() else None
    path = Path(given)
    if path.is_dir():
        found = [
            p
            for p in (path / Path(name).with_suffix(".safetensors").name, path / name)
            if p.is_file()
        ]
        if not found:
            raise UserError(
                f"the folder {path} of {variable} holds no {name} (nor the same as .safetensors);"
                " unset it to go without"
            )
        return found[0]
    if not path.is_file():
        raise UserError(f"the weights {path} of {variable} do not exist; unset it to go without")
    return path


def read_weights(path: Path, name: str, what: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of the published .pth, whose SHA-256 must start with
    the digits in its name. Nothing in the file is executed. Raises UserError for any other
    file."""
    if path.suffix == ".safetensors":
        return load_file(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    wanted = Path(name).stem.rsplit("-", 1)[1]
    if not digest.startswith(wanted):
        raise UserError(
            f"{path} is not the published {what} file (SHA-256 {digest[:8]}..., not {wanted}...)"
        )
    return torch.load(path, map_location="cpu", weights_only=True)


def first_line(error: Exception) -> str:
    """What an exception of a library says, in one line."""
    return str(error).strip().split("\n")[0][:200] or type(error).__name__


class Lpips:
    """LPIPS (Zhang et al. 2018), version 0.1 on AlexNet: the backbone from its published weights,
    the fitted ones from torchmetrics."""

    name = "lpips-alex"

    def __init__(self, network: torch.nn.Module, batch: int = 16, device: str = "cpu") -> None:
        self.network, self.batch, self.device = (
            network.eval().requires_grad_(False).to(device),
            batch,
            device,
        )

    @classmethod
    def load(cls, device: str = "cpu") -> Lpips | None:
        """The network, or None without weights (T2I_LPIPS_WEIGHTS or the hub cache). Raises
        UserError for any other file."""
        path = find_weights("T2I_LPIPS_WEIGHTS")
        if path is None:
            return None
        from torchmetrics.functional.image.lpips import _NoTrainLpips

        state = read_weights(path, PUBLISHED["T2I_LPIPS_WEIGHTS"], "AlexNet")
        # pnet_rand: a random backbone, which is filled below, instead of a download
        network = _NoTrainLpips(net="alex", pnet_rand=True, eval_mode=True)
        wanted = network.net.state_dict()  # slice2.3.weight is features.3.weight
        names = {key: f"features.{key.split('.', 1)[1]}" for key in wanted}
        if missing := [
            n for k, n in names.items() if n not in state or state[n].shape != wanted[k].shape
        ]:
            raise UserError(f"{path} does not hold the weights of AlexNet: {missing[0]} is missing")
        network.net.load_state_dict({k: state[n] for k, n in names.items()})
        return cls(network, device=device)

    def distances(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Distance of each pair of uint8 images (n, H, W, 3): float64 (n,)."""
        parts = [np.zeros(0)]
        with torch.inference_mode():
            for first in progress(
                range(0, len(a), self.batch), f"{self.name} distances", unit="batch"
            ):
                x, y = (
                    torch.from_numpy(np.ascontiguousarray(i[first : first + self.batch])).permute(
                        0, 3, 1, 2
                    )
                    for i in (a, b)
                )
                x, y = (i.to(self.device).float() / 127.5 - 1 for i in (x, y))
                parts.append(self.network(x, y).flatten().double().cpu().numpy())
        return np.concatenate(parts)
