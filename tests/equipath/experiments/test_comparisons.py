"""What several rates and more steps change is told from common seeds, and decided on validation data."""

import pytest

from equipath.experiments import results
from equipath.experiments.comparisons import (
    Column,
    at_best_rate,
    rates_of,
    seeds_of,
    steps_of,
    want_of_steps,
)

COLUMNS = (Column("validation", "v", 2), Column("test", "t", 1, 100))


def a_run(model, lr, v, t=0.5, seed=0, epochs=2, **config):
    return {
        "seed": seed,
        "config": {"model": model, "lr": lr, "epochs": epochs} | config,
        "metrics": {"v": v, "t": t},
    }


@pytest.mark.parametrize(
    ("counts", "words"),
    [((1,), "1 seed"), ((3, 3), "3 seeds"), ((2, 1, 3), "1 to 3 seeds"), ((1, 1), "1 seed")],
)
def test_seeds_are_counted(counts, words):
    assert seeds_of(*counts) == words


def test_rates_are_judged_on_validation_and_on_seeds_that_all_rows_have():
    runs = [
        a_run("a", 0.1, 0.5, 0.9), a_run("a", 0.2, 0.4, 0.1), a_run("a", 0.2, 0.0, seed=7),
        a_run("b", 0.3, 0.2), a_run("b", 0.1, 0.3), a_run("c", 0.1, 0.1), a_run("a", 0.4, 0.0, fraction=0.5),
    ]  # fmt: skip
    found = rates_of(runs, ("a", "b", "c"), COLUMNS, "v", "here", " More.")
    assert found.table.rows == [
        ["a", "0.1", "0.50", "90.0"], ["a", "0.2", "0.40", "10.0"],
        ["b", "0.1", "0.30", "50.0"], ["b", "0.3", "0.20", "50.0"],
    ]  # fmt: skip
    assert found.best == {"a": 0.2, "b": 0.3}  # the test prefers another rate of a, and is not asked
    assert found.mean("a", 0.2, "t") == 0.1
    assert found.table.caption == "The rate of learning (here, 1 seed). More."
    assert rates_of(runs[5:], ("a", "b", "c"), COLUMNS, "v", "here") is None
    old = a_run("b", 0.5, 0.0)
    del old["metrics"]["v"]  # from before this was measured
    assert rates_of([*runs, old], ("a", "b"), COLUMNS, "v", "here", " More.") == found
    assert rates_of([runs[0], runs[2]], ("a",), COLUMNS, "v", "here") is None  # no seed has both


def test_long_trainings_are_compared_with_short_ones_of_the_same_rate_and_seeds():
    runs = [
        a_run("p", 0.1, 0.40), a_run("p", 0.1, 9.0, seed=1), a_run("p long", 0.1, 0.30, epochs=6),
        a_run("q", 0.2, 0.50), a_run("q", 0.1, 0.90), a_run("q long", 0.2, 0.31, epochs=6),
        a_run("q long", 0.2, 0.0, epochs=6, fraction=0.5),
    ]  # fmt: skip
    gap = Column("loss", "v")
    table, text = steps_of(runs, ("p", "q"), [("p", "q")], COLUMNS, gap, "here")
    assert isinstance(table, results.Table)
    assert [row[:3] for row in table.rows] == [
        ["p", "2", "0.40"], ["p long", "6", "0.30"], ["q", "2", "0.50"], ["q long", "6", "0.31"],
    ]  # fmt: skip
    assert table.caption == "Three times as many steps (here, 1 seed); rate of learning: 0.1 (p), 0.2 (q)."
    assert text == (
        "Against p, q's loss is +0.100 after the short training and +0.010 after the long one: more than half of what it "
        "lacked was steps."
    )
    assert steps_of(runs[:2], ("p", "q"), [("p", "q")], COLUMNS, gap, "here") == []
    other = [a_run("p", 0.1, 0.4, seed=1), a_run("p long", 0.1, 0.3)]
    assert steps_of(other, ("p",), [], COLUMNS, gap, "here") == []


@pytest.mark.parametrize(
    ("short", "long", "words"),
    [
        ([-0.1, 0.05], [0.2, 0.2], ""), ([0.1], [-0.1], ": it was behind for want"), ([0.1], [0.04], "more than half"),
        ([0.1], [0.06], "not lack steps alone"), ([0.1, -0.05], [0.0, 0.0], "behind or ahead, the seeds do not agree"),
        ([0.1, 0.1], [-0.1, 0.02], "more than half"), ([0.1, 0.1], [0.02, 0.09], "of it was steps, the seeds do not"),
    ],
)  # fmt: skip
def test_the_want_of_steps_is_told_where_all_seeds_say_so(short, long, words):
    found = want_of_steps(short, long)
    assert words in found
    assert bool(words) == bool(found)


def test_the_rate_that_is_best_on_validation_is_shown():
    low, high = (
        [a_run("a", 0.1, v, t, s) for v, t, s in ((0.5, 0.1, 0), (0.6, 0.1, 1))],
        [a_run("a", 0.2, 0.4, 0.9)],
    )
    other = a_run("b", 0.3, 1.0)
    assert at_best_rate([*low, *high, other], "v") == [*high, other]  # whatever the test says
    high[0]["metrics"]["v"] = 0.55  # above seed 0's 0.5; that seed 1 stands at 0.6 does not count
    assert at_best_rate([*low, *high, other], "v") == [*low, other]
    lonely = a_run("a", 0.2, 0.0, seed=7)
    assert at_best_rate([*low, lonely], "v") == low  # no seed in common: that of most runs
    del low[0]["metrics"]["v"]
    assert at_best_rate([*low, *high], "v") == low
    part = a_run("a", 0.3, 0.9, fraction=0.5)
    assert at_best_rate([*low, part], "v") == [*low, part]
