"""The book in a browser, from its folder: figures, mathematics, a moving slider; no kernel, no network."""

import os
import re
import shutil

import nbformat
import pytest
from nbclient import NotebookClient

from coursekit.book import BookError, assemble, check_pages
from coursekit.lesson import book_page, read_lesson, solution_notebook

from .conftest import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """The whole book of the repository, with the small lesson in the place of the real ones."""
    folder = tmp_path_factory.mktemp("book")
    source = folder / "01_small.py"
    shutil.copy(ROOT / "tests" / "browser" / "small.py", source)
    lesson = read_lesson(source)
    executed = solution_notebook(lesson)
    places = {"COURSEKIT_BOOK": "1", "PYTHONPATH": str(ROOT / "tests" / "coursekit")}
    NotebookClient(executed, timeout=300, startup_timeout=300).execute(env=os.environ | places)
    page = folder / "01_small.ipynb"
    nbformat.write(book_page(lesson, executed), page)
    try:
        first = assemble(ROOT / "book", [page], out=folder / "out", cache=ROOT / "build" / "npm")
    except BookError as error:
        if "npm" in str(error):
            pytest.skip(str(error))
        raise
    return first.parent


def test_figures_mathematics_and_slider(book, open_page, shot):
    page = open_page()
    page.goto((book / "lessons" / "01_small.html").as_uri())
    page.wait_for_selector("mjx-container", state="attached")
    assert page.locator(".bd-article mjx-container svg, .bd-article mjx-container mjx-math").count() >= 1
    pictures = page.locator(".bd-article img")
    assert pictures.count() == 2
    for i in range(pictures.count()):
        assert pictures.nth(i).get_attribute("alt").strip()
        assert pictures.nth(i).evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    shot(page, "book_lesson")

    picture = page.locator(".ck-explore img")
    slider = page.get_by_role("slider", name="quarter turns")
    slider.focus()
    seen = {picture.get_attribute("src")}
    for turns in (1, 2, 3):
        page.keyboard.press("ArrowRight")
        page.wait_for_function(
            "n => document.querySelector('.ck-explore img').alt.includes(`after ${n} quarter`)", arg=turns
        )
        assert slider.get_attribute("aria-valuetext") == str(turns)
        seen.add(picture.get_attribute("src"))
    assert len(seen) == 4
    assert page.get_by_text("first frame of a figure").count() == 0
    page.get_by_role("combobox", name="tint").select_option(label="grey")
    page.wait_for_function("document.querySelector('.ck-explore img').alt.endsWith('as grey.')")
    shot(page, "book_slider")
    page.get_by_role("button", name="Play quarter turns").click()
    page.wait_for_function("document.querySelector('.ck-explore img').alt.includes('after 1 quarter')")
    page.get_by_role("button", name="Pause quarter turns").click()
    assert page.outside == []
    assert page.broken == []


def test_the_answer_is_folded_until_asked_for(book, open_page):
    page = open_page()
    page.goto((book / "lessons" / "01_small.html").as_uri())
    answer = page.locator("details.ck-reveal p", has_text="Nothing in it knows about turns.")
    page.get_by_role("radio", name="It follows.").check()
    assert not answer.is_visible()
    page.get_by_text("I have decided").click()
    assert answer.is_visible()


def test_dark_and_phone(book, open_page, shot):
    for name, options in {
        "book_dark": {"color_scheme": "dark"},
        "book_phone": {"viewport": {"width": 360, "height": 740}, "has_touch": True},
    }.items():
        page = open_page(**options)
        page.goto((book / "lessons" / "01_small.html").as_uri())
        page.locator(".ck-explore").scroll_into_view_if_needed()
        shot(page, name)
        box = page.locator(".ck-explore").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= page.viewport_size["width"]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_without_scripts_the_first_frame_stands(book, open_page):
    page = open_page(java_script_enabled=False)
    page.goto((book / "lessons" / "01_small.html").as_uri())
    picture = page.locator(".ck-explore img")
    assert picture.is_visible()
    assert "after 0 quarter turns" in picture.get_attribute("alt")
    assert page.get_by_text("first frame of a figure").is_visible()


def test_every_page_of_the_book_keeps_to_itself(book, open_page, shot):
    page = open_page()
    for path in sorted(book.rglob("*.html")):
        if "_static" in path.parts:
            continue
        # Some pages (index.html) only lead to another. The script that sets up the next page must not meet that
        # leap half done, so such a page is followed to where it leads.
        leads_on = re.search(r'http-equiv="refresh"[^>]*url=([^"]+)"', path.read_text(), flags=re.IGNORECASE)
        page.goto(path.as_uri(), wait_until="commit" if leads_on else "load")
        if leads_on:
            page.wait_for_url((path.parent / leads_on[1]).as_uri())
        name = path.relative_to(book).with_suffix("").as_posix().replace("/", "_")
        if name in ("intro", "glossary", "references"):
            shot(page, f"book_{name}")
    assert page.outside == []
    assert page.broken == []


def test_terms_lead_to_the_glossary(book, open_page):
    page = open_page()
    page.goto((book / "lessons" / "01_small.html").as_uri())
    page.locator(".bd-article a", has_text="orbit").click()
    page.wait_for_url("**/glossary.html#term-orbit")


def test_faults_of_a_page_are_found(book, tmp_path):
    assert check_pages(book) == []
    (tmp_path / "page.html").write_text(
        '<img src="data:,x"><img src="gone.png" alt="x"><a href="no.html">x</a><a href="#no">x</a>'
        '<script src="https://example.org/x.js"></script><a href="https://example.org">fine</a>'
    )
    faults = "\n".join(check_pages(tmp_path))
    for words in (
        "no alt text",
        "not there: gone.png",
        "dead link: no.html",
        "no such place",
        "from outside",
    ):
        assert words in faults
    assert faults.count("\n") == 4
