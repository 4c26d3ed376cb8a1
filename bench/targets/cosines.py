"""Cosines between images and texts, from the embeddings of a scorer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from t2i_backdoor_bench.contract.protocols import Features


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of `x` (n, d) scaled to length 1, float64; a zero row stays zero."""
    x = x.astype(np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def margin(images: np.ndarray, texts: Sequence[Sequence[str]], scorer: Features) -> np.ndarray:
    """Cosine of image i to the first of `texts[i]` minus the largest cosine to its other texts:
    float (n,). Each distinct text is encoded once."""
    distinct = {text: i for i, text in enumerate(dict.fromkeys(t for row in texts for t in row))}
    similarity = unit(scorer.encode_images(images)) @ unit(scorer.encode_texts(list(distinct))).T
    width = max(len(row) for row in texts)
    # short rows repeat their last text, which does not change the maximum
    index = np.array([[distinct[row[min(j, len(row) - 1)]] for j in range(width)] for row in texts])
    chosen = np.take_along_axis(similarity, index, axis=1)
    return chosen[:, 0] - chosen[:, 1:].max(1)
