"""Folders of captioned pictures as people have them: every row and every picture is either used, or
counted with its reason."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from captioned_files import caption, opened, picture, png, write_folder

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.data.captioned import CaptionedImages
from t2i_backdoor_bench.data.open_captioned import parse
from t2i_backdoor_bench.data.text_tables import text_of

MANY = 12
HEADER = ("file_name", "text")


def pictures(folder: Path, many: int = MANY) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(many):
        (folder / f"p{i}.png").write_bytes(png(i))
    return folder


def rows(prefix: str = "", many: int = MANY) -> list[tuple[str, str]]:
    return [(f"{prefix}p{i}.png", caption(i)) for i in range(many)]


def text(
    table: Sequence[Sequence[str]], header: Sequence[str] = HEADER, separator: str = ","
) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=separator).writerows([header, *table])
    return out.getvalue()


def captions(data: CaptionedImages) -> set[str]:
    return {r.caption for found in data.rows.values() for r in found}


def pairs(data: CaptionedImages) -> dict[str, bytes]:
    return {r.caption: r.read() for found in data.rows.values() for r in found}


def right(folder: object, said: list[str] | None = None) -> None:
    """All captions are with their own pictures, and what is said is `said`."""
    data, lines = opened(folder)
    assert pairs(data) == {caption(i): png(i) for i in range(MANY)}
    assert len(lines) == len(said or [])
    for line, part in zip(lines, said or [], strict=True):
        assert part in line


def test_pictures_without_a_row_and_rows_without_a_picture_are_counted(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "a", 20)
    (folder / "metadata.csv").write_text(text([*rows(), ("gone.png", "a picture that is gone")]))
    right(
        folder,
        ["1 of 13 rows are left out: 1 missing picture (gone.png)", "8 pictures have no row in"],
    )
    assert "metadata.csv (p12.png, p13.png" in opened(folder)[1][1]


def test_a_table_above_its_pictures(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "a" / "train").parent
    (folder / "metadata.csv").write_text(text(rows("train/")))
    right(folder)
    (folder / "metadata.csv").write_text(text(rows("train\\")))
    right(folder)
    (folder / "metadata.csv").write_text(text(rows()))
    right(folder, ["12 pictures are in other folders than the table says"])
    (folder / "metadata.csv").write_text(text(rows("/mnt/another/machine/train/")))
    right(folder, ["12 pictures are in other folders than the table says"])
    picture(0).save(folder / "p0.png")
    data, said = opened(folder)
    assert "1 missing picture (p0.png)" in said[0], "two files of a name: none is guessed"
    assert len(captions(data)) == MANY - 1


def test_splits_are_folders(tmp_path: Path) -> None:
    for split in ("train", "val"):
        pictures(tmp_path / "a" / split)
    (tmp_path / "a" / "val" / "p0.png").unlink()
    table = [(f, f"{t} of {s}") for s in ("train", "val") for f, t in rows(f"{s}/")]
    (tmp_path / "a" / "metadata.csv").write_text(text(table))
    train, said = opened(tmp_path / "a")
    assert captions(train) == {f"{caption(i)} of train" for i in range(MANY)}
    assert "1 missing picture (p0.png)" in said[0]
    other = opened(f"{tmp_path / 'a'},split=validation")[0]
    assert captions(other) == {f"{caption(i)} of val" for i in range(1, MANY)}
    with pytest.raises(UserError, match=r"no folder of the split 'test'.*train, validation"):
        opened(f"{tmp_path / 'a'},split=test")


@pytest.mark.parametrize(
    "header",
    [("image", "caption"), ("Image_Path", "Prompt"), ("path", "text"), ("where", "sentence")],
)
def test_names_of_columns(tmp_path: Path, header: tuple[str, str]) -> None:
    folder = pictures(tmp_path / "a")
    (folder / "metadata.csv").write_text(text(rows(), header))
    right(folder)


def test_a_column_is_told_by_its_files(tmp_path: Path) -> None:
    """`image` holds a number here, and the files are in another column."""
    folder = pictures(tmp_path / "a")
    table = [(str(i), f, t) for i, (f, t) in enumerate(rows())]
    (folder / "metadata.csv").write_text(text(table, ("image", "which", "text")))
    right(folder)
    (folder / "metadata.csv").write_text(text([("x", c) for _, c in rows()], ("a", "text")))
    with pytest.raises(UserError, match=r"no image column.*or call it file_name: a, text"):
        opened(folder)


def test_a_table_without_names_of_columns(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "a")
    (folder / "metadata.csv").write_text(text(rows()[1:], rows()[0]))
    with pytest.raises(UserError, match="put file_name,text above its first line"):
        opened(folder)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_separators_and_byte_order_marks(tmp_path: Path, separator: str, encoding: str) -> None:
    folder = pictures(tmp_path / "a")
    written = text(rows(), separator=separator).encode(encoding)
    (folder / "metadata.csv").write_bytes(written)
    right(folder, ["read as UTF-16"] if encoding == "utf-16" else [])


def test_separators_of_spreadsheets_and_tsv(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "a")
    (folder / "metadata.csv").write_text("sep=;\r\n" + text(rows(), separator=";"))
    right(folder)
    (folder / "metadata.csv").rename(folder / "metadata.tsv")
    (folder / "metadata.tsv").write_text(text(rows(), separator="\t"))
    right(folder)


def test_latin_1_is_read_and_said(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "a")
    table = [(f, f"un café, {c}") for f, c in rows()]
    (folder / "metadata.csv").write_bytes(text(table).encode("latin-1"))
    data, said = opened(folder)
    assert captions(data) == {c for _, c in table}
    assert "metadata.csv" in said[0]
    assert "is not UTF-8 and is read as Windows-1252" in said[0]
    assert text_of("né".encode("latin-1")) == ("né", "Windows-1252")


def test_captions_with_commas_and_no_quotes_are_counted(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "a")
    lines = [f"{f},{c}" for f, c in rows()]
    lines[3] = "p3.png,a dog, a cat"
    (folder / "metadata.csv").write_text("\n".join(["file_name,text", *lines]))
    data, said = opened(folder)
    assert len(captions(data)) == MANY - 1
    assert "1 line with more values than columns, whose caption needs quotes" in said[0]
    assert "(metadata.csv line 5)" in said[0]


def test_texts_beside_pictures(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "a", MANY + 2)
    for i in range(MANY):
        (folder / f"p{i}.txt").write_text(f"\n{caption(i)}\n")
    (folder / "README.txt").write_text("about this folder")
    said = ["2 pictures have no .txt beside them (p12.png, p13.png)", "1 .txt files have no"]
    right(folder, said)
    (folder / "p0.txt").write_text(f"{caption(0)}\nanother")
    right(folder, [*said, "1 .txt files have several lines, of which the first is the caption"])
    (folder / "p1.txt").write_text("")
    assert "1 no caption (p1.png)" in opened(folder)[1][0]


def test_parquet_that_names_pictures(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "a")
    table = pa.table({"image": [f for f, _ in rows()], "text": [c for _, c in rows()]})
    for name in ("metadata.parquet", "captions.parquet"):
        pq.write_table(table, folder / name)
        right(folder)
        right(folder / name)
        (folder / name).unlink()
    (tmp_path / "b").mkdir()
    pq.write_table(table, tmp_path / "b" / "alone.parquet")
    with pytest.raises(UserError, match="none of its 12 rows"):
        opened(tmp_path / "b" / "alone.parquet")


@pytest.mark.parametrize("name", ["captions.csv", "metadata.json", "METADATA.CSV", "x.jsonl"])
def test_other_names_of_tables_and_their_own_paths(tmp_path: Path, name: str) -> None:
    folder = pictures(tmp_path / "a")
    found = [dict(zip(HEADER, row)) for row in rows()]
    kinds = {".json": json.dumps(found), ".jsonl": "\n".join(map(json.dumps, found))}
    (folder / name).write_text(kinds.get(Path(name).suffix, text(rows())))
    right(folder)
    right(folder / name)


def test_several_tables_and_broken_ones_are_one_line(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "a")
    for name in ("b.csv", "a.csv"):
        (folder / name).write_text(text(rows()))
    with pytest.raises(UserError, match=r"several tables \(a.csv, b.csv\): call the one"):
        opened(folder)
    for broken in ('{"a": ', "[1]", '"text"', "[" * 100_000):
        (folder / "metadata.jsonl").write_text(broken)
        with pytest.raises(UserError, match=r"metadata\.jsonl cannot be read") as error:
            opened(folder)
        assert "\n" not in str(error.value)
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(UserError, match=r"cannot be read"):
        opened(folder)


def test_captions_that_are_numbers_of_classes_are_refused(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "a")
    (folder / "metadata.csv").write_text(text([(f, str(i % 3)) for i, (f, _) in enumerate(rows())]))
    with pytest.raises(UserError, match="12 caption that is only a number") as error:
        opened(folder)
    assert "\n" not in str(error.value)


def test_numbers_of_classes_with_names_are_the_names(tmp_path: Path) -> None:
    import datasets

    names = [f"a photo of a {i}" for i in ("dog", "cat")]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    )
    found = {
        "image": [{"bytes": png(i), "path": None} for i in range(MANY)],
        "label": [i % 2 for i in range(MANY - 1)] + [None],
    }
    datasets.Dataset.from_dict(found, features).to_parquet(tmp_path / "a.parquet")
    data, said = opened(f"{tmp_path / 'a.parquet'},caption=label")
    assert captions(data) == set(names)
    assert "1 no caption" in said[0]
    assert "the captions are names of classes (a photo of a dog, a photo of a cat)" in said[1]


def test_an_existing_path_is_the_path_whatever_its_commas(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "name,with,commas")
    (folder / "metadata.csv").write_text(text(rows(), ("image", "says")))
    data = opened(f"{folder},caption=says")[0]
    assert captions(data) == {caption(i) for i in range(MANY)}
    assert parse(f"{folder},split=train,rows=3") == (str(folder), {"split": "train", "rows": "3"})
    with pytest.raises(UserError, match="'with' is not an option"):
        parse("gone,with,commas")
    assert parse(f"{'x' * 5000},rows=3")[0] == "x" * 5000


def test_options_of_a_yaml_file(tmp_path: Path) -> None:
    from t2i_backdoor_bench.running.settings import make_config

    given = {"name": "a,b", "split": "train", "rows": 5, "stream": True}
    assert make_config({"data": given}).data == "a,b,split=train,rows=5,stream"
    assert make_config({"data": {"name": "a", "stream": False}}).data == "a"
    for wrong in ({"split": "train"}, {"name": 3}, {"name": "a", "caption": "x,y"}):
        with pytest.raises(UserError, match="data must have a name"):
            make_config({"data": wrong})


def test_hidden_files_are_no_pictures(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", 6)
    (folder / "__MACOSX").mkdir()
    for name in ("._0.png", "__MACOSX/0.png"):
        (folder / name).write_bytes(b"no picture")
    assert opened(folder)[1] == []
