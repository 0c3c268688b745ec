"""Unpack a zip or tar.gz archive that may be damaged or hostile."""

import gzip
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path

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
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as packed:
                for info in packed.infolist():
                    _refuse(archive, info.filename, _zip_kind(info))
                packed.extractall(target)
        else:
            with gzip.open(archive) as stream, tarfile.open(fileobj=stream) as tar:
                for member in tar.getmembers():
                    _refuse(archive, member.name, _tar_kind(member))
                while stream.read(2**20):  # the checksum stands after the tar's own end
                    pass
                # a second lock, which the first releases of Python 3.11 lack
                tar.extraction_filter = getattr(tarfile, "data_filter", None)
                tar.extractall(target)
    except DAMAGE as error:
        raise ArchiveError(
            f"the archive {archive.name} is damaged or cut off ({error})"
        ) from error


def _refuse(archive: Path, name: str, kind: str) -> None:
    if why := _refusal(name, kind):
        raise ArchiveError(
            f"refused to unpack {archive.name}: its member {name!r} {why}, which no "
            "official archive has"
        )


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
