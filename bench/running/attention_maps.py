"""Cross-attention maps of the trigger's and the other tokens, for the clean, the attacked and the
defended models, as one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from t2i_backdoor_bench.contract import Trigger

if TYPE_CHECKING:
    from t2i_backdoor_bench.models.model import T2IModel

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
    import torch  # the pictures of stored maps are drawn without it

    from t2i_backdoor_bench.training.alignment import token_span
    from t2i_backdoor_bench.training.capture import Capture

    text, start, end = trigger.locate(prompt)
    ids, hits = token_span(model.tokenizer, text, start, end)
    picture = model.generate([text], [seed], "draw")
    noise = torch.randn(
        (1, *model.latent_shape), generator=torch.Generator().manual_seed(seed % 2**63)
    ).to(model.device)
    latents, context = model.latents(picture), model.condition([text])
    total = 0.0
    with torch.inference_mode():
        for level in LEVELS:
            t = torch.tensor([level], device=model.device)
            with Capture(model, tokens=len(ids) - 1) as seen:
                model.denoise(model.noising.add(latents, noise, t), t, context)
            total = total + seen.maps()[0, 1:] / len(seen)
    names = [
        model.tokenizer.decode([i]).strip() or repr(model.tokenizer.decode([i])) for i in ids[1:-1]
    ]
    return {"picture": picture, "maps": (total / len(LEVELS)).float().cpu().numpy()}, {
        "tokens": names,
        "trigger": [h - 1 for h in hits],
    }
