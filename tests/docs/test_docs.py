"""The pages that are written from the registry are those that are committed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from t2i_backdoor_bench import docs, flags
from t2i_backdoor_bench.running.settings import make_config
from t2i_backdoor_bench.running.yaml_file import read_yaml


def test_pages_are_up_to_date(clean_registry) -> None:
    for path, text in docs.pages().items():
        assert path.read_text(encoding="utf-8") == text, (
            f"{path.name} is out of date: run python -m t2i_backdoor_bench.docs"
        )
        assert text.count("\n## ") >= 5


ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*.md")),
    *sorted((ROOT / "bench").rglob("*.md")),
    *(ROOT / "results" / name for name in ("README.md", "tuning/README.md", "zoo/README.md")),
]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def anchors(path: Path) -> set[str]:
    """The names that links into a page can have: its headings, as GitHub writes them."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize(
    "path", DOCUMENTS + NOTEBOOKS, ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_links_lead_somewhere(path: Path) -> None:
    """To files, as a site has no page for a folder, and to headings."""
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            file, _, anchor = link.partition("#")
            page = path.parent / file if file else path
            assert page.is_file(), link
            assert not anchor or anchor in anchors(page), link


def test_rows_of_a_table_stand_below_its_heads() -> None:
    """A row behind an empty line is a paragraph full of bars."""
    for path in DOCUMENTS:
        text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
        for table in re.findall(r"(?:^\|(?!\|).*\n)+", text, re.M):
            assert re.match(r"\|.*\n\|[-:| ]+\n", table), f"{path.name}: {table[:80]}"


def test_headings_of_a_page_have_different_names() -> None:
    """Code hosts and the site number equal ones differently."""
    for path in DOCUMENTS:
        text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
        assert len(re.findall(r"^#+ .*$", text, re.M)) == len(anchors(path)), path.name


def test_the_index_has_every_page() -> None:
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in text, page.name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_documents_name_flags_that_exist(path: Path) -> None:
    """Of every command of a document that runs the benchmark."""
    parsers = {"run": flags.make_parser(), **flags.make_parsers()}
    of_verb = {
        verb: {o for action in parser._actions for o in action.option_strings}
        for verb, parser in parsers.items()
    }
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"(?:run_bench\.py|t2i-backdoor-bench) ([^`\n]*)", text):
        known = of_verb.get(line.partition(" ")[0], of_verb["run"])
        assert set(re.findall(r"(--[a-z][a-z-]*)", line)) <= known, line


def test_the_readme_is_short_and_has_its_parts_in_order() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    parts = ("--defenses skdcag,baseline", "<!-- test line -->", "minutes", "![", "<!-- table:")
    places = [text.index(part) for part in (*parts, "```python", "## More")]
    assert places == sorted(places)


def test_the_yaml_of_the_documents_is_taken(tmp_path: Path) -> None:
    (text,) = re.findall(
        r"```yaml\n(.*?)```", (ROOT / "docs" / "settings.md").read_text(encoding="utf-8"), re.S
    )
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    config = make_config(read_yaml(tmp_path / "run.yaml"))
    assert config.overrides == ("skdcag.steps=400", "badt2i_pixel.trigger=\u200b")
    assert config.sweeps == ("skdcag.alpha=0,0.5,1",)


def test_the_citation_file_is_whole() -> None:
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "version"} <= found.keys()
    assert f'version = "{found["version"]}"' in (ROOT / "pyproject.toml").read_text(
        encoding="utf-8"
    )
