"""Fetching: interrupted, corrupt, truncated, wrong hash, moved, half unpacked, full disk, no network; against
a
local server that misbehaves on request, byte for byte as HTTP allows."""

import errno
import gzip
import hashlib
import http.server
import io
import json
import shutil
import tarfile
import threading
import zipfile
from collections import Counter

import numpy as np
import pytest

from equipath.data import fetch as fetching
from equipath.data.fetch import DataError, RemoteFile, Source, fetch_file, human, status, unpack, verify
from equipath.data.fetch import fetch as fetch_set

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Server:
    """Files by path, and for each path how the next requests are to be mistreated."""

    def __init__(self):
        self.files, self.headers, self.asked = {}, [], Counter()
        self.plan = {}  # path -> list of ways, one used up by each request
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                outer.answer(self)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request):
        path = request.path.split("?")[0]
        self.asked[path] += 1
        self.headers.append(dict(request.headers))
        ways = self.plan.get(path, [])
        way = ways.pop(0) if ways else "well"
        if way in ("404", "410", "403", "500", "429"):
            return self.send(request, int(way), b"no")
        if way == "html":
            return self.send(
                request, 200, b"<html>please log in</html>", {"Content-Type": "text/html; charset=utf-8"}
            )
        if way == "circle":
            return self.send(request, 302, b"", {"Location": self.url + path})
        if path not in self.files:
            return self.send(request, 404, b"no")
        body, tag = self.files[path]
        wanted = request.headers.get("Range")
        condition = request.headers.get("If-Range")
        first = 0
        if wanted and way != "no ranges" and condition in (None, tag):
            first = int(wanted.removeprefix("bytes=").rstrip("-"))
            if first >= len(body):
                return self.send(request, 416, b"", {"Content-Range": f"bytes */{len(body)}"})
        if way == "wrong range" and wanted:
            first += 7
        piece = body[first:]
        head = {"ETag": tag, "Content-Type": "application/octet-stream"}
        if first:
            head["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        if way == "damaged":
            piece = bytes([piece[0] ^ 1]) + piece[1:]
        if way == "cut":
            return self.send(
                request, 206 if first else 200, piece[: len(piece) // 3], head, announce=len(piece)
            )
        if way == "cut without length":
            return self.send(request, 206 if first else 200, piece[: len(piece) // 3], head, announce=None)
        return self.send(request, 206 if first else 200, piece, head)

    @staticmethod
    def send(request, code, body, head=None, announce="all"):
        request.send_response(code)
        for key, value in (head or {}).items():
            request.send_header(key, value)
        if announce is not None:
            request.send_header("Content-Length", str(len(body) if announce == "all" else announce))
        request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.write(body)
        request.close_connection = True

    def put(self, path, body, tag='"1"'):
        self.files[path] = body, tag


@pytest.fixture(scope="module")
def shared_server():
    server = Server()
    yield server
    server.server.shutdown()


@pytest.fixture
def server(shared_server):
    shared_server.files.clear()
    shared_server.plan.clear()
    shared_server.headers.clear()
    shared_server.asked.clear()
    shared_server.put("/a.bin", CONTENT)
    return shared_server


@pytest.fixture
def quick():
    return {
        "tries": 3,
        "pause": 0.0,
        "timeout": 5.0,
        "say": lambda _: None,
        "home": "https://example.org/set",
    }


def remote(server, **more):
    return RemoteFile("a.bin", server.url + "/a.bin", **({"size": len(CONTENT), "hash": SHA} | more))


def test_a_whole_file_arrives_and_is_not_fetched_twice(server, tmp_path, quick):
    path = fetch_file(tmp_path, remote(server), **quick)
    assert path.read_bytes() == CONTENT
    assert fetch_file(tmp_path, remote(server), **quick) == path
    assert server.asked["/a.bin"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin", "hashes.json"]


def test_a_cut_connection_is_continued_where_it_stopped(server, tmp_path, quick):
    server.plan["/a.bin"] = ["cut"]
    assert fetch_file(tmp_path, remote(server), **quick).read_bytes() == CONTENT
    assert server.headers[1]["Range"] == "bytes=98304-"
    assert server.headers[1]["If-Range"] == '"1"'


@pytest.mark.parametrize("way", ["cut", "cut without length"])
def test_an_interrupted_run_is_continued_by_the_next(server, tmp_path, quick, way):
    server.plan["/a.bin"] = [way] * 3
    with pytest.raises(DataError, match=r"3 times in a row.*kept.*Run the same command again"):
        fetch_file(tmp_path, remote(server), **quick)
    kept = (tmp_path / "a.bin.part").stat().st_size
    assert kept > len(CONTENT) // 2
    assert not (tmp_path / "a.bin").exists()
    assert fetch_file(tmp_path, remote(server), **quick).read_bytes() == CONTENT
    assert server.headers[-1]["Range"] == f"bytes={kept}-"
    assert not list(tmp_path.glob("*.part*"))


def test_a_server_without_ranges_starts_over(server, tmp_path, quick):
    server.plan["/a.bin"] = ["cut", "no ranges"]
    assert fetch_file(tmp_path, remote(server), **quick).read_bytes() == CONTENT


def test_a_server_that_continues_at_the_wrong_byte_is_not_believed(server, tmp_path, quick):
    server.plan["/a.bin"] = ["cut", "wrong range"]
    assert fetch_file(tmp_path, remote(server), **quick).read_bytes() == CONTENT


def test_a_file_that_changed_between_two_runs_is_not_patched_together(server, tmp_path, quick):
    server.plan["/a.bin"] = ["cut"] * 3
    with pytest.raises(DataError, match="connection"):
        fetch_file(tmp_path, remote(server), **quick)
    other = CONTENT[::-1]
    server.put("/a.bin", other, '"2"')
    path = fetch_file(tmp_path, remote(server, hash="sha256:" + hashlib.sha256(other).hexdigest()), **quick)
    assert path.read_bytes() == other


def test_a_part_of_unknown_origin_is_not_continued(server, tmp_path, quick):
    (tmp_path / "a.bin.part").write_bytes(b"x" * 1000)
    assert fetch_file(tmp_path, remote(server), **quick).read_bytes() == CONTENT
    assert "Range" not in server.headers[0]


def test_a_part_that_is_whole_already_is_taken(server, tmp_path, quick):
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    (tmp_path / "a.bin.part.json").write_text(json.dumps({"url": server.url + "/a.bin", "tag": '"1"'}))
    assert fetch_file(tmp_path, remote(server), **quick).read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_thrown_away(server, tmp_path, quick):
    (tmp_path / "a.bin.part").write_bytes(CONTENT + b"more")
    (tmp_path / "a.bin.part.json").write_text(json.dumps({"url": server.url + "/a.bin", "tag": '"1"'}))
    assert fetch_file(tmp_path, remote(server), **quick).read_bytes() == CONTENT


def test_a_damaged_copy_is_thrown_away_and_the_next_run_succeeds(server, tmp_path, quick):
    server.plan["/a.bin"] = ["damaged"]
    with pytest.raises(DataError, match=r"arrived whole but is not what was published.*thrown away"):
        fetch_file(tmp_path, remote(server), **quick)
    assert not (tmp_path / "a.bin").exists()
    assert fetch_file(tmp_path, remote(server), **quick).read_bytes() == CONTENT


@pytest.mark.parametrize("code", ["404", "410"])
def test_a_moved_file_is_said_at_once(server, tmp_path, quick, code):
    server.plan["/a.bin"] = [code] * 3
    with pytest.raises(DataError, match=rf"HTTP {code}.*moved or withdrawn.*example.org/set"):
        fetch_file(tmp_path, remote(server), **quick)
    assert server.asked["/a.bin"] == 1


def test_a_web_page_in_place_of_the_file_is_said(server, tmp_path, quick):
    server.plan["/a.bin"] = ["html"]
    with pytest.raises(DataError, match=r"web page in place of a\.bin"):
        fetch_file(tmp_path, remote(server), **quick)


def test_a_refused_file_is_said(server, tmp_path, quick):
    server.plan["/a.bin"] = ["403"]
    with pytest.raises(DataError, match="form or an account"):
        fetch_file(tmp_path, remote(server), **quick)


@pytest.mark.parametrize("way", ["500", "429", "circle"])
def test_a_passing_fault_is_waited_out_and_a_lasting_one_said(server, tmp_path, quick, way):
    server.plan["/a.bin"] = [way] * (1 if way != "circle" else 31)
    assert fetch_file(tmp_path, remote(server), **quick).read_bytes() == CONTENT
    (tmp_path / "a.bin").unlink()
    server.plan["/a.bin"] = [way] * 200
    with pytest.raises(DataError, match=r"busy or broken|circles"):
        fetch_file(tmp_path, remote(server), **quick)


def test_no_network_is_one_sentence(tmp_path, quick):
    with pytest.raises(DataError, match="cannot be reached") as caught:
        fetch_file(tmp_path, RemoteFile("a.bin", "http://127.0.0.1:9/a.bin"), **quick)
    assert "Traceback" not in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_another_size_than_published_is_refused_before_anything_is_written(server, tmp_path, quick):
    with pytest.raises(DataError, match=rf"offers {len(CONTENT)} bytes, published are 5"):
        fetch_file(tmp_path, remote(server, size=5), **quick)
    assert not list(tmp_path.glob("a.bin*"))


def test_a_file_without_a_hash_is_recorded_and_later_copies_are_held_against_it(server, tmp_path, quick):
    said = []
    fetch_file(tmp_path, remote(server, hash=None), **(quick | {"say": said.append}))
    assert any("no hash is published" in line for line in said)
    assert json.loads((tmp_path / "hashes.json").read_text())["a.bin"]["hash"] == SHA
    (tmp_path / "a.bin").unlink()
    server.put("/a.bin", CONTENT[:-1] + b"!", '"9"')
    with pytest.raises(DataError, match="recorded at the first fetch"):
        fetch_file(tmp_path, remote(server, hash=None), **quick)


def test_a_damaged_file_on_disk_is_never_deleted(server, tmp_path, quick):
    (tmp_path / "a.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"has 4 bytes.*Delete it"):
        fetch_file(tmp_path, remote(server), **quick)
    assert (tmp_path / "a.bin").read_bytes() == b"mine"
    assert not server.asked


def test_a_file_that_changed_after_it_was_verified_is_found(server, tmp_path, quick):
    path = fetch_file(tmp_path, remote(server), **quick)
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(DataError, match="damaged or another version"):
        fetch_file(tmp_path, remote(server), **quick)


class _Full(io.RawIOBase):
    def __init__(self, real, room):
        self.real, self.room = real, room

    def write(self, block):
        if self.room < len(block):
            self.real.write(block[: self.room])
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(block)
        return self.real.write(block)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.real.close()


def test_a_full_disk_keeps_what_is_there_and_the_next_run_continues(server, tmp_path, quick, monkeypatch):
    from pathlib import Path

    real_open = Path.open

    def full(self, mode="r", *rest, **more):
        handle = real_open(self, mode, *rest, **more)
        return _Full(handle, 150_000) if self.name == "a.bin.part" and mode in ("wb", "ab") else handle

    big = CONTENT * 3  # more than one block
    server.put("/a.bin", big)
    sha = "sha256:" + hashlib.sha256(big).hexdigest()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full)
        with pytest.raises(DataError, match=r"disk of .* is full.*kept"):
            fetch_file(tmp_path, remote(server, size=len(big), hash=sha), **quick)
    assert (tmp_path / "a.bin.part").stat().st_size == 150_000
    assert fetch_file(tmp_path, remote(server, size=len(big), hash=sha), **quick).read_bytes() == big
    assert server.headers[-1]["Range"] == "bytes=150000-"


def test_too_little_room_is_said_before_anything_is_fetched(server, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1000))
    with pytest.raises(DataError, match="needs 300 kB more"):
        fetch_file(tmp_path, remote(server), **quick)
    assert not (tmp_path / "a.bin.part").exists()


def test_a_file_for_a_person_to_fetch_says_so(tmp_path, quick):
    with pytest.raises(DataError, match="put there by hand"):
        fetch_file(tmp_path, RemoteFile("form.zip"), **quick)


# --- unpacking


def zipped(members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, body in members.items():
            bundle.writestr(name, body)
    return out.getvalue()


def tarred(members, mode="w:gz"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as bundle:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            bundle.addfile(info, io.BytesIO(body))
    return out.getvalue()


MEMBERS = {"top/a.txt": b"a" * 5000, "top/deep/b.txt": b"b" * 7000}
ARCHIVES = {
    "zip": (zipped(MEMBERS), ""),
    "tar": (tarred(MEMBERS), ""),
    "gz": (gzip.compress(MEMBERS["top/a.txt"]), "top/a.txt"),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives_are_unpacked_once(tmp_path, kind):
    body, into = ARCHIVES[kind]
    (tmp_path / "x.arc").write_bytes(body)
    file = RemoteFile("x.arc", unpack=kind, into=into)
    unpack(tmp_path, file, say=lambda _: None)
    assert (tmp_path / "top/a.txt").read_bytes() == MEMBERS["top/a.txt"]
    (tmp_path / "top/a.txt").write_bytes(b"mine")
    unpack(tmp_path, file, say=lambda _: None)
    assert (tmp_path / "top/a.txt").read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ARCHIVES)
def test_truncated_archives_leave_nothing_behind(tmp_path, kind):
    body, into = ARCHIVES[kind]
    (tmp_path / "x.arc").write_bytes(body[: len(body) * 2 // 3])
    with pytest.raises(DataError, match="damaged or not whole"):
        unpack(tmp_path, RemoteFile("x.arc", unpack=kind, into=into), say=lambda _: None)
    assert [p.name for p in tmp_path.iterdir()] == ["x.arc"]


def test_a_flipped_bit_in_an_archive_is_found(tmp_path):
    body = bytearray(ARCHIVES["zip"][0])
    body[45] ^= 0xFF
    (tmp_path / "x.zip").write_bytes(body)
    with pytest.raises(DataError, match="damaged"):
        unpack(tmp_path, RemoteFile("x.zip", unpack="zip"), say=lambda _: None)
    assert not (tmp_path / "top").exists()


def test_a_half_unpacked_archive_is_unpacked_again(tmp_path):
    (tmp_path / "x.zip").write_bytes(ARCHIVES["zip"][0])
    (tmp_path / ".unpacking-x.zip/top").mkdir(parents=True)
    (tmp_path / ".unpacking-x.zip/top/half.txt").write_text("half")
    unpack(tmp_path, RemoteFile("x.zip", unpack="zip"), say=lambda _: None)
    assert sorted(p.name for p in (tmp_path / "top").rglob("*.txt")) == ["a.txt", "b.txt"]
    assert not (tmp_path / ".unpacking-x.zip").exists()


@pytest.mark.parametrize("name", ["../out.txt", "/abs.txt", "a/../../out.txt"])
def test_unsafe_paths_are_refused(tmp_path, name):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "x.zip").write_bytes(zipped({name: b"x"}))
    with pytest.raises(DataError, match="unsafe path"):
        unpack(folder, RemoteFile("x.zip", unpack="zip"), say=lambda _: None)
    (folder / "x.tar").write_bytes(tarred({"../out.txt": b"x"}))
    with pytest.raises(DataError):
        unpack(folder, RemoteFile("x.tar", unpack="tar"), say=lambda _: None)
    assert not (tmp_path / "out.txt").exists()


# --- a whole set


def toy(server, **more):
    server.put("/toy.zip", zipped(MEMBERS))
    server.put("/notes.txt", b"notes")
    body = server.files["/toy.zip"][0]

    def convert(folder, out):
        (out / "sum.txt").write_text(str(len((folder / "top/a.txt").read_bytes())))

    return Source(
        **{
            "name": "toy",
            "title": "Toy set",
            "folder": "toy",
            "homepage": "https://example.org/toy",
            "licence": "CC BY 4.0",
            "cite": "Nobody, 2020",
            "tasks": ("tumour",),
            "files": (
                RemoteFile(
                    "toy.zip",
                    server.url + "/toy.zip",
                    len(body),
                    "sha256:" + hashlib.sha256(body).hexdigest(),
                    "zip",
                ),
                RemoteFile("notes.txt", server.url + "/notes.txt"),
            ),
            "found": lambda folder: "1 text" if (folder / "top/a.txt").exists() else None,
            "convert": convert,
        }
        | more
    )


def options():
    return {"tries": 2, "pause": 0.0, "timeout": 5.0}


def test_a_set_is_said_fetched_unpacked_converted_and_not_again(server, tmp_path):
    said = []
    source = toy(server)
    assert status(source, tmp_path)[0] == "missing"
    folder = fetch_set(source, tmp_path, say=said.append, **options())
    assert "licence          CC BY 4.0" in said[0]
    assert "https://example.org/toy" in said[0]
    assert (folder / "converted/sum.txt").read_text() == "5000"
    assert status(source, tmp_path) == ("installed", "1 text")
    assert verify(source, tmp_path, say=said.append) == []
    before = dict(server.asked)
    fetch_set(source, tmp_path, say=said.append, **options())
    assert dict(server.asked) == before


def test_the_licence_comes_before_the_first_request(server, tmp_path):
    said = []
    fetch_set(toy(server), tmp_path, say=said.append, agreed=False)
    assert "CC BY 4.0" in said[0]
    assert not server.asked


def test_a_set_that_was_interrupted_says_so_and_continues(server, tmp_path):
    source = toy(server)
    server.plan["/notes.txt"] = ["404"]
    with pytest.raises(DataError, match="moved or withdrawn"):
        fetch_set(source, tmp_path, say=lambda _: None, **options())
    fetch_set(source, tmp_path, say=lambda _: None, **options())
    assert server.asked["/toy.zip"] == 1
    (tmp_path / "toy/top/a.txt").unlink()
    (tmp_path / "toy/b.zip.part").write_bytes(b"x")
    assert status(source, tmp_path) == ("partial", "b.zip.part is under way; fetch again to continue")


def test_archives_can_be_removed_without_being_fetched_again(server, tmp_path):
    source = toy(server)
    fetch_set(source, tmp_path, say=lambda _: None, keep_archives=False, **options())
    assert not (tmp_path / "toy/toy.zip").exists()
    fetch_set(source, tmp_path, say=lambda _: None, **options())
    assert server.asked["/toy.zip"] == 1


def test_verify_finds_what_changed(server, tmp_path):
    source = toy(server)
    folder = fetch_set(source, tmp_path, say=lambda _: None, **options())
    (folder / "notes.txt").write_text("Notes")
    (folder / "top/a.txt").unlink()
    problems = verify(source, tmp_path, say=lambda _: None)
    assert len(problems) == 2
    assert "notes.txt has sha256:" in problems[0]
    assert "layout" in problems[1]


def test_two_processes_do_not_fetch_the_same_set(server, tmp_path):
    from filelock import FileLock

    (tmp_path / "toy").mkdir()
    with FileLock(tmp_path / "toy/.lock"), pytest.raises(DataError, match="Another process"):
        fetch_set(toy(server), tmp_path, say=lambda _: None, **options())


def test_a_failed_conversion_is_begun_again(server, tmp_path):
    source = toy(server)
    bad = toy(server, convert=lambda _folder, out: (out / "half").write_text("half") and _fail())
    with pytest.raises(DataError, match="disk of"):
        fetch_set(bad, tmp_path, say=lambda _: None, **options())
    assert not (tmp_path / "toy/converted").exists()
    folder = fetch_set(source, tmp_path, say=lambda _: None, **options())
    assert sorted(p.name for p in (folder / "converted").iterdir()) == ["sum.txt"]


def _fail():
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_set_for_a_person_says_what_to_put_where(server, tmp_path):
    source = toy(server, files=(RemoteFile("toy.zip", unpack="zip"),), by_hand="  save toy.zip in {folder}")
    with pytest.raises(DataError, match=r"by hand:\n  save toy.zip in .*/toy\nMissing are: toy.zip\."):
        fetch_set(source, tmp_path, say=lambda _: None)
    (tmp_path / "toy/toy.zip").write_bytes(server.files["/toy.zip"][0])
    fetch_set(source, tmp_path, say=lambda _: None)
    assert status(source, tmp_path)[0] == "installed"


def test_a_changed_layout_is_said(server, tmp_path):
    source = toy(server, found=lambda _: None, convert=None)
    with pytest.raises(DataError, match="does not have the layout"):
        fetch_set(source, tmp_path, say=lambda _: None, **options())


def test_a_folder_that_cannot_be_written_is_said(server, tmp_path):
    (tmp_path / "root").write_text("a file")
    with pytest.raises(DataError, match="making the folder"):
        fetch_set(toy(server), tmp_path / "root", say=lambda _: None)


def test_broken_notes_are_said(server, tmp_path, quick):
    (tmp_path / "hashes.json").write_text("{")
    with pytest.raises(DataError, match=r"hashes.json cannot be read"):
        fetch_file(tmp_path, remote(server), **quick)


def test_sizes_for_people():
    assert [human(x) for x in (5, 999, 1000, 6.4e9, 7e11, None)] == [
        "5 B",
        "999 B",
        "1.0 kB",
        "6.4 GB",
        "700 GB",
        "size not published",
    ]


def test_every_source_is_complete():
    from equipath.data import SOURCES

    for source in SOURCES.values():
        assert source.licence
        assert source.cite
        assert source.homepage.startswith("https://")
        assert all(f.hash is None or f.hash.split(":")[0] in ("md5", "sha256") for f in source.files)
        by_hand = [f for f in source.files if f.url is None and not f.optional]
        assert not by_hand or "{folder}" in source.by_hand, source.name
    assert fetching.DataError is DataError
