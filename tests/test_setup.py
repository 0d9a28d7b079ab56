"""The set-up script against every failure that a user's machine can produce, provoked and not imitated.

Each test works on a small project of its own, in a folder with a blank in its name, with packages from a
folder of tiny wheels: a small package index that behaves as the large one does.
"""

import base64
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import textwrap
import time
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "setup.py"
BASE = getattr(sys, "_base_executable", sys.executable)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),  # each set-up takes seconds on a quiet machine, a minute on a crowded one
    pytest.mark.skipif(os.name == "nt", reason="the failures are provoked with POSIX means"),
]

# The project builds itself, so that no test needs setuptools from an index.
BACKEND = """
import zipfile, pathlib, tomllib
def build_editable(folder, config_settings=None, metadata_directory=None):
    project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
    meta = "Metadata-Version: 2.1\\nName: small\\nVersion: 1.0\\n"
    for extra, pins in project["optional-dependencies"].items():
        meta += f"Provides-Extra: {extra}\\n"
        meta += "".join(f"Requires-Dist: {pin} ; extra == '{extra}'\\n" for pin in pins)
    files = {"small.pth": str(pathlib.Path("src").resolve()) + "\\n"}
    files["small-1.0.dist-info/METADATA"] = meta
    files["small-1.0.dist-info/WHEEL"] = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    files["small-1.0.dist-info/RECORD"] = "".join(f"{name},,\\n" for name in files)
    with zipfile.ZipFile(pathlib.Path(folder, "small-1.0-py3-none-any.whl"), "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return "small-1.0-py3-none-any.whl"
"""


def make_wheel(index: Path, name: str, version: str, files: dict[str, bytes]) -> None:
    info = f"{name}-{version}.dist-info"
    files = dict(files)
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = []
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record.append(f"{path},sha256={digest},{len(data)}")
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    with zipfile.ZipFile(index / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, data in files.items():
            wheel.writestr(path, data)


class Project:
    """A small project with the real set-up script, and the ways to run it."""

    def __init__(
        self, root: Path, index: Path, pins: tuple[str, ...] = ("tiny==1.0",), disk_gb: float = 0.05
    ):
        self.root, self.index, self.disk_gb = root, index, disk_gb
        (root / ".ci").mkdir(parents=True)
        (root / "src").mkdir()
        (root / "src" / "small.py").write_text("HERE = __file__\n")
        shutil.copy(SCRIPT, root / ".ci" / "setup.py")
        (root / "backend.py").write_text(BACKEND)
        self.pin(*pins)

    def pin(self, *pins: str) -> None:
        listed = ", ".join(f'"{pin}"' for pin in pins)
        self.root.joinpath("pyproject.toml").write_text(
            textwrap.dedent(f"""
            [build-system]
            requires = []
            build-backend = "backend"
            backend-path = ["."]
            [project]
            name = "small"
            version = "1.0"
            [project.optional-dependencies]
            course = [{listed}]
            [tool.equipath]
            disk_gb = {self.disk_gb}
            """)
        )
        lines = "".join(f"      - {pin}\n" for pin in pins)
        self.root.joinpath("environment.yml").write_text(f"dependencies:\n  - pip:\n      - -e .\n{lines}")

    def environment(self, **extra: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON", "VIRTUAL_ENV"))}
        pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": self.index.as_uri()}
        return {**kept, **pip, "PIP_NO_CACHE_DIR": "1", "PIP_NO_COMPILE": "1", **extra}

    def run(self, *arguments: str, python: str = BASE, drop: tuple[str, ...] = (), **extra: str):
        environment = self.environment(**extra)
        for name in drop:
            environment.pop(name)
        return subprocess.run(
            [python, str(self.root / ".ci" / "setup.py"), *(arguments or ("setup",))],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )

    def start(self, **extra: str) -> subprocess.Popen:
        return subprocess.Popen(
            [BASE, str(self.root / ".ci" / "setup.py"), "setup"],
            env=self.environment(**extra),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def python(self) -> Path:
        return self.root / ".venv" / "bin" / "python"

    @property
    def site(self) -> Path:
        return next((self.root / ".venv" / "lib").iterdir()) / "site-packages"

    def ask(self, code: str) -> str:
        return subprocess.check_output([self.python, "-c", code], text=True).strip()

    def unfinish(self) -> None:
        """Leaves the .venv as a set-up that has not come to installing leaves it."""
        stamp = {"root": str(self.root), "pins": None}
        (self.root / ".venv" / "equipath.json").write_text(json.dumps(stamp))

    def assert_ready(self, version: str = "1.0") -> None:
        assert self.ask("import tiny, small; print(tiny.VERSION, small.HERE)") == (
            f"{version} {self.root / 'src' / 'small.py'}"
        )
        stamp = json.loads((self.root / ".venv" / "equipath.json").read_text())
        assert stamp["pins"]
        assert stamp["root"] == str(self.root)


def assert_one_message(done: subprocess.CompletedProcess, *words: str) -> None:
    """The run failed, and what it says at the end is a message for people, with the given words in it."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    message = done.stderr.strip()
    assert 0 < len(message) < 600
    for word in words:
        assert word in message, message


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    for version in ("1.0", "2.0"):
        make_wheel(folder, "tiny", version, {"tiny.py": f'VERSION = "{version}"\n'.encode()})
    many = {f"many/part{i:05d}.py": os.urandom(9600) for i in range(3000)}
    make_wheel(folder, "many", "1.0", {"many/__init__.py": b"", **many})
    noise = os.urandom(40_000_000)  # does not shrink: a disk really fills up
    make_wheel(folder, "bulky", "1.0", {"bulky/__init__.py": b"", "bulky/noise.bin": noise})
    return folder


@pytest.fixture
def project(tmp_path, index) -> Project:
    return Project(tmp_path / "a folder with blanks", index)


@pytest.fixture(scope="module")
def set_up_once(tmp_path_factory, index) -> Project:
    project = Project(tmp_path_factory.mktemp("settled") / "a folder with blanks", index)
    first = project.run()
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Making .venv with Python" in first.stdout
    return project


@pytest.fixture
def settled(set_up_once) -> Project:
    """A project whose set-up is done, whatever the test before has made of it."""
    set_up_once.pin("tiny==1.0")
    done = set_up_once.run()
    assert done.returncode == 0, done.stdout + done.stderr
    return set_up_once


def test_a_second_run_does_nothing(settled):
    settled.assert_ready()
    record = settled.root / "build" / "setup.log"
    before = record.stat().st_mtime_ns
    # nor does an environment that would lead a Python astray
    for extra in ({}, {"PYTHONPATH": "/nowhere", "VIRTUAL_ENV": "/nowhere"}):
        again = settled.run(**extra)
        assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert record.stat().st_mtime_ns == before  # pip was not started


def test_changed_pins_update_what_is_there(settled):
    settled.pin("tiny==2.0")  # and back again, for the next test that wants a settled project
    done = settled.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Continuing" in done.stdout
    settled.assert_ready("2.0")


def test_a_damaged_package_in_an_unfinished_environment_is_installed_again(settled):
    (settled.root / ".venv" / "equipath.json").unlink()
    (settled.site / "tiny.py").write_text("")
    (settled.site / "~iny-0.9.dist-info").mkdir()  # pip's name for what it was replacing
    done = settled.run()
    assert done.returncode == 0, done.stdout + done.stderr
    settled.assert_ready()
    assert not (settled.site / "~iny-0.9.dist-info").exists()


def test_without_a_network_it_says_so_and_continues_later(settled):
    settled.pin("tiny==2.0")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/simple"
        done = settled.run(PIP_INDEX_URL=address, drop=("PIP_NO_INDEX", "PIP_FIND_LINKS"))
    assert_one_message(done, "no connection", "Run the same command again")
    again = settled.run()
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Continuing with the .venv" in again.stdout
    settled.assert_ready("2.0")


def test_a_pin_that_nobody_offers_is_named(settled):
    settled.pin("tiny==9.9")
    assert_one_message(settled.run(), "tiny==9.9", "Linux")
    settled.pin("tiny==1.0")
    assert settled.run().returncode == 0
    settled.assert_ready()


def test_killed_while_pip_writes_files_and_repaired(settled):
    settled.unfinish()
    settled.pin("tiny==1.0", "many==1.0")
    process = settled.start()
    parts = 0
    while parts < 50 and process.poll() is None:
        time.sleep(0.001)  # who sleeps is woken at once, also on a crowded machine
        found = list(settled.root.glob(".venv/lib/python*/site-packages/many"))
        parts = len(os.listdir(found[0])) if found else 0
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert 50 <= len(os.listdir(settled.site / "many")) < 3001, "the kill came too late to show anything"
    # what pip would take for an installed package: its metadata are there, its files are not
    info = settled.site / "many-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: many\nVersion: 1.0\n")
    done = settled.run()
    assert done.returncode == 0, done.stdout + done.stderr
    settled.assert_ready()
    parts = [name for name in os.listdir(settled.site / "many") if name.startswith("part")]
    assert len(parts) == 3000
    assert {(settled.site / "many" / name).stat().st_size for name in parts} == {9600}


@pytest.mark.parametrize("harm", ["dangling link", "a file", "a link to nowhere", "no pip", "moved"])
def test_a_broken_venv_is_seen_and_taken_away(project, harm):
    specification = importlib.util.spec_from_file_location("script", project.root / ".ci" / "setup.py")
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    venv = project.root / ".venv"
    if harm == "a file":
        venv.write_text("")
    elif harm == "a link to nowhere":
        venv.symlink_to(project.root / "gone")
    else:
        subprocess.run([BASE, "-m", "venv", "--without-pip", venv], check=True)
        assert "no working pip" in script.why_rebuild()
        if harm == "moved":
            script.write_stamp(root=str(project.root), pins=script.fingerprint())
            assert script.up_to_date()
            script.write_stamp(root=str(project.root.with_name("before")), pins=script.fingerprint())
            assert not script.up_to_date()
        if harm == "dangling link":
            for name in ("python", "python3"):
                (venv / "bin" / name).unlink(missing_ok=True)
                (venv / "bin" / name).symlink_to(project.root / "uninstalled" / "python3")
    reason = {"no pip": "no working pip", "moved": "moved or copied"}.get(harm, "gone or does not run")
    assert reason in script.why_rebuild()
    script.remove_venv()
    assert not os.path.lexists(venv)
    assert not list(project.root.glob(".venv-old-*"))
    assert script.why_rebuild() is None


def test_a_broken_venv_is_made_anew(settled):
    python = settled.root / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(settled.root / "uninstalled" / "python3")  # the Python it was made with is gone
    done = settled.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Making .venv anew: its Python is gone" in done.stdout
    settled.assert_ready()
    assert not list(settled.root.glob(".venv-old-*"))


def test_two_at_once(project):
    both = [project.start(), project.start()]
    said = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("Making .venv" in text for text in said) == 1, said
    project.assert_ready()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 60 MB; yields its folder and a function that gives it another size."""
    disk = tmp_path / "small disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=60m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("a small disk can only be mounted by root")

    def resize(size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)

    yield disk, resize
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_too_small_a_disk_is_refused_before_anything_is_written(small_disk, index):
    project = Project(small_disk[0] / "course", index, disk_gb=3)
    done = project.run()
    assert_one_message(done, "needs about 3 GB", "Make room")
    assert not (project.root / ".venv").exists()


def test_a_disk_that_fills_up_on_the_way(small_disk, settled, index):
    disk, resize = small_disk
    project = Project(disk / "course", index, pins=("tiny==1.0", "bulky==1.0"))
    shutil.copytree(settled.root / ".venv", project.root / ".venv", symlinks=True)
    project.unfinish()
    done = project.run()
    assert_one_message(done, "disk was full", "Run the same command again")
    resize("400m")
    again = project.run()
    assert again.returncode == 0, again.stdout + again.stderr
    project.assert_ready()
    assert (project.site / "bulky" / "noise.bin").stat().st_size == 40_000_000


def test_a_disk_too_full_for_the_bare_venv(small_disk, index):
    disk, resize = small_disk
    project = Project(disk / "course", index, disk_gb=0.0001)
    resize("2m")
    assert_one_message(project.run(), "disk was full")
    resize("400m")
    assert project.run().returncode == 0
    project.assert_ready()


def test_a_wrong_python_is_named(project, tmp_path):
    wrong = tmp_path / "python3.13"
    wrong.write_text('#!/bin/sh\necho "3 13 $0"\n')  # what the script's question gets from such a Python
    wrong.chmod(0o755)
    assert_one_message(project.run(PYTHON=str(wrong)), "Python 3.13", "3.11 or 3.12")
    assert_one_message(project.run(PYTHON=str(tmp_path / "none")), "nothing that runs", "3.11 or 3.12")
    assert not (project.root / ".venv").exists()


@pytest.mark.parametrize(
    "name", ["python3.6", "python3.7", "python3.8", "python3.9", "python3.10", "python3.13"]
)
def test_an_unsuitable_python_finds_a_suitable_one(project, name):
    other = shutil.which(name)
    if not other or subprocess.run([other, "-c", ""], capture_output=True).returncode:
        pytest.skip(f"{name} is not on this machine")
    done = project.run(python=other, PATH=os.path.dirname(BASE) + os.pathsep + os.environ["PATH"])
    assert done.returncode == 0, done.stdout + done.stderr
    project.assert_ready()
    (project.root / ".venv" / "equipath.json").unlink()
    lonely = project.root / "bin"
    lonely.mkdir()
    assert_one_message(
        project.run(python=other, PATH=str(lonely)), "needs Python 3.11 or 3.12", name[-3:].strip("n")
    )


def test_a_python_without_the_venv_module(project, tmp_path):
    """Debian's python3 without python3-venv: the standard library without ensurepip."""
    library = Path(sysconfig.get_path("stdlib"))
    home = tmp_path / "home"
    copy = home / "lib" / library.name
    copy.mkdir(parents=True)
    for entry in library.iterdir():
        if entry.name not in ("ensurepip", "site-packages"):
            (copy / entry.name).symlink_to(entry)
    done = project.run(PYTHONHOME=str(home))
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert_one_message(done, "ensurepip", f"apt install python{version}-venv")
    assert not (project.root / ".venv").exists()


def test_clean_spares_what_people_made(project):
    kept = ["work/01_symmetry.ipynb", "build/classroom/gradebook.db", ".venv/pyvenv.cfg"]
    gone = ["build/student/01_symmetry.ipynb", "build/cache/x", "book/_build/x", ".pytest_cache/x"]
    for name in kept + gone:
        path = project.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    assert project.run("clean").returncode == 0
    assert all((project.root / name).read_text() == "x" for name in kept)
    assert not any((project.root / name).exists() for name in gone)


def test_an_unknown_command_lists_the_known_ones(project):
    assert_one_message(project.run("labb"), "no command labb")
    assert "lab " in project.run("help").stdout
