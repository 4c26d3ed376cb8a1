"""What stored arrays and the values beside them must look like (`store.forms`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from t2i_backdoor_bench.store.forms import (
    WrongForm,
    anything,
    each,
    maybe,
    obj,
    of_all,
    text,
    whole,
)

WIDEST = 2**14  # pixels of a side of a stored picture
META = maybe(
    obj(
        shown=maybe(obj(prompts=each(text), before=text, condition=text)),
        made=maybe(obj(attack_weights=text, codes=each(of_all(anything)), sources=of_all(text))),
        cost=of_all(anything),
        kinds=of_all(anything),
        knowledge=of_all(whole),
        base=text,
    )
)
TRAINING = obj(required=("about", "meta"), about=text, meta=of_all(anything))
MAPS = obj(required=("tokens", "trigger"), tokens=each(text), trigger=each(whole), before=text)


def check_arrays(name: str, arrays: Mapping[str, np.ndarray], meta: Any) -> None:
    """Raise WrongForm for arrays that the file `name` of a run folder cannot hold."""
    if name.startswith("training/"):  # weights, of any shape
        TRAINING(meta, "")
        return
    META(meta, "")
    for key, array in arrays.items():
        if array.ndim == 4:
            size = array.shape[1:]
            right = array.dtype == np.uint8 and size[2] == 3 and 0 < min(size) <= max(size) < WIDEST
            if not right:
                raise WrongForm(f"{key} holds no pictures: {array.dtype} {array.shape}")
        elif array.dtype.kind == "f" and not np.isfinite(array).all():
            raise WrongForm(f"{key} holds NaN or infinite numbers")
    if name.startswith("maps/"):
        _check_maps(arrays, meta)


def _check_maps(arrays: Mapping[str, np.ndarray], meta: Any) -> None:
    MAPS(meta, "")
    maps, picture, many = arrays.get("maps"), arrays.get("picture"), len(meta["tokens"])
    if picture is None or picture.ndim != 4 or len(picture) != 1:
        raise WrongForm("picture is not one picture")
    if maps is None or maps.ndim != 3 or len(maps) != many or not many or not min(maps.shape):
        raise WrongForm("maps is not one map for each token")
    if max(meta["trigger"], default=0) >= many:
        raise WrongForm("trigger names a token that is not there")
