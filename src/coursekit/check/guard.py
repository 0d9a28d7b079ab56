"""Keeps a verdict independent of the notebook around it, and the notebook as it was.

`calm` runs a student's code under known random seeds, dtype, device, gradient mode, warnings and error
settings and puts back what it found. `trusted` undoes replacements of torch's and numpy's functions while
the checker works. `time_limit` stops code that takes too long: by an alarm signal in the main thread where
the system has one, else by an exception that a second thread plants in this one.
"""

from __future__ import annotations

import ctypes
import math
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType, ModuleType
from typing import Any

import numpy as np
import torch


class TimeUp(BaseException):
    """The time for an answer is over; a BaseException, so that ``except Exception`` does not swallow it."""


class _Sink:
    """Takes what an answer prints: the first few thousand characters go to stdout, the rest nowhere,
    nothing to stderr.
    """

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, out: Any, room: int):
        self._out, self.room = out, room

    def write(self, text: str) -> int:
        if self.room > 0 and self._out is not None:
            kept = str(text)[: self.room]
            self.room -= len(kept)
            self._out.write(kept)
            if self.room <= 0:
                self._out.write("\n[more output was left out]\n")
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self._out is not None:
            self._out.flush()

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True


@contextmanager
def calm(seed: int = 0, out: Any = None, room: int = 4000) -> Iterator[_Sink]:
    """Run code under known settings and put back what was found.

    Random generators of torch, numpy and Python start at ``seed``; default dtype float32; default device
    cpu; gradients on; autocast and deterministic mode off; numpy's floating-point settings as at start-up;
    warnings silent; torch on one thread, because on a busy machine threads that wait for each other use up an
    answer's processor time. Text printed to stdout or stderr goes to ``out``, at most ``room`` characters of it.
    """
    rng, np_rng, py_rng = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    dtype, device, grad = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    threads = torch.get_num_threads()
    stdout, stderr = sys.stdout, sys.stderr
    sink = _Sink(out, room)
    try:
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            if torch.is_autocast_enabled("cpu"):
                stack.enter_context(torch.autocast("cpu", enabled=False))
            if device.type != "cpu":
                torch.set_default_device(None)
            if torch.get_default_device().type != "cpu":  # a `with torch.device(...)` around the call
                stack.enter_context(torch.device("cpu"))
            torch.set_default_dtype(torch.float32)
            if threads != 1:
                torch.set_num_threads(1)
            if deterministic:
                torch.use_deterministic_algorithms(False)
            torch.default_generator.manual_seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            random.seed(seed)
            sys.stdout = sys.stderr = sink  # type: ignore[assignment]
            yield sink
    finally:
        sys.stdout, sys.stderr = stdout, stderr
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        now = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        if now != (
            deterministic,
            warn_only,
        ):  # the setter imports torch's compiler, more than a second: only if needed
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.set_rng_state(rng)
        np.random.set_state(np_rng)  # noqa: NPY002
        random.setstate(py_rng)


def _functions(owner: Any) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(owner).items()
        if (callable(value) or isinstance(value, property)) and not isinstance(value, (ModuleType, type))
    }


_OWNERS: tuple[Any, ...] = (
    torch,
    torch.Tensor,
    torch.nn.functional,
    torch.linalg,
    torch.fft,
    torch.nn.Module,
    np,
    np.linalg,
    np.fft,
    math,
    random,
    time,
)
_AS_IMPORTED = [(owner, _functions(owner)) for owner in _OWNERS]
_NAMES = {id(owner): frozenset(vars(owner)) for owner in _OWNERS}


@contextmanager
def trusted() -> Iterator[None]:
    """Give torch's, numpy's and math's functions as they were at import, then put the notebook's versions
    back.
    """
    replaced = [
        (owner, name, vars(owner).get(name, _MISSING))
        for owner, originals in _AS_IMPORTED
        for name, original in originals.items()
        if vars(owner).get(name, _MISSING) is not original
    ]
    # A method put in front of an inherited one was not there at import at all.
    shadows = [
        (owner, name, found)
        for owner, originals in _AS_IMPORTED
        if isinstance(owner, type)
        for name, found in list(vars(owner).items())
        if name not in originals and callable(found) and name not in _NAMES[id(owner)]
        if any(name in vars(base) for base in owner.__mro__[1:])
    ]
    originals_of = {id(owner): originals for owner, originals in _AS_IMPORTED}
    try:
        for owner, name, _ in replaced:
            setattr(owner, name, originals_of[id(owner)][name])
        for owner, name, _ in shadows:
            delattr(owner, name)
        yield
    finally:
        for owner, name, found in shadows:
            setattr(owner, name, found)
        for owner, name, found in replaced:
            if found is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, found)


_MISSING = object()
_set_async = ctypes.pythonapi.PyThreadState_SetAsyncExc
_monotonic, _thread_time = time.monotonic, time.thread_time
_clock_of, _read_clock = getattr(time, "pthread_getcpuclockid", None), getattr(time, "clock_gettime", None)


@contextmanager
def time_limit(seconds: float, wall: float | None = None) -> Iterator[None]:
    """Raise `TimeUp` in the body once it used ``seconds`` of this thread's processor time, or sleeps or waits
    for ``wall`` seconds by the clock.

    Processor time, so that honest work on a busy machine is not cut short: code that works whenever it gets
    a core has ten times ``wall`` (default: four times ``seconds``). The alarm is repeated, because code in
    a loop may swallow the first.
    """
    wall = 4 * seconds if wall is None else wall
    seconds = max(seconds, 0.01)
    in_main = threading.current_thread() is threading.main_thread()
    with ExitStack() as stack:
        if in_main and hasattr(signal, "setitimer") and signal.getsignal(signal.SIGALRM) is not None:
            stack.enter_context(_by_signal(seconds, wall))
        else:
            stack.enter_context(_by_thread(seconds, wall))
        yield


def _time_is_up(cpu: float, elapsed: float, seconds: float, wall: float) -> bool:
    """Whether code that used so much of a core, in so much time by the clock, is to be stopped."""
    waits = cpu < 0.02 * elapsed
    return cpu >= seconds or elapsed >= (wall if waits else 10 * wall)


@contextmanager
def _by_signal(seconds: float, wall: float) -> Iterator[None]:
    armed, rings = True, 0
    start, cpu = _monotonic(), _thread_time()
    tracer = sys.gettrace()

    def pounce(frame: FrameType, event: str, arg: Any) -> Any:
        # Code like `while True: try: ... except: continue` swallows every alarm, since it is always inside
        # `try`. The line it goes to next is in its `except` block: an exception raised there leaves the
        # loop.
        if event == "line" and armed:
            raise TimeUp
        return pounce

    def ring(number: int, frame: FrameType | None) -> None:
        nonlocal rings
        if armed and _time_is_up(_thread_time() - cpu, _monotonic() - start, seconds, wall):
            rings += 1
            if rings > 3 and frame is not None:
                frame.f_trace = pounce
                sys.settrace(pounce)
            raise TimeUp

    old_handler = signal.signal(signal.SIGALRM, ring)
    old_delay, old_interval = signal.setitimer(signal.ITIMER_REAL, seconds, 0.05)
    try:
        yield
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        if rings > 3:
            sys.settrace(tracer)
        signal.signal(signal.SIGALRM, old_handler)
        if old_delay:  # somebody else's alarm (a test runner's) goes on where it was
            left = max(old_delay - (_monotonic() - start), 0.001)
            signal.setitimer(signal.ITIMER_REAL, left, old_interval)


@contextmanager
def _by_thread(seconds: float, wall: float) -> Iterator[None]:
    target = ctypes.c_ulong(threading.get_ident())
    lock, done = threading.Lock(), threading.Event()
    start, cpu = _monotonic(), _thread_time()
    if _clock_of is not None and _read_clock is not None:
        clock = _clock_of(threading.get_ident())

        def used() -> float:
            return _read_clock(clock) - cpu
    else:  # Windows: another thread's processor time is not to be had; half of the clock's counts

        def used() -> float:
            return (_monotonic() - start) / 2

    def watch() -> None:
        pause = min(seconds, wall)
        while not done.wait(pause):
            with lock:
                up = _time_is_up(used(), _monotonic() - start, seconds, wall)
                if up and not done.is_set():
                    _set_async(target, ctypes.py_object(TimeUp))
            pause = 0.1

    watcher = threading.Thread(target=watch, name="coursekit-time-limit", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        with lock:
            done.set()
            _set_async(target, None)  # an exception that was planted but not yet raised
        watcher.join()


def spent() -> Callable[[], float]:
    """Start a stopwatch of this thread's processor time; call the result for the seconds so far."""
    start = _thread_time()
    return lambda: _thread_time() - start
