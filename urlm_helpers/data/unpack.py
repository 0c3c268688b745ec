"""Unpack a zip, wheel or tar.gz that may be damaged or hostile."""

import errno
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


NAMES = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EINVAL)
"""What writing fails with when it is for the names of the members."""

TIMES = 20
"""How many times its own size an archive may unpack to; text makes 3 to 10."""

HARMLESS = 10_000_000
"""Bytes that any archive may unpack to."""


class ArchiveError(ValueError):
    """The archive is damaged, or holds a member that must not be unpacked."""


def unpack(archive: Path, target: Path) -> None:
    """Unpack the files and folders of an archive into a new folder.

    All names are checked before the first byte is written.

    Parameters
    ----------
    archive : Path
        ``.zip`` or ``.whl``, or else a gzipped tar.
    target : Path
        Made here; it must not exist.

    Raises
    ------
    ArchiveError
        The archive is damaged or cut off; it would unpack to more than `TIMES` times
        its size, beyond what is `HARMLESS`; a member is an absolute path, climbs out
        with ``..``, is encrypted, is a link or a device, or has a name that cannot be
        written. The message names the member.
    """
    room = _room(archive)
    try:
        if archive.suffix in (".zip", ".whl"):
            with zipfile.ZipFile(archive) as packed:
                for info in packed.infolist():
                    _refuse(archive, info.filename, _zip_kind(info))
                    room = _left(archive, room - info.file_size)
                packed.extractall(target)
        else:
            with gzip.open(archive) as stream, tarfile.open(fileobj=stream) as tar:
                for member in tar:
                    _refuse(archive, member.name, _tar_kind(member))
                    room = _left(archive, room - member.size - tarfile.BLOCKSIZE)
                while stream.read(2**20):  # the checksum stands after the tar's own end
                    pass
                # a second lock, which the first releases of Python 3.11 lack
                tar.extraction_filter = getattr(tarfile, "data_filter", None)
                tar.extractall(target)
    except DAMAGE as error:
        raise ArchiveError(
            f"the archive {archive.name} is damaged or cut off ({error})"
        ) from error
    except OSError as error:
        if error.errno not in NAMES:
            raise
        raise ArchiveError(
            f"the archive {archive.name} holds a name that is too long, or twice the "
            f"same one, such as for a file and a folder ({error})"
        ) from error


def _room(archive: Path) -> int:
    """Return the bytes that an archive may unpack to."""
    return max(TIMES * archive.stat().st_size, HARMLESS)


def _left(archive: Path, room: int) -> int:
    """Return the bytes that may still be unpacked, or refuse."""
    if room < 0:
        raise ArchiveError(
            f"refused to unpack {archive.name}: its {archive.stat().st_size / 1e6:,.1f}"
            f" MB would become more than {_room(archive) / 1e6:,.1f} MB, which no "
            "official archive does"
        )
    return room


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
    if kind == "encrypted":
        return "is encrypted"
    return "" if kind in ("file", "folder") else f"is a {kind}"


def _zip_kind(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & 1:
        return "encrypted"
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
