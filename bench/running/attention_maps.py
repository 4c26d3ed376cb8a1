"""Cross-attention maps of the trigger's and the other tokens, for the clean, the attacked and the
defended models, as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from t2i_backdoor_bench.contract import Record, Trigger
from t2i_backdoor_bench.contract import printable as plaintext
from t2i_backdoor_bench.report.figures.picture_grid import first_seed, stored_maps
from t2i_backdoor_bench.store.folder import Store, write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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

    from t2i_backdoor_bench.training.attention import Capture, token_span

    text, start, end = trigger.locate(prompt)
    ids, hits = token_span(model.tokenizer, text, start, end)
    picture = model.generate([text], [seed], "draw")
    noise = torch.randn(
        (1, *model.latent_shape), generator=torch.Generator().manual_seed(seed % 2**63)
    ).to(model.device)
    latents, context = model.latents(picture), model.encode([text])
    total = 0.0
    with torch.inference_mode():
        for level in LEVELS:
            t = torch.tensor([level], device=model.device)
            with Capture(model.unet, tokens=len(ids) - 1) as seen:
                model.unet(model.noising.add_noise(latents, noise, t), t, context)
            total = total + seen.maps()[0, 1:] / len(seen)
    names = [
        model.tokenizer.decode([i]).strip() or repr(model.tokenizer.decode([i])) for i in ids[1:-1]
    ]
    return {"picture": picture, "maps": (total / len(LEVELS)).float().cpu().numpy()}, {
        "tokens": names,
        "trigger": [h - 1 for h in hits],
    }


def write_pictures(store: Store, records: Sequence[Record]) -> list[Path]:
    """attention-ATTACK.png for each attack whose first seed has stored maps: one row a model, one
    column a token."""
    paths = []
    for (_, attack), by_defense in first_seed(records).items():
        rows = stored_maps(store, by_defense)
        if rows:
            path, figure = store.root / f"attention-{plaintext.filename(attack)}.png", draw(rows)
            write_atomic(
                path, lambda partial, figure=figure: figure.savefig(partial, dpi=110, format="png")
            )
            paths.append(path)
    return paths


def draw(rows: Mapping[str, tuple[Mapping[str, np.ndarray], Mapping[str, Any]]]) -> Figure:
    """Rows of models; the triggered picture, then each token's map. A column has one scale, so that
    what is taken away shows."""
    from matplotlib.figure import Figure

    first = next(iter(rows.values()))[1]
    tokens, trigger = first["tokens"], set(first["trigger"])
    figure = Figure(
        figsize=(0.95 * (len(tokens) + 1) + 1.2, 1.0 * len(rows) + 0.9), layout="constrained"
    )
    axes = figure.subplots(len(rows), len(tokens) + 1, squeeze=False)
    top = np.max([arrays["maps"].max((1, 2)) for arrays, _ in rows.values()], axis=0)
    for i, (name, (arrays, _)) in enumerate(rows.items()):
        axes[i, 0].imshow(arrays["picture"][0])
        axes[i, 0].set_ylabel(plaintext.plot(name), rotation=0, ha="right", va="center", fontsize=9)
        for j in range(len(tokens)):
            axes[i, j + 1].imshow(
                arrays["maps"][j], vmin=0, vmax=max(float(top[j]), 1e-9), cmap="magma"
            )
            share = arrays["maps"][j].mean()
            axes[i, j + 1].set_xlabel(f"{100 * share:.1f} %", fontsize=7, labelpad=1)
    for j, token in enumerate(["", *tokens]):
        special = j - 1 in trigger
        axes[0, j].set_title(
            plaintext.plot(token),
            fontsize=9,
            color="#c00020" if special else "black",
            weight="bold" if special else None,
        )
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.supxlabel(
        "attention mass of each token (mean over pixels); trigger tokens in red; one color scale a"
        " column",
        fontsize=8,
    )
    return figure
