"""Tables of captions and pictures as the `datasets` library opens them: of the hub, of parquet
files, and of `save_to_disk`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.data.picture_places import Place
from t2i_backdoor_bench.data.table import CAPTIONS, IMAGES, Table, choose_column, some_of


def library_table(
    name: str, options: dict[str, str], files: Sequence[Path], most: int | None, spec: str
) -> Table:
    """The first `most` rows of parquet `files`, of a folder that `save_to_disk` wrote, or else of a
    data set of the hub. Raises UserError."""
    found, place = _load(name, options, files)
    image, caption = _columns(found, options, spec)
    found = _undecoded(found, image, caption, spec)
    classes = _class_names(found, caption)
    notes = []
    if classes:
        notes.append(f"{name}: the captions are names of classes ({some_of(classes)})")

    def rows() -> Iterator[tuple[Any, Any]]:
        for record in found.take(most) if most else found:
            value = record[caption]
            if classes:
                value = classes[value] if value is not None and 0 <= value < len(classes) else ""
            yield record[image], value

    again = None if "stream" in options else lambda i: found[i][image]
    return Table(rows(), place, again, notes=notes)


def _load(name: str, options: dict[str, str], files: Sequence[Path]) -> tuple[Any, Place]:
    """The table of a data set, and where its pictures may be. Raises UserError."""
    import datasets

    local = bool(files) or Path(name).is_dir()
    bars = datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        if local:
            folder = Path(name).resolve() if Path(name).is_dir() else None  # a file has its own
            return _open_local(name, options, files), Place(folder)
        table = _open_hub(name, options)
        own = table.info.builder_name == "imagefolder"  # its paths are the library's, not a table's
        return table, Place(repository=name if own else "", stream="stream" in options)
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


def _open_local(name: str, options: dict[str, str], files: Sequence[Path]) -> Any:
    import datasets

    common = _common(options)
    split = common["split"]
    if not files:
        found = datasets.load_from_disk(name)
        return found[split] if isinstance(found, datasets.DatasetDict) else found
    return datasets.load_dataset("parquet", data_files={split: list(map(str, files))}, **common)


def _columns(table: Any, options: dict[str, str], spec: str) -> tuple[str, str]:
    """The names of the picture column and the caption column. Raises UserError if there is no
    usual name among the columns."""
    import datasets

    features = table.features or next(iter(table), {})
    typed = [n.casefold() for n in features if isinstance(features[n], datasets.Image)]
    names = list(features)
    return (
        choose_column("image", names, options, (*typed, *IMAGES), spec),
        choose_column("caption", names, options, CAPTIONS, spec),
    )


def _undecoded(table: Any, image: str, caption: str, spec: str) -> Any:
    """The table with these two columns alone, and its pictures as files instead of pixels: the
    library opens whatever a column of pictures, sounds or films names, files and addresses, as
    soon as a row is read. Raises UserError for a column that it would decode."""
    import datasets

    table = table.select_columns([image, caption])
    for name in (image, caption):
        found = (table.features or {}).get(name)
        if name == image and isinstance(found, datasets.Image):
            table = table.cast_column(image, datasets.Image(decode=False))
        elif name == image and isinstance(found, datasets.Value) and "string" in found.dtype:
            raise UserError(
                f"--data {spec}: the column {name} holds names or addresses and no pictures; give"
                " the folder that has the table and its pictures (addresses are not fetched)"
            )
        elif found is not None and not _holds_plain(found):
            what = "captions" if name == caption else "pictures"
            raise UserError(f"--data {spec}: the column {name} holds {found!r}, and no {what}")
    return table


def _class_names(table: Any, caption: str) -> list[str]:
    """The names of the classes, where the captions are numbers of them."""
    import datasets

    found = (table.features or {}).get(caption)
    return list(found.names or ()) if isinstance(found, datasets.ClassLabel) else []


def _holds_plain(feature: Any) -> bool:
    """Whether a column holds texts, bytes and numbers alone, at any depth."""
    import datasets

    if isinstance(feature, dict):
        return all(map(_holds_plain, feature.values()))
    if isinstance(feature, list):
        return all(map(_holds_plain, feature))
    if isinstance(feature, (datasets.List, datasets.LargeList, datasets.Sequence)):
        return _holds_plain(feature.feature)
    return isinstance(feature, (datasets.Value, datasets.ClassLabel))
