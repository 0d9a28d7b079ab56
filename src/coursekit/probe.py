"""What a lesson run reads and reaches: the part of `run.py` that lives in the lesson's kernel.

Python tells an audit hook about every file that it opens and every connection that it makes. The hook notes
the files, and refuses connections to other machines: a lesson has to run on a train.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any

read: set[str] = set()
written: set[str] = set()
reached: set[str] = set()


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: notes what is opened, and raises OSError where a connection leaves this machine."""
    if event == "open":
        path, mode, flags = arguments
        if isinstance(path, str | bytes):
            writes = any(sign in (mode or "") for sign in "wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
            (written if writes else read).add(os.path.abspath(os.fsdecode(path)))
    elif event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        if isinstance(address, tuple):
            refuse_elsewhere(address[0])
    elif event == "socket.getaddrinfo":
        refuse_elsewhere(arguments[0])


def refuse_elsewhere(host: str | bytes | None) -> None:
    """Raises OSError where the host is not this machine, and notes it."""
    name = os.fsdecode(host) if host is not None else ""
    if name in ("", "localhost", "::1", "0.0.0.0", "::", socket.gethostname()) or name.startswith("127."):
        return
    reached.add(name)
    raise OSError(f"no network while a lesson is tried: the connection to {name} was refused")


def facts() -> str:
    """JSON of the files of all imported modules, the files that were only read, and the hosts that were asked
    for.
    """
    modules = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    return json.dumps(
        {
            "modules": sorted(file for file in modules if isinstance(file, str)),
            "read": sorted(read - written),
            "reached": sorted(reached),
        }
    )
