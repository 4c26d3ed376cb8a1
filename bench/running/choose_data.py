"""Where the prompts and the captioned images of a run come from."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from t2i_backdoor_bench.contract import Data, UserError
from t2i_backdoor_bench.data import world
from t2i_backdoor_bench.data.image_files import BROKEN, LARGE, NOT_READ, NOTES, PIXELS
from t2i_backdoor_bench.data.open_captioned import open_data
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.data.verdicts import Verdicts, from_plain
from t2i_backdoor_bench.models.catalog import Base, picture_side, reads
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.forms import obj, of_all, one_of, refuse, text, whole

PICTURES = "pictures"  # OUT/pictures.json: `data.verdicts.Verdicts`


def _stamp(value: Any, where: str) -> None:
    """The size, the time and the digest of a file."""
    if not isinstance(value, list) or len(value) != 3:
        refuse(where, "is no size, time and digest")
    whole(value[0], where)
    if not isinstance(value[1], int):
        refuse(where, "has no time")
    text(value[2], where)


def _look(value: Any, where: str) -> None:
    """The problem of a picture, and how it is read (`image_files.Look`)."""
    if not isinstance(value, list) or not value:
        refuse(where, "is no problem and notes")
    text(value[0], where)
    if value[0] not in ("", BROKEN, LARGE) and not value[0].startswith((NOT_READ, PIXELS)):
        refuse(where, "is no problem of a picture")
    for note in value[1:]:
        one_of(*NOTES)(note, where)


FORM = obj(required=("files", "looks"), files=of_all(_stamp), looks=of_all(_look))


def choose_data(config: Config, base: Base) -> Data:
    """What `--data` names, or else the embedded world, for bases that draw pictures of its size.
    Raises UserError."""
    if config.data:
        return _open(config, base)
    side = picture_side(base.source)
    if side != world.RESOLUTION:
        raise UserError(
            f"{config.base} draws pictures of {side} px and those of the embedded world have"
            f" {world.RESOLUTION}: give captioned images with --data, a hub id or a folder of"
            " pictures with metadata.csv"
        )
    return WorldData()


def _open(config: Config, base: Base) -> Data:
    """The captioned images of `--data`. What is wrong with which picture is kept in the run folder,
    so that the workers of a run, and later runs, decode none for it."""

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    known = Verdicts()
    if config.folder.is_dir():
        stored = Store(config.folder, say).read_record(PICTURES, FORM)
        known = from_plain(stored) if stored is not None else known
    side, fits = picture_side(base.source), reads(base.source)
    data = open_data(config.data, side, fits, say, known)
    if known.changed:
        Store(config.folder, say).write_record(PICTURES, known.plain)
    return data


def fit_real(config: Config, data: Data) -> Config:
    """The same with as many real images as the data has, where that is fewer than the scale's; keys
    and tables say how many."""
    have = data.count("pairs", "evaluation")
    if have is None or have >= config.size.real:
        return config
    return dataclasses.replace(config, scale=dataclasses.replace(config.scale, real=have))
