"""Captioned pictures in folders and parquet files, for several test files."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from t2i_backdoor_bench.data.captioned import CaptionedImages
from t2i_backdoor_bench.data.open_captioned import open_data

WORDS = ("dog", "cat", "horse", "boat", "house")


def picture(i: int, size: tuple[int, int] = (50, 40)) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    )


def png(i: int) -> bytes:
    out = io.BytesIO()
    picture(i).save(out, "png")
    return out.getvalue()


def caption(i: int) -> str:
    return f"a photo of a {WORDS[i % len(WORDS)]} number {i}"


def write_folder(folder: Path, n: int, extra: list[dict] | None = None) -> Path:
    folder.mkdir(parents=True)
    for i in range(n):
        picture(i).save(folder / f"{i}.png")
    rows = [{"file_name": f"{i}.png", "text": caption(i)} for i in range(n)] + (extra or [])
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def opened(
    spec: object, fits: Callable[[str], bool] = lambda text: True, side: int = 32
) -> tuple[CaptionedImages, list[str]]:
    said: list[str] = []
    return open_data(str(spec), side, fits, said.append), said


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes whose header claims width x height pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10_000)))
        + chunk(b"IEND", b"")
    )


def saved(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "png")
    return out.getvalue()


def write_parquet(path: Path, n: int, typed: bool = True) -> Path:
    rows = {
        "image": [{"bytes": png(i), "path": f"{i}.png"} for i in range(n)],
        "caption": [[caption(i), "another"] for i in range(n)],
    }
    table = datasets.Dataset.from_dict(rows)
    (table.cast_column("image", datasets.Image()) if typed else table).to_parquet(path)
    return path
