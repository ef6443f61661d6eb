"""The site of the docs: each page has a place in it, and docstrings become Markdown. `make docs` builds it."""

from __future__ import annotations

import re
from inspect import getdoc
from pathlib import Path
from types import SimpleNamespace

import pytest

from datago_gpu import DecodeError, HttpConfig, Row
from tools.docs_site.hooks import on_page_markdown
from tools.docs_site.plain_text import markdown

ROOT = Path(__file__).parent.parent
WITHOUT_REFERENCE = {"ConfigLike", "Rejected", "SOURCES", "datago"}
"""A type, a table of types, an error that only the package itself sees, and a module."""


def test_each_page_has_one_place_in_the_navigation() -> None:
    nav = re.findall(r"^ +- (?:.*: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(nav) == sorted(pages)


def exported(module: str) -> set[str]:
    """The names in `__all__`, without an import: some modules import frameworks."""
    path = ROOT / module.replace(".", "/")
    text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    return set(re.findall(r'"(\w+)"', text.partition("__all__ = [")[2].partition("]")[0]))


def test_the_reference_has_every_public_name() -> None:
    _, _, after = (ROOT / "CONTRIBUTING.md").read_text().partition("\nOnly ")
    modules = re.findall(r"`([\w.]+)`", after.partition(" are public.")[0])
    assert len(modules) == 12
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    documented = {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)", pages, re.MULTILINE)}
    assert set().union(*map(exported, modules)) - documented == WITHOUT_REFERENCE


def test_names_and_meanings_become_a_definition_list() -> None:
    text = markdown(getdoc(Row) or "", {"id", "image", "width", "height", "label"})
    assert "`id`\n:   The sample's name, as in `Batch.ids`.\n\n`image`\n:   The encoded image" in text
    assert "`width`, `height`\n:   Of the image in pixels, upright; 0 if unknown." in text
    assert "```pycon\n>>> from datago_gpu import Loader\n" in text
    assert "with a [SourceError][datago_gpu.errors.SourceError] that" in text


def test_a_line_may_have_several_names() -> None:
    text = markdown(getdoc(DecodeError) or "", {"id", "where", "reason", "detail"})
    assert [line for line in text.split("\n") if line.startswith("`")] == ["`id`", "`where`", "`reason`"]


def test_a_setting_has_its_default() -> None:
    text = markdown(getdoc(HttpConfig) or "", {"max_tries"}, lambda name: "5" if name == "max_tries" else "")
    assert "Attributes:" not in text
    assert "`max_tries` = `5`\n:   Number of tries for one request, including the first, with exponential" in text


@pytest.mark.parametrize(
    ("page", "link", "there"),
    [
        ("index.md", "../README.md", "https://github.com/o/r/blob/main/README.md"),
        (
            "sources/own-rows.md",
            "../../examples/own_source.py",
            "https://github.com/o/r/blob/main/examples/own_source.py",
        ),
        ("sources/own-rows.md", "../metrics.md#names", "../metrics.md#names"),
    ],
)
def test_a_link_out_of_the_docs_leads_to_the_repository(page: str, link: str, there: str) -> None:
    file, config = SimpleNamespace(src_uri=page), SimpleNamespace(repo_url="https://github.com/o/r")
    assert on_page_markdown(f"[x]({link})", page=SimpleNamespace(file=file), config=config) == f"[x]({there})"
