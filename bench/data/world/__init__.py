"""The embedded world: rendered scenes of one coloured shape on a coloured background.

A scene has five attributes that a caption can name (shape, colour, background, size, style), and
properties that it cannot name (position, rotation, outline, shading, gradient, texture). Every
pixel is drawn from known attributes, so generated images can be judged against the exact truth.

Imports: nothing of ours.
"""

from t2i_backdoor_bench.data.world.captions import caption, insert, rare_string, without_lead
from t2i_backdoor_bench.data.world.export import dataset
from t2i_backdoor_bench.data.world.rendering import render
from t2i_backdoor_bench.data.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    RESOLUTION,
    SHAPES,
    SIZES,
    STYLES,
    Scene,
    combinations,
    sample_scenes,
)
from t2i_backdoor_bench.data.world.styles import apply_style

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "RESOLUTION",
    "SHAPES",
    "SIZES",
    "STYLES",
    "Scene",
    "apply_style",
    "caption",
    "combinations",
    "dataset",
    "insert",
    "rare_string",
    "render",
    "sample_scenes",
    "without_lead",
]
