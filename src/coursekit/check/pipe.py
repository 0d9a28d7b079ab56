"""An answer in another process: messages as frames (4 bytes of length, big endian, then the message) over
two pipes.

`serve` runs beside the answer; `PipeTransport` is the checker's end. The checker waits a limited time for
each frame and reads a limited number of bytes, whatever the other side does.
"""

from __future__ import annotations

import os
import select
import struct
import time
from typing import Any

from .answer import Responder
from .codec import MAX_BYTES, MAX_HEADER, encode

MAX_FRAME = MAX_BYTES + 2 * MAX_HEADER
_CALL, _REPLY = b"C", b"R"


class PipeTransport:
    """The checker's end of two pipes to a process that runs `serve`.

    ``reader`` and ``writer`` are file descriptors. A reply that does not come within ``patience`` seconds,
    a closed pipe or an oversized frame ends the conversation: every later request is answered with that
    error.
    """

    def __init__(self, reader: int, writer: int, *, patience: float = 15.0, limit: int = MAX_FRAME):
        self._reader, self._writer, self._patience, self._limit = reader, writer, patience, limit
        self._broken: dict[str, Any] | None = None

    def exchange(self, request: bytes, call_back: Any) -> bytes:
        """Send the request; serve calls of the checker's functions until the reply comes."""
        if self._broken is not None:
            return encode(self._broken)
        deadline = time.monotonic() + self._patience
        try:
            write_frame(self._writer, _CALL + request, deadline)
            while True:
                frame = read_frame(self._reader, deadline, self._limit)
                if frame[:1] == _REPLY:
                    return frame[1:]
                if frame[:1] != _CALL:
                    raise OSError("it sent something that is no frame")
                write_frame(self._writer, _REPLY + call_back(frame[1:]), deadline)
        except TimeoutError:
            self._broken = {"error": "slow", "seconds": self._patience}
        except (OSError, EOFError) as error:
            self._broken = {"error": "gone", "message": str(error)[:200]}
        return encode(self._broken)

    def close(self) -> None:
        """Close both pipes; `serve` then returns."""
        for fd in (self._reader, self._writer):
            os.close(fd)


def serve(answer: Any, reader: int, writer: int) -> None:
    """Answer requests from one pipe on another until the first is closed."""
    responder = Responder(answer)

    def call_back(data: bytes) -> bytes:
        write_frame(writer, _CALL + data)
        frame = read_frame(reader)
        if frame[:1] != _REPLY:
            raise EOFError("the checker broke off")
        return frame[1:]

    while True:
        try:
            frame = read_frame(reader)
        except EOFError:
            return
        write_frame(writer, _REPLY + responder.handle(frame[1:], call_back))


def write_frame(fd: int, data: bytes, deadline: float | None = None) -> None:
    """Write one frame. Raises TimeoutError when the other side does not read it in time."""
    view = memoryview(struct.pack(">I", len(data)) + data)
    while view:
        if deadline is not None:
            ready = select.select([], [fd], [], max(deadline - time.monotonic(), 0))[1]
            if not ready:
                raise TimeoutError
        view = view[os.write(fd, view[: select.PIPE_BUF] if deadline is not None else view) :]


def read_frame(fd: int, deadline: float | None = None, limit: int = MAX_FRAME) -> bytes:
    """Read one frame. Raises EOFError when the pipe is closed, TimeoutError after the deadline, OSError
    when it is too large.
    """
    (length,) = struct.unpack(">I", _read(fd, 4, deadline))
    if length > limit:
        raise OSError(f"it sent a frame of {length} bytes, more than the {limit} allowed")
    return _read(fd, length, deadline)


def _read(fd: int, count: int, deadline: float | None) -> bytes:
    parts: list[bytes] = []
    while count:
        if deadline is not None and not select.select([fd], [], [], max(deadline - time.monotonic(), 0))[0]:
            raise TimeoutError
        part = os.read(fd, min(count, 2**20))
        if not part:
            raise EOFError("its process has ended")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
