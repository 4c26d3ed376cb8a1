"""Tables of captions and pictures that name files and addresses elsewhere, and names of files that
command the terminal."""

from __future__ import annotations

import io
import json
import os
from contextlib import redirect_stderr
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from captioned_files import caption, opened, png, write_folder, write_parquet
from stranger import no_network  # noqa: F401 - a fixture

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.contract.printable import HIDDEN, printable_stderr
from t2i_backdoor_bench.data import open_captioned
from t2i_backdoor_bench.data.picture_places import Place
from t2i_backdoor_bench.data.table import picture_bytes

PATHS = [
    "zip://secret.png::{secret}.zip",
    "zip://hf_x::{secret}",
    "tar://hf::{secret}",
    "file://{secret}",
    "{secret}",
    "../{name}",
    "hf://datasets/owner/private@main/secret.png",
    "https://evil.example/pixel.png",
    "s3://bucket/secret.png",
    "memory://x",
]


def table_of(path: Path, columns: dict[str, list], features: dict[str, dict]) -> Path:
    """A parquet file whose header says which columns the library is to decode."""
    table = pa.table(columns)
    known = json.dumps({"info": {"features": features}})
    pq.write_table(table.replace_schema_metadata({"huggingface": known}), path)
    return path


TEXT = {"dtype": "string", "_type": "Value"}


@pytest.mark.parametrize("stream", ["", ",stream"])
@pytest.mark.parametrize("path", PATHS)
def test_paths_of_a_table_are_not_read(tmp_path: Path, no_network, path: str, stream: str) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(0))
    named = path.format(secret=secret, name=secret.name)
    rows = {"image": [{"bytes": None, "path": named}], "caption": ["x"]}
    for name, features in (
        ("typed", {"image": {"_type": "Image"}, "caption": TEXT}),
        ("plain", {"image": {"bytes": {**TEXT}, "path": TEXT}, "caption": TEXT}),
    ):
        made = table_of(tmp_path / f"{name}.parquet", rows, features)
        with pytest.raises(UserError, match=r"none of its 1 rows|cannot be read"):
            opened(f"{made}{stream}")


@pytest.mark.parametrize("kind", ["Image", "Audio", "Video", "Pdf", "Nifti"])
@pytest.mark.parametrize("stream", ["", ",stream"])
def test_other_columns_are_not_opened(tmp_path: Path, no_network, kind: str, stream: str) -> None:
    """The library decodes every column of a row that it gives."""
    rows = {
        "image": [{"bytes": png(i), "path": None} for i in range(20)],
        "caption": [caption(i) for i in range(20)],
        "more": [{"bytes": None, "path": "https://evil.example/x"} for i in range(20)],
    }
    features = {"image": {"_type": "Image"}, "caption": TEXT, "more": {"_type": kind}}
    made = table_of(tmp_path / "a.parquet", rows, features)
    assert sum(map(len, opened(f"{made}{stream}")[0].rows.values())) == 20


@pytest.mark.parametrize("stream", ["", ",stream"])
def test_columns_that_would_be_decoded_are_refused(tmp_path: Path, no_network, stream: str) -> None:
    image = [{"bytes": None, "path": "https://evil.example/x"}]
    rows = {"image": [image], "caption": image}
    for features in (
        {"image": [{"_type": "Image"}], "caption": {"_type": "Image"}},
        {"image": {"feature": {"_type": "Image"}, "_type": "List"}, "caption": TEXT},
    ):
        made = table_of(tmp_path / "a.parquet", rows, features)
        with pytest.raises(UserError) as error:
            opened(f"{made}{stream},image=image,caption=caption")
        assert "\n" not in str(error.value)


def test_a_repository_of_the_hub_gives_its_own_pictures_alone(monkeypatch, no_network) -> None:
    import fsspec

    asked: list[str] = []

    def fetched(path: str, mode: str) -> io.BytesIO:
        asked.append(path)
        return io.BytesIO(b"picture")

    monkeypatch.setattr(fsspec, "open", fetched)
    place = Place(repository="owner/set", stream=True)
    own = "hf://datasets/owner/set@abc/train/1.png"
    for path in (own, f"zip://a/1.png::{own}", f"tar://1.png::{own}"):
        assert picture_bytes({"bytes": None, "path": path}, place) == b"picture"
    asked.clear()
    for path in (
        "hf://datasets/owner/private@main/1.png",
        "hf://datasets/owner/set2@main/1.png",
        "hf://datasets/owner/set@main/../../private/1.png",
        "hf://owner/set/1.png",
        f"zip://x::file:///etc/passwd::{own}",
        f"simplecache::{own}",
        "zip://x::/etc/passwd",
        f"/etc/passwd::{own}",
    ):
        assert not picture_bytes({"bytes": None, "path": path}, place), path
    assert not picture_bytes({"bytes": None, "path": own}, Place(stream=True))
    assert asked == []


def test_links_pipes_and_lists_that_leave_the_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a secret"}')
    write_parquet(outside / "a.parquet", 3)
    for name in ("metadata.jsonl", "a.parquet"):
        folder = tmp_path / f"set-{name}"
        folder.mkdir()
        (folder / "0.png").write_bytes(png(0))
        (folder / name).symlink_to(outside / name)
        with pytest.raises(UserError, match="is a link that leaves the folder"):
            opened(folder)
    folder = write_folder(tmp_path / "pipes", 3)
    os.mkfifo(folder / "x.png")
    with pytest.raises(UserError, match="is no plain file"):
        opened(folder)


@pytest.mark.parametrize("name", ["../secret/data-00000-of-00001.arrow", "/etc/passwd", "..", ""])
def test_what_save_to_disk_did_not_write(tmp_path: Path, name: str) -> None:
    datasets.Dataset.from_dict({"a": [1]}).save_to_disk(tmp_path / "set")
    state = tmp_path / "set" / "state.json"
    found = json.loads(state.read_text())
    found["_data_files"] = [{"filename": name}]
    state.write_text(json.dumps(found))
    with pytest.raises(UserError, match="outside of its folder"):
        opened(tmp_path / "set")
    state.write_text('{"_data_files": [1]}')
    with pytest.raises(UserError, match="not what save_to_disk writes"):
        opened(tmp_path / "set")
    (tmp_path / "dict").mkdir()
    (tmp_path / "dict" / "dataset_dict.json").write_text(json.dumps({"splits": [name]}))
    with pytest.raises(UserError, match="outside of its folder"):
        opened(tmp_path / "dict")


NAMES = ["\x1b]0;owned\x07\x1b[2J.png", "a\nerror: all is well\n.png", "\u202egnp.exe.png"]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_broken_pictures_on_the_terminal(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path / "pets", 30, [{"file_name": name, "text": "a broken one"}])
    (folder / name).write_bytes(b"no picture")
    said = opened(folder)[1]
    assert len(said) == 1
    assert "1 broken picture" in said[0]
    assert said[0].isprintable()
    out = io.StringIO()
    with redirect_stderr(out), printable_stderr():
        open_captioned.open_data(str(folder), 32, lambda text: True, print)
    assert not set(HIDDEN) & {c for c in out.getvalue() if c in "\x1b\x07\u202e"}
