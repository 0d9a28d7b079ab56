"""`book`: what it fetches is checked, what is missing is said in a sentence, faults of pages are found."""

import re
from pathlib import Path

import nbformat
import pytest
import yaml

from coursekit import book as module
from coursekit.book import BookError, build, check_pages, fetch_scripts, glossary_terms, lesson_map


def test_without_npm_the_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(BookError, match=r"npm.*not installed.*Node\.js"):
        fetch_scripts(tmp_path / "cache", tmp_path / "vendor")


@pytest.mark.parametrize(
    ("script", "said"),
    [("echo offline >&2; exit 1", "needs the network"), ("echo x > p.tgz; echo p.tgz", "not the package")],
)
def test_what_npm_cannot_deliver_is_refused(tmp_path, monkeypatch, script, said):
    npm = tmp_path / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setattr(module.shutil, "which", lambda name: str(npm))
    with pytest.raises(BookError, match=said):
        fetch_scripts(tmp_path / "cache", tmp_path / "vendor")
    assert not list((tmp_path / "cache").glob("*.tgz"))


def test_glossary_terms(tmp_path):
    page = tmp_path / "glossary.md"
    page.write_text(
        "# G\n\n```{glossary}\norbit\n  All that.\n\ngroup action\n  A rule.\n```\n\ntext\n\n```\nno\n```\n"
    )
    assert glossary_terms(page) == ["orbit", "group action"]


def test_the_front_page_lists_the_lessons(tmp_path):
    page = nbformat.v4.new_notebook()
    page.metadata["coursekit"] = {
        "title": "Turns",
        "minutes": 90,
        "objectives": ["Turn a tile.", "Turn it back."],
    }
    nbformat.write(page, tmp_path / "01_turns.ipynb")
    assert lesson_map([tmp_path / "01_turns.ipynb"]) == (
        "1. **[Turns](lessons/01_turns.ipynb)**, 90 minutes\n   - Turn a tile.\n   - Turn it back."
    )


def test_faults_of_pages(tmp_path):
    (tmp_path / "b.html").write_text('<p id="here">')
    (tmp_path / "a.html").write_text(
        '<img src="b.html" alt=" "><a href="b.html#here">x</a><a href="b.html#gone">x</a>'
        '<a href="c.html">x</a>'
        '<link rel="stylesheet" href="https://example.org/x.css"><a href="https://example.org">out</a>'
    )
    faults = check_pages(tmp_path)
    assert [re.search(r"alt text|no such place|dead link|outside", f)[0] for f in faults] == [
        "alt text",
        "outside",
        "no such place",
        "dead link",
    ]


def test_every_page_of_the_library_is_in_the_contents():
    book = Path(__file__).resolve().parents[2] / "book"
    parts = yaml.safe_load((book / "_toc.yml").read_text(encoding="utf-8"))["parts"]
    listed = [chapter["file"] for part in parts for chapter in part["chapters"] if "file" in chapter]
    assert {f"library/{page.stem}" for page in (book / "library").glob("*.md")} <= set(listed)
    assert len(listed) == len(set(listed))


def test_a_folder_that_is_no_course(tmp_path):
    with pytest.raises(BookError, match=r"book/_config\.yml"):
        build(tmp_path)
