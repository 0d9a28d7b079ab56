"""The first table of the page compares seed by seed, on all data and on the fewest."""

from importlib import import_module

from equipath.experiments import NAMES
from equipath.experiments.results import Table, load
from equipath.experiments.summary import Claim, _told, summary

CLAIM = Claim(("ebhi", "slides"), "p4m", "plain", "Dice in percent", "dice", digits=1, scale=100)


def a_run(model, dice, seed=0, data="ebhi", size="small", **config):
    config = {"model": model} | config
    return {
        "data": data,
        "size": size,
        "seed": seed,
        "config": config,
        "metrics": {"dice": dice, "loss": dice},
    }


def of(runs, *claims):
    return summary([(claims or (CLAIM,), list, runs)])


RUNS = [
    a_run("p4m", 0.80), a_run("plain", 0.70), a_run("p4m", 0.70, 1), a_run("plain", 0.75, 1), a_run("p4m", 0.1, 2),
    a_run("p4m", 0.60, fraction=0.5), a_run("plain", 0.59, fraction=0.5),
    a_run("p4m", 0.60, fraction=0.125), a_run("plain", 0.40, fraction=0.125), a_run("plain", 0.9, fraction=0.01),
]  # fmt: skip


def test_networks_are_compared_on_common_seeds_and_on_the_fewest_data_that_both_have():
    table, text = of(RUNS)
    assert [[cell.replace("\N{NO-BREAK SPACE}", " ") for cell in row] for row in table.rows] == [
        ["ebhi: p4m / plain", "Dice in percent", "75.0 / 72.5", "+2.5 (1 of 2)", "12.5 %", "60.0 / 40.0", "+20.0 (1 of 1)"]
    ]  # fmt: skip
    assert "(size small, 1 to 2 seeds)" in table.caption
    assert text == (
        "On all training data the first network of a row is ahead on every seed in 0 of 1 row and behind on every seed in 0 "
        "(in the other 1 the seeds do not agree); on the fewest it is ahead on every seed in 1 of 1 row and behind on every seed "
        "in 0, and in 1 of these the mean difference is more in its favour than on all."
    )


def test_less_is_better_where_a_claim_says_so_and_a_number_may_depend_on_the_network():
    lower = Claim(("ebhi",), "p4m", "plain", "loss", "loss", lower=True)
    other = Claim(
        ("slides",), "p4m", "plain", "x", lambda run: 1.0 if run["config"]["model"] == "p4m" else 3.0
    )
    runs = [*RUNS[:2], a_run("p4m", 0, data="slides"), a_run("plain", 0, data="slides")]
    table, text = of(runs, lower, other)
    assert [[cell.replace("\N{NO-BREAK SPACE}", " ") for cell in row[2:]] for row in table.rows] == [
        ["0.800 / 0.700", "-0.100 (0 of 1)", "–", "–", "–"],
        ["1.000 / 3.000", "-2.000 (0 of 1)", "–", "–", "–"],
    ]
    assert text.endswith("is ahead on every seed in 0 of 2 rows and behind on every seed in 2.")


def test_what_cannot_be_compared_has_no_row():
    assert of([]) == []
    assert of([a_run("p4m", 0.8), a_run("plain", 0.7, 1)]) == []  # no seed in common
    assert of([a_run("p4m", 0.8, fraction=0.5), a_run("plain", 0.7, fraction=0.5)]) == []
    assert of([a_run("p4m", None), a_run("plain", 0.7)]) == []
    assert _told(None, 2) == ["–", "–"]
    assert isinstance(summary([((CLAIM,), lambda runs: runs[:2], RUNS)])[0], Table)


def test_every_claim_of_the_experiments_is_about_runs_that_are_kept():
    for name in NAMES:
        module = import_module(f"equipath.experiments.{name}")
        runs = load(name)
        assert module.CLAIMS
        for claim in module.CLAIMS:
            for data in claim.data:
                some = [run for run in runs if run["data"] == data]
                for arm in (claim.ours, claim.plain):
                    mine = [run for run in some if run["config"]["model"] == arm]
                    assert not some or not mine or all(claim.of(run) is not None for run in mine), (
                        name,
                        claim.name,
                    )
