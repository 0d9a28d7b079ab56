"""What all tests share: one thread a worker, figures without a display, seeded generators, the tissue data
where they are, and, on a build server, the proof that the run left no file behind in the repository."""

import os

# Before torch and matplotlib are imported. With two workers on two cores, more threads fight.
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:
    for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(_name, "1")

import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_sessionstart(session):
    if os.environ.get("CI") and not hasattr(session.config, "workerinput"):
        session.config.tree_before = _tree()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    before = getattr(session.config, "tree_before", None)
    if before is None or (changed := _tree() - before) == set():
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter:
        reporter.write_line(f"The tests changed the repository: {', '.join(sorted(changed))}", red=True)
    session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _tree() -> set[str]:
    """Files that git sees as changed or new, with what is in them."""
    command = ["git", "status", "--porcelain", "--untracked-files=all"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return set(listed.stdout.splitlines())


@pytest.fixture
def rng() -> np.random.Generator:
    """A numpy generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture
def generator():
    """A torch generator with a fixed seed, on the CPU."""
    import torch

    return torch.Generator().manual_seed(0)


@pytest.fixture
def one_thread():
    """torch computes with one thread: renderings are measured and compared so."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tissue_data() -> Path:
    """The folder with public tissue data sets: $EQUIPATH_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get("EQUIPATH_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no tissue data in {folder}; set EQUIPATH_DATA to the folder that has them")
    return folder
