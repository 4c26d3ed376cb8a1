"""The Inception v3 behind the published FID."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.contract.progress import progress
from t2i_backdoor_bench.scoring.networks import PUBLISHED, find_weights, first_line, read_weights

INCEPTION_VARIABLE = "T2I_INCEPTION_WEIGHTS"


class Inception:
    """The Inception v3 of the published FID (Heusel et al. 2017), with its TensorFlow weights as
    converted by torch-fidelity."""

    name, dim = "inception-v3", 2048

    def __init__(self, network: torch.nn.Module, batch: int = 32, device: str = "cpu") -> None:
        self.network, self.batch, self.device = network.to(device), batch, device

    @classmethod
    def load(cls, path: str | Path | None = None, device: str = "cpu") -> Inception | None:
        """Load the weights from `path`, or else from where `find_weights` finds them. None where
        there are none.

        The file is either a .safetensors with torch-fidelity's tensor names, or its published .pth.
        Raises UserError for any other file.
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
        # torch-fidelity can only unpickle a file by its path: give it one with the tensors that
        # were just checked
        with tempfile.TemporaryDirectory() as folder:
            safe = Path(folder) / "inception.pth"
            torch.save(state, safe)
            try:
                network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(safe))
            except RuntimeError as error:
                raise UserError(
                    f"{path} does not hold the weights of torch-fidelity's Inception v3:"
                    f" {first_line(error)}"
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
