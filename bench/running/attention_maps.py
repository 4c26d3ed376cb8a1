"""Cross-attention maps of the trigger's and the other tokens, for the clean, the attacked and the
defended models: computed and stored here, drawn by the report."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from t2i_backdoor_bench.contract import Cell, Trigger
from t2i_backdoor_bench.contract.hashing import digest, plain
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running.conditions import noise_seed
from t2i_backdoor_bench.running.defended import defended_model
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.running.stored_pictures import origin, read_arrays
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.training.alignment import tokens_of
from t2i_backdoor_bench.training.capture import Capture

LEVELS = (200, 400, 600, 800)  # noise levels of 1,000 at which the maps are read


def record(
    model: T2IModel, trigger: Trigger, prompt: str, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The picture that `model` draws for the triggered prompt, and the maps of its tokens in that
    picture.

    Returns {"picture": uint8 (1, H, W, 3), "maps": float32 (tokens, size, size)}: attention mass,
    mean over heads, layers and four noise levels of the picture's own latents, without start and
    end token; and {"tokens": their texts, "trigger": the trigger's numbers}.
    """
    text, spans = trigger.spans(prompt)
    part, own = model.text_part, tokens_of(model.text_part, text)
    hits, ids = own.within(spans), [own.ids[i] for i in own.real]
    first, last = own.real[0], own.real[-1] + 1
    picture = model.generate([text], [seed], "draw")
    noise = torch.randn(
        (1, *model.latent_shape), generator=torch.Generator().manual_seed(seed % 2**63)
    ).to(model.device)
    latents, context = model.latents(picture), model.condition([text])
    total = 0.0
    with torch.inference_mode():
        for level in LEVELS:
            t = torch.tensor([level], device=model.device)
            with Capture(model, tokens=last) as seen:
                model.denoise(model.noising.add(latents, noise, t), t, context)
            total = total + seen.maps()[0, first:] / len(seen)
    texts = [part.tokenizer.decode([i]) for i in ids]
    names = [text.strip() or repr(text) for text in texts]
    return {"picture": picture, "maps": (total / len(LEVELS)).float().cpu().numpy()}, {
        "tokens": names,
        "trigger": [h - first for h in hits],
    }


def store_maps(shared: Shared, cell: Cell) -> None:
    """Store the attention maps of the cell's model and of the model before the attack, where they
    are not stored."""
    backdoor, source = shared.backdoor(cell.attack), shared.source(cell.attack)
    if backdoor.trigger is None:
        return
    store, clean_key = shared.store, shared.plan.before_key(cell.seed, source)
    prompt, seed = shared.prompts(cell.seed, source)[0].text, noise_seed(cell.seed, 0)
    before = digest({"maps": clean_key, "trigger": plain(backdoor.trigger)})
    with store.claim(f"maps/{before}", wait=True):
        if store.read_arrays(f"maps/{before}") is None:
            found = record(shared.model, backdoor.trigger, prompt, seed)
            store.write_arrays(f"maps/{before}", *found)
    name = f"maps/{cell.key}"
    if read_arrays(shared, cell, name) is None:
        model = defended_model(shared, cell)
        shared.display.phase("attention maps")
        arrays, meta = record(model, backdoor.trigger, prompt, seed)
        store.write_arrays(name, arrays, meta | {"before": before, "made": origin(shared, cell)})


def has_maps(store: Store, cell: Cell) -> bool:
    """Whether the maps of a cell are stored whole, with those of the model before the attack."""
    found = store.read_arrays(f"maps/{cell.key}")
    return (
        found is not None and store.find_file(f"maps/{found[1]['before']}.safetensors") is not None
    )
