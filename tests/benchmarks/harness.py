"""Times two ways to the same numbers, interleaved, and writes what it found as rows.

A row compares ours with a peer: outputs first (they must agree), then times, in rounds that run every
candidate once in a shuffled order, so that a noisy neighbour disturbs all of them alike. Ratios are medians
over the rounds of ours/theirs *within* a round; a turn is short (a few milliseconds, or one step), so that what
disturbs it disturbs the next one too. Several threads on a processor wait for each other, which no ratio evens
out: there, the fastest rounds are compared. A step of seconds gets few rounds, and its row says how many.
``build/bench.json`` keeps every row, ``build/bench.md`` shows them.

A file ``bench_<family>.py`` beside this one has a function ``rows() -> Iterator[Row | None]`` made with ``compare``.
"""

import ctypes
import json
import os
import random
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

Step = Callable[[], object]

SLOW = 2000.0  # milliseconds from which a step's first call is a measurement: what it prepares is small beside it
TURN = 2.0  # milliseconds that a turn lasts at least
FEW = 5  # rounds below which a row is marked

# Rows to run: a pattern searched in "row | against | shape", or None for all.
wanted: re.Pattern[str] | None = None


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        row, against, shape, device: what was timed, beside what, at which shape, where (with the threads).
        ours_ms, theirs_ms: medians (fastest, with several threads on a processor).
        ratio: ours / theirs, the median over rounds (of the fastest); below 1 is faster.
        goal: the largest ratio that meets the goal; met: whether it does.
        chosen, best: the evaluation that the cost model took, and the fastest of all that were tried.
        within: chosen / best in time.
        ours_mb, theirs_mb: peak of the memory that a step takes beyond its inputs, in 2²⁰ bytes (``peak_mb``).
        memory: whether ours is no more (to half a megabyte or 5%), or at most twice for at least twice the speed.
        agree: the largest difference of the outputs, relative to the largest output.
        when, load: the hour at which it was timed, and how many processes wanted a core then (on average over a
            minute): times of a crowded machine vary, ratios less.
        note: what there is to say of a goal.
        rounds: how many rounds the medians are of; below 5 for steps that take seconds.
    """

    row: str
    against: str
    shape: str
    device: str
    ours_ms: float
    theirs_ms: float
    ratio: float
    goal: float
    met: bool
    chosen: str
    best: str
    within: float
    ours_mb: float
    theirs_mb: float
    memory: bool
    agree: float
    when: str = ""
    load: float = 0.0
    note: str = ""
    rounds: int = 0

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What two rows of the same comparison share."""
        return self.row, self.against, self.shape, self.device


def _sync(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _once(step: Step, device: torch.device, repeats: int) -> float:
    # One thread on the processor: its own time, which is the clock's on a quiet machine and leaves out the turns
    # of other processes on a busy one. Several threads wait for each other, which only the clock sees.
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    now = time.process_time if alone else time.perf_counter
    _sync(device)
    start = now()
    for _ in range(repeats):
        step()
    _sync(device)
    return (now() - start) / repeats * 1e3


def interleaved(
    steps: Mapping[str, Step],
    device: torch.device,
    *,
    rounds: int,
    seconds: float,
    peaks: dict[str, float] | None = None,
) -> dict[str, list[float]]:
    """Milliseconds of every step in every round, at least ``rounds`` of them unless ``seconds`` are over.

    Short steps are repeated within a turn and get more rounds, up to ten times as many. If one of them takes
    seconds, the first call of each is the first round (a short one is called twice), and when the time is over it
    stays the only one; what memory it took is noted in ``peaks``. Of steps of some tenths of a second there are
    three rounds at least, of shorter ones five.
    """
    start, first = time.perf_counter(), {}
    repeats, slow = dict.fromkeys(steps, 1), False
    for name, step in steps.items():  # warm: tables, filters, libraries
        peak, first[name] = _peak_and_time(step, device)
        if first[name] > SLOW:
            slow = True
            if peaks is not None:
                peaks[name] = peak
        elif first[name] < SLOW / 10:
            first[name] = _once(step, device, 1)
            repeats[name] = max(1, min(50, round(TURN / max(first[name], 1e-3))))
    times: dict[str, list[float]] = {name: [t] if slow else [] for name, t in first.items()}
    order, rng = list(steps), random.Random(0)
    least = 1 if slow else 3 if max(first.values()) > SLOW / 10 else FEW
    begun = start if slow else time.perf_counter()
    for done in range(1 if slow else 0, 10 * rounds):
        past = time.perf_counter() - begun
        if (done >= least and past > seconds) or (done >= rounds and past > seconds / 4):
            break
        rng.shuffle(order)
        for name in order:
            times[name].append(_once(steps[name], device, repeats[name]))
    return times


@contextmanager
def _quiet() -> Iterator[None]:
    """The profiler announces itself on the process's stderr at every start and stop: not in a table."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _resident(line: str) -> int:
    """The process's size (``VmRSS``) or its largest so far (``VmHWM``), in 2¹⁰ bytes, as Linux tells it."""
    for entry in Path("/proc/self/status").read_text().splitlines():
        if entry.startswith(line):
            return int(entry.split()[1])
    raise OSError(line)


def _fresh() -> int | None:
    """Give free memory back, forget the largest size so far, and tell the present one; None where this cannot be
    done."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return _resident("VmRSS")
    except (OSError, AttributeError):
        return None


# glibc's mallopt: the smallest block that gets pages of its own, and how many such blocks there may be.
M_MMAP_THRESHOLD, M_MMAP_MAX = -3, -4


@contextmanager
def _pages_of_their_own() -> Iterator[None]:
    """Within the block, what is allocated goes back to the system at once when it is freed (glibc): the process is as
    large as what it uses. Otherwise the gaps between blocks of a heap count too, by chance up to half as much again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda name, value: 0)
    mallopt(M_MMAP_THRESHOLD, 1 << 14)
    mallopt(M_MMAP_MAX, 1 << 16)
    try:
        yield
    finally:
        mallopt(M_MMAP_MAX, 0)  # none again, as __main__ sets it: they cost time


def _peak_and_time(step: Step, device: torch.device) -> tuple[float, float]:
    """What one call takes, in 2²⁰ bytes and in milliseconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        took = _once(step, device, 1)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20, took
    size = _fresh()
    if size is not None:
        took = _once(step, device, 1)
        return max(0, _resident("VmHWM") - size) / 2**10, took
    with (
        _quiet(),
        torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profile,
    ):
        took = _once(step, device, 1)
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak / 2**20, took


def peak_mb(step: Step, device: torch.device, *, warm: bool = True) -> float:
    """Peak memory that one step takes beyond what is there before it, in 2²⁰ bytes.

    On the processor it is the growth of the process, with the copies that oneDNN makes for itself; where the system
    does not tell (it is Linux that does), the allocations live at once that torch's profiler counts, without them. On
    a GPU it is what torch's allocator gave out. Of short steps the least of three: a heap has gaps that come and go.
    ``warm``: call it once before, for what it prepares and keeps.
    """
    with _pages_of_their_own():
        if warm:
            step()
        peak, took = _peak_and_time(step, device)
        again = range(2 if took < SLOW / 10 else 0)
        return min([peak, *(_peak_and_time(step, device)[0] for _ in again)])


def compare(
    row: str,
    against: str,
    shape: str,
    ours: Mapping[str, Step],
    theirs: Step,
    *,
    chosen: str,
    goal: float,
    device: torch.device | str = "cpu",
    output: tuple[Callable[[], Tensor], Callable[[], Tensor]] | None = None,
    tolerance: float = 1e-4,
    rounds: int = 25,
    seconds: float = 5.0,
    note: str = "",
) -> Row | None:
    """One row: every evaluation of ours and the peer, in turn. None for a row that was not asked for.

    Args:
        ours: name of an evaluation → a step that runs it. The time reported is that of ``chosen``.
        goal: the largest ours/theirs that meets the goal.
        output: two functions whose results must agree before anything is timed.
    """
    if not asked(row, against, shape=shape):
        return None
    device = torch.device(device)
    agree = 0.0
    if output is not None:
        with torch.no_grad():
            a, b = output[0](), output[1]()
        agree = float((a - b).abs().max() / b.abs().max())
        if not agree <= tolerance:
            raise AssertionError(f"{row} and {against} differ by {agree:.1e} at {shape}: nothing to time")
    steps = {**{f"ours {name}": step for name, step in ours.items()}, "theirs": theirs}
    peaks: dict[str, float] = {}
    times = interleaved(steps, device, rounds=rounds, seconds=seconds, peaks=peaks)
    mine = f"ours {chosen}"
    if device.type == "cpu" and torch.get_num_threads() > 1:
        # By the clock, and each thread waits for the last: on a busy machine only the fastest round tells.
        typical = {name: min(t) for name, t in times.items()}
        ratio = typical[mine] / typical["theirs"]
    else:
        typical = {name: statistics.median(t) for name, t in times.items()}
        ratio = statistics.median(a / b for a, b in zip(times[mine], times["theirs"], strict=True))
    best = min(ours, key=lambda name: typical[f"ours {name}"])
    threads = (
        f"{torch.get_num_threads()} threads" if device.type == "cpu" else torch.cuda.get_device_name(device)
    )
    ours_mb, theirs_mb = (
        peaks[name] if name in peaks else peak_mb(steps[name], device, warm=False)
        for name in (mine, "theirs")
    )
    no_more = ours_mb <= max(1.05 * theirs_mb, theirs_mb + 0.5)
    return Row(
        row=row,
        against=against,
        shape=shape,
        device=f"{device.type}, {threads}",
        ours_ms=round(typical[mine], 3),
        theirs_ms=round(typical["theirs"], 3),
        ratio=round(ratio, 3),
        goal=goal,
        met=ratio <= goal,
        chosen=chosen,
        best=best,
        within=round(typical[mine] / typical[f"ours {best}"], 3),
        ours_mb=round(ours_mb, 1),
        theirs_mb=round(theirs_mb, 1),
        memory=no_more or (ours_mb <= 2 * theirs_mb and ratio <= 0.5),
        agree=agree,
        when=time.strftime("%Y-%m-%d %H:%M"),
        load=round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else 0.0,
        note=note,
        rounds=len(times["theirs"]),
    )


def asked(row: str, *against: str, shape: str) -> bool:
    """Whether a row, beside one of these peers, is to be run: what it needs need not be built otherwise."""
    return wanted is None or any(wanted.search(f"{row} | {peer} | {shape}") for peer in against)


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table, and a line on how many goals were met."""
    head = (
        "| what | against | shape | device | ours ms | theirs ms | ratio | goal | met | chosen | best | "
        "chosen/best "
        "| MB ours | MB theirs | memory | rounds | when | load |"
    )
    lines = [head, "|" + "---|" * 18]
    for r in rows:
        lines.append(
            f"| {r.row} | {r.against} | {r.shape} | {r.device} | {r.ours_ms:.2f} | {r.theirs_ms:.2f} | "
            f"{r.ratio:.2f} "
            f"| ≤ {r.goal:.2f} | {'yes' if r.met else '**no**'} | {r.chosen} | {r.best} | {r.within:.2f} "
            f"| {r.ours_mb:.0f} | {r.theirs_mb:.0f} "
            f"| {'yes' if r.memory else '**no**'} | {r.rounds or ''} | {r.when} | {r.load:.1f} |"
        )
    met, near = sum(r.met for r in rows), sum(r.within <= 1.2 for r in rows)
    lines.append(
        f"\n{met} of {len(rows)} goals met; the choice was within 20% of the best in {near} of {len(rows)}; "
        f"memory as asked in {sum(r.memory for r in rows)} of {len(rows)}. "
        f"torch {torch.__version__}; largest resident size of the process "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MB."
    )
    notes: dict[str, list[str]] = {}
    for r in rows:
        if r.note:
            notes.setdefault(r.note, []).append(f"{r.row} beside {r.against}, {r.shape}")
    lines += [f"\n* {'; '.join(dict.fromkeys(names))}: {note}" for note, names in notes.items()]
    return "\n".join(lines) + "\n"


def merge(old: list[Row], new: list[Row]) -> list[Row]:
    """Every row of both; a comparison measured again replaces the old row where that stood."""
    rows = {r.key: r for r in old}
    rows.update((r.key, r) for r in new)
    return list(rows.values())


def read(folder: Path) -> list[Row]:
    """The rows of ``bench.json`` in ``folder``; none if there is no such file."""
    file = folder / "bench.json"
    return [Row(**row) for row in json.loads(file.read_text())] if file.exists() else []


def write(rows: list[Row], folder: Path) -> None:
    """``bench.json`` (a list of rows) and ``bench.md`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    (folder / "bench.md").write_text("# Benchmarks\n\n" + table(rows))
