"""Tables of captions and pictures as the `datasets` library opens them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import UserError

CAPTIONS = ("caption", "text", "prompt", "captions", "txt", "sentence", "sentences")
IMAGES = ("image", "img", "picture", "jpg", "jpeg", "png", "webp")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")


def load(name: str, options: dict[str, str]) -> tuple[Any, Path | None]:
    """The table of a data set, and its folder if its pictures are local files. Raises UserError."""
    import datasets

    path = Path(name)
    local = path.exists()
    if not local and _looks_like_a_path(path, name):
        raise UserError(f"--data {name}: there is no such file or folder")
    bars = datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return _open_local(path, name, options) if local else (_open_hub(name, options), None)
    except UserError:
        raise
    except Exception as error:  # datasets, the hub and the network raise a dozen kinds
        cause = error.__cause__ or error
        what = (
            "cannot be read"
            if local
            else "is no local folder, and is not available from the hub or its cache"
        )
        raise UserError(
            f"--data {name} {what}: {' '.join(str(cause).split())[:300] or type(cause).__name__}"
        ) from None
    finally:
        if not bars:
            datasets.enable_progress_bars()


def _looks_like_a_path(path: Path, name: str) -> bool:
    deep = path.is_absolute() or name.startswith(".") or name.count("/") > 1
    return deep or path.suffix in (".parquet", ".csv")


def _common(options: dict[str, str]) -> dict[str, Any]:
    """The arguments that every way of opening takes."""
    return {
        "split": options.get("split", "train"),
        "streaming": "stream" in options,
        "name": options.get("config"),
    }


def _open_hub(name: str, options: dict[str, str]) -> Any:
    import datasets

    return datasets.load_dataset(name, revision=options.get("revision"), **_common(options))


def _open_local(path: Path, name: str, options: dict[str, str]) -> tuple[Any, Path | None]:
    """A folder that `save_to_disk` wrote, parquet files, or a folder of pictures with captions."""
    import datasets

    common = _common(options)
    split = common["split"]
    saved = ("state.json", "dataset_dict.json")
    if path.is_dir() and any((path / f).is_file() for f in saved):
        found = datasets.load_from_disk(name)
        return found[split] if isinstance(found, datasets.DatasetDict) else found, None
    if path.is_file() or (not any(path.rglob("metadata.*")) and any(path.rglob("*.parquet"))):
        files = [name] if path.is_file() else sorted(str(p) for p in path.rglob("*.parquet"))
        return datasets.load_dataset("parquet", data_files={split: files}, **common), None
    _check_folder(path, name)
    return datasets.load_dataset("imagefolder", data_dir=name, **common), path.resolve()


def _check_folder(path: Path, name: str) -> None:
    """Raises UserError for archives, which `datasets` would unpack, and for a lack of captions."""
    if packed := sorted(p.name for p in path.rglob("*") if p.suffix.lower() in ARCHIVES):
        raise UserError(
            f"--data {name} contains {some_of(packed)}: archives are not unpacked, because a small"
            " one can fill the disk. Unpack the ones that you trust, and move them out of the"
            " folder"
        )
    if not any(path.rglob("metadata.*")):
        raise UserError(
            f"--data {name} has no captions: put a metadata.csv or metadata.jsonl with the columns"
            " file_name and text beside its pictures"
        )


def find_columns(table: Any, options: dict[str, str], spec: str) -> tuple[str, str]:
    """The names of the picture column and the caption column. Raises UserError if there is no
    usual name among the columns."""
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
                f"--data {spec}: no {key} column was recognized; name one with {key}=COLUMN:"
                f" {', '.join(features)}"
            )
    return found[0], found[1]


def without_decoding(table: Any, image: str) -> Any:
    """The table with its pictures as files instead of pixels."""
    import datasets

    typed = isinstance((table.features or {}).get(image), datasets.Image)
    return table.cast_column(image, datasets.Image(decode=False)) if typed else table


def caption_text(value: Any) -> str:
    """The caption in one line; of several, the first."""
    if isinstance(value, (list, tuple)):
        value = value[0] if value else ""
    return " ".join(value.split()) if isinstance(value, str) else ""


def row_label(value: Any, i: int) -> str:
    path = value.get("path") if isinstance(value, dict) else None
    return Path(path).name if path else f"row {i}"


def picture_bytes(value: Any, folder: Path | None, stream: bool = False) -> bytes:
    """The content of a picture file, or b"" if it is missing (`picture_file`)."""
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
        real = picture_file(value, folder)
        return real.read_bytes() if real is not None else b""
    except OSError:
        return b""


def picture_file(value: Any, folder: Path | None) -> Path | None:
    """The file of a picture that a table names by its path; None where it holds the picture itself,
    or names no file that may be read.

    A path must lie in the data set's folder or, without one, in a cache of the hub: a table cannot
    make the suite read other files.
    """
    if not isinstance(value, dict) or value.get("bytes") or not value.get("path"):
        return None
    try:
        real = Path(value["path"]).resolve()
        roots = [folder] if folder else _hub_caches()
        return real if real.is_file() and any(real.is_relative_to(r) for r in roots) else None
    except (OSError, ValueError):
        return None


def _hub_caches() -> list[Path]:
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
    """A function that reads the picture of row `i` again: from `keep` for a stream, which can be
    read only once, and otherwise from the table."""
    if keep is not None:
        return lambda: keep
    return lambda: picture_bytes(table[i][image], folder)


def some_of(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(
        [*names[:most], *([f"and {len(names) - most} more"] if len(names) > most else [])]
    )
