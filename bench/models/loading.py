"""Opening a diffusers folder or a hub id."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.complete import check_complete
from t2i_backdoor_bench.models.families.known import family_of
from t2i_backdoor_bench.models.few_steps import own_sampler
from t2i_backdoor_bench.models.finite import check_loaded
from t2i_backdoor_bench.models.trust import locate

if TYPE_CHECKING:
    from t2i_backdoor_bench.models.published.over import Over


def load_pipeline(
    source: str | Path,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    sampler: str = "",
    over: Over | None = None,
) -> Any:
    """Open a diffusers folder or hub id, with what is taken `over` it. Only safetensors are read,
    and only the libraries' own classes (`models.trust`).

    It is drawn by the `sampler` of this name (`models.sampler`; without one, by that of
    `own_sampler`). In half precision the denoiser computes under autocast and the autoencoder stays
    float32. Raises UserError, in one line, for what is not available, not to be trusted, or not
    finite.
    """
    folder = locate(source)
    family = family_of(folder)
    try:
        pipe = family.load(folder, str(source), dtype)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
        raise UserError(
            f"cannot load the base model {source}:"
            f" {(str(error).splitlines() or [type(error).__name__])[0]}"
        ) from None
    found = (family.denoiser(pipe), family.autoencoder(pipe), *family.encoders(pipe))
    networks = dict(zip(family.layout.weights, found, strict=True))
    check_complete(networks, family.layout.encoders, folder)
    if over is not None:
        over.apply(pipe, family)
    check_loaded(networks, folder, str(source))
    pipe = family.drawn_by(pipe, sampler or own_sampler(folder).scheduler)
    return pipe.to(device)
