"""The course as a web site that runs from a folder: no kernel, no network, no outside request.

`build` lets the lessons run for the book, adds the pages of `book/` (front page, glossary, references,
library), fetches the three scripts that pages need from npm once, checks them against their published
hashes, and calls Jupyter Book with execution off. A warning fails the build, and so does a dead link, a
figure without alt text, or anything that a page would load from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat

__all__ = ["BookError", "build", "check_pages", "fetch_scripts", "glossary_terms"]


class BookError(Exception):
    """The book could not be built; `problems` holds one sentence each."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class Script:
    """One npm package: name and version, npm's integrity hash, and which files go where in the book."""

    package: str
    integrity: str
    take: tuple[tuple[str, str], ...]  # (start of the path in the package, start of the path in the book)


SCRIPTS = (
    Script(
        "mathjax@3.2.2",
        "sha512-Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw==",
        (
            ("es5/tex-mml-chtml.js", "mathjax/es5/tex-mml-chtml.js"),
            ("es5/input/tex/extensions/", "mathjax/es5/input/tex/extensions/"),
            ("es5/output/chtml/fonts/woff-v2/", "mathjax/es5/output/chtml/fonts/woff-v2/"),
            ("LICENSE", "mathjax/LICENSE"),
        ),
    ),
    Script(
        "requirejs@2.3.6",
        "sha512-ipEzlWQe6RK3jkzikgCupiTbTvm4S0/CAU5GlgptkN5SO6F3u0UD0K18wy6ErDqiCyP4J4YYe1HuAShvsxePLg==",
        (("require.js", "widgets/require.js"),),
    ),
    Script(
        "@jupyter-widgets/html-manager@1.0.15",
        "sha512-5thBIV6ymNgmPVOHvzx+gGy8ZSKmSazhtGw4/c4xJDVzRhG9PTeQsRjF3FUTopvFi//SABeNz1yp47bCrJ3CQA==",
        (
            ("dist/embed-amd.js", "widgets/embed-amd.js"),
            ("LICENSE", "widgets/LICENSE"),
        ),
    ),
)


# --------------------------------------------------------------------------------------------------
# what the pages load


def fetch_scripts(cache: Path, vendor: Path) -> None:
    """Put the scripts of `SCRIPTS` into `vendor`, from the packages kept in `cache` or else from npm.

    Every package is checked against its hash, kept or fresh. Raises `BookError` if npm is missing or cannot
    deliver.
    """
    shutil.rmtree(vendor, ignore_errors=True)
    for script in SCRIPTS:
        with tarfile.open(_package(script, cache)) as package:
            for member in package:
                inside = member.name.partition("/")[2]
                target = _target(script, inside)
                if target is None or not member.isfile():
                    continue
                content = package.extractfile(member)
                assert content is not None  # a regular file has content
                path = vendor / target
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
    boot = (files("coursekit") / "assets" / "widgets_boot.js").read_bytes()
    (vendor / "widgets" / "boot.js").write_bytes(boot)


def _target(script: Script, inside: str) -> str | None:
    """Where a file of the package goes in the book; None: it stays out."""
    for start, to in script.take:
        if inside == start or (start.endswith("/") and inside.startswith(start)):
            return to + inside[len(start) :]
    return None


def _package(script: Script, cache: Path) -> Path:
    kept = cache / (re.sub(r"[^\w.]+", "-", script.package).strip("-") + ".tgz")
    if kept.is_file() and _integrity(kept) == script.integrity:
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    npm = shutil.which("npm")
    if npm is None:
        raise BookError(
            f"the book needs {script.package} once, and npm, which fetches it, is not installed: install "
            f"Node.js (Debian: apt install npm), or copy {kept.parent} from a machine that has built the book"
        )
    made = subprocess.run(
        [npm, "pack", "--silent", "--ignore-scripts", script.package],
        cwd=cache, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    name = made.stdout.strip().splitlines()[-1] if made.stdout.strip() else ""
    if made.returncode or not name or not (cache / name).is_file():
        said = (made.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise BookError(
            f"npm could not fetch {script.package} ({said}): the first build of the book needs the network; "
            "later ones use the copy that it keeps"
        )
    fetched = cache / name
    found = _integrity(fetched)
    if found != script.integrity:
        fetched.unlink()
        raise BookError(
            f"{script.package} as fetched is not the package that was published: its hash is {found}, "
            f"want {script.integrity}; check the registry that npm is set to and build again"
        )
    fetched.replace(kept)
    return kept


def _integrity(path: Path) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


# --------------------------------------------------------------------------------------------------
# the pages


def glossary_terms(glossary: Path) -> list[str]:
    """The terms that a MyST page defines in its `glossary` blocks."""
    terms: list[str] = []
    for block in re.findall(
        r"^```\{glossary\}\n(.*?)^```", glossary.read_text(encoding="utf-8"), re.S | re.M
    ):
        terms += [line.strip() for line in block.splitlines() if line and not line[0].isspace()]
    return terms


def lesson_map(pages: Sequence[Path]) -> str:
    """The lessons as a MyST list: title with a link, the student's minutes, and what one can do afterwards."""
    entries = []
    for page in pages:
        about = nbformat.read(page, as_version=4).metadata.get("coursekit", {})
        entry = f"1. **[{about.get('title', page.stem)}](lessons/{page.name})**"
        if "minutes" in about:
            entry += f", {about['minutes']} minutes"
        entries.append("\n".join([entry, *(f"   - {line}" for line in about.get("objectives", []))]))
    return "\n".join(entries)


def build(root: Path, *, out: Path | None = None, check: bool = True) -> Path:
    """Build the book of the repository at `root`; the pages are in `out/html` (default `build/book/html`),
    and the path of the first is returned.

    `check` looks at every page afterwards: links, alt text, outside requests. Raises `BookError` with what
    has to be mended.
    """
    from coursekit.run import book_pages

    root = Path(root).resolve()
    out = Path(out).resolve() if out else root / "build" / "book"
    if not (root / "book" / "_config.yml").is_file():
        raise BookError(f"{root} has no book/_config.yml; call this from the repository of the course")
    pages, problems = book_pages(root / "course", out / "pages", cache=root / "build" / "cache", say=print)
    if problems:
        raise BookError(problems)
    return assemble(root / "book", pages, out=out, cache=root / "build" / "npm", check=check)


def assemble(book: Path, pages: Sequence[Path], *, out: Path, cache: Path, check: bool = True) -> Path:
    """Build the book from the folder `book` and executed lesson notebooks; nothing is run.

    Returns the first page. Raises `BookError` as `build` does.
    """
    from coursekit.lesson import link_terms

    source, html = out / "source", out / "html"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(book, source, ignore=shutil.ignore_patterns("_build", "vendor", "lessons"))
    fetch_scripts(cache, source / "vendor")
    lessons = source / "lessons"
    lessons.mkdir()
    terms = glossary_terms(source / "glossary.md") if (source / "glossary.md").is_file() else []
    for page in pages:
        linked, _ = link_terms(nbformat.read(page, as_version=4), terms)
        nbformat.write(linked, lessons / page.name)
    front = source / "intro.md"
    if front.is_file():
        text = front.read_text(encoding="utf-8")
        front.write_text(text.replace("{{ lessons }}", lesson_map(pages)), encoding="utf-8")
    _jupyter_book(source, out)
    # Jupyter Book writes below _build; one level up is where people look.
    shutil.rmtree(html, ignore_errors=True)
    (out / "_build" / "html").rename(html)
    if check:
        faults = check_pages(html)
        if faults:
            raise BookError(faults)
    return html / "index.html"


def _jupyter_book(source: Path, out: Path) -> None:
    shutil.rmtree(out / "_build", ignore_errors=True)
    call = "from jupyter_book.cli.main import main; main()"
    try:
        import jupyter_book  # noqa: F401
    except ImportError:
        raise BookError("jupyter-book is not installed; install the extra: pip install '.[book]'") from None
    made = subprocess.run(
        [sys.executable, "-c", call, "build", str(source), "--path-output", str(out), "-W", "--keep-going"],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
        env=os.environ | {"PYTHONUTF8": "1", "NO_COLOR": "1"},
    )  # fmt: skip
    said = re.sub(r"\x1b\[[0-9;]*m", "", made.stdout + "\n" + made.stderr)
    warnings = [
        line.strip() for line in said.splitlines() if re.search(r"\b(WARNING|ERROR|CRITICAL|SEVERE)\b", line)
    ]
    if made.returncode or not (out / "_build" / "html" / "index.html").is_file():
        (out / "build.log").write_text(said, encoding="utf-8")
        raise BookError(
            [*dict.fromkeys(warnings), f"the book was not built; the whole report is in {out / 'build.log'}"]
            if warnings
            else f"Jupyter Book ended with status {made.returncode}; its report is in {out / 'build.log'}"
        )


# --------------------------------------------------------------------------------------------------
# what a reader would stumble over

_LOADS = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "audio": "src",
    "video": "src",
    "embed": "src",
}


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.no_alt: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        a = {name: value or "" for name, value in attrs}
        self.ids |= {a[k] for k in ("id", "name") if k in a}
        if tag == "a" and a.get("href"):
            self.links.append(a["href"])
        if tag in _LOADS and a.get(_LOADS[tag]):
            self.loads.append(a[_LOADS[tag]])
        if tag == "link" and a.get("rel", "") in (
            "stylesheet",
            "preload",
            "icon",
            "shortcut icon",
            "preconnect",
        ):
            self.loads.append(a.get("href", ""))
        # An empty alt is right for decoration only, which says so by its role.
        if tag == "img" and not a.get("alt", "").strip() and a.get("role") != "presentation":
            self.no_alt.append(a.get("src", "")[:60])


def check_pages(html: Path) -> list[str]:
    """What is wrong with the built pages: dead links, pictures without alt text, loads from elsewhere."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(html.rglob("*.html"))}
    pages = {path: page for path, page in pages.items() if "_static" not in path.relative_to(html).parts}
    faults: list[str] = []
    for path, page in pages.items():
        name = path.relative_to(html).as_posix()
        faults += [f"{name}: a picture has no alt text: {src}" for src in page.no_alt]
        for url in page.loads:
            parts = urlsplit(url)
            if parts.scheme == "data":
                continue
            if parts.scheme or parts.netloc:
                faults.append(f"{name}: loads from outside the book: {url}")
            elif parts.path and not (path.parent / unquote(parts.path)).exists():
                faults.append(f"{name}: loads a file that is not there: {url}")
        for url in page.links:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                faults.append(f"{name}: a dead link: {url}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                faults.append(f"{name}: no such place on the page: {url}")
    return list(dict.fromkeys(faults))
