"""Student notebooks are placed into the working folder, and a student's work survives every release."""

import hashlib
import json
import os

import pytest

from coursekit.lesson import place_student_notebooks

NAME = "01_small.ipynb"
ONE, TWO, THREE = '{"release": 1}\n', '{"release": 2}\n', '{"release": 3}\n'


def beside(text: str) -> str:
    return f"01_small.new-{hashlib.sha256(text.encode()).hexdigest()[:8]}.ipynb"


def place(work, text):
    return place_student_notebooks({NAME: text}, work)


def hows(placed):
    return [p.how for p in placed]


def files(work):
    return sorted(p.name for p in work.iterdir() if not p.name.startswith("."))


def test_a_first_release_is_placed_and_a_second_call_changes_nothing(tmp_path):
    work = tmp_path / "work"
    assert hows(place(work, ONE)) == ["new"]
    stamp = (work / NAME).stat().st_mtime_ns
    assert hows(place(work, ONE)) == ["current"]
    assert (work / NAME).stat().st_mtime_ns == stamp


def test_an_untouched_file_follows_the_releases(tmp_path):
    for text in (ONE, TWO, THREE, ONE):
        place(tmp_path, text)
        assert (tmp_path / NAME).read_text() == text
    assert files(tmp_path) == [NAME]


def test_a_changed_file_stays_and_the_newer_release_lies_beside_it(tmp_path):
    place(tmp_path, ONE)
    (tmp_path / NAME).write_text("mine")
    assert hows(place(tmp_path, ONE)) == ["kept"]
    assert files(tmp_path) == [NAME]
    (said,) = place(tmp_path, TWO)
    assert said.how == "beside"
    assert beside(TWO) in said.note
    assert "left alone" in said.note
    assert (tmp_path / NAME).read_text() == "mine"
    assert (tmp_path / beside(TWO)).read_text() == TWO
    assert hows(place(tmp_path, TWO)) == ["kept"]


def test_a_copy_beside_makes_room_for_the_next_unless_it_was_worked_on(tmp_path):
    place(tmp_path, ONE)
    (tmp_path / NAME).write_text("mine")
    place(tmp_path, TWO)
    place(tmp_path, THREE)
    assert files(tmp_path) == sorted([NAME, beside(THREE)])
    (tmp_path / beside(THREE)).write_text("mine too")
    place(tmp_path, '{"release": 4}\n')
    assert (tmp_path / beside(THREE)).read_text() == "mine too"
    assert (tmp_path / NAME).read_text() == "mine"
    assert len(files(tmp_path)) == 3


def test_a_deleted_copy_beside_does_not_come_back(tmp_path):
    place(tmp_path, ONE)
    (tmp_path / NAME).write_text("mine")
    place(tmp_path, TWO)
    (tmp_path / beside(TWO)).unlink()
    assert hows(place(tmp_path, TWO)) == ["kept"]
    assert files(tmp_path) == [NAME]


def test_a_deleted_notebook_is_placed_again(tmp_path):
    place(tmp_path, ONE)
    (tmp_path / NAME).unlink()
    (said,) = place(tmp_path, TWO)
    assert "placed again" in said.note
    assert (tmp_path / NAME).read_text() == TWO


@pytest.mark.parametrize(
    "broken", ["", "{", "[]", "null", '{"released": 3}', '{"released": {"a": [1]}}', "\x00\xff"]
)
def test_a_broken_record_costs_no_work(tmp_path, broken):
    place(tmp_path, ONE)
    record = tmp_path / ".released.json"
    record.write_bytes(broken.encode("latin-1"))
    (tmp_path / NAME).write_text("mine")
    assert hows(place(tmp_path, TWO)) == ["restored", "beside"]
    assert (tmp_path / NAME).read_text() == "mine"
    assert json.loads(record.read_text())["released"][NAME]


def test_a_lost_record_takes_unknown_content_for_the_students(tmp_path):
    place(tmp_path, ONE)
    (tmp_path / ".released.json").unlink()
    assert hows(place(tmp_path, TWO)) == ["beside"]
    assert (tmp_path / NAME).read_text() == ONE


def test_a_full_disk_leaves_everything_as_it_was(tmp_path, monkeypatch):
    place(tmp_path, ONE)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", full)
        said = place(tmp_path, TWO)
    assert said[0].how == "failed"
    assert "no space left" in said[0].note
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert hows(place(tmp_path, TWO)) == ["updated"]


def test_one_file_that_cannot_be_replaced_does_not_stop_the_others(tmp_path, monkeypatch):
    place(tmp_path, ONE)
    replace = os.replace

    def held(source, target):
        if os.path.basename(target) == NAME:
            raise PermissionError(13, "Permission denied")
        replace(source, target)

    monkeypatch.setattr("os.replace", held)
    said = place_student_notebooks({NAME: TWO, "02_next.ipynb": ONE}, tmp_path)
    assert hows(said) == ["failed", "new"]
    assert "close what holds it" in said[0].note
    assert (tmp_path / NAME).read_text() == ONE


def test_folders_and_files_in_the_way_are_named(tmp_path):
    (tmp_path / NAME).mkdir()
    assert "is a folder" in place(tmp_path, ONE)[0].note
    file = tmp_path / "work"
    file.write_text("")
    assert "is a file, not a folder" in place(file, ONE)[0].note


def test_the_record_survives_an_interrupt(tmp_path, monkeypatch):
    place(tmp_path, ONE)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            place(tmp_path, TWO)
    assert (tmp_path / NAME).read_text() == ONE
    assert not list(tmp_path.glob(".*.tmp"))
    assert hows(place(tmp_path, TWO)) == ["updated"]
