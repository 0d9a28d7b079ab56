"""`make lab` after the set-up: JupyterLab really serves the first lesson, and what a student may meet on the way
(a busy port, a new release of a lesson, Ctrl-C) ends well."""

import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.name == "nt", reason="needs a POSIX terminal"),
]

# The real script in a small course; the Python is the present one, because the set-up has its own tests.
START = """
import importlib.util, signal, sys
specification = importlib.util.spec_from_file_location("script", ".ci/setup.py")
script = importlib.util.module_from_spec(specification)
specification.loader.exec_module(script)
script.PYTHON = sys.executable
signal.signal(signal.SIGTERM, script.end)
sys.exit(script.lab(sys.argv[1:]))
"""


class Lab:
    """`make lab` on a terminal of its own, and all that it prints."""

    def __init__(self, root: Path, *options: str):
        home = root.parent / "home"
        dropped = ("JUPYTER", "JPY_", "XDG_")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
        environment |= {"HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        screen, terminal = pty.openpty()
        self.screen, self.said = screen, ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, "--no-browser", *options],
            cwd=root, env=environment, stdin=terminal, stdout=terminal, stderr=terminal,
            preexec_fn=lambda: os.login_tty(0),
        )  # fmt: skip
        os.close(terminal)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        while True:
            try:
                data = os.read(self.screen, 4096)
            except OSError:  # the terminal's last program has ended
                return
            if not data:
                return
            self.said += data.decode(errors="replace")

    def wait_for(self, pattern: str) -> re.Match:
        for _ in range(3000):
            if found := re.search(pattern, self.said):
                return found
            assert self.process.poll() is None, self.said
            time.sleep(0.1)
        raise AssertionError(f"it never said {pattern}:\n{self.said}")

    def get(self, path: str) -> bytes:
        """What the server answers, asked with the token that it printed."""
        found = self.wait_for(r"http://127\.0\.0\.1:(\d+)/lab/tree/01_symmetry\.ipynb\?token=(\w+)")
        self.port, token = int(found[1]), found[2]
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, headers={"Authorization": f"token {token}"})
        for _ in range(600):
            try:
                with urllib.request.urlopen(request, timeout=300) as answer:
                    return answer.read()
            except urllib.error.URLError as error:  # it may print its address a moment before it listens
                if not isinstance(error.reason, ConnectionRefusedError) or self.process.poll() is not None:
                    raise AssertionError(self.said) from error
                time.sleep(0.1)
        raise AssertionError(f"{url} answers nobody:\n{self.said}")

    def servers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def start(tmp_path):
    """A small course whose one lesson is called as the first one is; starts `make lab` in it."""
    root = tmp_path / "a folder with blanks"
    (root / ".ci").mkdir(parents=True)
    (root / "course").mkdir()
    (root / "pyproject.toml").touch()
    shutil.copy(ROOT / ".ci" / "setup.py", root / ".ci")
    lesson = root / "course" / "01_symmetry.py"
    shutil.copy(ROOT / "tests" / "coursekit" / "small_course" / "course" / "01_small.py", lesson)
    started = []

    def one(*options: str) -> Lab:
        started.append(Lab(root, *options))
        return started[-1]

    one.root, one.lesson = root, lesson
    yield one
    for lab in started:
        if lab.process.poll() is None:
            lab.process.terminate()
            lab.process.wait(60)
        os.close(lab.screen)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_student_comes_back_to_a_new_release_and_a_busy_port(start):
    """One story, because each start of JupyterLab takes seconds: the first lesson is served, Ctrl-C ends it; at the
    next start a new release lies beside what the student wrote, and a stop from outside leaves no server."""
    port = free_port()
    lab = start("--port", str(port))
    served = json.loads(lab.get("/api/contents/01_symmetry.ipynb"))["content"]
    assert lab.port == port
    assert "01_symmetry.ipynb is ready" in lab.said
    mine = start.root / "work" / "01_symmetry.ipynb"
    written = json.loads(mine.read_text())
    # the server adds what it trusts to the cells' metadata
    assert [cell["id"] for cell in served["cells"]] == [cell["id"] for cell in written["cells"]]
    assert any("NotImplementedError" in "".join(cell["source"]) for cell in served["cells"])
    assert b"jupyter-config-data" in lab.get("/lab/tree/01_symmetry.ipynb")
    servers = lab.servers()
    assert servers
    os.write(lab.screen, b"\x03")
    lab.wait_for(r"Shut down this Jupyter server")
    os.write(lab.screen, b"y\n")
    assert lab.process.wait(120) == 0
    assert "Traceback" not in lab.said
    psutil.wait_procs(servers, timeout=60)
    assert not any(server.is_running() for server in servers)

    written["cells"][0]["source"] = "My own notes."
    mine.write_text(json.dumps(written))
    text = start.lesson.read_text()
    start.lesson.write_text(text.replace("It isn't long", "It is short"))
    assert start.lesson.read_text() != text
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        again = start("--port", str(port))
        name = again.wait_for(r"the newer release is beside it: (\S+\.ipynb)")[1]
        served = json.loads(again.get("/api/contents/01_symmetry.ipynb"))
        assert served["name"] == "01_symmetry.ipynb"
        assert served["content"]["cells"][0]["source"] == "My own notes."
        assert "It is short" in (mine.parent / name).read_text()
    assert again.port != port
    assert f"The port {port} is already in use, trying another port" in " ".join(again.said.split())
    servers = again.servers()
    assert servers
    again.process.send_signal(signal.SIGTERM)
    assert again.process.wait(120) == 143
    psutil.wait_procs(servers, timeout=60)
    assert not any(server.is_running() for server in servers)
