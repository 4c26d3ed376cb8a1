"""Where the prompts and the captioned images of a run come from."""

from __future__ import annotations

import dataclasses
import sys

from t2i_backdoor_bench.contract import Data, UserError
from t2i_backdoor_bench.data import world
from t2i_backdoor_bench.data.open_captioned import open_data
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.models.catalog import Base, picture_side, reads
from t2i_backdoor_bench.running.settings import Config


def choose_data(config: Config, base: Base) -> Data:
    """What `--data` names, or else the embedded world, for bases that draw pictures of its size.
    Raises UserError."""
    if config.data:
        return open_data(
            config.data,
            picture_side(base.source),
            reads(base.source),
            lambda text: print(text, file=sys.stderr),
        )
    side = picture_side(base.source)
    if side != world.RESOLUTION:
        raise UserError(
            f"{config.base} draws pictures of {side} px and those of the embedded world have"
            f" {world.RESOLUTION}: give captioned images with --data, a hub id or a folder of"
            " pictures with metadata.csv"
        )
    return WorldData()


def fit_real(config: Config, data: Data) -> Config:
    """The same with as many real images as the data has, where that is fewer than the scale's; keys
    and tables say how many."""
    have = data.count("pairs", "evaluation")
    if have is None or have >= config.size.real:
        return config
    return dataclasses.replace(config, scale=dataclasses.replace(config.scale, real=have))
