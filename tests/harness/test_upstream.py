"""Fetching the source distribution from an index on the loopback interface."""

import base64
import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness import patching, upstream
from harness.errors import HarnessError

_VERSION = "0.32.0"
_NAME = f"vllm-{_VERSION}.tar.gz"
_PAGE = "/simple/vllm/"
_FILE = f"/files/{_NAME}"


def _pin(folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = folder / "sdist.lock"
    lock.write_text(f"vllm=={_VERSION} --hash=sha256:{hashlib.sha256(content).hexdigest()}\n")
    monkeypatch.setattr(upstream, "LOCK", lock)


def _archive(member: str = "tests/test_x.py") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo(f"vllm-{_VERSION}/{member}")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"A=1\n"))
    return buffer.getvalue()


class Index:
    """A package index; ``pages`` is what it serves, ``asked`` what it was asked for."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked.append((self.path, self.headers["Authorization"]))
                body = index.pages.get(self.path)
                self.send_response(200 if body is not None else 404)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/simple"

    def offer(self, content: bytes) -> None:
        links = [f"../..{_FILE}#sha256=0", "vllm-0.31.0.tar.gz", f"{_FILE}.metadata"]
        self.pages[_PAGE] = "".join(f'<a href="{link}">x</a><br/>' for link in links).encode()
        self.pages[_FILE] = content


@pytest.fixture
def index(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Index]:
    for name in list(os.environ):
        if name.startswith("PIP_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    index = Index()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    content = _archive()
    index.offer(content)
    _pin(tmp_path_factory.mktemp("lock"), content, monkeypatch)
    thread = threading.Thread(target=index.server.serve_forever, args=(0.01,))
    thread.start()
    yield index
    index.server.shutdown()
    thread.join()
    index.server.server_close()


def test_found_downloaded_and_unpacked(
    index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unpacked = upstream.fetch_sdist(_VERSION, tmp_path / "new")
    assert unpacked == tmp_path / "new" / f"vllm-{_VERSION}"
    assert (unpacked / "tests" / "test_x.py").read_text() == "A=1\n"
    assert {path.name for path in unpacked.parent.iterdir()} == {_NAME, unpacked.name}
    assert [path for path, _ in index.asked] == [_PAGE, _FILE]
    assert _NAME in capsys.readouterr().err


def test_already_there_asks_nothing(index: Index, tmp_path: Path) -> None:
    unpacked = upstream.fetch_sdist(_VERSION, tmp_path)
    index.asked.clear()
    assert upstream.fetch_sdist(_VERSION, tmp_path) == unpacked
    (unpacked / "tests" / "test_x.py").unlink()
    (unpacked / "tests").rmdir()
    unpacked.rmdir()
    assert (upstream.fetch_sdist(_VERSION, tmp_path) / "tests").is_dir()
    assert not index.asked


def test_broken_archive_is_downloaded_anew(index: Index, tmp_path: Path) -> None:
    (tmp_path / _NAME).write_bytes(_archive()[:-9])
    assert (upstream.fetch_sdist(_VERSION, tmp_path) / "tests").is_dir()


def test_another_file_is_refused_and_deleted(index: Index, tmp_path: Path) -> None:
    index.offer(_archive("tests/test_other.py"))
    with pytest.raises(HarnessError, match=rf"{_NAME}: .* gave a file with sha256 .* is pinned"):
        upstream.fetch_sdist(_VERSION, tmp_path)
    assert not list(tmp_path.iterdir())


def test_not_on_the_index(index: Index, tmp_path: Path) -> None:
    index.pages[_PAGE] = b'<a href="vllm-0.31.0.tar.gz">vllm-0.31.0.tar.gz</a>'
    with pytest.raises(HarnessError, match=rf"{_NAME} is not among the 1 files on {index.url}"):
        upstream.fetch_sdist(_VERSION, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", [_PAGE, _FILE])
def test_index_answers_with_an_error(index: Index, tmp_path: Path, missing: str) -> None:
    del index.pages[missing]
    with pytest.raises(HarnessError, match=rf"{missing} could not be read: .*404"):
        upstream.fetch_sdist(_VERSION, tmp_path)
    assert not list(tmp_path.iterdir())


def test_unreachable_index(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    with pytest.raises(HarnessError, match=r"could not be read: .*PIP_INDEX_URL") as raised:
        upstream.fetch_sdist(_VERSION, tmp_path)
    assert "secret" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_login_goes_to_the_index_alone(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("//", "//user:se%20cret@"))
    elsewhere = f"http://localhost:{index.port}{_FILE}"
    index.pages[_PAGE] = f'<a href="{elsewhere}">{_NAME}</a>'.encode()
    upstream.fetch_sdist(_VERSION, tmp_path)
    expected = "Basic " + base64.b64encode(b"user:se cret").decode()
    assert index.asked == [(_PAGE, expected), (_FILE, None)]


def test_member_outside_of_the_folder_is_refused(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = _archive("../../../outside")
    index.offer(content)
    _pin(tmp_path, content, monkeypatch)
    with pytest.raises(HarnessError, match="cannot be unpacked"):
        upstream.fetch_sdist(_VERSION, tmp_path / "folder")
    assert {path.name for path in tmp_path.iterdir()} == {"folder", upstream.LOCK.name}
    assert [path.name for path in (tmp_path / "folder").iterdir()] == [_NAME]


def test_version_without_a_pinned_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pin(tmp_path, b"", monkeypatch)
    with pytest.raises(
        HarnessError, match=r"vLLM 0\.31\.0: no hash .* only those of 0\.32\.0: add .*sdist\.lock"
    ):
        upstream.fetch_sdist("0.31.0", tmp_path)
    upstream.LOCK.unlink()
    with pytest.raises(HarnessError, match=r"sdist\.lock cannot be read"):
        upstream.pinned_sha256(_VERSION)


def test_every_series_has_its_source_distribution_pinned(root: Path) -> None:
    for series in (root / patching.PATCHES).glob("*/series"):
        assert len(upstream.pinned_sha256(series.parent.name)) == 64
