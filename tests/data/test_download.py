"""`fetch` against a local server that behaves badly, and archives that do."""

import errno
import gzip
import hashlib
import io
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pooch
import pytest

from urlm_helpers.data import DownloadError, Source, download, fetch
from urlm_helpers.data.datasets import REGISTRY
from urlm_helpers.data.unpack import ArchiveError, unpack

FILES = {"toy/a.csv": b"x\n1\n", "toy/data/b.csv": os.urandom(200_000)}


def make_zip(files: dict[str, bytes] = FILES) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return memory.getvalue()


def make_tar(
    files: dict[str, bytes] = FILES, *special: tarfile.TarInfo, mode: str = "w:gz"
) -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode=mode) as packed:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
        for info in special:
            packed.addfile(info)
    return memory.getvalue()


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Server:
    """Serves `content` under any path; `cut`, `status` and `wait` make it fail.

    Where `index` is set it is a package registry too, whose pages are that text.
    """

    def __init__(self) -> None:
        self.content = make_zip()
        self.index = ""
        self.cut: int | None = None
        self.status = 200
        self.wait = 0.0
        self.requests = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests += 1
                time.sleep(server.wait)
                page = server.index and not self.path.endswith(".whl")
                body = server.index.encode() if page else server.content
                self.send_response(server.status)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body if page else body[: server.cut])
                self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(
            target=self.http.serve_forever, args=(0.02,), daemon=True
        ).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    def source(self, content: bytes, kind: str = "zip") -> Source:
        self.content = content
        return Source(
            title="Toy data",
            url=f"{self.url}/toy.{kind}",
            folder="toy",
            files=("a.csv", "data/b.csv"),
            license="free for tests",
            checksum=sha256(content),
            size=len(content),
        )


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache" / "inner"
    monkeypatch.setenv("URLM_DATA", str(folder))
    monkeypatch.setenv("NO_PROXY", "*")
    return folder


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def fails(source: Source, cache: Path, *words: str, left: tuple[str, ...] = ()) -> str:
    """Check the message, and that nothing half-written was left."""
    with pytest.raises(DownloadError) as error:
        fetch(source)
    message = str(error.value)
    for word in ("Toy data", source.url, str(source.archive), *words):
        assert word in message
    assert listing(cache) == list(left)
    return message


@pytest.mark.parametrize(
    ("make", "kind"), [(make_zip, "zip"), (make_tar, "tar.gz")], ids=["zip", "tar"]
)
def test_fetch(
    make: Callable[[], bytes],
    kind: str,
    server: Server,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = server.source(make(), kind)
    folder = fetch(source)
    assert folder == cache / "toy"
    assert (folder / "a.csv").read_bytes() == FILES["toy/a.csv"]
    assert (folder / "data/b.csv").read_bytes() == FILES["toy/data/b.csv"]
    assert listing(cache) == ["toy", f"toy.{kind}"]
    printed = capsys.readouterr()
    for word in ("Toy data", "0.2 MB", source.url, "free for tests", str(cache)):
        assert word in printed.out
    assert printed.err == ""  # no progress bar for so little

    assert fetch(source) == folder  # from the cache, in silence
    assert server.requests == 1
    assert capsys.readouterr().out == ""


def test_a_lost_folder_is_unpacked_again_without_the_host(
    server: Server, cache: Path
) -> None:
    source = server.source(make_zip())
    (fetch(source) / "a.csv").unlink()
    with pytest.raises(DownloadError, match=r"toy lacks \['a.csv'\].*Move it away"):
        fetch(source)
    (cache / "toy").rename(cache / "old")
    assert fetch(source) == cache / "toy"
    assert server.requests == 1


def test_archive_without_its_own_folder(server: Server, cache: Path) -> None:
    flat = {name.removeprefix("toy/"): content for name, content in FILES.items()}
    folder = fetch(server.source(make_zip(flat)))
    assert listing(folder) == ["a.csv", "data"]


def test_unpacked_folder_is_used_as_it_is(cache: Path) -> None:
    source = Source("Toy data", "http://127.0.0.1:1/toy.zip", "toy", ("a.csv",), "free")
    (cache / "toy").mkdir(parents=True)
    (cache / "toy" / "a.csv").write_text("mine")
    before = cache.stat().st_mtime_ns, (cache / "toy").stat().st_mtime_ns
    cache.chmod(stat.S_IRUSR | stat.S_IXUSR)  # and nothing has to be written
    assert fetch(source) == cache / "toy"
    cache.chmod(stat.S_IRWXU)
    # root may write anyway: then the folder's own time says that nothing was made
    assert before == (cache.stat().st_mtime_ns, (cache / "toy").stat().st_mtime_ns)
    assert listing(cache) == ["toy"]


def test_progress_bar(
    server: Server,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(download, "LONG_DOWNLOAD", 1000)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    source = server.source(make_zip())
    fetch(source)
    assert "100%" in capsys.readouterr().err
    monkeypatch.setenv("TQDM_DISABLE", "1")
    source.archive.unlink()
    (cache / "toy").rename(cache / "old")
    fetch(source)
    assert capsys.readouterr().err == ""


def test_md5(server: Server, cache: Path) -> None:
    source = server.source(make_tar(), "tar.gz")
    md5 = hashlib.md5(server.content).hexdigest()
    fetch(replace(source, checksum=f"md5:{md5}"))
    assert (cache / "toy" / "a.csv").is_file()


def test_wrong_checksum(server: Server, cache: Path) -> None:
    source = replace(server.source(make_zip()), checksum=sha256(b"other"))
    message = fails(source, cache, "not the official", "Run again")
    assert sha256(b"other").partition(":")[2] in message
    assert sha256(server.content).partition(":")[2] in message
    assert fetch(replace(source, checksum=sha256(server.content))) == cache / "toy"


@pytest.mark.parametrize("checksum", [True, False])
def test_connection_cut_midway(server: Server, cache: Path, checksum: bool) -> None:
    source = server.source(make_zip())
    if not checksum:
        source = replace(source, checksum=None)
    server.cut = len(server.content) // 2
    fails(source, cache, "cut the connection off", "run again")
    server.cut = None
    assert fetch(source) == cache / "toy"


@pytest.mark.parametrize(
    ("status", "words"), [(404, "404 Client Error"), (503, "503 Server Error")]
)
def test_http_error(server: Server, cache: Path, status: int, words: str) -> None:
    source = server.source(make_zip())
    server.status = status
    fails(source, cache, words, "127.0.0.1")


def test_nobody_listens(cache: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    source = Source("Toy data", f"http://127.0.0.1:{port}/t.zip", "t", ("a",), "free")
    message = fails(source, cache, "can't reach", "Connection refused", "connection")
    assert "HTTPConnectionPool" not in message


def test_unknown_host(cache: Path) -> None:
    source = Source("Toy data", "http://no-host.invalid/t.zip", "t", ("a",), "free")
    message = fails(source, cache, "can't reach no-host.invalid")
    assert "HTTPConnectionPool" not in message


def test_timeout(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = server.source(make_zip())
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    server.wait = 1.0
    fails(source, cache, "no answer", "0.2 s")


def test_no_checksum_is_said(
    server: Server, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = replace(server.source(make_zip()), checksum=None, size=None)
    fetch(source)
    assert listing(cache) == ["toy", "toy.zip"]
    assert "no checksum" in capsys.readouterr().out


@pytest.mark.parametrize("keep", [0, 10, 100_000, -1, -12, -30])
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_truncated_archive(server: Server, cache: Path, kind: str, keep: int) -> None:
    """The server sends, without an error, an archive that stops too early."""
    whole = make_zip() if kind == "zip" else make_tar()
    source = replace(server.source(whole[:keep], kind), checksum=None)
    fails(source, cache, "damaged or cut off", "Run again")
    server.content = whole
    assert fetch(source) == cache / "toy"


def test_archive_that_lacks_files(server: Server, cache: Path) -> None:
    source = server.source(make_zip({"toy/a.csv": b"x"}))
    fails(source, cache, "lacks", "data/b.csv", left=("toy.zip",))


def test_archive_put_there_by_hand(server: Server, cache: Path) -> None:
    source = server.source(make_zip())
    cache.mkdir(parents=True)
    source.archive.write_bytes(b"an error page")
    fails(source, cache, "not the official archive", "Delete it", left=("toy.zip",))
    fails(
        replace(source, checksum=None),
        cache,
        "damaged",
        f"Delete {source.archive}",
        left=("toy.zip",),
    )
    source.archive.write_bytes(server.content)
    assert fetch(source) == cache / "toy"
    assert server.requests == 0


HOSTILE = ["../evil.txt", "toy/../../evil.txt", "/evil.txt", "C:/evil.txt"]
HOSTILE += ["..\\evil.txt", "C:evil.txt", "\\evil.txt"]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_path_that_climbs_out(
    server: Server, cache: Path, tmp_path: Path, name: str, kind: str
) -> None:
    files = FILES | {name: b"evil"}
    content = make_zip(files) if kind == "zip" else make_tar(files)
    source = replace(server.source(content, kind), checksum=None)
    fails(source, cache, "refused to unpack", repr(name))
    assert not list(tmp_path.rglob("*evil*"))


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (tarfile.SYMTYPE, "link"),
        (tarfile.LNKTYPE, "link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "device"),
    ],
)
def test_links_and_devices_in_a_tar(
    server: Server, cache: Path, kind: bytes, word: str
) -> None:
    content = make_tar(FILES, special("toy/odd", kind, "/etc/passwd"))
    source = server.source(content, "tar.gz")
    fails(source, cache, "'toy/odd'", f"is a {word}", left=("toy.tar.gz",))


@pytest.mark.parametrize(
    ("mode", "word"), [(stat.S_IFLNK, "link"), (stat.S_IFIFO, "device")]
)
def test_links_and_devices_in_a_zip(tmp_path: Path, mode: int, word: str) -> None:
    path = tmp_path / "odd.zip"
    with zipfile.ZipFile(path, "w") as packed:
        info = zipfile.ZipInfo("toy/odd")
        info.external_attr = (mode | 0o777) << 16
        packed.writestr(info, "/etc/passwd")
    with pytest.raises(ArchiveError, match=f"'toy/odd' is a {word}"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_behind_a_file_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "odd.tar.gz"
    link = special("toy/a.csv", tarfile.SYMTYPE, "/etc/passwd")
    with tarfile.open(path, "w:gz") as packed:
        packed.addfile(link)
        packed.addfile(tarfile.TarInfo("toy/a.csv"))
    with pytest.raises(ArchiveError, match="'toy/a.csv' is a link"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_member(tmp_path: Path) -> None:
    """The list of members is intact, the content of one is not."""
    path = tmp_path / "a.zip"
    content = bytearray(make_zip())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="damaged"):
        unpack(path, tmp_path / "out")
    path = tmp_path / "a.tar.gz"
    tar = bytearray(make_tar(mode="w"))
    path.write_bytes(gzip.compress(tar)[:-8] + bytes(8))
    with pytest.raises(ArchiveError, match="damaged"):
        unpack(path, tmp_path / "out2")


def test_an_encrypted_member(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    content = bytearray(make_zip({"toy/a.csv": b"x"}))
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # of the member, and its entry
        content[content.index(mark) + flags] |= 1
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"'toy/a.csv' is encrypted"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


NAMES = {
    "a file, then a folder": {"toy/a": b"x", "toy/a/b.csv": b"x"},
    "a folder, then a file": {"toy/a/b.csv": b"x", "toy/a": b"x"},
    "300 characters": {"toy/" + "a" * 300: b"x"},
}


@pytest.mark.parametrize("case", NAMES)
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_names_that_cannot_be_written(
    server: Server, cache: Path, kind: str, case: str
) -> None:
    content = make_zip(NAMES[case]) if kind == "zip" else make_tar(NAMES[case])
    source = replace(server.source(content, kind), checksum=None)
    message = fails(source, cache, f"the archive toy.{kind} holds a name", "Run again")
    assert "write to the cache" not in message


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_what_unpacks_to_very_much_is_refused(tmp_path: Path, kind: str) -> None:
    for size, fits in ((9_000_000, True), (11_000_000, False)):
        files = {"toy/a.csv": bytes(size // 2), "toy/b.csv": bytes(size // 2)}
        path = tmp_path / f"{size}.{kind}"
        path.write_bytes(make_zip(files) if kind == "zip" else make_tar(files))
        out = tmp_path / f"{size}"
        if fits:
            unpack(path, out)
            assert (out / "toy/b.csv").stat().st_size == size // 2
        else:
            with pytest.raises(ArchiveError, match=r"its 0\.0 MB .* than 10\.0 MB"):
                unpack(path, out)
            assert not out.exists()


def test_a_large_archive_may_unpack_to_twenty_times_as_much(tmp_path: Path) -> None:
    noise = os.urandom(600_000)
    for zeros, fits in ((11_000_000, True), (12_500_000, False)):
        path = tmp_path / f"{zeros}.zip"
        path.write_bytes(make_zip({"a": noise, "b": bytes(zeros)}))
        if fits:
            unpack(path, tmp_path / "out")
        else:
            with pytest.raises(ArchiveError, match=r"its 0\.6 MB .* than 12\.\d MB"):
                unpack(path, tmp_path / "more")


TAGS = ["py3-none-any", "py2.py3-none-any", "cp39-cp39-win_amd64"]
TAGS += ["cp311-cp311-manylinux2014_x86_64.manylinux_2_28_x86_64"]


@pytest.fixture
def registry(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
    return server


def wheel(
    registry: Server, tags: str = TAGS[0], more: dict[str, bytes] | None = None
) -> Source:
    """Publish a wheel that no Python of today may install."""
    inside = {f"package/{name}": content for name, content in FILES.items()}
    about = b"Metadata-Version: 2.1\nName: toy-data\nVersion: 1.0\n"
    inside |= {"setup.py": b"1/0", "toy_data-1.0.dist-info/METADATA": about}
    inside |= {"toy_data-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\n"}
    source = registry.source(make_zip(inside | (more or {})))
    link = f"{registry.url}/toy_data-1.0-{tags}.whl"
    registry.index = f'<a href="{link}" data-requires-python="&lt;3">toy</a>'
    return replace(source, url=link)


@pytest.mark.parametrize("tags", TAGS)
def test_a_wheel_is_read_as_an_archive(
    registry: Server, cache: Path, capfd: pytest.CaptureFixture[str], tags: str
) -> None:
    source = wheel(registry, tags)
    assert fetch(source) == cache / "toy"
    assert (cache / "toy/data/b.csv").read_bytes() == FILES["toy/data/b.csv"]
    assert listing(cache / "toy") == ["a.csv", "data"]  # and nothing else of it
    assert listing(cache) == ["toy", source.archive.name]
    printed = capfd.readouterr()
    for word in ("Toy data", "0.2 MB", source.url, "free for tests", str(cache)):
        assert word in printed.out
    assert printed.err == ""
    asked = registry.requests
    assert fetch(source) == cache / "toy"
    (cache / "toy").rename(cache / "old")
    assert fetch(source) == cache / "toy"  # from the wheel in the cache
    assert registry.requests == asked
    assert capfd.readouterr().out == ""


def test_a_wheel_put_there_by_hand(registry: Server, cache: Path) -> None:
    source = wheel(registry)
    cache.mkdir(parents=True)
    source.archive.write_bytes(b"an error page")
    left = (source.archive.name,)
    fails(source, cache, "not the official archive", "Delete it", left=left)
    source.archive.write_bytes(registry.content)
    assert fetch(source) == cache / "toy"
    assert registry.requests == 0


def test_another_wheel_than_the_official_one(registry: Server, cache: Path) -> None:
    source = replace(wheel(registry), checksum=sha256(b"other"))
    fails(source, cache, "not the official one", "Run again")


def test_a_hostile_wheel(registry: Server, cache: Path, tmp_path: Path) -> None:
    source = wheel(registry, more={"../evil.txt": b"evil"})
    left = (source.archive.name,)
    fails(source, cache, "refused to unpack", "'../evil.txt'", left=left)
    assert not list(tmp_path.rglob("*evil*"))


def test_a_version_that_the_registry_lacks(registry: Server, cache: Path) -> None:
    source = wheel(registry)
    registry.index = registry.index.replace("-1.0-", "-2.0-")
    words = "registry answered No matching distribution found for toy_data==1.0"
    fails(source, cache, words, "try later")


@pytest.mark.parametrize("status", [404, 503])
def test_a_registry_in_trouble(registry: Server, cache: Path, status: int) -> None:
    source = wheel(registry)
    registry.status = status
    fails(source, cache, "the package registry", "try later")


def test_no_registry_within_reach(
    registry: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")
    words = "can't reach the package registry ([Errno"
    message = fails(wheel(registry), cache, words, "refused)", "Check the connection")
    assert "urllib3" not in message


def test_a_registry_that_cuts_off(registry: Server, cache: Path) -> None:
    source = wheel(registry)
    registry.cut = 1000
    fails(source, cache, "the package registry", "run again")


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
@pytest.mark.parametrize(
    ("program", "words"),
    [
        (f'exec {sys.executable} -S -E "$@"', ["no pip", "python -m ensurepip"]),
        ("echo '[Errno 28] No space left on device' >&2; exit 1", ["is full"]),
    ],
    ids=["no pip", "disk full"],
)
def test_pip_that_does_not_run(
    registry: Server,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    words: list[str],
) -> None:
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!/bin/sh\n{program}\n")
    stand_in.chmod(stat.S_IRWXU)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    fails(wheel(registry), cache, *words)


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_disk_full_while_downloading(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = server.source(make_zip())

    class Full(pooch.HTTPDownloader):  # type: ignore[misc, unused-ignore]
        def __call__(self, url: str, output_file: str, *_: Any, **__: Any) -> None:
            Path(output_file).write_bytes(b"half")
            full()

    with monkeypatch.context() as patch:
        patch.setattr(pooch, "HTTPDownloader", Full)
        fails(source, cache, "the disk", "is full", "Free some space", "URLM_DATA")
    assert fetch(source) == cache / "toy"


def test_disk_full_while_unpacking(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = server.source(make_zip())
    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfileobj", full)
        fails(source, cache, "is full", left=("toy.zip",))
    assert fetch(source) == cache / "toy"
    assert server.requests == 1  # what was downloaded and checked is not lost


def test_cache_that_cannot_be_made(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("URLM_DATA", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match="can't write to the cache.*URLM_DATA"):
        fetch(server.source(make_zip()))


def test_interrupted_run_leaves_nothing(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    source = server.source(make_zip())
    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfileobj", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch(source)
    assert listing(cache) == ["toy.zip"]


FETCH = """
import sys
from urlm_helpers.data import Source, fetch
url, checksum = sys.argv[1:]
print(fetch(Source("Toy data", url, "toy", ("a.csv", "data/b.csv"), "free", checksum)))
"""


def start(source: Source) -> "subprocess.Popen[str]":
    root = str(Path(download.__file__).parents[2])
    command = [sys.executable, "-c", FETCH, source.url, str(source.checksum)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": root, "TQDM_DISABLE": "1"},
    )


def test_killed_run_is_cleaned_up_by_the_next(server: Server, cache: Path) -> None:
    source = server.source(make_zip())
    server.wait = 30.0
    process = start(source)
    deadline = time.monotonic() + 60
    while not server.requests and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert [name.startswith(download.PREFIX) for name in listing(cache)] == [True]
    server.wait = 0.0
    fetch(source)
    assert listing(cache) == ["toy", "toy.zip"]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize("make", [lambda server: server.source(make_zip()), wheel])
def test_a_run_that_is_told_to_end_leaves_nothing(
    registry: Server,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Server], Source],
) -> None:
    server = registry
    elsewhere = tmp_path / "elsewhere"  # pip makes folders of its own
    elsewhere.mkdir()
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    source = make(server)
    server.wait = 30.0
    process = start(source)
    deadline = time.monotonic() + 60
    while not server.requests and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [name.startswith(download.PREFIX) for name in listing(cache)] == [True]
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM  # and it ends as it was told
    assert listing(cache) == listing(elsewhere) == []


def test_a_handler_of_ones_own_stays(server: Server, cache: Path) -> None:
    def own(*_: Any) -> None:
        pass

    for handler in (own, signal.SIG_IGN, signal.SIG_DFL):
        before = signal.signal(signal.SIGTERM, handler)
        try:
            with download._ends_tidily():
                inside = signal.getsignal(signal.SIGTERM)
            assert (inside is handler) == (handler is not signal.SIG_DFL)
            assert signal.getsignal(signal.SIGTERM) is handler
        finally:
            signal.signal(signal.SIGTERM, before)
    with ThreadPoolExecutor(1) as pool:  # where Python allows no handlers
        assert pool.submit(fetch, server.source(make_zip())).result() == cache / "toy"


EVERY = [
    pytest.param(entry.source, name, id=f"{dataset}: {name}")
    for dataset, entry in REGISTRY.items()
    if entry.source
    for name in entry.source.files
]


@pytest.mark.parametrize(("source", "lost"), EVERY)
def test_any_file_that_is_missing_is_noticed(
    source: Source, lost: str, cache: Path
) -> None:
    for name in source.files:
        if name != lost:
            path = cache / source.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    message = f"{source.folder} lacks [{lost!r}]."
    with pytest.raises(DownloadError, match=re.escape(message)):
        fetch(source)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no folder locks")
def test_two_processes_download_once(server: Server, cache: Path) -> None:
    source = server.source(make_zip())
    server.wait = 0.5
    processes = [start(source) for _ in range(3)]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert out.splitlines()[-1] == str(cache / "toy"), err
        assert process.returncode == 0
        assert err == ""  # in a notebook, anything there looks like a failure
    assert server.requests == 1
    assert listing(cache) == ["toy", "toy.zip"]


def test_without_locks_the_slower_one_uses_the_winners_folder(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run finishes, and one is under way, while this one unpacks."""
    source = server.source(make_zip())
    monkeypatch.setattr("fcntl.flock", lambda *_: full())
    cache.mkdir(parents=True)
    running, stale = cache / ".urlm-running", cache / ".urlm-stale"
    for folder in (running, stale):
        folder.mkdir()
    os.utime(stale, (0, 0))
    rename = Path.rename

    def slow(self: Path, target: Path) -> Path:
        for name in source.files:
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("the winner's")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", slow)
    assert (fetch(source) / "a.csv").read_text() == "the winner's"
    assert listing(cache) == [".urlm-running", "toy", "toy.zip"]


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("URLM_DATA", "~/data")
    assert download.cache_folder() == Path.home() / "data"
    monkeypatch.setenv("URLM_DATA", "")
    assert download.cache_folder() == Path(pooch.os_cache("urlm"))


def test_a_folder_marked_as_read_only_is_only_read(
    server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = tmp_path / "system"
    monkeypatch.setattr(pooch, "os_cache", lambda _: system)
    (cache / "old").mkdir(parents=True)
    source = server.source(make_zip())
    cache.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert fetch(source) == system / "toy"
        assert listing(cache) == ["old"]
        assert download.cache_folder("old") == cache
    finally:
        cache.chmod(stat.S_IRWXU)
    assert download.cache_folder("toy") == cache  # writable again
