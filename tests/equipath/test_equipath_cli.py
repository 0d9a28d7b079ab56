"""The command line: what it lists, fetches, verifies and writes.

Mistakes end in one sentence and an exit code.
"""

import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("typer")
from typer.testing import CliRunner

from equipath.cli import app
from equipath.data import SOURCES, read_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path):
    runner = CliRunner()

    def call(*words, answer=None):
        return runner.invoke(app, ["data", *words, "--root", str(tmp_path)], input=answer)

    return call


@pytest.fixture
def tnbc(tmp_path):
    """A small TNBC in its real layout."""
    rng = np.random.default_rng(0)
    for patient in range(1, 8):
        for where, shape in (("Slide", (16, 16, 3)), ("GT", (16, 16))):
            path = (
                tmp_path / "tnbc/TNBC_NucleiSegmentation" / f"{where}_{patient:02d}" / f"{patient:02d}_1.png"
            )
            path.parent.mkdir(parents=True)
            values = rng.integers(0, 256, shape)
            Image.fromarray((values if where == "Slide" else (values > 128) * 255).astype(np.uint8)).save(
                path
            )
    return tmp_path


def test_list_names_every_set_with_licence_and_state(run, tnbc):
    result = run("list")
    assert result.exit_code == 0
    for name, source in SOURCES.items():
        assert name in result.output
        assert source.licence in result.output
    assert "7 fields of 7 patients" in result.output
    assert "missing" in result.output


def test_fetch_says_the_licence_and_asks_before_anything_is_fetched(run, tmp_path):
    result = run("fetch", "breakhis", answer="n\n")
    assert result.exit_code == 1
    assert "licence          CC BY 4.0" in result.output
    assert not (tmp_path / "breakhis").exists()


def test_fetch_by_hand_says_what_to_put_where(run, tmp_path):
    result = run("fetch", "monuseg", "--yes")
    assert result.exit_code == 1
    assert f"save 'MoNuSegTestData.zip' in {tmp_path / 'monuseg'}" in result.output
    assert "Traceback" not in result.output


def test_an_unknown_name_is_said(run):
    result = run("fetch", "imagenet")
    assert result.exit_code == 2
    assert "known are bcss" in result.output


def test_verify_opens_what_is_there_and_finds_what_is_damaged(run, tnbc, tmp_path):
    assert run("verify").exit_code == 0
    assert "7 fields" in run("verify", "tnbc").output
    with zipfile.ZipFile(tmp_path / "tnbc/TNBC_NucleiSegmentation.zip", "w") as bundle:
        bundle.writestr("x", "not the published archive")
    result = run("verify")
    assert result.exit_code == 1
    assert "delete it and fetch again" in result.output


def test_verify_with_nothing_there(run):
    result = run("verify")
    assert result.exit_code == 0
    assert "equipath data list" in result.output
    assert run("verify", "pcam").exit_code == 1


def test_make_writes_what_can_be_read_again(run, tnbc, tmp_path):
    out = tmp_path / "made"
    result = run("make", "nuclei", str(out), "--from", "tnbc", "--split", "train")
    assert result.exit_code == 0, result.output
    items = read_folder(out / "train")
    assert len(items) == 5
    assert items.task == "nuclei"
    assert "already there" in run("make", "nuclei", str(out), "--from", "tnbc", "--split", "train").output
    for other in (("tumour",), ("nuclei", "--from", "tnbc", "--fraction", "0.5")):
        result = run("make", *other, str(out), "--split", "train")
        assert result.exit_code == 1
        assert "holds 5 other items (tnbc, nuclei)" in result.output
    result = run("make", "cores", str(tmp_path / "other"), "--from", "tnbc")
    assert result.exit_code == 1
    assert "got task='cores'" in result.output


def test_slide_writes_what_openslide_reads(tmp_path):
    pytest.importorskip("openslide")
    from equipath.data.wsi import WholeSlide

    path = tmp_path / "a.tif"
    words = ["data", "slide", str(path), "--kind", "colon", "--mpp", "8", "--size", "120", "150"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    with WholeSlide(path) as slide:
        assert slide.size == (120, 150)
        assert slide.mpp == pytest.approx(8)
        assert slide.read(0, 0, (120, 150)).std() > 5
    assert "is there already" in CliRunner().invoke(app, words).output
    for place, more, says in (
        ("b.tif", ["--kind", "heart"], "heart"),
        ("b.tif", ["--mpp", "0"], "got mpp=0"),
        ("a.tif/b.tif", ["--size", "64", "64"], "could not be written"),
    ):
        result = CliRunner().invoke(app, ["data", "slide", str(tmp_path / place), *more])
        assert result.exit_code == 1
        assert says in result.output


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_set_has_its_script(name, monkeypatch, tmp_path, capsys):
    script = ROOT / "data_scripts" / f"{name}.py"
    code = compile(script.read_text(), str(script), "exec")
    monkeypatch.setattr(sys, "argv", [str(script), "--root", str(tmp_path), "--help"])
    with pytest.raises(SystemExit) as stop:
        exec(code, {"__name__": "__main__"})
    assert stop.value.code == 0
    assert "Fetch a public data set" in capsys.readouterr().out


def test_scripts_and_sets_belong_together():
    assert {p.stem for p in (ROOT / "data_scripts").glob("*.py")} == set(SOURCES)
