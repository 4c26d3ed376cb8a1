"""Which of the published files of a network are read."""

from __future__ import annotations

import re
from pathlib import Path


def find_variant(part: Path) -> str | None:
    """ "fp16" where the folder of a network holds it only as
    diffusion_pytorch_model.fp16.safetensors, as some are published."""
    names = [p.name for p in part.glob("diffusion_pytorch_model*.safetensors")]
    plain = any(
        re.fullmatch(r"diffusion_pytorch_model(-\d+-of-\d+)?\.safetensors", n) for n in names
    )
    return "fp16" if not plain and any(".fp16" in n for n in names) else None
