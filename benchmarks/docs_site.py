"""A hook of mkdocs: lays the site out as the repository is, from README.md on. So one relative link
between two pages, to a picture or to a source file holds on the code host and on the site.

mkdocs build --strict
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[1]
COMMENT = re.compile(r"<!--.*?-->", re.S)  # marks of benchmarks/pages.py: they would end a list
LINK = re.compile(r"\]\(([^)\s]+)\)")
PACKAGE = ROOT / "build" / "reference" / "t2i_backdoor_bench"  # where mkdocs.yml looks for it


def linked(page: Path) -> list[Path]:
    """The files of the repository that a page links to, pictures too."""
    links = LINK.findall(page.read_text(encoding="utf-8")) if page.suffix == ".md" else []
    paths = [(page.parent / link.partition("#")[0]).resolve() for link in links]
    return [path for path in paths if path.is_file() and path.is_relative_to(ROOT)]


def published() -> list[Path]:
    """README.md, the pages of docs/ and their style, and what they link to, directly or by other
    pages."""
    docs = ROOT / "docs"
    found, waiting = set(), [ROOT / "README.md", *docs.glob("*.md"), docs / "site.css"]
    while waiting:
        page = waiting.pop()
        if page not in found:
            found.add(page)
            waiting += linked(page)
    return sorted(found)


def on_config(config: MkDocsConfig) -> None:
    """Gives the sources the name that they have when they are installed: their docstrings are read
    without importing anything."""
    PACKAGE.parent.mkdir(parents=True, exist_ok=True)
    PACKAGE.unlink(missing_ok=True)
    PACKAGE.symlink_to(ROOT / "bench", target_is_directory=True)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Puts what is published in the place of the folder docs/ alone."""
    from mkdocs.structure.files import File  # only where the extra `site` is installed

    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    for path in published():
        name = path.relative_to(ROOT).as_posix()
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))


def on_page_markdown(markdown: str, **_: object) -> str:
    return COMMENT.sub("", markdown)
