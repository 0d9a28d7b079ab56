"""The harness compares what it says: outputs before times, chosen beside best, rows as files."""

import json
import re
import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from . import harness, page


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
    times = harness.interleaved(steps, torch.device("cpu"), rounds=6, seconds=0)
    assert len(times["a"]) == len(times["b"]) == harness.FEW
    changes = sum(x != y for x, y in pairwise(seen))
    assert changes >= 5  # neither ran all its rounds in one go


def test_the_first_call_of_a_slow_step_counts_when_time_is_over(monkeypatch):
    monkeypatch.setattr(harness, "SLOW", 40.0)
    calls = {"slow": 0, "short": 0}

    def slow():
        calls["slow"] += 1
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        return torch.ones(1 << 20)

    def short():
        calls["short"] += 1

    peaks = {}
    steps = {"slow": slow, "short": short}
    times = harness.interleaved(steps, torch.device("cpu"), rounds=5, seconds=0, peaks=peaks)
    assert {name: len(t) for name, t in times.items()} == {"slow": 1, "short": 1}
    assert calls == {"slow": 1, "short": 2}
    assert set(peaks) == {"slow"}
    again = harness.interleaved(steps, torch.device("cpu"), rounds=3, seconds=60)
    assert len(again["slow"]) == len(again["short"]) >= 3


def test_a_row_says_how_many_rounds_it_is_of():
    got = row(seconds=0.0, rounds=harness.FEW)
    assert got.rounds == harness.FEW
    assert f"| {harness.FEW} |" in harness.table([got])


def test_what_is_not_asked_for_need_not_be_built(monkeypatch):
    monkeypatch.setattr(harness, "wanted", re.compile("conv, inference .* e2cnn .* 8²"))
    assert harness.asked("conv, inference", "conv2d", "e2cnn", shape="8²")
    assert not harness.asked("conv, inference", "conv2d", shape="8²")
    monkeypatch.setattr(harness, "wanted", None)
    assert harness.asked("anything", "x", shape="")


def pages():
    first, second = torch.ones(2 << 20, dtype=torch.uint8), torch.ones(6 << 20, dtype=torch.uint8)
    del first
    return second


def test_peak_memory_is_that_of_the_process():
    assert 7.5 < harness.peak_mb(pages, torch.device("cpu")) < 16  # of hundreds that the process has; others may add some


def test_peak_memory_where_the_system_does_not_tell(monkeypatch):
    monkeypatch.setattr(harness, "_fresh", lambda: None)
    assert 7.9 < harness.peak_mb(pages, torch.device("cpu")) < 8.5


def test_peak_memory_of_a_gpu_is_its_allocator_s(monkeypatch):
    seen = []
    for name, answer in (("synchronize", None), ("reset_peak_memory_stats", None),
                         ("memory_allocated", 5 << 20), ("max_memory_allocated", 12 << 20)):  # fmt: skip

        def told(device, name=name, answer=answer):
            seen.append((name, str(device)))
            return answer

        monkeypatch.setattr(torch.cuda, name, told)
    assert harness.peak_mb(lambda: seen.append("step"), torch.device("cuda")) == 7
    at = [i for i, entry in enumerate(seen) if entry == "step"][-1]
    before, after = ([entry[0] for entry in part if entry != "step"] for part in (seen[:at], seen[at + 1 :]))
    assert before.index("reset_peak_memory_stats") < before.index("memory_allocated")
    assert before[-1] == "synchronize"
    assert after == ["synchronize", "max_memory_allocated"]


def test_rows_can_be_selected(monkeypatch):
    monkeypatch.setattr(harness, "wanted", re.compile("layer .* tiny"))
    assert row() is not None
    monkeypatch.setattr(harness, "wanted", re.compile("another"))
    assert row() is None


def test_memory_may_double_only_for_twice_the_speed(monkeypatch):
    peaks = iter([10.0, 10.2, 15.0, 10.0, 15.0, 10.0, 25.0, 10.0])
    monkeypatch.setattr(harness, "peak_mb", lambda step, device, **kw: next(peaks))
    monkeypatch.setattr(harness, "interleaved", lambda steps, device, **kw: next(times))
    times = iter(
        {"ours expand": [ours], "ours fourier": [9.0], "theirs": [1.0]} for ours in (0.9, 0.9, 0.4, 0.4)
    )
    assert [row().memory for _ in range(4)] == [True, False, True, False]


def test_the_page_takes_the_rows_and_keeps_its_words(tmp_path):
    file = tmp_path / "speed.md"
    file.write_text(f"# Speed\n\nBefore.\n\n{page.BEGIN}\n\nold rows\n\n{page.END}\n\nAfter.\n")
    made = harness.compare("p4m conv 3x3, inference", "conv2d", "4 fields 8²", {"expand": busy(10)}, busy(10),
                           chosen="expand", goal=0.0, rounds=2, seconds=0.1)  # fmt: skip
    slow = replace(made, shape="16 fields 8²", rounds=1, goal=9.0, met=True, memory=False)
    bare = replace(made, row="bare module, inference")
    other = replace(made, row="render nuclei")
    page.refresh(file, [slow, made, bare, other])
    text = file.read_text()
    assert text.startswith("# Speed\n\nBefore.\n")
    assert text.endswith("\n\nAfter.\n")
    assert "old rows" not in text
    assert "render" not in text
    assert "1 of 2 goals are met" in text
    lines = [line for line in text.splitlines() if line.startswith("| p4m") or line.startswith("| bare")]
    assert ["bare" in line for line in lines] == [True, False, False]
    assert "**not met**" in lines[1]
    assert "(1)" in lines[2]
    assert "**more**" in lines[2]
    again = file.read_text()
    page.refresh(file, [slow, made, bare, other])
    assert file.read_text() == again
    file.write_text("no place")
    with pytest.raises(ValueError, match="no place for the rows"):
        page.refresh(file, [made])


@pytest.mark.parametrize(("threads", "ratio"), [(1, 2.0), (2, 3.0)])
def test_several_threads_are_told_by_their_fastest_rounds(threads, ratio, monkeypatch):
    times = {"ours expand": [30.0, 40.0, 99.0], "ours fourier": [50.0] * 3, "theirs": [10.0, 20.0, 90.0]}
    monkeypatch.setattr(harness, "interleaved", lambda steps, device, **kw: times)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert row().ratio == ratio
