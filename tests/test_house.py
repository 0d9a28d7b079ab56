"""The rules of the house: arrows point down, pins agree, the README tells the truth, nothing slips in."""

import ast
import functools
import importlib.metadata as metadata
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
CORE = {"torch", "numpy", "scipy", "skimage", "sklearn"}

# A room may use the rooms of lower floors and its own. A new room gets its floor here first.
FLOORS = {
    "groups": 0,
    "metrics": 0,
    "losses": 0,
    "equivariance": 1,
    "kernels": 1,
    "data": 1,
    "nn": 2,
    "models": 3,
    "train": 4,
    "cluster": 3,
    "segment": 4,
    "experiments": 5,
    "viz": 5,
    "exercises": 6,
    "cli": 6,
    "__main__": 7,
    "__init__": 7,  # the front door: it opens on first use, not at import
}
TOP_LEVEL = {
    *("course", "book", "data_scripts", "tests", "src", ".ci", ".gitignore"),
    *("environment.yml", "pyproject.toml", "Makefile", "README.md", "LICENSE"),
}
CLASSROOM = re.compile(
    r"IPython|ipywidgets|anywidget|ipykernel|jupyter|nbgrader|nbclient|nbconvert|nbformat|notebook"
)


def tracked() -> list[Path]:
    """Every file that git tracks, and that is still there."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """A file's syntax tree, read once for all rules."""
    return ast.parse(path.read_text())


def imports(path: Path, top_only: bool = False) -> list[tuple[int, str]]:
    """(line, full module name) of every import in a file, also of those inside functions."""
    tree = tree_of(path)
    package = path.relative_to(ROOT / "src").with_suffix("").parts if ROOT / "src" in path.parents else ()
    found = []
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: -node.level] or ("tests",)) if node.level else []
            name = ".".join([*base, node.module] if node.module else base)
            found += [(node.lineno, f"{name}.{alias.name}") for alias in node.names]
    return found


def room(path: Path) -> str:
    return path.relative_to(ROOT / "src" / "equipath").with_suffix("").parts[0]


# ---- arrows point down


def test_every_room_has_a_floor():
    rooms = {room(path) for path in sources("src/equipath")}
    assert rooms <= FLOORS.keys()


@pytest.mark.parametrize(
    "path", sources("src/equipath"), ids=lambda path: path.relative_to(ROOT / "src").as_posix()
)
def test_equipath_arrows_point_down(path):
    here = room(path)
    floor = FLOORS[here]
    for line, name in imports(path):
        parts = name.split(".")
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        assert not CLASSROOM.match(name), f"{where}: the science does not know the classroom"
        if parts[0] == "coursekit":
            assert here == "exercises", f"{where}: only exercises may"
        if parts[0] == "equipath" and len(parts) > 1 and parts[1] in FLOORS:
            assert parts[1] == here or FLOORS[parts[1]] < floor, f"{where}, which is not below it"


@pytest.mark.parametrize(
    "path", sources("src/coursekit"), ids=lambda path: path.relative_to(ROOT / "src").as_posix()
)
def test_coursekit_knows_nothing_of_equivariance(path):
    assert [(line, name) for line, name in imports(path) if name.split(".")[0] in ("equipath", "e2cnn")] == []


def test_the_import_reader_sees_every_form(tmp_path, monkeypatch):
    file = tmp_path / "src" / "equipath" / "nn" / "x.py"
    file.parent.mkdir(parents=True)
    lines = ["from ..models import unet", "def f():", "    import torch.nn", "from . import sre"]
    file.write_text("\n".join([*lines, "from equipath import cli"]))
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert {name for _, name in imports(file)} == {
        *("equipath.models.unet", "torch.nn", "equipath.nn.sre", "equipath.cli"),
    }


@pytest.mark.slow
def test_equipath_imports_without_the_course():
    """Every room of the library, in a Python that has the core dependencies and nothing else."""
    modules = [
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        for path in sources("src/equipath")
        if room(path) not in ("exercises", "viz", "experiments", "__main__")  # these show and ask
    ]
    core = closure({Requirement(text) for text in PROJECT["dependencies"]}) | {"setuptools", "pip"}
    hidden = sorted(
        name
        for name, owners in metadata.packages_distributions().items()
        if name != "equipath" and not {canonicalize_name(owner) for owner in owners} & core
    )
    code = (
        "import sys, importlib\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {hidden!r}: raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
    )
    assert "ipywidgets" in hidden
    assert "matplotlib" in hidden
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-1500:]


def test_what_is_imported_is_declared():
    """Nothing works only because another package happens to bring it along."""
    owners = metadata.packages_distributions()
    texts = [
        *PROJECT["dependencies"],
        *(pin for pins in PROJECT["optional-dependencies"].values() for pin in pins),
    ]
    declared = {canonicalize_name(Requirement(text).name) for text in texts} | {"equipath", "setuptools"}
    ours = sources("tests", "course", "data_scripts")
    local = {path.stem for path in ours} | {path.parent.name for path in ours} | {"coursekit", "equipath"}
    missing = set()
    for path in sources("src", "tests", "course", "data_scripts"):
        if path.parent.name == "golden":  # written in another environment, where the oracle lives
            continue
        for line, name in imports(path):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top in local:
                continue
            if not {canonicalize_name(owner) for owner in owners.get(top, ())} & declared:
                missing.add(f"{path.relative_to(ROOT)}:{line} imports {top}")
    assert missing == set()


# ---- pins


def lock() -> dict[str, list[Requirement]]:
    """The lock by name; a name has several lines where systems or Pythons differ."""
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    found: dict[str, list[Requirement]] = {}
    for text in next(entry["pip"] for entry in listed if isinstance(entry, dict)):
        if not text.startswith("-e"):
            requirement = Requirement(text)
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def direct_pins() -> list[Requirement]:
    return [Requirement(pin) for pins in PROJECT["optional-dependencies"].values() for pin in pins]


def closure(wanted: set[Requirement]) -> set[str]:
    """Names of all installed distributions that these requirements need, here and on this Python."""
    seen: set[tuple[str, str]] = set()
    todo = [(canonicalize_name(item.name), extra) for item in wanted for extra in ("", *item.extras)]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for text in metadata.requires(name) or ():
            item = Requirement(text)
            if item.marker is None or item.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(item.name), more) for more in ("", *item.extras)]
    return {name for name, _ in seen}


def test_each_pin_is_exact_public_and_has_its_reason():
    text = (ROOT / "pyproject.toml").read_text()
    for requirement in (*direct_pins(), *(line for lines in lock().values() for line in lines)):
        assert re.fullmatch(r"==[0-9a-z.]+", str(requirement.specifier)), (
            requirement
        )  # no +cpu: not a public name
    for name in ("course", "book"):
        block = text.split(f"\n{name} = [")[1].split("\n]")[0].strip().splitlines()
        assert [line for line in block if "#" not in line] == []


def test_pyproject_and_environment_agree():
    locked = lock()
    for pin in direct_pins():
        assert [line.specifier for line in locked[canonicalize_name(pin.name)]] == [pin.specifier], pin


def test_the_environment_leaves_to_torch_what_torch_pins():
    assert [name for name in lock() if re.match(r"(nvidia|cuda)-|triton$", name)] == []


def test_the_library_alone_satisfies_its_own_bounds():
    locked = lock()
    for text in PROJECT["dependencies"]:
        bound = Requirement(text)
        (pin,) = locked[canonicalize_name(bound.name)]
        assert bound.specifier.contains(next(iter(pin.specifier)).version)


def test_lock_and_installed_environment_are_the_same_set():
    core = {Requirement(text) for text in PROJECT["dependencies"]}
    needed = closure(core | set(direct_pins()))
    needed = {name for name in needed if not re.match(r"(nvidia|cuda)-|triton$", name)}
    here = {
        name: str(line.specifier)
        for name, lines in lock().items()
        for line in lines
        if line.marker is None or line.marker.evaluate()
    }
    assert needed == here.keys()
    for name, specifier in here.items():
        assert Version(metadata.version(name)).public == Version(specifier[2:]).public, name


@pytest.mark.slow
def test_pip_check_is_clean():
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_bare_install_brings_no_jupyter():
    bare = closure({Requirement("equipath")})
    assert {"equipath", "torch", "numpy", "scipy", "scikit-image", "scikit-learn"} <= bare
    assert [
        name for name in bare if re.match(r"jupyter|ipy|nb|notebook|sphinx|pytest|matplotlib", name)
    ] == []


# ---- what is in the repository


def test_top_level_is_the_plan():
    found = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert found <= TOP_LEVEL
    assert {
        "src",
        "tests",
        "pyproject.toml",
        "environment.yml",
        "Makefile",
        "README.md",
        ".ci",
        "LICENSE",
    } <= found


def test_nothing_that_is_built_or_large_is_tracked():
    for path in tracked():
        name = path.relative_to(ROOT).as_posix()
        assert not re.search(
            r"\.(ipynb|db|egg-info|svs|tiff?|h5|npy|zip|tar|gz|pt|pth|pkl|whl)$|^(work|build)/", name
        )
        assert path.stat().st_size <= 1_000_000, name


def test_no_address_of_a_machine_or_an_index_is_written_down():
    # Put together from parts, so that this file does not contain what it looks for.
    places = ["/" + "work/", "/" + r"tmp/\w+/", "/" + "opt/wheels", "/" + "root/", "/" + r"home/\w+/"]
    hosts = [r"pypi\.", "pythonhosted", r"download\.pytorch", r"npmjs\.", r"conda\.(org|io)", r"mirrors?\."]
    pattern = re.compile("|".join([*places, *(r"[a-z./]*" + host + r"[a-z]+" for host in hosts)]))
    found = []
    for path in tracked():
        data = path.read_bytes()
        if b"\0" in data[:8000]:
            continue
        for number, line in enumerate(data.decode("utf-8").splitlines(), 1):
            hit = pattern.search(line)
            if hit and not re.search(
                r"[\w.}\])]$", line[: hit.start()]
            ):  # `build/work/` is no machine's path
                found.append(f"{path.relative_to(ROOT)}:{number}: {hit.group(0)}")
    assert found == []


@pytest.mark.parametrize("path", sources("src", "tests"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_starts_with_a_paragraph(path):
    text = path.read_text()
    if text.strip() and not text.startswith("# ---"):  # a lesson starts with its header
        prose = ast.get_docstring(tree_of(path)) or ""
        assert len(prose.split()) >= 5, "say first what this file answers"


@pytest.mark.parametrize("path", sources("src"), ids=lambda path: path.relative_to(ROOT / "src").as_posix())
def test_public_names_are_documented(path):
    if "exercises" in path.parts:
        pytest.skip("answers are explained by their exercise's statement")
    bare = []
    module = None

    def inherited(owner, name):
        """An override means what its base says."""
        nonlocal module
        module = module or importlib.import_module(
            ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        )
        return owner and inspect.getdoc(getattr(getattr(module, owner, None), name, None))

    def look(node, owner):
        for child in node.body:
            if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            decorators = {ast.unparse(item).split("(")[0] for item in child.decorator_list}
            overload = decorators & {"overload", "typing.overload"} or any(
                d.endswith(".setter") for d in decorators
            )
            if child.name.startswith("_") or overload:
                continue
            if not ast.get_docstring(child) and not inherited(owner, child.name):
                bare.append(f"{owner}.{child.name} (line {child.lineno})")
            if isinstance(child, ast.ClassDef):
                look(child, child.name)

    look(tree_of(path), "")
    assert bare == []


# ---- the commands and the README


def commands() -> dict[str, str]:
    specification = importlib.util.spec_from_file_location("house_setup", ROOT / ".ci" / "setup.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.COMMANDS


def test_makefile_and_script_offer_the_same_commands():
    text = (ROOT / "Makefile").read_text()
    targets = re.search(r"^([a-z ]+):\n\t", text, re.M).group(1).split()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.M).group(1).split()
    assert set(targets) == set(phony) == commands().keys()


def test_make_without_a_target_is_the_help():
    done = subprocess.run(
        ["make", "-s"], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHON": ""}
    )
    assert done.returncode == 0, done.stderr
    for name, text in commands().items():
        assert name in done.stdout
        assert text in done.stdout


def test_readme_commands_exist():
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.M)) | set(
        re.findall(r"setup\.py ([a-z]+)", README)
    )
    assert {"lab", "test"} <= named <= commands().keys()


def test_readme_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#\s]+)\)", README) + re.findall(r'src="([^"]+)"', README)
    assert targets
    for target in targets:
        if not target.startswith("https://"):
            assert (ROOT / target).exists(), target


@pytest.mark.slow
def test_readme_code_runs(tmp_path):
    """The lines for researchers, as they stand, show what the comment beside them says."""
    (block,) = re.findall(r"```python\n(.*?)```", README, re.S)
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-1500:]
    plain, averaged = map(float, done.stdout.split())
    assert plain > 1e-6
    assert averaged < 1e-25
