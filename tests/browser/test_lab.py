"""A student in JupyterLab: run all cells, answer an exercise, move a slider, commit to a prediction.

Every cell of a lesson runs, but its trainings take a sixth of their steps, twelve at least: what a browser shows of
them does not depend on their length, and they took half of the time. `make course` trains as long as students do.
"""

import re
import shutil

import pytest

from coursekit.lesson import insert_solutions, is_answer, notebook_text, read_lesson, student_notebook

from .conftest import ROOT

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: dev)").expect
pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(1800)]


# JupyterLab itself says how far it is. What the screen shows is no sign of it: a kernel counts as idle there before the page
# has one, and whoever runs cells then makes JupyterLab start a second kernel, in which the rest of the notebook never runs.
READY = """() => {
  const panel = window.jupyterapp?.shell.currentWidget, session = panel?.sessionContext, kernel = session?.session?.kernel;
  return panel?.context?.isReady && session.isReady && kernel?.connectionStatus === "connected" && kernel.status === "idle"
    && document.querySelectorAll(".jp-Notebook .jp-Cell").length === panel.content.model.cells.length;
}"""
# The code cells: how many, how many have run to their end, whether any has been sent, the highest number of an execution.
CELLS = """() => {
  const cells = [...window.jupyterapp.shell.currentWidget.content.model.cells].filter(c => c.type === "code");
  return {
    all: cells.length, run: cells.filter(c => c.executionCount !== null && c.executionState === "idle").length,
    sent: cells.some(c => c.executionCount !== null || c.executionState === "running"),
    last: Math.max(0, ...cells.map(c => c.executionCount ?? 0)), busy: cells.some(c => c.executionState === "running"),
  };
}"""


def open_notebook(page, url):
    page.goto(url)
    page.wait_for_function(READY)


def run_all(page, seconds):
    """From the menu; on a busy machine it may close again before its entry is reached."""
    from playwright.sync_api import TimeoutError as TooLong

    for _ in range(6):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        try:
            page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click(timeout=10_000)
            page.wait_for_function(f"() => ({CELLS})().sent", timeout=20_000)
            break
        except TooLong:
            page.keyboard.press("Escape")
    else:
        pytest.fail("JupyterLab did not run the cells")
    page.wait_for_function(
        f"() => {{ const cells = ({CELLS})(); return cells.run === cells.all; }}", timeout=seconds * 1000
    )


def cell_with(page, text):
    return page.locator(".jp-CodeCell", has=page.locator(".cm-content", has_text=text)).first


def write_into(page, cell, text):
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(text)
    active = "window.jupyterapp.shell.currentWidget.content.activeCell.model.sharedModel.getSource()"
    page.wait_for_function(f"text => {active} === text", arg=text)


def run_cell(page, cell):
    before = page.evaluate(CELLS)["last"]
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    page.wait_for_function(
        f"before => {{ const cells = ({CELLS})(); return cells.last > before && !cells.busy; }}", arg=before
    )


def said_below(cell):
    """What a cell has printed or shown, for `expect`: it waits, also for what is drawn later."""
    return cell.locator(".jp-OutputArea").first


def answers(lesson):
    """The first answer cell: its stub, its solution, and the first check that follows it."""
    student = student_notebook(lesson).cells
    for i, cell in enumerate(student):
        if is_answer(cell) and cell.cell_type == "code":
            solved = insert_solutions(lesson, {cell.id}).cells[i].source
            check = next(c for c in student[i + 1 :] if c.cell_type == "code" and ".check(" in c.source)
            return cell.source, solved, check.source
    raise AssertionError("the lesson has no exercise")


def briefly(notebook):
    """The notebook with a sixth of the steps wherever a cell sets how many `steps` its training takes."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = re.sub(
                r"(\bsteps(?:, \w+)* = (?:[^\n]*, )?|\bsteps=)(\d{2,})\b",
                lambda found: f"{found[1]}{max(min(12, int(found[2])), int(found[2]) // 6)}",
                cell.source,
            )
    return notebook


def commit_to_a_prediction(page, shot):
    """The answer stays hidden until one is chosen; then both are shown, and the choice stands."""
    reveal = page.locator(".ck-reveal")
    reveal.scroll_into_view_if_needed()
    expect(reveal).to_contain_text("Commit to an answer above first")
    button = page.get_by_role("button", name="Commit", exact=True)
    button.click()
    expect(page.get_by_text("Decide first")).to_be_visible()
    page.get_by_role("radio", name="It follows.").focus()
    page.keyboard.press("Space")
    button.click()
    expect(reveal).to_contain_text("Nothing in it knows")
    expect(reveal).to_contain_text("It follows.")
    expect(page.get_by_role("radio", name="It flickers.")).to_be_disabled()
    shot(page, "lab_predict")


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
    at = lab({"lesson.ipynb": notebook_text(briefly(student_notebook(lesson)))})
    page = open_page(viewport={"width": 1400, "height": 1100})
    open_notebook(page, at("lesson.ipynb"))
    run_all(page, 1200)
    if name == "small":
        commit_to_a_prediction(page, shot)

    head = next(line for line in stub.splitlines() if line.startswith(("def ", "class ")))
    checking = next(line for line in check.splitlines() if ".check(" in line)
    verdict = cell_with(page, checking)
    verdict.scroll_into_view_if_needed()
    expect(said_below(verdict)).to_contain_text("not attempted", ignore_case=True)
    shot(page, f"lab_{name}_not_attempted")
    answer = cell_with(page, head)
    write_into(page, answer, solved)
    run_cell(page, answer)
    run_cell(page, verdict)
    expect(said_below(verdict)).to_contain_text("correct", ignore_case=True)
    expect(said_below(verdict)).not_to_contain_text("not attempted", ignore_case=True)
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
    expect(picture).not_to_have_attribute("src", before)
    assert picture.get_attribute("alt").strip()
    assert slider.evaluate("node => document.activeElement === node")
    assert page.locator(".jp-Cell").count() == cells
    # Drawn at 1.5 times the size that it asks for, for sharp screens.
    assert picture.evaluate("image => Math.abs(image.naturalWidth / image.getAttribute('width') - 1.5) < 0.01")
    shot(page, f"lab_{name}_slider")
    if name == "small":
        play = figure.locator(".ck-play")
        play.click()
        expect(slider).not_to_have_value("1")
        slider.focus()
        page.keyboard.press("ArrowRight")
        expect(play).to_contain_text("Play")  # a key on the slider stops it
    assert [url for url in page.outside if "127.0.0.1" not in url] == []
