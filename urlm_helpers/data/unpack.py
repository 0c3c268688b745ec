"""Unpack a zip or tar.gz archive that may be damaged or hostile."""

import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple, Protocol

DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # a compression that Python does not know
)


class ArchiveError(ValueError):
    """The archive is damaged, or holds a member that must not be unpacked."""


class _Open(Protocol):
    def __call__(self) -> IO[bytes] | None: ...


class _Member(NamedTuple):
    name: str
    kind: str  # "file", "folder", or what it is and should not be
    open: _Open


def unpack(archive: Path, target: Path) -> None:
    """Unpack the files and folders of an archive into a new folder.

    All names are checked before the first byte is written.

    Parameters
    ----------
    archive : Path
        ``.zip``, or else a gzipped tar.
    target : Path
        Made here; it must not exist.

    Raises
    ------
    ArchiveError
        The archive is damaged or cut off; or a member is an absolute path, climbs out
        with ``..``, or is a link or a device. The message names the member.
    """
    try:
        with _members(archive) as members:
            for name, kind, _ in members:
                if why := _refusal(name, kind):
                    raise ArchiveError(
                        f"refused to unpack {archive.name}: its member {name!r} {why}, "
                        "which no official archive has"
                    )
            target.mkdir()
            for name, kind, open_member in members:
                path = target / name
                if kind == "folder":
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                inside = open_member()
                if inside is not None:
                    with inside, path.open("wb") as outside:
                        shutil.copyfileobj(inside, outside, 2**20)
    except DAMAGE as error:
        raise ArchiveError(
            f"the archive {archive.name} is damaged or cut off ({error})"
        ) from error


def _refusal(name: str, kind: str) -> str:
    """Say why a member must not be unpacked; empty when it may be.

    Examples
    --------
    >>> _refusal("ml-100k/u.data", "file")
    ''
    >>> _refusal("../.bashrc", "file")
    "climbs out with '..'"
    >>> _refusal("a/b", "link")
    'is a link'
    """
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or ":" in parts[0]:
        return "is an absolute path"
    if ".." in parts:
        return "climbs out with '..'"
    return "" if kind in ("file", "folder") else f"is a {kind}"


@contextmanager
def _members(archive: Path) -> Iterator[list[_Member]]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            yield [
                _Member(info.filename, _zip_kind(info), partial(packed.open, info))
                for info in packed.infolist()
            ]
    else:
        with gzip.open(archive) as stream, tarfile.open(fileobj=stream) as tar:
            members = tar.getmembers()
            while stream.read(2**20):  # the checksum stands after the tar's own end
                pass
            yield [
                _Member(info.name, _tar_kind(info), partial(tar.extractfile, info))
                for info in members
            ]


def _zip_kind(info: zipfile.ZipInfo) -> str:
    mode = stat.S_IFMT(info.external_attr >> 16)  # 0 when packed on Windows
    if stat.S_ISLNK(mode):
        return "link"
    if info.is_dir():
        return "folder"
    return "file" if mode in (0, stat.S_IFREG) else "device"


def _tar_kind(info: tarfile.TarInfo) -> str:
    if info.issym() or info.islnk():
        return "link"
    if info.isdir():
        return "folder"
    return "file" if info.isfile() else "device"
