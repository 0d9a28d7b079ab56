"""A browser and a JupyterLab for the tests that look at the screen. Screenshots go to build/screenshots."""

import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


# Playwright's own half minute is little on a crowded machine; whoever waits goes on as soon as it may.
PATIENCE_MS = 180_000


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call":
        item.failed_in_browser = report.failed
    return report


@pytest.fixture(scope="session")
def browser():
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: dev)")
    sync.expect.set_options(timeout=PATIENCE_MS)
    if not Path(CHROMIUM).exists():
        pytest.skip("chromium is not installed (Debian: apt install chromium)")
    with sync.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def shot():
    """Keeps a screenshot under a name."""
    folder = ROOT / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return lambda page, name: page.screenshot(path=str(folder / f"{name}.png"))


@pytest.fixture
def open_page(browser, shot, request):
    """Opens pages of their own; `page.outside`: requests to other hosts, `page.broken`: script errors.

    After a test that failed, what its pages show is kept as a screenshot, and what they logged is printed.
    """
    contexts = []

    def open_one(**options):
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 1000}} | options))
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.outside, page.broken, page.logged = [], [], []
        local = ("file:", "data:", "blob:", "http://127.0.0.1", "ws://127.0.0.1")
        page.on("request", lambda r: None if r.url.startswith(local) else page.outside.append(r.url))
        page.on("pageerror", lambda error: page.broken.append(str(error)))
        page.on("console", lambda said: page.logged.append(f"{said.type}: {said.text[:300]}"))
        return page

    yield open_one
    for number, context in enumerate(contexts):
        if getattr(request.node, "failed_in_browser", False):
            for page in context.pages:
                shot(page, f"failed_{re.sub('[^a-z0-9]+', '_', request.node.name.lower())}_{number}")
                print(page.url, *page.broken, *page.logged[-40:], sep="\n")
        context.close()


def die_with_parent():
    """In the new process, on Linux: a test run that is killed takes its JupyterLab along."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One JupyterLab for the module, away from the user, because its start takes seconds: (address, token, folder, log)."""
    root = tmp_path_factory.mktemp("lab")
    home, work, said = root / "home", root / "work", root / "lab.log"
    for folder in (home, work):
        folder.mkdir()
    token = "t" * 40
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "JPY_", "MPLBACKEND"))}
    environment |= {
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_CONFIG_PATH": str(ROOT / "course" / "jupyter"),  # as `make lab` does
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        "PYTHONPATH": str(ROOT / "tests" / "coursekit"),
        "OMP_NUM_THREADS": "1",
    }
    with said.open("a") as log:
        for _ in range(3):  # somebody else may take the port before JupyterLab has it
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            process = subprocess.Popen(
                [
                    sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
                    "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
                    f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={work}",
                    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
                    "--LabApp.expose_app_in_browser=True",  # the tests ask it what its kernel and its cells do
                ],
                cwd=work, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                preexec_fn=die_with_parent,
            )  # fmt: skip
            base = f"http://127.0.0.1:{port}"
            if answers(process, f"{base}/api/status?token={token}"):
                break
            end(process)
        else:
            pytest.fail(f"JupyterLab did not answer: {said.read_text()[-2000:]}")
        yield base, token, work, said
        end(process)


def answers(process, url):
    """Whether a server comes to answer at this address before it ends."""
    for _ in range(600):
        if process.poll() is not None:
            return False
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return False


def end(process):
    """Ends a server and all that it started."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, kind)
            process.wait(10)
            return
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


@pytest.fixture
def lab(server, request):
    """Puts files where JupyterLab serves them: `lab(files)(path)` is a URL. After the test they and its kernel are gone."""
    base, token, work, said = server
    begun = said.stat().st_size

    def place(files: dict[str, str]):
        for name, text in files.items():
            (work / name).write_text(text, encoding="utf-8")
        return lambda path: f"{base}/lab/tree/{path}?token={token}&reset"

    yield place
    sessions = f"{base}/api/sessions"
    with urllib.request.urlopen(f"{sessions}?token={token}", timeout=60) as answer:
        for session in json.load(answer):
            address = f"{sessions}/{session['id']}?token={token}"
            urllib.request.urlopen(urllib.request.Request(address, method="DELETE"), timeout=60).close()
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if getattr(request.node, "failed_in_browser", False):
        print(said.read_text()[begun:][-4000:])
