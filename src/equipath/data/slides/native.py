"""The renderer's compiled loops: `loops.c`, made ready by the machine's own C compiler and kept in the user's cache.

What is kept is found again by its source, its compiler and the processor it was tuned for; where nothing may be
written it is made anew, in about a second a process. Without a compiler the renderer does the same in PyTorch.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

SOURCE = Path(__file__).with_name("loops.c")
# no fusing of sums and products but where PyTorch does it too, which is written out
FLAGS = ("-O2", "-ftree-vectorize", "-std=c99", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
WHOLE, REAL = ctypes.c_int64, ctypes.c_double


def address(x):
    """Where an array's or a tensor's numbers lie; the caller keeps it alive and in one piece."""
    return x.data_ptr() if isinstance(x, torch.Tensor) else x.ctypes.data


class Loops:
    """The compiled loops of a loaded library."""

    def __init__(self, library):
        self._noise, self._render, self._rows = library.noise, library.render, library.band_rows
        self._noise.restype, self._render.restype, self._rows.restype = None, WHOLE, WHOLE

    def noise(self, xy, start, alpha, table, count):
        """Noise at xy, float64 (2, ...), as `noise.sample` has it; start broadcasts with xy; count 1, 2 or 4."""
        xy, start = xy.contiguous(), torch.broadcast_to(start, xy.shape).contiguous()
        out = torch.empty((count, *xy.shape[1:]), dtype=torch.float32)
        pointers = [ctypes.c_void_p(address(x)) for x in (xy, start, table, out)]
        size = WHOLE(xy[0].numel())
        self._noise(
            size, *pointers[:2], REAL(alpha), pointers[2], WHOLE(table.shape[-1]), WHOLE(count), pointers[3]
        )
        return out

    def render(self, scene, height, width, items):
        """Render a scene, a structure as `loops.c` has it, on as many threads as PyTorch may use."""
        rows = self._rows(WHOLE(width))
        jobs = items * -(-height // rows)
        threads = min(torch.get_num_threads(), jobs)
        ends = np.linspace(0, jobs, (1 if threads == 1 else 4 * threads) + 1).astype(int).tolist()

        def work(first, last):
            return self._render(ctypes.byref(scene), WHOLE(first), WHOLE(last))

        if threads == 1:
            results = [work(0, jobs)]
        else:
            with ThreadPoolExecutor(threads) as pool:  # a foreign function lets other threads run
                results = list(pool.map(work, ends[:-1], ends[1:]))
        if any(results):
            raise MemoryError("Too little memory to render a slide; ask for fewer or smaller views at once.")


def _processor():
    """What tells one processor from another: a library tuned for one may not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        told = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    except OSError:
        told = [platform.processor()]
    return "\n".join([platform.platform(), platform.machine(), *told])


def _folder():
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "equipath"


def _compile(command, folder, name):
    """Run the compiler: the library, whose name ends in its size, so that one cut short is known."""
    half = folder / f"{name}.{os.getpid()}.tmp"
    try:
        subprocess.run([*command, "-o", str(half), str(SOURCE), "-lm"], check=True, capture_output=True, text=True,
                       timeout=120)  # fmt: skip
        library = folder / f"{name}-{half.stat().st_size}.so"
        os.replace(half, library)  # a reader never sees half of it
        return library
    finally:
        half.unlink(missing_ok=True)


def _kept(command, name):
    """The library out of the cache, made if it is not there; None where nothing can be kept."""
    try:
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(folder, os.W_OK) or folder.stat().st_uid != os.getuid():
            return None
    except (OSError, RuntimeError):  # no room, no right or no home
        return None
    for library in folder.glob(f"{name}-*.so"):
        if library.stem == f"{name}-{library.stat().st_size}":
            try:
                return Loops(ctypes.CDLL(str(library)))
            except (OSError, AttributeError):
                pass
        library.unlink(missing_ok=True)  # damaged
    return Loops(ctypes.CDLL(str(_compile(command, folder, name))))


def _make(compiler):
    """The loops by one compiler, tuned if it can tune, and why there are none."""
    reason = ""
    for tuned in (["-march=native"], []):
        command = [compiler, *FLAGS, *tuned]
        told = "\n".join([SOURCE.read_text(), *command, _processor()])
        name = f"loops-{hashlib.sha256(told.encode()).hexdigest()[:20]}"
        try:
            found = _kept(command, name)
            if found is None:
                with tempfile.TemporaryDirectory() as folder:
                    found = Loops(ctypes.CDLL(str(_compile(command, Path(folder), name))))
            return found, ""
        except subprocess.CalledProcessError as error:
            reason = f"{compiler} failed: {(error.stderr or '').strip()[:200]}"
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = f"{compiler} failed: {error}"
    return None, reason


@lru_cache(maxsize=1)
def _found():
    """The compiled loops, or None and the reason."""
    wanted = [os.environ.get("CC"), "cc", "gcc", "clang"]
    compiler = next((found for name in wanted if name and (found := shutil.which(name))), None)
    if os.name != "posix" or not compiler:
        return None, "none of cc, gcc and clang is found"
    return _make(compiler)


def loops(wanted: bool | None = None):
    """The compiled loops; None where no compiler makes them, with a warning if they are `wanted`."""
    if wanted is False:
        return None
    found, reason = _found()
    if found is None and wanted:
        warnings.warn(
            f"Vector slides are rendered without compiled loops, slower and otherwise the same: {reason}.",
            stacklevel=2,
        )
    return found


_active: ContextVar[Loops | None] = ContextVar("compiled loops", default=None)


@contextmanager
def use(found: Loops | None):
    """Within it, `active` gives these loops."""
    token = _active.set(found)
    try:
        yield
    finally:
        _active.reset(token)


def active(tensor):
    """The compiled loops, if they are in use and can work on a tensor's device; or None."""
    return _active.get() if tensor.device.type == "cpu" else None
