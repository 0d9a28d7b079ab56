"""Runs are kept as they were, and the page of results says what the runs say and nothing else."""

import io
import json
import math
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from equipath.experiments import NAMES, report
from equipath.experiments.results import (
    FIELDS,
    Picture,
    Table,
    cell,
    flat,
    grouped,
    load,
    mean_sd,
    results_folder,
    save,
)
from equipath.train import TrainingError

RUN = dict(experiment="gunet", data="ebhi", size="small", config={"model": "p4m", "fraction": 0.5}, seed=0,
           metrics={"dice": 0.8}, seconds=12.34, device="a box")  # fmt: skip


def keep(folder, **changes):
    return save(**(RUN | changes), folder=folder)


def test_a_run_is_read_as_it_was_written(tmp_path):
    path = keep(
        tmp_path, metrics={"dice": torch.tensor(0.25), "per": np.array([1.0, math.nan]), "n": np.int64(3)}
    )
    (run,) = load("gunet", folder=tmp_path)
    assert path.parent == tmp_path / "gunet"
    assert path.name.startswith("ebhi-small-")
    assert path.name.endswith("-0.json")
    assert run["metrics"] == {"dice": 0.25, "per": [1.0, None], "n": 3}
    assert {name: run[name] for name in ("config", "seed", "seconds", "device")} == {
        **{"config": RUN["config"], "seed": 0, "seconds": 12.3, "device": "a box"},
    }
    assert run["versions"]["torch"] == torch.__version__
    assert not list(path.parent.glob("*.part"))


def test_the_same_run_takes_the_place_of_the_old_and_others_stand_beside(tmp_path):
    keep(tmp_path)
    keep(tmp_path, metrics={"dice": 0.9}, config={"fraction": 0.5, "model": "p4m"})  # the same config
    keep(tmp_path, seed=1)
    keep(tmp_path, config={"model": "plain", "fraction": 0.5})
    keep(tmp_path, size="paper")
    keep(tmp_path, data="slides")
    runs = load("gunet", folder=tmp_path)
    assert len(runs) == 5
    assert sorted(run["metrics"]["dice"] for run in runs) == [0.8] * 4 + [0.9]
    assert len(load("gunet", data="ebhi", size="small", folder=tmp_path)) == 3
    assert load("pcam", folder=tmp_path) == []


def test_what_cannot_be_kept_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"data='a/b' names a file"):
        keep(tmp_path, data="a/b")
    with pytest.raises(ValueError, match=r"known are small, paper"):
        keep(tmp_path, size="large")
    with pytest.raises(ValueError, match="no metrics"):
        keep(tmp_path, metrics={})
    path = keep(tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match=rf"{path.name} is no JSON"):
        load("gunet", folder=tmp_path)
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"has no experiment, data, size"):
        load("gunet", folder=tmp_path)
    path.write_text("3")
    with pytest.raises(ValueError, match=r"holds a int, no run"):
        load("gunet", folder=tmp_path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=rf"{path.name} is no JSON"):
        load("gunet", folder=tmp_path)
    path.write_text(json.dumps(dict.fromkeys(FIELDS, "x")))
    with pytest.raises(ValueError, match=r"has no names in config, metrics, versions"):
        load("gunet", folder=tmp_path)
    with pytest.raises(
        TrainingError, match=r"could not be written \(Not a directory\).*what is trained is kept"
    ):
        keep(path)


def test_runs_are_summed_up_over_seeds(tmp_path):
    for seed, dice in enumerate((0.7, 0.8, 0.9)):
        keep(tmp_path, seed=seed, metrics={"dice": dice})
    keep(tmp_path, config={"model": "plain"}, metrics={"dice": 0.5})
    groups = grouped(load("gunet", folder=tmp_path), "data", "model")
    assert groups.keys() == {("ebhi", "p4m"), ("ebhi", "plain")}
    assert cell(groups["ebhi", "p4m"], "dice", 1, scale=100) == "80.0 ± 10.0"
    assert cell(groups["ebhi", "plain"], "dice") == "0.500"
    assert cell(groups["ebhi", "plain"], "iou") == "–"
    assert mean_sd([1.0, None, math.nan, 3.0], 2) == "2.00 ± 1.41"


def test_nested_metrics_are_named_by_their_path():
    assert flat({"a": {"b": 1, "c": {"d": 2.0}}, "e": [1, 2], "f": "x"}) == {"a.b": 1, "a.c.d": 2.0, "f": "x"}


# ---- the page


@pytest.fixture
def experiment(monkeypatch, tmp_path):
    """An experiment whose report shows every kind of part, and a small book."""
    module = ModuleType("equipath.experiments.gunet")
    module.TITLE = "Fewer labels"

    def parts(runs):
        from matplotlib.figure import Figure

        figure = Figure()
        figure.subplots().plot([run["metrics"]["dice"] for run in runs])
        table = Table(("network", "Dice"), [["p4m", cell(runs, "dice")]], "Dice beside {cite}`linmans2018`.")
        picture = Picture("dice", figure, "A  line\nthat rises.", "Dice by seed.")
        return ["A paragraph.", table, picture, "+ marks augmented networks."]

    module.report = parts
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "_toc.yml").write_text("")
    for seed, dice in enumerate((0.7, 0.8)):
        keep(tmp_path / "runs", seed=seed, metrics={"dice": dice}, seconds=90)
    return module


def test_the_page_holds_what_the_reports_give_in_order(experiment, tmp_path):
    path = report.write(tmp_path / "book", tmp_path / "runs")
    text = path.read_text()
    places = [
        "## Fewer labels\n\nA paragraph.\n",
        ":::{table} Dice beside {cite}`linmans2018`.\n\n| network | Dice |\n| --- | ---: |\n| p4m | 0.750 ± 0.071 |\n:::",
        "```{figure} images/results/gunet-dice.png\n:alt: A line that rises.\n:width: 100%\n\nDice by seed.\n```",
        "\n\\+ marks augmented networks.\n",  # no list
        "| gunet | ebhi | small | 2 | 2 | 3 | a box |",
    ]
    assert sorted(places, key=text.index) == places
    with Image.open(tmp_path / "book" / "images" / "results" / "gunet-dice.png") as image:
        assert image.width > 600


def test_an_old_figure_goes_with_its_part(experiment, tmp_path):
    report.write(tmp_path / "book", tmp_path / "runs")
    experiment.report = lambda runs: ["Only words."]
    report.write(tmp_path / "book", tmp_path / "runs")
    assert list((tmp_path / "book" / "images" / "results").iterdir()) == []


def test_parts_that_cannot_be_shown_are_named(experiment, tmp_path):
    good = experiment.report([])
    experiment.report = lambda runs: [Table(("a", "b"), [["1"]], "c")]
    with pytest.raises(ValueError, match="1 cells under 2 headers"):
        report.page(tmp_path / "runs")
    experiment.report = lambda runs: [good[2], good[2]]
    with pytest.raises(ValueError, match="two pictures called 'dice'"):
        report.page(tmp_path / "runs")
    experiment.report = lambda runs: [Picture("x", good[2].figure, " ", "c")]
    with pytest.raises(ValueError, match="'x' has no alt text"):
        report.page(tmp_path / "runs")


def test_a_run_that_lacks_what_its_report_shows_is_named(experiment, tmp_path):
    keep(tmp_path / "runs", seed=7, metrics={"loss": 1.0})
    with pytest.raises(ValueError, match="a run of gunet does not tell its 'dice'"):
        report.page(tmp_path / "runs")


@pytest.mark.parametrize("change", [{"seconds": None}, {"metrics": {"dice": "high"}}])
def test_a_run_that_holds_words_for_numbers_is_named(experiment, tmp_path, change):
    file = next((tmp_path / "runs").rglob("*.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(
        ValueError, match=r"a run of \w+ holds something else than was expected .*; run it again"
    ):
        report.page(tmp_path / "runs")


def test_a_damaged_run_leaves_the_page_that_is_there(tmp_path):
    book = tmp_path / "book"
    book.mkdir()
    (book / "results.md").write_text("as it was")
    keep(tmp_path / "runs").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        report.write(book, tmp_path / "runs")
    assert (book / "results.md").read_text() == "as it was"


def test_runs_of_two_settings_are_not_averaged(experiment, tmp_path):
    keep(tmp_path / "runs", seed=2, config={"model": "p4m", "fraction": 0.5, "lr": 0.1}, data="slides")
    keep(tmp_path / "runs", seed=2, config={"model": "p4m", "fraction": 1.0, "lr": 0.1})
    keep(tmp_path / "runs", seed=2, config=RUN["config"] | {"patches": 7})
    report.page(tmp_path / "runs")
    keep(tmp_path / "runs", seed=3, config=RUN["config"] | {"lr": 0.1})
    with pytest.raises(ValueError, match=r"runs of gunet \(ebhi, small, p4m, 0.5\) differ in lr"):
        report.page(tmp_path / "runs")
    experiment.RATES_APART = True
    report.page(tmp_path / "runs")
    keep(tmp_path / "runs", seed=4, config=RUN["config"] | {"lr": 0.1, "epochs": 99})
    with pytest.raises(ValueError, match=r"\(ebhi, small, p4m, 0.5, 0.1\) differ in epochs"):
        report.page(tmp_path / "runs")


def test_without_runs_or_a_book_no_page_is_written(experiment, tmp_path):
    with pytest.raises(ValueError, match="no result yet"):
        report.write(tmp_path / "book", tmp_path / "nothing")
    (tmp_path / "book" / "_toc.yml").unlink()
    with pytest.raises(ValueError, match="no folder of the book"):
        report.write(tmp_path / "book", tmp_path / "runs")


@pytest.mark.slow
def test_the_books_page_is_what_its_runs_give():
    """`equipath report` after a run, always: no number on the page was typed or is out of date."""
    folder = results_folder()
    if not any(load(name) for name in NAMES):
        pytest.skip("there is no result yet")
    text, figures = report.page()
    assert (folder.parent / "results.md").read_text() == text, "run `equipath report`"
    pictures = folder.parent / "images" / "results"
    assert {path.name for path in pictures.glob("*.png")} == figures.keys()
    for name, figure in figures.items():
        kept, made = (
            np.asarray(Image.open(source).convert("RGB"), dtype=float)
            for source in (pictures / name, io.BytesIO(report.png(figure)))
        )
        assert kept.shape == made.shape, name
        assert np.abs(kept - made).mean() < 0.5, f"{name}: run `equipath report`"


def test_every_kept_run_is_whole_and_in_its_place():
    for path in results_folder().rglob("*.json"):
        run = json.loads(path.read_text())
        assert run["experiment"] == path.parent.name in NAMES
        assert path.name.startswith(f"{run['data']}-{run['size']}-")
        assert path.name.endswith(f"-{run['seed']}.json")
        assert run["metrics"]
        assert run["seconds"] > 0
