"""A student in JupyterLab: run all cells, answer an exercise, move a slider, commit to a prediction."""

import re
import shutil

import pytest

from coursekit.lesson import insert_solutions, is_answer, notebook_text, read_lesson, student_notebook

from .conftest import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]


# For a second now: no cell that is on the page waits or runs (they show [*]), at least one has run, and the kernel, which knows the
# cells far down that are not on the page, has nothing to do.
DONE = r"""() => {
  const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")].map(p => p.textContent);
  const status = document.querySelector(".jp-Notebook-ExecutionIndicator").dataset.status;
  const rests = status === "idle" && prompts.some(p => /\d/.test(p)) && !prompts.some(p => p.includes("*"));
  if (!rests) window.restsSince = null;
  else window.restsSince ??= Date.now();
  return rests && Date.now() - window.restsSince > 1000;
}"""
STARTED = r"() => [...document.querySelectorAll('.jp-InputPrompt')].some(p => /[*\d]/.test(p.textContent))"


def open_notebook(page, url):
    page.goto(url)
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=120_000)
    # The server has started the kernel; then the page has heard of it.
    page.wait_for_function(
        """async () => (await (await fetch("/api/sessions")).json())
        .some(s => s.kernel.execution_state === "idle")""",
        timeout=120_000,
    )
    idle = '.jp-Notebook-ExecutionIndicator[data-status="idle"]'
    page.wait_for_selector(idle, state="attached", timeout=120_000)


def run_all(page, seconds):
    # On a busy machine a menu may close again before its entry is reached, and the page may not know its kernel yet and ask.
    select = page.locator(".jp-Dialog button", has_text=re.compile("^Select"))
    for _ in range(6):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click()
        for _ in range(40):
            if select.count():
                select.first.click()
            if page.evaluate(STARTED):
                wait_until_done(page, seconds)
                return
            page.wait_for_timeout(500)
    pytest.fail("JupyterLab did not run the cells")


def wait_until_done(page, seconds):
    page.wait_for_function(DONE, timeout=seconds * 1000)


def cell_with(page, text):
    return page.locator(".jp-CodeCell", has=page.locator(".cm-content", has_text=text)).first


def write_into(page, cell, text):
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(text)


def run_cell(page, cell, seconds=120):
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    wait_until_done(page, seconds)


def said_by(page, cell, awaited):
    """What stands below a cell, once it holds the awaited words or a minute has passed.

    A long notebook draws a cell only while it is in view, and what is drawn above it may push it out again.
    """
    said = ""
    for _ in range(120):
        cell.scroll_into_view_if_needed()
        said = (cell.locator(".jp-OutputArea").text_content() or "").lower()
        if awaited in said:
            break
        page.wait_for_timeout(500)
    return said


def answers(lesson):
    """The first answer cell: its stub, its solution, and the first check that follows it."""
    student = student_notebook(lesson).cells
    for i, cell in enumerate(student):
        if is_answer(cell) and cell.cell_type == "code":
            solved = insert_solutions(lesson, {cell.id}).cells[i].source
            check = next(c for c in student[i + 1 :] if c.cell_type == "code" and ".check(" in c.source)
            return cell.source, solved, check.source
    raise AssertionError("the lesson has no exercise")


def sources():
    return [
        ("small", ROOT / "tests" / "browser" / "small.py"),
        *((p.stem, p) for p in sorted((ROOT / "course").glob("[0-9]*.py"))),
    ]


@pytest.mark.parametrize(
    ("name", "source"), sources(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_student_works_through_the_notebook(name, source, lab, open_page, shot, tmp_path):
    path = tmp_path / ("01_small.py" if name == "small" else source.name)
    shutil.copy(source, path)
    lesson = read_lesson(path)
    stub, solved, check = answers(lesson)
    at = lab({"lesson.ipynb": notebook_text(student_notebook(lesson))})
    page = open_page(viewport={"width": 1400, "height": 1100})
    open_notebook(page, at("lesson.ipynb"))
    run_all(page, 600)

    head = next(line for line in stub.splitlines() if line.startswith(("def ", "class ")))
    checking = next(line for line in check.splitlines() if ".check(" in line)
    verdict = cell_with(page, checking)
    verdict.scroll_into_view_if_needed()
    assert "not attempted" in said_by(page, verdict, "not attempted")
    shot(page, f"lab_{name}_not_attempted")
    answer = cell_with(page, head)
    write_into(page, answer, solved)
    run_cell(page, answer)
    run_cell(page, verdict)
    said = said_by(page, verdict, "correct")
    assert "correct" in said
    assert "not attempted" not in said
    shot(page, f"lab_{name}_correct")

    for picture in page.locator(".jp-Notebook img.ck-figure").all():
        assert picture.get_attribute("alt").strip()

    # The notebook may call its figures over unfinished functions; the first that has a picture is moved.
    figure = page.locator(".ck-explore", has=page.locator("img[src^='blob:']")).first
    figure.scroll_into_view_if_needed()
    slider = figure.locator("input[type=range]").first
    picture = figure.locator("img.ck-picture")
    before = picture.get_attribute("src")
    cells = page.locator(".jp-Cell").count()
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "([node, old]) => node.src !== old", arg=[picture.element_handle(), before], timeout=60_000
    )
    assert picture.get_attribute("alt").strip()
    assert slider.evaluate("node => document.activeElement === node")
    assert page.locator(".jp-Cell").count() == cells
    # Drawn at 1.5 times the size that it asks for, for sharp screens.
    assert picture.evaluate("image => Math.abs(image.naturalWidth / image.getAttribute('width') - 1.5) < 0.01")
    shot(page, f"lab_{name}_slider")
    if name == "small":
        play = figure.locator(".ck-play")
        play.click()
        page.wait_for_function("node => node.value !== '1'", arg=slider.element_handle(), timeout=60_000)
        slider.focus()
        page.keyboard.press("ArrowRight")
        assert "Play" in play.inner_text(), "a key on the slider stops it"
    assert [url for url in page.outside if "127.0.0.1" not in url] == []


def test_a_prediction_is_committed_before_it_is_revealed(lab, open_page, shot, tmp_path):
    path = tmp_path / "01_small.py"
    shutil.copy(ROOT / "tests" / "browser" / "small.py", path)
    at = lab({"lesson.ipynb": notebook_text(student_notebook(read_lesson(path)))})
    page = open_page(viewport={"width": 1400, "height": 1100})
    open_notebook(page, at("lesson.ipynb"))
    run_all(page, 300)
    reveal = page.locator(".ck-reveal")
    reveal.scroll_into_view_if_needed()
    assert "Commit to an answer above first" in reveal.inner_text()
    button = page.get_by_role("button", name="Commit", exact=True)
    button.click()
    assert page.get_by_text("Decide first").is_visible()
    page.get_by_role("radio", name="It follows.").focus()
    page.keyboard.press("Space")
    button.click()
    page.wait_for_function("document.querySelector('.ck-reveal').innerText.includes('Nothing in it knows')")
    assert "It follows." in reveal.inner_text()
    assert page.get_by_role("radio", name="It flickers.").is_disabled()
    shot(page, "lab_predict")
