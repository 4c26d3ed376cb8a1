"""Whether a method leaves alone what it was given, and the state of the process that others work
in.

A digest of the weights is compared, and not what torch counts as changes: `p.data.mul_(0.5)` counts
as none. The next cells would be made from other weights than this one.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from t2i_backdoor_bench.models.model import T2IModel

WIDE = 4096  # numbers that are summed in a row
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes
Hooks = MutableMapping[int, Any]
OF_ALL = (  # hooks of every module, which torch keeps
    nn.modules.module._global_forward_hooks,
    nn.modules.module._global_forward_pre_hooks,
    nn.modules.module._global_backward_hooks,
    nn.modules.module._global_backward_pre_hooks,
)


# transformers installs hooks that capture outputs when they are first asked for, and marks the
# model with this; with the mark and without the hooks a model has no hidden states
CAPTURES = "_output_capturing_hooks_installed"


class InPlaceChange(RuntimeError):
    """A method edited its input. The model in memory is not to be used again."""


@contextmanager
def untouched(model: T2IModel, who: str) -> Iterator[None]:
    """Raises InPlaceChange, naming the part, if the block changes weights or buffers of the model's
    networks in place, however it ends. Hooks on them and the state of the process (`kept_state`)
    are as before."""
    networks = {**model.edited, "autoencoder": model.autoencoder}
    before = digests(networks)
    hooks = [(found, dict(found)) for network in networks.values() for found in _hooks(network)]
    marks = [
        (vars(module), vars(module).get(CAPTURES, False))
        for network in networks.values()
        for module in network.modules()
    ]
    try:
        with kept_state():
            yield
    except (Exception, SystemExit) as error:
        _refuse_changes(networks, before, who, error)
        raise
    else:
        _refuse_changes(networks, before, who)
    finally:
        _restore(hooks)
        for found, mark in marks:
            if found.get(CAPTURES, False) != mark:
                found[CAPTURES] = mark


def _refuse_changes(
    networks: Mapping[str, nn.Module],
    before: Mapping[str, str],
    who: str,
    error: BaseException | None = None,
) -> None:
    after = digests(networks)
    if changed := [part for part in networks if before[part] != after[part]]:
        raise InPlaceChange(
            f"{who} changed the model that it was given ({', '.join(changed)}); it must work on"
            " model.clone()"
        ) from error


def digests(networks: Mapping[str, nn.Module]) -> dict[str, str]:
    """A digest of all weights and buffers of each network, by part."""
    return {part: _digest(network) for part, network in networks.items()}


@torch.no_grad()
def _digest(network: nn.Module) -> str:
    found = hashlib.sha256()
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        for part in _sums(tensor.detach()):
            found.update(part.cpu().numpy().tobytes())
    return found.hexdigest()


def _sums(tensor: Tensor) -> tuple[Tensor, ...]:
    """The bits of a tensor as whole numbers, summed along rows and along columns of WIDE of them:
    where they lie counts, and nothing as large as the tensor is made. A small one is copied."""
    bits = tensor.contiguous().view(-1)
    bits = bits.view(INTEGERS[tensor.element_size()]) if bits.dtype != torch.bool else bits
    if len(bits) < WIDE:
        return (bits.clone(),)
    whole = len(bits) - len(bits) % WIDE
    rows, rest = bits[:whole].view(-1, WIDE), bits[whole:]
    return (rows.sum(0, dtype=torch.int64), rows.sum(1, dtype=torch.int64), rest.clone())


def _hooks(network: nn.Module) -> Iterator[Hooks]:
    for module in network.modules():
        yield module._forward_hooks
        yield module._forward_pre_hooks
        yield module._backward_hooks
        yield module._backward_pre_hooks


def _restore(hooks: Sequence[tuple[Hooks, dict[int, Any]]]) -> None:
    for found, known in hooks:
        if dict(found) != known:
            found.clear()
            found.update(known)


@contextmanager
def kept_state() -> Iterator[None]:
    """After the block, what a method may have set for the whole process is as before: torch's
    default dtype and device, threads, gradients, hooks of all modules; random states; the working
    folder and the environment."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    device, gradients = torch.get_default_device(), torch.is_grad_enabled()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    hooks = [(found, dict(found)) for found in OF_ALL]
    folder, environment = Path.cwd(), dict(os.environ)
    try:
        yield
    finally:
        if torch.get_default_dtype() != dtype:
            torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(device)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_grad_enabled(gradients)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        _restore(hooks)
        os.chdir(folder)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
