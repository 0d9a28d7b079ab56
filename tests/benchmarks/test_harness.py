"""The harness compares what it says: outputs before times, chosen beside best, rows as files."""

import json
import re
from itertools import pairwise

import pytest
import torch

from . import harness


def busy(n):
    x = torch.ones(n)

    def step():
        return x.sum()

    return step


def row(**kw):
    given = {
        "ours": {"expand": busy(10), "fourier": busy(20)},
        "theirs": busy(10),
        "chosen": "expand",
        "goal": 1e9,
        "rounds": 3,
        "seconds": 0.1,
        "shape": "tiny",
    }
    return harness.compare("layer", "peer", **{**given, **kw})


def test_a_row_holds_what_the_table_needs(tmp_path):
    got = row(output=(lambda: torch.ones(3), lambda: torch.ones(3)))
    assert got.met
    assert got.agree == 0
    assert got.best in ("expand", "fourier")
    assert got.within > 0
    harness.write([got], tmp_path / "new folder")
    (saved,) = json.loads((tmp_path / "new folder" / "bench.json").read_text())
    told = {"row", "against", "shape", "device", "goal", "met", "chosen", "best"}
    assert told | {"ours_ms", "theirs_ms", "ratio"} <= set(saved)
    assert "| layer | peer | tiny | cpu" in (tmp_path / "new folder" / "bench.md").read_text()


def test_a_table_can_be_made_in_pieces(tmp_path):
    first, second = row(), row(shape="large", note="large is hard")
    harness.write([first, second], tmp_path)
    again = row(goal=0.0)
    merged = harness.merge(harness.read(tmp_path), [again])
    assert merged == [again, second]
    assert harness.merge([], [first]) == [first]
    assert harness.read(tmp_path / "nowhere") == []
    assert "layer beside peer, large: large is hard" in harness.table(merged)
    assert first.when
    assert first.load >= 0


def test_an_unmet_goal_is_said():
    assert not row(goal=0.0).met
    assert "**no**" in harness.table([row(goal=0.0)])


def test_different_numbers_are_not_timed():
    with pytest.raises(AssertionError, match="nothing to time"):
        row(output=(lambda: torch.ones(3), lambda: torch.zeros(3) + 0.5))
    with pytest.raises(AssertionError, match="nothing to time"):
        row(output=(lambda: torch.full((3,), torch.nan), lambda: torch.ones(3)))


def test_candidates_take_turns():
    seen = []
    steps = {name: (lambda name=name: seen.append(name)) for name in "ab"}
    times = harness.interleaved(steps, torch.device("cpu"), rounds=6, seconds=10)
    assert len(times["a"]) == len(times["b"]) == 6
    changes = sum(x != y for x, y in pairwise(seen))
    assert changes >= 6  # neither ran all its rounds in one go


def test_peak_memory_counts_live_allocations():
    def step():
        return torch.empty(1 << 20, dtype=torch.uint8), torch.empty(3 << 20, dtype=torch.uint8)

    assert 3.9 < harness.peak_mb(step, torch.device("cpu")) < 4.5


def test_rows_can_be_selected(monkeypatch):
    monkeypatch.setattr(harness, "wanted", re.compile("layer .* tiny"))
    assert row() is not None
    monkeypatch.setattr(harness, "wanted", re.compile("another"))
    assert row() is None


def test_memory_may_double_only_for_twice_the_speed(monkeypatch):
    peaks = iter([10.0, 10.2, 15.0, 10.0, 15.0, 10.0, 25.0, 10.0])
    monkeypatch.setattr(harness, "peak_mb", lambda step, device: next(peaks))
    monkeypatch.setattr(harness, "interleaved", lambda steps, device, **kw: next(times))
    times = iter(
        {"ours expand": [ours], "ours fourier": [9.0], "theirs": [1.0]} for ours in (0.9, 0.9, 0.4, 0.4)
    )
    assert [row().memory for _ in range(4)] == [True, False, True, False]
