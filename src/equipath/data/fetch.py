"""How a public data set gets onto this machine: said, checked, fetched, verified, unpacked, converted, each
step once.

Every step leaves either its whole result or nothing but a part that the next run continues: files arrive as
``NAME.part`` (continued with an HTTP range request), are verified by pooch and only then renamed; archives
are unpacked beside their place and moved there whole. A failure is one :class:`DataError` that says what
happened and what to do. Published hashes are used where the publisher gives one; for a file without one the
SHA-256 of the first download is written to ``hashes.json`` beside the data, and every later copy is held
against it.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import json
import logging
import lzma
import os
import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from equipath.data.items import DataError, data_root

__all__ = ["DataError", "RemoteFile", "Source", "fetch", "human", "status", "verify"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class RemoteFile:
    """One file of a data set.

    Args:
        name: path below the set's folder.
        url: address; None where a person has to download the file (form, account).
        size: bytes, as published; None where not known.
        hash: ``"md5:…"`` or ``"sha256:…"``; None where no published one could be found: recorded on first
            fetch.
        unpack: ``zip``, ``tar``, ``gz`` or None.
        into: folder (or for ``gz`` the file) the contents go to, below the set's folder.
        origin: who published the hash, in words.
        optional: the set can be read without it.
    """

    name: str
    url: str | None = None
    size: int | None = None
    hash: str | None = None
    unpack: str | None = None
    into: str = ""
    origin: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Source:
    """What is known of a public data set before anything is fetched.

    Args:
        folder: name of its folder below the data root.
        download, disk: bytes to fetch, and bytes needed on disk in the end, about.
        access: ``open``, or what a person has to do.
        by_hand: instructions, shown when a file without address is missing. ``{folder}`` is replaced by the
            set's folder.
        more_files: for sets whose list of files is itself fetched: from the folder, the wanted names and the
            fetching function.
        convert: makes the fast form out of the unpacked one, in a new empty folder that is given; moved to
            ``converted/`` when whole.
        found: looks at the set's folder and says in words what is there, None if nothing can be read.
    """

    name: str
    title: str
    folder: str
    homepage: str
    licence: str
    cite: str
    tasks: tuple[str, ...]
    files: tuple[RemoteFile, ...]
    found: Callable[[Path], str | None]
    download: int = 0
    disk: int = 0
    access: str = "open"
    by_hand: str = ""
    more_files: Callable[[Path, Sequence[str], Callable[[RemoteFile], Path]], list[RemoteFile]] | None = None
    convert: Callable[[Path, Path], None] | None = None
    notes: tuple[str, ...] = field(default=())


def human(size: float | None) -> str:
    """Bytes for people: ``6.4 GB``; decimal prefixes, as the publishers use."""
    if size is None:
        return "size not published"
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


# --------------------------------------------------------------------------------------------- one file


class _Resuming:
    """A pooch downloader that writes ``NAME.part``, continues it with a range request and gives it to pooch
    when it is whole.
    """

    def __init__(
        self, part: Path, file: RemoteFile, home: str, bar: bool, tries: int, pause: float, timeout: float
    ) -> None:
        self.part, self.file, self.home = part, file, home
        self.bar, self.tries, self.pause, self.timeout = bar, tries, pause, timeout
        self.note = part.with_name(part.name + ".json")

    def __call__(self, url: str, output_file: str, _pooch: Any, check_only: bool = False) -> None:
        import requests

        failure = ""
        for attempt in range(self.tries):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                self._once(url, requests)
                os.replace(self.part, output_file)
                self.note.unlink(missing_ok=True)
                return
            except requests.exceptions.RequestException as error:
                failure = _network_words(error)
            except _TryAgain as error:
                failure = str(error)
        have = self.part.stat().st_size if self.part.exists() else 0
        kept = f" {human(have)} are kept in {self.part.name}." if have else ""
        raise DataError(
            f"{self.file.name}: {failure}, {self.tries} times in a row.{kept} Run the same command again to "
            "continue."
        )

    def _once(self, url: str, requests: Any) -> None:
        have = self.part.stat().st_size if self.part.exists() else 0
        known = self._remembered(url) if have else {}
        if have and not known:
            self.part.unlink()  # nobody knows what these bytes are
            have = 0
        headers = {"Accept-Encoding": "identity"}  # ranges count the bytes as they are sent
        if have:
            headers["Range"] = f"bytes={have}-"
            if known.get("tag"):
                headers["If-Range"] = known["tag"]
        with requests.get(url, headers=headers, stream=True, timeout=self.timeout) as answer:
            code = answer.status_code
            if code == 416:
                # The part is as long as the file or longer; its hash decides. Without a known length start
                # over.
                total = _after_slash(answer.headers.get("Content-Range", ""))
                if total is not None and total == have:
                    return
                self.part.unlink(missing_ok=True)
                raise _TryAgain("the kept part did not fit the file any more")
            self._refuse(code, url, answer)
            if have and code == 206:
                first, total = _range_of(answer.headers.get("Content-Range", ""))
                if first != have:
                    self.part.unlink()
                    raise _TryAgain(f"the server continued at byte {first} where {have} was asked for")
            else:
                # The server knows no ranges, or the file behind the address has changed since: from the
                # start.
                have = 0
                length = answer.headers.get("Content-Length")
                total = int(length) if length and length.isdigit() else None
            if self.file.size is not None and total is not None and total != self.file.size:
                raise DataError(
                    f"{self.file.name}: the server offers {total} bytes, published are {self.file.size}; "
                    f"the file was replaced or the address leads elsewhere. Look at {self.home}; nothing "
                    "was changed."
                )
            self._write(answer, url, have, total)

    def _write(self, answer: Any, url: str, have: int, total: int | None) -> None:
        tag = answer.headers.get("ETag") or ""
        tag = "" if tag.startswith("W/") else tag or answer.headers.get("Last-Modified", "")
        total = total or self.file.size
        free = shutil.disk_usage(self.part.parent).free
        if total is not None and total - have > free:
            raise DataError(
                f"{self.file.name} needs {human(total - have)} more in {self.part.parent}, {human(free)} "
                "are free; "
                "make room, or set EQUIPATH_DATA to a folder on a larger disk."
            )
        try:
            self.note.write_text(json.dumps({"url": url, "tag": tag}))
            with (
                self.part.open("ab" if have else "wb") as out,
                _progress(self.file.name, have, total, self.bar) as advance,
            ):
                for block in answer.iter_content(1 << 15):
                    out.write(block)
                    advance(len(block))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                got = self.part.stat().st_size if self.part.exists() else 0
                raise DataError(
                    f"The disk of {self.part.parent} is full after {human(got)} of {human(total)} of "
                    f"{self.file.name}; "
                    "make room and run the same command again: what is there is kept."
                ) from error
            raise
        got = self.part.stat().st_size
        if total is not None and got < total:
            raise _TryAgain(f"the connection ended after {got} of {total} bytes")
        if total is not None and got > total:
            self.part.unlink()
            raise _TryAgain(f"the server sent {got} bytes where {total} were announced")

    def _refuse(self, code: int, url: str, answer: Any) -> None:
        if code in (404, 410):
            raise DataError(
                f"{self.file.name} is no longer at {url} (HTTP {code}): it was moved or withdrawn. Look at "
                f"{self.home} for its new place; "
                f"a file downloaded by hand can be put at {self.part.with_name(Path(self.file.name).name)}."
            )
        if code in (401, 403):
            raise DataError(
                f"{url} refuses access (HTTP {code}): it wants a form or an account first. Do what "
                f"{self.home} asks and put the file at "
                f"{self.part.with_name(Path(self.file.name).name)}."
            )
        if code in (408, 425, 429) or code >= 500:
            raise _TryAgain(f"the server is busy or broken (HTTP {code})")
        if code >= 400 or code not in (200, 206):
            raise DataError(f"{url} answered HTTP {code}, which is not a file; look at {self.home}.")
        kind = answer.headers.get("Content-Type", "").split(";")[0].strip()
        if kind == "text/html" and not self.file.name.endswith((".html", ".htm")):
            raise DataError(
                f"{url} (in the end {answer.url}) answers with a web page in place of {self.file.name}: the "
                "file was moved, or a form "
                f"has to be filled in. Look at {self.home}."
            )

    def _remembered(self, url: str) -> dict[str, str]:
        try:
            note = json.loads(self.note.read_text())
        except (OSError, ValueError):
            return {}
        return note if isinstance(note, dict) and note.get("url") == url else {}


class _TryAgain(Exception):
    """A passing fault: the part is kept and the request repeated."""


def _after_slash(text: str) -> int | None:
    tail = text.rsplit("/", 1)[-1]
    return int(tail) if tail.isdigit() else None


def _range_of(text: str) -> tuple[int, int | None]:
    """First byte and total length in ``bytes 100-199/200``; (-1, None) where the header is missing or odd."""
    first = text.removeprefix("bytes").strip().split("-")[0]
    return (int(first) if first.isdigit() else -1), _after_slash(text)


def _network_words(error: Exception) -> str:
    import requests

    if isinstance(error, requests.exceptions.ReadTimeout):
        return "the server stopped sending"
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "the server did not answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.exceptions.TooManyRedirects):
        return "the address leads in circles"
    if isinstance(error, requests.exceptions.ConnectionError):
        text = str(error)
        if "IncompleteRead" in text or "Connection broken" in text:
            return "the connection broke off"
        return "the server cannot be reached (no network, or its address is gone)"
    return f"the request failed ({type(error).__name__})"


@contextlib.contextmanager
def _progress(name: str, have: int, total: int | None, show: bool) -> Iterator[Callable[[int], None]]:
    try:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
    except ImportError:
        show = False
    if not show:
        yield lambda _size: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bars:
        task = bars.add_task(name, total=total, completed=have)
        yield lambda size: bars.advance(task, size)


def digest(path: Path, algorithm: str) -> str:
    """Hash of a file, read in blocks."""
    value = hashlib.new(algorithm)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            value.update(block)
    return value.hexdigest()


class _Hashes:
    """``hashes.json``: what was verified (size and time of change, so that 6 GB are not hashed at each start)
    and what was recorded first.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "hashes.json"
        try:
            self.known: dict[str, dict[str, Any]] = json.loads(self.path.read_text())
        except FileNotFoundError:
            self.known = {}
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.path} cannot be read ({error}); delete it: the hashes are then taken anew."
            ) from error

    def expected(self, file: RemoteFile) -> str | None:
        return file.hash or self.known.get(file.name, {}).get("hash")

    def fresh(self, file: RemoteFile, path: Path) -> bool:
        entry, stat = self.known.get(file.name), path.stat()
        same = entry is not None and entry["size"] == stat.st_size and entry["changed"] == stat.st_mtime_ns
        return bool(same and entry is not None and (file.hash is None or entry["hash"] == file.hash))

    def record(self, file: RemoteFile, path: Path, value: str) -> None:
        stat = path.stat()
        self.known[file.name] = {
            "hash": value,
            "size": stat.st_size,
            "changed": stat.st_mtime_ns,
            "from": file.origin or "the publisher" if file.hash else "recorded at the first fetch",
        }
        _write_json(self.path, self.known)


def _write_json(path: Path, value: Any) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(json.dumps(value, indent=1, sort_keys=True))
    temporary.replace(path)


def _check(file: RemoteFile, path: Path, hashes: _Hashes) -> str | None:
    """None if the file is what it should be, else what is wrong with it."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"has {size} bytes where {file.size} are published"
    expected = hashes.expected(file)
    algorithm = expected.split(":")[0] if expected else "sha256"
    value = f"{algorithm}:{digest(path, algorithm)}"
    if expected and value != expected:
        whose = "published" if file.hash else "recorded at the first fetch"
        return f"has {value} where {expected} was {whose}"
    hashes.record(file, path, value)
    return None


def fetch_file(
    folder: Path,
    file: RemoteFile,
    *,
    home: str = "",
    say: Say = print,
    bar: bool = False,
    tries: int = 4,
    pause: float = 1.0,
    timeout: float = 60.0,
) -> Path:
    """Have ``file`` in ``folder``, whole and verified; a file that is there and right is left alone.

    Raises:
        DataError: the file cannot be had, or is not what was published. A file put there by hand is never
            deleted.
    """
    import pooch
    from pooch.utils import get_logger

    target = folder / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    hashes = _Hashes(folder)
    if target.exists():
        if hashes.fresh(file, target):
            return target
        wrong = _check(file, target, hashes)
        if wrong is None:
            return target
        raise DataError(
            f"{target} {wrong}: it is damaged or another version. Delete it (or move it away) and run this "
            "again."
        )
    if file.url is None:
        raise DataError(f"{target} is missing and has to be put there by hand; see {home}.")
    expected = hashes.expected(file)
    say(f"{file.name}: {human(file.size)} from {file.url}")
    part = target.with_name(target.name + ".part")
    get_logger().setLevel(logging.WARNING)  # pooch's own notes repeat what is said here
    try:
        pooch.retrieve(
            file.url,
            known_hash=expected,
            fname=target.name,
            path=target.parent,
            downloader=_Resuming(part, file, home, bar, tries, pause, timeout),
        )
    except ValueError as error:
        raise DataError(
            f"{file.name} arrived whole but is not what was "
            f"{'published' if file.hash else 'recorded at the first fetch'} ({expected}): "
            "it was damaged on the way, or the publisher replaced it. The copy was thrown away; try again, "
            f"and if it stays so, see {home}."
        ) from error
    except OSError as error:
        raise _disk(error, target.parent, file.name) from error
    if expected is None:
        expected = f"sha256:{digest(target, 'sha256')}"
        say(
            f"{file.name}: no hash is published; recorded {expected} in hashes.json, to be held against "
            "later copies."
        )
    hashes.record(file, target, expected)
    return target


def _disk(error: OSError, folder: Path, what: str) -> DataError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(
            f"The disk of {folder} is full ({what}); make room and run the same command again: what is "
            "whole is kept."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return DataError(
            f"{folder} cannot be written to ({what}); give another folder with --root or EQUIPATH_DATA."
        )
    return DataError(f"{what}: {error}; run the same command again.")


# --------------------------------------------------------------------------------------------- unpacking


def unpack(folder: Path, file: RemoteFile, *, say: Say = print) -> None:
    """Unpack an archive whole or not at all; what is already unpacked from this very archive is left alone.

    Raises:
        DataError: the archive is damaged, holds unsafe paths, or the disk is full.
    """
    if file.unpack is None:
        return
    archive = folder / file.name
    stamp = folder / ".unpacked.json"
    try:
        done = json.loads(stamp.read_text()) if stamp.exists() else {}
    except ValueError:
        done = {}
    mark = [archive.stat().st_size, archive.stat().st_mtime_ns]
    if done.get(file.name) == mark:
        return
    scratch = folder / f".unpacking-{Path(file.name).name}"
    shutil.rmtree(scratch, ignore_errors=True)  # what an interrupted run left half done
    say(f"{file.name}: unpacking")
    try:
        scratch.mkdir(parents=True)
        if file.unpack == "zip":
            with zipfile.ZipFile(archive) as bundle:
                _check_names(archive, bundle.namelist())
                _check_room(folder, sum(i.file_size for i in bundle.infolist()), file.name)
                bundle.extractall(scratch)
            shutil.rmtree(scratch / "__MACOSX", ignore_errors=True)
        elif file.unpack == "tar":
            with tarfile.open(archive) as bundle_:
                bundle_.extractall(scratch, filter="data")
        elif file.unpack == "gz":
            with gzip.open(archive) as source, (scratch / Path(file.into).name).open("wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
        else:
            raise ValueError(f"got unpack={file.unpack!r}; known are zip, tar, gz.")
        where = folder / (file.into if file.unpack != "gz" else str(Path(file.into).parent))
        where.mkdir(parents=True, exist_ok=True)
        _merge(scratch, where)
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        gzip.BadGzipFile,
        EOFError,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        raise DataError(
            f"{archive} is damaged or not whole ({error}); delete it and run this again. Nothing was "
            "unpacked from it."
        ) from error
    except OSError as error:
        raise _disk(error, folder, f"unpacking {file.name}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    done[file.name] = mark
    _write_json(stamp, done)


def _check_names(archive: Path, names: Sequence[str]) -> None:
    for name in names:
        path = Path(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise DataError(
                f"{archive} holds the unsafe path {name!r}; it is not the published archive. Nothing was "
                "unpacked."
            )


def _check_room(folder: Path, needed: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{what} needs {human(needed)} in {folder}, {human(free)} are free; make room and run this again."
        )


def _merge(source: Path, target: Path) -> None:
    """Move everything below ``source`` to ``target``.

    Files are renamed one by one, so none is ever half written.
    """
    for path in sorted(source.rglob("*")):
        there = target / path.relative_to(source)
        if path.is_dir():
            there.mkdir(parents=True, exist_ok=True)
        else:
            there.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, there)


# --------------------------------------------------------------------------------------------- a whole set


def describe(source: Source, folder: Path) -> str:
    """What a person should know before anything is fetched: source, licence, size, place, and how to cite."""
    lines = [
        f"{source.title}",
        f"  official source  {source.homepage}",
        f"  licence          {source.licence}",
        f"  access           {source.access}",
        f"  size             about {human(source.download)} to fetch, {human(source.disk)} on disk",
        f"  folder           {folder}",
        f"  cite             {source.cite}",
    ]
    return "\n".join([*lines, *(f"  note             {note}" for note in source.notes)])


def fetch(
    source: Source,
    root: str | os.PathLike[str] | None = None,
    *,
    only: Sequence[str] = (),
    say: Say = print,
    bar: bool = False,
    keep_archives: bool = True,
    agreed: bool = True,
    **options: Any,
) -> Path:
    """Fetch, verify, unpack and convert a public data set; what is done already is not done again.

    Args:
        only: names of single items where a set is fetched in pieces (Camelyon16: ``tumor_001``).
        agreed: False says what would be fetched and stops (the command line asks first).
        options: ``tries``, ``pause``, ``timeout`` of :func:`fetch_file`.

    Returns:
        The folder of the set.

    Raises:
        DataError: in one sentence, what went wrong and what to do; running again continues.
    """
    from filelock import FileLock, Timeout

    folder = data_root(root) / source.folder
    say(describe(source, folder))
    if not agreed:
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _disk(error, folder, "making the folder") from error
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DataError(
            f"Another process is fetching {source.name} into {folder}; wait until it is done."
        ) from error
    except OSError as error:
        raise _disk(error, folder, "locking the folder") from error
    try:
        _fetch_locked(source, folder, only, say, bar, keep_archives, options)
    finally:
        lock.release()
    return folder


def _by_hand(source: Source, folder: Path, missing: Sequence[str]) -> str:
    lines = [f"{source.title} has to be downloaded by hand:", source.by_hand.format(folder=folder)]
    if missing:
        lines.append(f"Missing are: {', '.join(missing)}.")
    return "\n".join([*lines, "Then run this again: it verifies, unpacks and converts."])


def _fetch_locked(
    source: Source,
    folder: Path,
    only: Sequence[str],
    say: Say,
    bar: bool,
    keep_archives: bool,
    options: dict[str, Any],
) -> None:
    def one(file: RemoteFile) -> Path:
        return fetch_file(folder, file, home=source.homepage, say=say, bar=bar, **options)

    files = list(source.files)
    if source.more_files:
        files += source.more_files(folder, only, one)
    elif only:
        raise DataError(f"{source.name} is fetched as a whole; leave out {', '.join(only)}.")
    stamp = folder / ".unpacked.json"
    unpacked = json.loads(stamp.read_text()) if stamp.exists() else {}
    missing = [
        f for f in files if f.url is None and not (folder / f.name).exists() and f.name not in unpacked
    ]
    workable = [f for f in files if f not in missing]
    needed_by_hand = [f.name for f in missing if not f.optional]
    if source.by_hand and source.found(folder) is None and (needed_by_hand or not workable):
        raise DataError(_by_hand(source, folder, needed_by_hand))
    files = workable
    todo = [f for f in files if not (folder / f.name).exists() and f.name not in unpacked]
    needed = sum((f.size or 0) for f in todo)
    needed -= sum(p.stat().st_size for f in todo if (p := folder / f"{f.name}.part").exists())
    _check_room(folder, needed, source.name)
    for file in files:
        if not (folder / file.name).exists() and file.name in unpacked:
            continue  # its archive was removed after unpacking, as asked
        one(file)
        unpack(folder, file, say=say)
        if file.unpack and not keep_archives:
            (folder / file.name).unlink()
    if source.convert and not (folder / "converted").exists():
        scratch = folder / ".converting"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        say(f"{source.name}: converting once")
        try:
            source.convert(folder, scratch)
        except OSError as error:
            raise _disk(error, folder, "converting") from error
        if any(scratch.iterdir()):
            scratch.rename(folder / "converted")
        else:
            scratch.rmdir()
    what = source.found(folder)
    if what is None and source.by_hand:
        raise DataError(_by_hand(source, folder, []))
    if what is None:
        raise DataError(
            f"{source.name}: everything was fetched, but {folder} does not have the layout the reader knows. "
            f"The publisher may have changed it; see {source.homepage}."
        )
    say(f"{source.name}: ready ({what})")


def status(source: Source, root: str | os.PathLike[str] | None = None) -> tuple[str, str]:
    """Return one of ``installed``, ``partial``, ``damaged``, ``missing`` and, in words, what is there."""
    folder = data_root(root) / source.folder
    if not folder.is_dir():
        return "missing", ""
    try:
        what = source.found(folder)
    except (DataError, OSError, ValueError) as error:
        return "damaged", str(error)
    if what is not None:
        return "installed", what
    parts = sorted(p.name for p in folder.rglob("*.part"))
    if parts:
        return "partial", f"{parts[0]} is under way; fetch again to continue"
    return ("partial", "not whole; fetch again to continue") if any(folder.iterdir()) else ("missing", "")


def verify(source: Source, root: str | os.PathLike[str] | None = None, say: Say = print) -> list[str]:
    """Hash every file that is there anew and open the set; return what is wrong, one sentence each."""
    folder = data_root(root) / source.folder
    if not folder.is_dir():
        return [f"{source.name} is not in {folder.parent}; fetch it first."]
    problems: list[str] = []
    hashes = _Hashes(folder)
    named = {file.name: file for file in source.files}
    for name in hashes.known:
        named.setdefault(name, RemoteFile(name))
    for name, file in sorted(named.items()):
        path = folder / name
        if not path.exists():
            continue
        known = replace(file, hash=hashes.expected(file))
        if known.hash is None:
            say(f"{name}: no hash is published and none was recorded")
            continue
        algorithm = known.hash.split(":")[0]
        value = f"{algorithm}:{digest(path, algorithm)}"
        if value != known.hash:
            problems.append(f"{path} has {value} where {known.hash} is expected; delete it and fetch again.")
        else:
            say(f"{name}: right")
    what = source.found(folder)
    if what is None:
        problems.append(f"{folder} does not have a layout the reader of {source.name} knows; fetch it again.")
    else:
        say(f"{source.name}: {what}")
    return problems
