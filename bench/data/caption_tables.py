"""Tables of captions and pictures as the `datasets` library opens them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.data.picture_places import Place, check_files

CAPTIONS = ("caption", "text", "prompt", "captions", "txt", "sentence", "sentences")
IMAGES = ("image", "img", "picture", "jpg", "jpeg", "png", "webp")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")


def load(name: str, options: dict[str, str]) -> tuple[Any, Place]:
    """The table of a data set, and where its pictures may be. Raises UserError."""
    import datasets

    path = Path(name)
    local = path.exists()
    if not local and _looks_like_a_path(path, name):
        raise UserError(f"--data {name}: there is no such file or folder")
    bars = datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        if local:
            check_files(path)
            folder = path.resolve() if path.is_dir() else None  # a file holds its pictures itself
            return _open_local(path, name, options), Place(folder)
        table = _open_hub(name, options)
        own = table.info.builder_name == "imagefolder"  # its paths are the library's, not a table's
        return table, Place(repository=name if own else "", stream="stream" in options)
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


def _open_local(path: Path, name: str, options: dict[str, str]) -> Any:
    """A folder that `save_to_disk` wrote, parquet files, or a folder of pictures with captions."""
    import datasets

    common = _common(options)
    split = common["split"]
    saved = ("state.json", "dataset_dict.json")
    if path.is_dir() and any((path / f).is_file() for f in saved):
        found = datasets.load_from_disk(name)
        return found[split] if isinstance(found, datasets.DatasetDict) else found
    if path.is_file() or (not any(path.rglob("metadata.*")) and any(path.rglob("*.parquet"))):
        files = [name] if path.is_file() else sorted(str(p) for p in path.rglob("*.parquet"))
        return datasets.load_dataset("parquet", data_files={split: files}, **common)
    _check_folder(path, name)
    return datasets.load_dataset("imagefolder", data_dir=name, **common)


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


def undecoded(table: Any, image: str, caption: str, spec: str) -> Any:
    """The table with these two columns alone, and its pictures as files instead of pixels: the
    library opens whatever a column of pictures, sounds or films names, files and addresses, as
    soon as a row is read. Raises UserError for a column that it would decode."""
    import datasets

    table = table.select_columns([image, caption])
    for name in (image, caption):
        found = (table.features or {}).get(name)
        if name == image and isinstance(found, datasets.Image):
            table = table.cast_column(image, datasets.Image(decode=False))
        elif found is not None and not _plain(found):
            what = "captions" if name == caption else "pictures"
            raise UserError(f"--data {spec}: the column {name} holds {found!r}, and no {what}")
    return table


def _plain(feature: Any) -> bool:
    """Whether a column holds texts, bytes and numbers alone, at any depth."""
    import datasets

    if isinstance(feature, dict):
        return all(map(_plain, feature.values()))
    if isinstance(feature, list):
        return all(map(_plain, feature))
    if isinstance(feature, (datasets.List, datasets.LargeList, datasets.Sequence)):
        return _plain(feature.feature)
    return isinstance(feature, (datasets.Value, datasets.ClassLabel))


def caption_text(value: Any) -> str:
    """The caption in one line; of several, the first."""
    if isinstance(value, (list, tuple)):
        value = value[0] if value else ""
    return " ".join(value.split()) if isinstance(value, str) else ""


def row_label(value: Any, i: int) -> str:
    path = value.get("path") if isinstance(value, dict) else None
    return Path(path).name if path else f"row {i}"


def picture_bytes(value: Any, place: Place) -> bytes:
    """The content of a picture file, or b"" if it is missing. What the table holds of it counts;
    its path is looked at only where `place` says that it is one of the data set's own."""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if not isinstance(value, dict):
        return b""
    if isinstance(value.get("bytes"), (bytes, bytearray)):
        return bytes(value["bytes"])
    path = value.get("path")
    return place.read(path) if isinstance(path, str) else b""


def picture_file(value: Any, place: Place) -> Path | None:
    """The file of a picture that a table names by its path; None where it holds the picture itself,
    or names no file that may be read."""
    if not isinstance(value, dict) or value.get("bytes") or not isinstance(value.get("path"), str):
        return None
    return place.file(value["path"])


def reader(table: Any, image: str, i: int, place: Place, keep: bytes | None) -> Callable[[], bytes]:
    """A function that reads the picture of row `i` again: from `keep` for a stream, which can be
    read only once, and otherwise from the table."""
    if keep is not None:
        return lambda: keep
    return lambda: picture_bytes(table[i][image], place)


def some_of(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(
        [*names[:most], *([f"and {len(names) - most} more"] if len(names) > most else [])]
    )
