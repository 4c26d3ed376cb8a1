"""A program of its own, which `models.convert` starts for each pickle: it reads tensors by torch's
`weights_only` and writes them as safetensors. It imports nothing of this suite.

`weights_only` lets a pickle make tensors and plain containers, and nothing else. Should a pickle
get around it, this process has no network (where the system allows to take it away), writes no core
file, and inherits no environment of the user's beyond PATH.

    python -I unpickle.py SOURCE TARGET

Prints one line of JSON: `tensors`, `bytes`, `left_out` (names of what is no tensor), `inside` (the
entry that held the weights), `network` (whether it was taken away), or `error`.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
# where checkpoints of training tools keep the weights, the better first
INSIDE = ("state_dict", "model_state_dict", "model", "module", "params", "string_to_param")


def cut_network() -> bool:
    """Put this process into a network namespace with nothing in it."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    # root keeps its rights on files in the first way; others need the second
    return any(libc.unshare(flags) == 0 for flags in (CLONE_NEWNET, CLONE_NEWUSER | CLONE_NEWNET))


def weights_of(found: Any, is_tensor: Callable[[Any], bool]) -> tuple[Mapping[str, Any], str]:
    """The dictionary that holds the weights of what a file has, and the entry it was in."""
    if is_tensor(found):
        return {"weight": found}, ""
    if not isinstance(found, Mapping):
        raise ValueError(f"it holds {type(found).__name__}, and no tensors by name")
    for name in INSIDE:
        inner = found.get(name)
        if isinstance(inner, Mapping) and any(is_tensor(v) for v in inner.values()):
            if name == "string_to_param" and len(inner) == 1:  # a learned word of A1111
                return {"emb_params": next(iter(inner.values()))}, name
            return inner, name
    return found, ""


def convert(source: str, target: str) -> dict[str, Any]:
    """Read `source`, write `target`; returns what is printed."""
    import torch
    from safetensors.torch import save_file

    found = torch.load(source, map_location="cpu", weights_only=True)
    weights, inside = weights_of(found, torch.is_tensor)
    tensors, left_out = {}, []
    for name, value in weights.items():
        if torch.is_tensor(value) and value.layout == torch.strided and not value.is_quantized:
            # tensors that share memory are written each by itself
            tensors[str(name)] = value.detach().clone().contiguous()
        else:
            left_out.append(str(name))
    left_out += [str(n) for n in found if inside and n != inside]
    if not tensors:
        raise ValueError("it holds no tensors by name")
    save_file(tensors, target, metadata={"format": "pt"})
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    return {"tensors": len(tensors), "bytes": size, "left_out": left_out, "inside": inside}


def main() -> None:
    source, target = sys.argv[1:]
    network = cut_network()
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass
    try:
        result = convert(source, target) | {"network": network}
    except Exception as error:  # whatever a stranger's file brings about
        if os.path.exists(target):
            os.unlink(target)
        result = {"error": f"{type(error).__name__}: {error}"[:2000]}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
