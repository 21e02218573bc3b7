"""Finding and downloading; what is downloaded comes from the loopback interface."""

import contextlib
import hashlib
import http.client
import os
import socket
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from workloads import corpus, datasets
from workloads.datasets import Card, DatasetMissing
from workloads.file import WorkloadError

_CONTENT = b"real data\n" * 100_000
_SHA256 = hashlib.sha256(_CONTENT).hexdigest()
_GET = "Ask the owner for toy/toy.txt."
_CARD = {
    "title": "Toy",
    "home": "https://example.org/toy",
    "licence": "MIT",
    "real": "Nothing.",
    "made": "All.",
    "get": _GET,
    "cite": "Nobody, 2026",
}


class Home:
    """A server; ``pages`` is what it serves, ``asked`` what it was asked for."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.asked: list[str] = []
        self.cut_short = False
        home = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                home.asked.append(self.path)
                body = home.pages.get(self.path)
                target = home.redirects.get(self.path)
                self.send_response(302 if target else 404 if body is None else 200)
                if target:
                    self.send_header("Location", target)
                body = body or b""
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                # The client that is interrupted does not stay to the end.
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body[: len(body) // 2] if home.cut_short else body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)

    def without_tls(self: urllib.request.HTTPSHandler, request: urllib.request.Request) -> Any:
        return self.do_open(http.client.HTTPConnection, request)

    # Below the layer where the scheme matters, so that all the rest is as it is in use.
    monkeypatch.setattr(urllib.request.HTTPSHandler, "https_open", without_tls)
    home = Home()
    thread = threading.Thread(target=home.server.serve_forever, args=(0.01,))
    thread.start()
    yield home
    home.server.shutdown()
    thread.join()
    home.server.server_close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(datasets.FOLDER_VARIABLE, str(tmp_path / "data"))
    return tmp_path / "data"


def _file(**change: Any) -> dict[str, Any]:
    return {"path": "toy/toy.txt", "url": None, "sha256": _SHA256} | change


def _use(monkeypatch: pytest.MonkeyPatch, **change: Any) -> None:
    cards = {"toy": Card.model_validate(_CARD | change)}
    monkeypatch.setattr(datasets, "cards", lambda: cards)


def _offer(monkeypatch: pytest.MonkeyPatch, home: Home, content: bytes = _CONTENT) -> None:
    home.pages["/toy.txt"] = content
    _use(monkeypatch, files=[_file(url=f"https://{home.address}/toy.txt")])


def _put(folder: Path, content: bytes = _CONTENT) -> Path:
    (folder / "toy").mkdir(parents=True)
    (folder / "toy" / "toy.txt").write_bytes(content)
    return folder / "toy" / "toy.txt"


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_cards_say_how_to_get_each_file_by_hand() -> None:
    assert set(datasets.cards()) == {
        "qmsum",
        "mooncake",
        "bailian-a",
        "sharegpt",
        "quality",
        "wikiqa",
    }
    for name, card in datasets.cards().items():
        for file in card.files:
            assert file.path.startswith(f"{name}/")
            assert file.path in card.get
            assert card.home in card.get
        if card.package:
            assert card.package in card.get


def test_each_checksum_has_a_comment_above_that_says_where_it_is_from() -> None:
    lines = Path(datasets.__file__).with_suffix(".yaml").read_text().splitlines()
    checked = [i for i, line in enumerate(lines) if line.strip().startswith("sha256: ")]
    assert len(checked) == sum(len(card.files) for card in datasets.cards().values())
    for i in checked:
        assert lines[i].endswith("null") or lines[i - 1].strip().startswith("#"), lines[i]


def test_the_package_is_the_pinned_one(root: Path) -> None:
    package = datasets.cards()["sharegpt"].package
    assert package in (root / "env" / "base.in").read_text().splitlines()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"files": [_file()], "package": "toy==1.0"},
        {"files": [_file()], "licence": ""},
        {"files": [_file()], "license": "MIT"},
        {"files": [_file(path="../toy.txt")]},
        {"files": [_file(url="http://example.org/toy.txt")]},
        {"files": [_file(sha256=_SHA256[1:])]},
        {"package": "toy"},
    ],
    ids=str,
)
def test_a_card_that_cannot_be_used_is_refused(change: dict[str, Any]) -> None:
    Card.model_validate(_CARD | {"files": [_file()]})
    with pytest.raises(ValidationError):
        Card.model_validate(_CARD | change)


def test_the_data_folder_is_in_the_project_unless_it_is_named(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert datasets.data_folder() == folder
    monkeypatch.delenv(datasets.FOLDER_VARIABLE)
    assert datasets.data_folder() == root / "data"


def test_a_file_in_the_folder_wins_over_a_download(
    home: Home, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _offer(monkeypatch, home)
    path = _put(folder)
    assert datasets.find("toy") == datasets.locate("toy") == path
    assert home.asked == []


def test_a_file_without_a_known_checksum_is_taken_as_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use(monkeypatch, files=[_file(sha256=None)])
    assert datasets.find("toy") is None
    path = _put(folder, b"whatever")
    assert datasets.find("toy") == path


def test_a_wrong_file_in_the_folder_is_an_error_and_not_a_download(
    home: Home, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _offer(monkeypatch, home)
    path = _put(folder, b"other")
    message = f"{path}.* {hashlib.sha256(b'other').hexdigest()} and not {_SHA256}"
    with pytest.raises(WorkloadError, match=message):
        datasets.find("toy")
    with pytest.raises(WorkloadError, match=message):
        datasets.locate("toy")
    assert home.asked == []
    assert path.read_bytes() == b"other"


def test_downloaded_once_with_a_line_of_progress(
    home: Home,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _offer(monkeypatch, home)
    home.pages["/moved.txt"] = home.pages.pop("/toy.txt")
    home.redirects["/toy.txt"] = f"https://{home.address}/moved.txt"
    assert datasets.find("toy") is None
    path = datasets.locate("toy")
    assert path == folder / "toy" / "toy.txt"
    assert path.read_bytes() == _CONTENT
    assert datasets.locate("toy") == path
    assert home.asked == ["/toy.txt", "/moved.txt"]
    assert _files(folder) == [path]
    assert "toy/toy.txt from 127.0.0.1" in capsys.readouterr().err


def test_all_files_are_had_and_the_first_is_returned(
    home: Home, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.pages |= {"/toy.txt": _CONTENT, "/more.txt": _CONTENT}
    _use(
        monkeypatch,
        files=[
            _file(url=f"https://{home.address}/toy.txt"),
            _file(url=f"https://{home.address}/more.txt", path="toy/more.txt"),
        ],
    )
    first = _put(folder)
    assert datasets.find("toy") is None
    assert datasets.locate("toy") == datasets.find("toy") == first
    assert home.asked == ["/more.txt"]


def test_a_download_with_the_wrong_sum_leaves_nothing(
    home: Home, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _offer(monkeypatch, home, b"other")
    found = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(WorkloadError, match=f"toy/toy.txt.*{found} and not {_SHA256}"):
        datasets.locate("toy")
    assert _files(folder) == []


def test_a_download_cut_short_leaves_nothing(
    home: Home, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _offer(monkeypatch, home)
    home.cut_short = True
    with pytest.raises(DatasetMissing, match="500000 more expected"):
        datasets.locate("toy")
    assert _files(folder) == []


def test_a_download_interrupted_by_the_user_leaves_nothing(
    home: Home, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _offer(monkeypatch, home)
    read = http.client.HTTPResponse.read
    seen: list[Path] = []

    def interrupted(self: http.client.HTTPResponse, amount: int) -> bytes:
        if self.length == len(_CONTENT):
            return read(self, amount)
        seen.extend(_files(folder))
        raise KeyboardInterrupt

    monkeypatch.setattr(http.client.HTTPResponse, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        datasets.locate("toy")
    # Interrupted in the middle: there was a file, and not under its final name.
    assert [path.name.startswith(".toy.txt.") for path in seen] == [True]
    assert _files(folder) == []


def test_missing_without_a_network(
    home: Home, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"https://127.0.0.1:{closed.getsockname()[1]}/toy.txt"
    _use(monkeypatch, files=[_file(url=url)])
    with pytest.raises(DatasetMissing) as missing:
        datasets.locate("toy")
    message = str(missing.value)
    assert message.startswith(f"data set toy is not in {folder}, and {url} cannot be read (")
    assert message.endswith(_GET)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"url": None}, "no address"),
        ({"url": "https://{}/toy.txt", "sha256": None}, "no checksum is known"),
        ({"url": "https://{}/none.txt"}, "HTTP Error 404"),
        ({"url": "https://{}/insecure.txt"}, "unknown url type: http"),
    ],
)
def test_missing_if_it_cannot_be_downloaded_safely(
    home: Home,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, str | None],
    why: str,
) -> None:
    home.pages["/toy.txt"] = _CONTENT
    home.redirects["/insecure.txt"] = f"http://{home.address}/toy.txt"
    url = change["url"]
    _use(monkeypatch, files=[_file(**change | {"url": url and url.format(home.address)})])
    with pytest.raises(DatasetMissing, match=f"{why}.*{_GET}"):
        datasets.locate("toy")
    assert "/toy.txt" not in home.asked
    assert not folder.exists()


def test_missing_if_the_folder_cannot_be_written_to(
    home: Home, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file where the folder should be stops the superuser too.
    folder.write_text("")
    _offer(monkeypatch, home)
    with pytest.raises(DatasetMissing, match=f"nothing can be written there.*KV_DATA.*{_GET}"):
        datasets.locate("toy")
    assert folder.read_text() == ""


def test_a_package_is_not_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    _use(monkeypatch, package="toy==1.0")
    for get in (datasets.find, datasets.locate):
        with pytest.raises(LookupError, match="is the package toy"):
            get("toy")
        with pytest.raises(LookupError, match="unheard"):
            get("unheard-of")


def test_the_table_says_what_is_here_and_how_to_get_the_rest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = {
        "toy": _CARD | {"files": [_file()]},
        "away": _CARD | {"files": [_file(path="away/a.txt")], "get": "Go " + "far " * 40},
        "odd": _CARD | {"files": [_file(path="toy/odd.txt")]},
        "pytest": _CARD | {"package": f"pytest=={pytest.__version__}"},
        "old": _CARD | {"package": "pytest==0.1"},
        "none": _CARD | {"package": "no-such-package==0.1"},
    }
    models = {name: Card.model_validate(card) for name, card in cards.items()}
    monkeypatch.setattr(datasets, "cards", lambda: models)
    path = _put(folder)
    (folder / "toy" / "odd.txt").write_text("odd")
    wrong = hashlib.sha256(b"odd").hexdigest()
    head, *blocks = datasets.table().split("\n\n")
    assert str(folder) in head
    # The lines are broken where they are long.
    texts = [" ".join(block.split()) for block in blocks]
    assert [text.split(": Toy licence: MIT ")[0] for text in texts] == list(cards)
    states = [text.split(": Toy licence: MIT ")[1] for text in texts]
    assert states[2].startswith(f"not usable: {folder}/toy/odd.txt: ")
    assert wrong in states.pop(2)
    assert states == [
        f"found: {path}",
        "not here: Go" + " far" * 40,
        f"found: package pytest=={pytest.__version__}",
        f"not here: {_GET}",
        f"not here: {_GET}",
    ]
    assert max(map(len, blocks[1].splitlines())) <= 100


def _here(name: str) -> Path:
    path = datasets.find(name)
    if path is None:
        pytest.skip(f"{name} is not in {datasets.data_folder()}")
    return path


def test_the_real_meetings_are_a_corpus() -> None:
    entries = corpus.read(_here("qmsum"))
    assert len(entries) == 232
    assert sum(len(entry.questions) for entry in entries) == 1810


def test_the_real_conversation_trace_has_all_its_requests() -> None:
    assert _here("mooncake").read_bytes().count(b"\n") == 12_031
