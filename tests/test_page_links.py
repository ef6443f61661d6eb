"""Each link of README.md, of docs/ and of the pages beside them leads somewhere: to a page, and to a heading of it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ADDRESS = "https://github.com/datago-gpu/datago-gpu/blob/main/"
SKILL = "datago_gpu/.agents/skills/datago-gpu/SKILL.md"
PAGES = sorted(
    path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), ROOT / SKILL, *(ROOT / "docs").rglob("*.md"))
)
PROGRAMS = [
    ROOT / "Makefile",
    ROOT / "pyproject.toml",
    *(ROOT / ".github").rglob("*.yml"),
    *(path for folder in ("datago_gpu", "tests", "tools", "benchmarks") for path in (ROOT / folder).rglob("*.py")),
]
"""They name pages in errors, helps and docstrings."""


@cache
def anchors(page: str) -> set[str]:
    """The names that GitHub and the site give to the headings of a page, and those that the page itself gives."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    named = set(re.findall(r'<a id="([^"]+)"', text))
    return named | {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


def links(page: str) -> list[str]:
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link or link.startswith(ADDRESS)]


@pytest.mark.parametrize("page", PAGES)
def test_each_link_of_a_page_leads_somewhere(page: str) -> None:
    for link in links(page):
        path, _, anchor = link.removeprefix(ADDRESS).partition("#")
        home = ROOT if link.startswith(ADDRESS) else (ROOT / page).parent
        target = (home / path).resolve() if path else ROOT / page
        assert target.exists(), f"{page} links to {link}, which is not there"
        if anchor:
            name = target.relative_to(ROOT).as_posix()
            assert anchor in anchors(name), f"{page} links to {link}, but {name} has no such heading"


def test_links_of_the_readme_work_on_pypi_too() -> None:
    text = (ROOT / "README.md").read_text()
    everywhere = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("#")]
    assert len(everywhere) > 10
    assert [link for link in everywhere if not link.startswith("https://")] == []


def test_each_page_that_a_program_names_is_there() -> None:
    for file in PROGRAMS:
        for name in re.findall(r"\bdocs/[\w/-]+\.md\b", file.read_text()):
            assert (ROOT / name).exists(), f"{file} names {name}, which is not there"
