"""The steerable experiment: pairs that turn as one, errors that are what they say, runs that can be read."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import nn

from equipath.data.items import IGNORE
from equipath.experiments import results, steerable
from equipath.experiments.runs import Runs
from equipath.experiments.steerable import (
    ANGLES,
    ARMS,
    PAIR_ARMS,
    RATIO,
    SMALL,
    Settings,
    WithContext,
    angle_errors,
    grid_error,
    measure,
    network,
    pair_loss,
    pictures,
    report,
    run,
)
from equipath.groups import P4M
from equipath.losses import dice_cross_entropy
from equipath.models.summary import count_parameters

TINY = Settings(
    **asdict(SMALL) | dict(patients=6, per_patient=5, side=32, epochs=1, batches=2, batch=2, pictures=3)
)


def pairs(count: int = 3, size: int = 32, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Random pairs, each with its small field at another place."""
    chance = torch.Generator().manual_seed(1)
    x = torch.rand(count, 7, size, size, generator=chance, dtype=dtype)
    x[:, 6] = 0
    for k in range(count):
        top, left = 3 * k, 5 * k + 1
        x[k, 6, top : top + size // 4, left : left + size // 4] = 1
    return x


@pytest.mark.parametrize(("pair", "settings"), [(False, SMALL), (False, Settings()), (True, SMALL)])
def test_all_arms_have_about_the_same_number_of_weights(pair, settings):
    counts = [
        count_parameters(network(arm, 5, settings, pair=pair))
        for arm in (PAIR_ARMS if pair else ARMS)
        if "narrow" not in arm
    ]
    assert max(counts) / min(counts) < 1.25


def test_the_hint_is_the_marked_part_of_the_large_field():
    class Wide(nn.Module):
        def forward(self, x):
            return x[:, :1]

    class Near(nn.Module):
        def forward(self, x):
            return x[:, 3:]

    x = pairs()
    hint, large = WithContext(Wide(), Near())(x).split(1, 1)
    assert torch.equal(large, x[:, 3:4])
    for k in range(len(x)):
        top, left = 3 * k, 5 * k + 1
        expected = torch.sigmoid(x[k, 3, top : top + 8, left : left + 8])
        torch.testing.assert_close(hint[k, 0], expected.repeat_interleave(4, 0).repeat_interleave(4, 1))


def test_narrow_is_the_second_network_of_the_two_alone():
    for kind in ("U-Net", "steerable U-Net"):
        near = network(f"{kind} with context", 2, SMALL, pair=True).near
        narrow = network(f"{kind} narrow", 2, SMALL, pair=True).near
        ours, theirs = (dict(net.named_parameters()) for net in (narrow, near))
        assert ours.keys() == theirs.keys()
        # Only the filters of the first layer differ: they have no hint to look at.
        assert sum(ours[name].shape != theirs[name].shape for name in ours) == 1


def test_what_context_brings_is_told_from_what_it_costs():
    def runs(*dice):
        return [{"seed": seed, "metrics": {"dice": value}} for seed, value in enumerate(dice)]

    by = {
        ("U-Net",): runs(0.7, 0.5),
        ("U-Net with context",): runs(0.6, 0.7, 0.9),
        ("U-Net narrow",): runs(0.5, 0.5),
    }
    (text,) = steerable._context(by)
    assert "U-Net: +0.150 (2 of 2 up) beside the narrow network alone, +0.050 (1 of 2 up)" in text
    assert steerable._context({("U-Net",): runs(0.7)}) == []


@pytest.mark.parametrize("arm", PAIR_ARMS[3:])
def test_a_pair_turns_as_one(arm):
    net = network(arm, 2, SMALL, pair=True).double().eval()
    x = pairs(dtype=torch.float64)
    with torch.no_grad():
        y = net(x)
        for h in range(8):
            assert (net(P4M.act(x, h)) - P4M.act(y, h)).abs().max() < 1e-10
        plain = network(PAIR_ARMS[1], 2, SMALL, pair=True).double().eval()
        assert (plain(P4M.act(x, 1)) - P4M.act(plain(x), 1)).abs().max() > 1e-4


def test_the_loss_of_a_pair_is_the_sum_over_what_is_answered():
    masks = torch.randint(2, (2, 2, 8, 8), generator=torch.Generator().manual_seed(0))
    logits = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    near, wide = (dice_cross_entropy(logits[:, k : k + 1], masks[:, k]) for k in (0, 1))
    torch.testing.assert_close(pair_loss(logits, masks), near + wide)
    torch.testing.assert_close(pair_loss(logits[:, :1], masks), near)


def test_errors_on_the_grid_tell_the_steerable_network_from_the_plain_one():
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert grid_error(network("steerable U-Net", 5, SMALL).eval(), x) < 1e-11
    assert grid_error(network("U-Net", 5, SMALL).eval(), x) > 1e-7  # its answers are nearly flat, untrained


def test_a_network_that_knows_the_truth_has_the_error_of_the_masks():
    class Truth(nn.Module):
        """Reads the class from the red channel."""

        def forward(self, x):
            return 200.0 * nn.functional.one_hot((x[:, 0] * 255 / 50).round().long(), 5).movedim(-1, 1)

    chance = torch.Generator().manual_seed(0)
    turned = []
    for _ in range(1 + len(ANGLES)):
        masks = torch.randint(5, (2, 16, 16), generator=chance)
        turned.append(((50 * masks)[:, None].expand(-1, 3, -1, -1).to(torch.uint8), masks))
    found = angle_errors(Truth(), turned, 5)
    np.testing.assert_allclose(found["angle_error"], found["label_error"], rtol=1e-5)
    assert found["mean_angle_dice"] == 1
    assert found["mean_label_error"] > 0.1
    one = measure(Truth(), *turned[0], 5)
    assert one["dice"] == 1
    assert one["dice_of_class"] == [1] * 5


def of_ebhi(arm, seed=0, fraction=None, **metrics):
    """A kept result on EBHI, as the page reads it."""
    config = asdict(SMALL) | {"model": arm, "parameters": 8000, "pictures_of_training": 296}
    if fraction is not None:
        config |= {"fraction": fraction, "pictures_of_training": round(296 * fraction)}
    metrics = (
        dict(dice=0.7, loss=0.9, grid_error=0.1, training_dice=0.8, training_loss=0.7, validation_loss=0.8)
        | metrics
    )
    return {"data": "ebhi", "size": "small", "seed": seed, "config": config, "metrics": metrics}


def test_parts_of_the_training_set_are_whole_patients_and_long_is_three_times(tmp_path, monkeypatch):
    patients = [f"p{k // 4}" for k in range(16)]
    images = torch.randint(
        256, (16, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    masks = (images[:, 0] > 128).long()
    monkeypatch.setattr(steerable, "pictures", lambda *_, **__: (images, masks, ("background", "gland")))
    monkeypatch.setattr(steerable, "load", lambda *_, **__: type("Set", (), {"patients": patients}))
    arms = ("U-Net", "U-Net+ long")
    options = dict(arms=arms, progress=False, settings=TINY, results=tmp_path)
    found = run("ebhi", fractions=(1.0, 0.25), **options)
    assert list(found) == ["U-Net", "U-Net+ long", "U-Net, 25 %", "U-Net+ long, 25 %"]
    runs = results.load("steerable", folder=tmp_path)
    told = sorted((r["config"]["pictures_of_training"], r["config"]["epochs"]) for r in runs)
    assert told == [(4, 1), (4, 3), (16, 1), (16, 3)]
    assert {r["config"].get("fraction") for r in runs} == {None, 0.25}  # all: the same config as ever
    assert all(0 <= r["metrics"][f"{name}_dice"] <= 1 for r in runs for name in ("training", "validation"))
    with pytest.raises(ValueError, match="leave the fractions out on slides"):
        run("slides", fractions=(0.5,), **options)
    parts = report(runs)
    assert any("From 16 pictures to 4 Dice changes by" in part for part in parts if isinstance(part, str))


def test_the_page_says_who_is_ahead_on_few_pictures():
    runs = [
        of_ebhi(arm, seed, fraction, dice=dice)
        for arm, fraction, dice in (
            ("U-Net+", None, 0.8), ("U-Net+", 0.125, 0.5),
            ("steerable U-Net", None, 0.75), ("steerable U-Net", 0.125, 0.7),
        )
        for seed in (0, 1)
    ]  # fmt: skip
    few = next(part for part in report(runs) if isinstance(part, results.Table) and "fewer" in part.caption)
    assert [row[1:3] for row in few.rows] == [
        ["0.800 ± 0.000", "0.500 ± 0.000"],
        ["0.750 ± 0.000", "0.700 ± 0.000"],
    ]
    (text,) = (part for part in report(runs) if isinstance(part, str) and part.startswith("From"))
    assert text == (
        "From 296 pictures to 37 Dice changes by -0.300 (U-Net+), -0.050 (steerable U-Net). Within 0.005 of the best are "
        "on 296: U-Net+; on 37: steerable U-Net."
    )
    # A seed that only one fraction has is left out, not mixed in.
    lonely = [*runs, of_ebhi("U-Net+", 2, dice=0.1), of_ebhi("steerable U-Net", 2, dice=0.1)]
    assert text in report(lonely)


def test_the_page_says_what_more_steps_change():
    short = [of_ebhi("U-Net+"), of_ebhi("steerable U-Net+", validation_loss=0.9)]
    for long, words in (
        (0.6, "-0.100 after the long one: it was behind for want of steps."),
        (0.79, "does not lack steps alone"),
    ):
        runs = [
            *short,
            of_ebhi("U-Net+ long", validation_loss=0.7),
            of_ebhi("steerable U-Net+ long", validation_loss=long),
        ]
        assert any(words in part for part in report(runs) if isinstance(part, str))
        tables = [part for part in report(runs) if isinstance(part, results.Table)]
        assert [row[0] for row in tables[1].rows] == [
            "U-Net+",
            "U-Net+ long",
            "steerable U-Net+",
            "steerable U-Net+ long",
        ]
        assert len(tables[0].rows) == 2  # the long ones stand in no other table
    assert len(report(short)) == 2


def test_each_network_has_its_rate_and_the_page_tells_what_it_does(monkeypatch):
    assert steerable.rate("steerable U-Net+ long", replace(SMALL, steerable_lr=0.3)) == 0.3
    assert steerable.rate("U-Net", replace(SMALL, steerable_lr=0.3)) == SMALL.lr
    assert steerable.rate("steerable U-Net", Settings()) == Settings().lr
    here = steerable.SETTINGS["small"]["ebhi"]
    old = [
        of_ebhi("U-Net"),
        of_ebhi("steerable U-Net", validation_loss=0.95),
        of_ebhi("steerable U-Net", seed=1),
    ]
    new = [of_ebhi("U-Net"), of_ebhi("steerable U-Net", validation_loss=0.65)]
    for run_, lr in zip(new, (here.lr, here.steerable_lr), strict=True):
        run_["config"]["lr"] = lr
    tables = [part for part in report([*old, *new]) if isinstance(part, results.Table)]
    assert [row[:3] for row in tables[0].rows] == [
        ["U-Net", "0.007", "8.0K"],
        ["steerable U-Net", "0.2", "8.0K"],
    ]
    assert "best for it on validation data" in tables[0].caption
    assert "1 seed)" in tables[1].caption
    assert [(row[0], row[1], row[3]) for row in tables[1].rows] == [
        ("U-Net", "0.007", "0.800"),
        ("U-Net", "0.02", "0.800"),
        ("steerable U-Net", "0.02", "0.950"),
        ("steerable U-Net", "0.2", "0.650"),
    ]
    assert any(
        "are 0.007 (U-Net), 0.2 (steerable U-Net)." in part
        for part in report([*old, *new])
        if isinstance(part, str)
    )
    assert len([part for part in report(old) if isinstance(part, results.Table)]) == 1
    monkeypatch.setattr(
        steerable, "load_runs", lambda *_, **__: [*old, *new, of_ebhi("U-Net", fraction=0.125)]
    )
    assert steerable.stored("ebhi") == new  # what a lesson shows


def test_marked_places_are_where_the_small_field_lies():
    x, masks, names = pictures("pairs", "val", TINY)
    side, small_side = TINY.side, TINY.side // RATIO
    assert x.shape[1:] == (7, side, side)
    assert masks.shape[1:] == (2, side, side)
    assert names == ("background", "cancer")
    assert (x[:, 6].sum((1, 2)) == small_side**2).all()
    for image in x:
        row, column = (int(image[6].amax(axis).nonzero()[0]) for axis in (1, 0))
        inside = image[3:6, row : row + small_side, column : column + small_side]
        small = nn.functional.avg_pool2d(image[:3], RATIO)
        assert (inside - small).abs().mean() < 0.12  # the same tissue, rendered at another size
    with pytest.raises(ValueError, match="known are U-Net"):
        run("pairs", arms=("U-Net+",))
    with pytest.raises(ValueError, match="known are U-Net"):
        run("pairs", arms=("U-Net long",))


def test_unknown_pixels_of_a_pair_are_neither_cancer_nor_background():
    masks = torch.tensor([[[1, 1, 0, 0], [IGNORE, IGNORE, 0, 1], [1, 1, IGNORE, 0], [0, 0, IGNORE, IGNORE]]])
    assert steerable._majority(masks, 2).tolist() == [[[1, 0], [1, IGNORE]]]
    plain = torch.randint(2, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    expected = nn.functional.avg_pool2d(plain.double(), 4) >= 0.5
    assert torch.equal(steerable._majority(plain, 4), expected.long())

    class Right(nn.Module):
        def forward(self, x):
            return 50 * (2 * x[:, :1] - 1)

    x = pairs(2)
    x[:, 0] = x[:, 0].round()
    truth = torch.stack([x[:, 0], x[:, 0]], 1).long()
    truth[:, :, :5] = IGNORE
    x[:, 0, :5] = 0.5  # an answer about what nobody knows
    assert measure(Right(), x, truth, 2)["dice"] == 1


def test_networks_are_trained_on_training_slides_and_not_on_the_turned_test_slides(monkeypatch):
    few = replace(TINY, patients=3, per_patient=2, pictures=2)
    given = []
    monkeypatch.setattr(
        Runs, "one", lambda self, net, train, validation, *_, **__: given.append((train, validation)) or {}
    )
    run("slides", arms=ARMS[:2], progress=False, settings=few)
    expected = [pictures("slides", split, few)[:2] for split in ("train", "val")]
    assert len(given) == 2
    for both in given:
        for (images, masks), (wanted, truth) in zip(both, expected, strict=True):
            assert torch.equal(images, wanted)
            assert torch.equal(masks, truth)


@pytest.mark.slow
@pytest.mark.parametrize("data", ["slides", "pairs"])
def test_a_run_is_saved_reported_and_repeated(tmp_path, data):
    options = dict(folder=tmp_path / "ck", progress=False, settings=TINY, results=tmp_path)
    arms = PAIR_ARMS[1::3] if data == "pairs" else ARMS[1::2]
    first = run(data, arms=arms, **options)
    runs = results.load("steerable", folder=tmp_path)
    assert {r["config"]["model"] for r in runs} == set(arms)
    again = run(data, arms=arms[:1], **options)
    assert again[arms[0]]["loss"] == first[arms[0]]["loss"]
    parts = report(runs)
    assert all(len(part.rows) == 2 for part in parts if isinstance(part, results.Table))
    assert any(isinstance(part, results.Picture) for part in parts) == (data == "slides")
