"""``python -m tests.benchmarks [--brief] [--threads N] [--only FAMILY …] [--rows PATTERN] [--out build]
[--append] [--page FILE]``: time every family, with one thread, and a few rows of each with all of them.
``--append`` keeps the rows of earlier runs and replaces those measured anew, so that a table can be made in
pieces; ``--page`` writes the rows into the book's page."""

import argparse
import importlib
import os
import pkgutil
import re
import sys
from pathlib import Path

# Large temporaries otherwise go back to the system and are faulted in anew at every step (glibc): times of
# the same convolution were seen to vary five-fold. Both sides of every row get the same setting.
SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "1073741824",
    "KINETO_LOG_LEVEL": "5",  # the profiler, which counts memory, else talks about itself
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--brief", action="store_true", help="few shapes, for a first look")
    parser.add_argument(
        "--threads",
        type=int,
        nargs="*",
        help="CPU threads, one run each (default: 1, and few shapes with all)",
    )
    parser.add_argument("--only", nargs="*", metavar="FAMILY", help="run bench_FAMILY.py only")
    parser.add_argument("--rows", metavar="PATTERN", help="only rows that have it in 'row | against | shape'")
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder of bench.json and bench.md")
    parser.add_argument(
        "--append", action="store_true", help="keep the rows of earlier runs that are not run now"
    )
    parser.add_argument(
        "--page",
        type=Path,
        metavar="FILE",
        help="write the tables into this page; with --only and no family, measure nothing",
    )
    options = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in SETTINGS.items()):
        # Read by the C library when a process starts: so start again.
        os.environ.update(SETTINGS)
        os.execv(sys.executable, [sys.executable, "-m", "tests.benchmarks", *sys.argv[1:]])

    import torch

    from . import harness, page

    here = Path(__file__).parent
    families = [m.name for m in pkgutil.iter_modules([str(here)]) if m.name.startswith("bench_")]
    if options.only is not None:
        unknown = {f"bench_{name}" for name in options.only} - set(families)
        if unknown:
            parser.error(f"no such family: {', '.join(sorted(unknown))}; there are {', '.join(families)}")
        families = [f"bench_{name}" for name in options.only]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cpu = torch.device("cpu")
    runs = [(cpu, n, options.brief) for n in options.threads or [1]]
    if options.threads is None and cores > 1:
        runs.append((cpu, cores, True))
    if torch.cuda.is_available():
        # Outputs are compared as float32 numbers: so both sides compute with all of their digits, and both have
        # cuDNN look for its fastest way.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        runs.append((torch.device("cuda"), cores, options.brief))
    harness.wanted = re.compile(options.rows) if options.rows else None
    rows: list[harness.Row] = []
    kept = harness.read(options.out) if options.append else []
    for device, threads, brief in runs:
        torch.set_num_threads(threads)
        for family in families:
            for row in importlib.import_module(f".{family}", __package__).rows(device, brief=brief):
                if row is None:
                    continue
                rows.append(row)
                print(
                    f"{row.row} | {row.against} | {row.shape} | {row.device} | {row.ours_ms:.2f} / "
                    f"{row.theirs_ms:.2f} ms"
                    f" = {row.ratio:.2f} (goal {row.goal:.2f}) | {row.chosen}, best {row.best}",
                    flush=True,
                )
                # at each row: a run that is stopped keeps what it measured
                harness.write(harness.merge(kept, rows), options.out)
    table = harness.merge(kept, rows)
    print("\n" + harness.table(table))
    if options.page:
        page.refresh(options.page, table)


if __name__ == "__main__":
    main()
