"""A small run folder as a stranger may hand it in, made without a model: two attacks, two defenses,
pictures, maps, prompts and a plan. Checksums always fit."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from report_pages import make_run

from t2i_backdoor_bench import command
from t2i_backdoor_bench.contract.hashing import digest
from t2i_backdoor_bench.report.figures import attention_maps, plots
from t2i_backdoor_bench.store.folder import Store


@pytest.fixture
def stranger(tmp_path_factory) -> Path:
    """A run folder whose names, prompts and options are hostile, and that is whole."""
    folder = tmp_path_factory.mktemp("handed") / "in"
    make_run(folder)
    return folder


@pytest.fixture
def no_network(monkeypatch) -> None:
    """Fails where anything asks the network, by name or by address."""

    def refuse(*args: Any, **more: Any) -> None:
        raise AssertionError(f"the network was asked: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # nothing else holds it back


@pytest.fixture
def no_figures(monkeypatch) -> None:
    """Figures take seconds to draw, and `test_figures_of_strangers` draws them."""
    monkeypatch.setattr(plots, "write_figures", lambda store, records: [])
    monkeypatch.setattr(attention_maps, "write_pictures", lambda store, records: [])


def tables_of(folder: Path) -> tuple[int, str, str]:
    """The exit status, stdout and stderr of `--tables-only` on a folder."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = command.main(["--tables-only", "--out", str(folder)])
    return status, out.getvalue(), err.getvalue()


def first_cell(folder: Path) -> Path:
    """The file of a finished cell with a defense."""
    for path in sorted((folder / "cells").glob("*.json")):
        payload = json.loads(path.read_text())["payload"]
        if payload["status"] == "done" and payload["cell"]["defense"] == "skdcag":
            return path
    raise AssertionError("no finished cell")


def change(path: Path, changed: Callable[[Any], Any]) -> None:
    """Change the payload of a record, and make its checksum fit. A payload that `changed` returns
    takes its place."""
    payload = json.loads(path.read_text())["payload"]
    payload = changed(payload) or payload
    path.write_text(json.dumps({"sha256": digest(payload), "payload": payload}))


def files_of(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, by path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def leaves(value: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """Each place of a JSON value with what is there."""
    yield path, value
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))


def put(value: Any, path: tuple, new: Any) -> Any:
    """The value with something else in one place."""
    if not path:
        return new
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return value


def opened(folder: Path, say: Callable[[str], None] = print) -> Store:
    return Store(folder, say)
