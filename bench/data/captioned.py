"""Real captioned images through `datasets`: a hub id, a local imagefolder with captions, parquet
files, or the head of a stream.

    --data
    NAME[,split=train][,caption=COLUMN][,image=COLUMN][,config=NAME][,revision=COMMIT][,rows=N][,stream]

Rows that share a picture or a caption go to one split together, by a checksum of their first
caption: no split shows another's prompts or pictures, whatever the order of the rows. What cannot
be used (no caption, a missing, broken or oversized picture, a caption that the model would
truncate) is counted, named in one line, and left out.
"""

from __future__ import annotations

import hashlib
import io
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from t2i_backdoor_bench.contract import Prompt, UserError, whole
from t2i_backdoor_bench.data.splits import SPLITS, split_at
from t2i_backdoor_bench.models.progress import progress

OPTIONS = ("split", "caption", "image", "config", "revision", "rows", "stream")
CAPTIONS = ("caption", "text", "prompt", "captions", "txt", "sentence", "sentences")
IMAGES = ("image", "img", "picture", "jpg", "jpeg", "png", "webp")
STREAM_ROWS = 10_000  # rows kept of a stream where the user names no number
OTHERS = 99  # captions that a picture's own must beat, as in R-precision (Xu et al. 2018)
FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "BMP",
    "GIF",
    "TIFF",
)  # no others are opened: PIL would hand an EPS to Ghostscript, a program of its own
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
PROBLEMS = (
    "no caption",
    "missing picture",
    "broken picture",
    "picture too large",
    "caption too long",
)


@dataclass(frozen=True)
class Row:
    """One captioned picture: what decodes it, and the digest of its file."""

    caption: str
    digest: str
    read: Callable[[], bytes]


@dataclass
class CaptionedImages:
    """Captioned pictures as a `Data` source, cropped to squares of `side` px. `name` ends in a
    digest of every caption and picture."""

    name: str
    rows: dict[str, list[Row]]  # by split
    side: int

    def _rows(self, split: str, contains: str) -> list[Row]:
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
        return [r for r in self.rows[split] if not contains or whole(contains).search(r.caption)]

    def _captions(self, split: str, contains: str) -> list[str]:
        return list({r.caption.casefold(): r.caption for r in self._rows(split, contains)}.values())

    def count(self, what: str, split: str, contains: str = "") -> int:
        return len(
            self._captions(split, contains) if what == "prompts" else self._rows(split, contains)
        )

    def prompts(self, split: str, n: int, seed: int, contains: str = "") -> list[Prompt]:
        found = self._captions(split, contains)
        if len(found) < n:
            raise too_few(self.name, len(found), "different captions", split, contains, n)
        everything = self._captions(split, "")
        order = np.random.default_rng([seed, zlib.crc32(split.encode()), 1]).permutation(len(found))
        return [with_others(found[i], everything) for i in order[:n]]

    def pairs(
        self, split: str, n: int, seed: int, contains: str = ""
    ) -> tuple[np.ndarray, list[str]]:
        rows = self._rows(split, contains)
        if len(rows) < n:
            raise too_few(self.name, len(rows), "captioned pictures", split, contains, n)
        order = np.random.default_rng([seed, zlib.crc32(split.encode()), 2]).permutation(len(rows))[
            :n
        ]
        images = np.empty((n, self.side, self.side, 3), np.uint8)
        for k, i in enumerate(progress(order, f"read {split} pictures", unit="picture")):
            images[k] = square(decode(rows[i].read()), self.side)
        return images, [rows[i].caption for i in order]


def too_few(name: str, found: int, what: str, split: str, contains: str, n: int) -> UserError:
    word = f" with the word {contains!r}" if contains else ""
    return UserError(
        f"the {split} split of {name} has {found} {what}{word} and {n} are asked for: give more"
        " data, or ask for fewer (--n, or --set METHOD.images=N or METHOD.prompts=N)"
    )


def with_others(caption: str, captions: Sequence[str]) -> Prompt:
    """A caption as a prompt; what its picture must not match better are up to 99 other captions of
    the split, the same ones always."""
    others = [c for c in captions if c.casefold() != caption.casefold()]
    picks = np.random.default_rng(zlib.crc32(caption.encode())).permutation(len(others))[:OTHERS]
    return Prompt(caption, {"caption": tuple(others[i] for i in sorted(picks))} if others else {})


# ----------------------------------------------------------------------------------------- pictures
def decode(data: bytes) -> Image.Image:
    """An RGB picture, upright. Raises OSError or ValueError for what is none, and
    DecompressionBombError beyond PIL's limit of pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                return ImageOps.exif_transpose(picture).convert("RGB")
        except Image.DecompressionBombWarning as error:
            raise Image.DecompressionBombError(str(error)) from None


def check_picture(data: bytes) -> str:
    """ "" for a picture that decodes to its end, or else which of the `PROBLEMS` it is. A JPEG is
    decoded at an eighth of its size."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                picture.draft("RGB", (1, 1))
                picture.load()
                return ""
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            return "picture too large"
        except (OSError, ValueError, SyntaxError, EOFError):
            return "broken picture"


def square(picture: Image.Image, side: int) -> np.ndarray:
    """The middle of a picture, its shorter edge scaled to `side`: uint8 (side, side, 3)."""
    return np.asarray(ImageOps.fit(picture, (side, side), Image.Resampling.LANCZOS))


# ------------------------------------------------------------------------------------------ opening
def parse(spec: str) -> tuple[str, dict[str, str]]:
    """ "name,split=train,stream" to a name and options. Raises UserError for an unknown one."""
    name, *rest = spec.split(",")
    options: dict[str, str] = {}
    for part in rest:
        key, equals, value = part.strip().partition("=")
        if (
            key not in OPTIONS
            or (not value and key != "stream")
            or (equals and key == "stream" and value not in ("true", "1"))
        ):
            raise UserError(
                f"--data {spec}: {part.strip()!r} is not an option; known:"
                f" {', '.join(OPTIONS[:-1])} (each with =VALUE), stream"
            )
        options[key] = value or "true"
    if "rows" in options and not (options["rows"].isdigit() and int(options["rows"]) > 0):
        raise UserError(
            f"--data {spec}: rows must be a whole number above 0, not {options['rows']!r}"
        )
    if not name.strip():
        raise UserError(
            "--data has no name; give a hub id, a folder of pictures with metadata.csv or"
            " metadata.jsonl, or parquet files"
        )
    return name.strip(), options


def open_data(
    spec: str, side: int, fits: Callable[[str], bool], say: Callable[[str], None] = print
) -> CaptionedImages:
    """Open captioned pictures for a model of `side` px; `fits` tells whether a caption is short
    enough for it. Raises UserError, in one line, for what is not to be had, has no captions or
    pictures, or nothing that can be used."""
    name, options = parse(spec)
    table, folder = load(name, options)
    image, caption = find_columns(table, options, spec)
    many = (
        int(options["rows"]) if "rows" in options else STREAM_ROWS if "stream" in options else None
    )
    kept: list[Row] = []
    problems: dict[str, list[str]] = {p: [] for p in PROBLEMS}
    seen = 0
    table = undecoded(table, image)
    for i, record in enumerate(
        progress(table.take(many) if many else table, f"open {name}", unit="row")
    ):
        seen, label = seen + 1, label_of(record[image], i)
        text = caption_text(record[caption])
        data = b"" if not text else picture_bytes(record[image], folder, "stream" in options)
        problem = (
            "no caption"
            if not text
            else (
                "missing picture"
                if not data
                else check_picture(data) or ("" if fits(text) else PROBLEMS[-1])
            )
        )
        if problem:
            problems[problem].append(label)
            continue
        keep = data if "stream" in options else None
        kept.append(
            Row(text, hashlib.sha256(data).hexdigest(), reader(table, image, i, folder, keep))
        )
    if left := [f"{len(v)} {k} ({listed(v)})" for k, v in problems.items() if v]:
        say(f"{name}: {seen - len(kept)} of {seen} rows are left out: {'; '.join(left)}")
    if not kept:
        raise UserError(
            f"--data {spec}: none of its {seen} rows is a captioned picture that can be used"
        )
    kept.sort(key=lambda r: (r.caption, r.digest))
    identity = hashlib.sha256(
        "".join(f"{r.caption}\0{r.digest}\n" for r in kept).encode()
    ).hexdigest()
    return CaptionedImages(f"{Path(name).name} ({identity[:16]})", into_splits(kept), side)


def into_splits(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by split. Rows that share a caption (whatever its case) or a picture stay together."""
    parent: dict[str, str] = {}

    def find(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = key = parent[parent[key]]
        return key

    for row in rows:
        a, b = find(f"caption {row.caption.casefold()}"), find(f"picture {row.digest}")
        parent[max(a, b)] = min(a, b)  # the root is the first caption of the group
    splits: dict[str, list[Row]] = {name: [] for name in SPLITS}
    for row in rows:
        root = find(f"caption {row.caption.casefold()}")
        splits[split_at(int(hashlib.sha256(root.encode()).hexdigest()[:8], 16) / 2**32)].append(row)
    return splits


def load(name: str, options: dict[str, str]) -> tuple[Any, Path | None]:
    """The table of a data set as `datasets` opens it, and its folder where it is local. Raises
    UserError."""
    import datasets

    path, stream, split = Path(name), "stream" in options, options.get("split", "train")
    local = path.exists()
    common = {"split": split, "streaming": stream, "name": options.get("config")}
    if not local and (
        path.is_absolute()
        or name.startswith(".")
        or name.count("/") > 1
        or path.suffix in (".parquet", ".csv")
    ):
        raise UserError(f"--data {name}: there is no such file or folder")
    bars = datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        if path.is_dir() and any(
            (path / f).is_file() for f in ("state.json", "dataset_dict.json")
        ):  # as `save_to_disk` writes them
            found = datasets.load_from_disk(name)
            return found[split] if isinstance(found, datasets.DatasetDict) else found, None
        if path.is_file() or (
            path.is_dir() and not any(path.rglob("metadata.*")) and any(path.rglob("*.parquet"))
        ):
            files = [name] if path.is_file() else sorted(str(p) for p in path.rglob("*.parquet"))
            return datasets.load_dataset("parquet", data_files={split: files}, **common), None
        if path.is_dir():
            if packed := sorted(p.name for p in path.rglob("*") if p.suffix.lower() in ARCHIVES):
                raise UserError(
                    f"--data {name} holds {listed(packed)}: archives are not unpacked, as a small"
                    " one can fill the disk; unpack there what you trust, and move them out of the"
                    " folder"
                )
            if not any(path.rglob("metadata.*")):
                raise UserError(
                    f"--data {name} has no captions: put a metadata.csv or metadata.jsonl with"
                    " file_name and text beside its pictures"
                )
            return datasets.load_dataset("imagefolder", data_dir=name, **common), path.resolve()
        return datasets.load_dataset(name, revision=options.get("revision"), **common), None
    except UserError:
        raise
    except Exception as error:  # datasets, the hub and the network raise a dozen kinds
        cause = error.__cause__ or error
        what = (
            "cannot be read"
            if local
            else "is no local folder, and is not to be had from the hub or its cache"
        )
        raise UserError(
            f"--data {name} {what}: {' '.join(str(cause).split())[:300] or type(cause).__name__}"
        ) from None
    finally:
        if not bars:
            datasets.enable_progress_bars()


def find_columns(table: Any, options: dict[str, str], spec: str) -> tuple[str, str]:
    """The picture and the caption column. Raises UserError where they are not plain to see."""
    import datasets

    features = table.features or next(iter(table), {})
    typed = [n for n in features if isinstance(features[n], datasets.Image)]
    found = []
    for key, named, known in (("image", typed, IMAGES), ("caption", [], CAPTIONS)):
        choice = options.get(key)
        if choice is not None and choice not in features:
            raise UserError(
                f"--data {spec}: there is no column {choice!r}; columns: {', '.join(features)}"
            )
        found.append(choice or next(iter([*named, *(n for n in known if n in features)]), None))
        if found[-1] is None:
            raise UserError(
                f"--data {spec}: no {key} column is plain to see; name one with {key}=COLUMN:"
                f" {', '.join(features)}"
            )
    return found[0], found[1]


def undecoded(table: Any, image: str) -> Any:
    """The table with its pictures as files, not pixels."""
    import datasets

    typed = isinstance((table.features or {}).get(image), datasets.Image)
    return table.cast_column(image, datasets.Image(decode=False)) if typed else table


def caption_text(value: Any) -> str:
    """A caption in one line; the first of several."""
    if isinstance(value, (list, tuple)):
        value = value[0] if value else ""
    return " ".join(value.split()) if isinstance(value, str) else ""


def label_of(value: Any, i: int) -> str:
    path = value.get("path") if isinstance(value, dict) else None
    return Path(path).name if path else f"row {i}"


def picture_bytes(value: Any, folder: Path | None, stream: bool = False) -> bytes:
    """The file behind a picture, or nothing where it is missing. A path is followed inside the data
    set's folder and the caches of the hub only: a table cannot make the suite read other files."""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if not isinstance(value, dict):
        return b""
    if value.get("bytes"):
        return bytes(value["bytes"])
    path = value.get("path") or ""
    try:
        if stream and path.startswith(("hf://", "zip://hf", "tar://hf")):
            import fsspec

            with fsspec.open(path, "rb") as file:
                return file.read()
        real = Path(path).resolve()
        if (
            path
            and real.is_file()
            and any(real.is_relative_to(root) for root in ([folder] if folder else caches()))
        ):
            return real.read_bytes()
    except OSError:
        pass
    return b""


def caches() -> list[Path]:
    import datasets
    from huggingface_hub.constants import HF_HUB_CACHE

    return [
        Path(p).resolve()
        for p in (
            datasets.config.HF_DATASETS_CACHE,
            datasets.config.DOWNLOADED_DATASETS_PATH,
            HF_HUB_CACHE,
        )
    ]


def reader(
    table: Any, image: str, i: int, folder: Path | None, keep: bytes | None
) -> Callable[[], bytes]:
    """What reads the picture of row `i` again: from memory for a stream, which cannot be asked
    twice, and from the table otherwise."""
    if keep is not None:
        return lambda: keep
    return lambda: picture_bytes(table[i][image], folder)


def listed(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(
        [*names[:most], *([f"and {len(names) - most} more"] if len(names) > most else [])]
    )
