"""vLLM's source distributions, which are fetched here and never built.

In them are its own tests, and the Python files of versions that are not installed. pip would build
one, for which it takes a Rust toolchain, before it lets anyone see a file of it. So the index that
pip is configured with is asked directly, as PEP 503 says.
"""

import ast
import base64
import hashlib
import http.client
import os
import re
import shutil
import ssl
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from harness.errors import HarnessError

LOCK = Path("patches/vllm/sdist.lock")
"""Hash of the source distribution of each version that can be fetched, as pip writes them."""
SDISTS = Path("build/sdists")

PROJECT = "vllm"
"""What the source distributions are of."""

_PYPI = "https://pypi.org/simple"
_ACCEPT = "application/vnd.pypi.simple.v1+html, text/html;q=0.2"
_TIMEOUT_SECONDS = 60
_CHUNK_BYTES = 1 << 20
_NETWORK_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    ssl.SSLError,
    ConnectionError,
    TimeoutError,
    ValueError,  # Not a URL.
)


def fetch_sdist(version: str, folder: Path) -> Path:
    """Get the source distribution of vLLM and unpack it, unless that is done already.

    Args:
        version: Of vLLM; one of those in ``LOCK``.
        folder: Where the archive goes, and beside it the folder that it unpacks to.

    Returns:
        The unpacked folder.

    Raises:
        HarnessError: if the version is not pinned, the index cannot be reached or lacks the file,
            or the file is not the pinned one. It leaves nothing behind.

    """
    sha256 = pinned_sha256(version)
    unpacked = folder / f"{PROJECT}-{version}"
    if unpacked.is_dir():
        return unpacked
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{unpacked.name}.tar.gz"
    if not (archive.is_file() and _sha256(archive) == sha256):
        _download(archive, sha256)
    _unpack(archive, unpacked)
    return unpacked


def pinned_sha256(version: str) -> str:
    """Return the hash of the source distribution of a version.

    Raises:
        HarnessError: if the lock has none.

    """
    pattern = re.compile(rf"^{PROJECT}==(\S+) --hash=sha256:([0-9a-f]{{64}})$", re.MULTILINE)
    try:
        pinned: dict[str, str] = dict(pattern.findall(LOCK.read_text()))
    except OSError as error:
        raise HarnessError(f"{LOCK} cannot be read: {error.strerror}") from None
    if version not in pinned:
        raise HarnessError(
            f"vLLM {version}: no hash of its source distribution is pinned, only those of "
            f"{', '.join(pinned)}: add a line to {LOCK}, with the sha256 that its index shows"
        )
    return pinned[version]


def _download(archive: Path, sha256: str) -> None:
    """Download the file of the archive's name from the index, and check it."""
    settings = _pip_settings()
    index = settings.get("index-url", _PYPI).rstrip("/") + f"/{PROJECT}/"
    opener = _opener(settings)
    with _open(opener, index, index) as response:
        page, base = response.read().decode(errors="replace"), response.url
    links = _Links()
    links.feed(page)
    urls = [urldefrag(urljoin(base, link)).url for link in links.found]
    matching = [url for url in urls if unquote(urlsplit(url).path).endswith(f"/{archive.name}")]
    if not matching:
        raise HarnessError(
            f"{archive.name} is not among the {len(urls)} files on {_shown(index)}: point pip at "
            "an index that has it (PIP_INDEX_URL)"
        )
    partial = archive.with_name(f".{archive.name}.partial")
    try:
        with _open(opener, matching[0], index) as response, partial.open("wb") as file:
            _copy(response, file, archive.name)
        found = _sha256(partial)
        if found != sha256:
            raise HarnessError(
                f"{archive.name}: {_shown(index)} gave a file with sha256 {found[:12]}, and "
                f"{sha256[:12]} is pinned: it was deleted; try again, or another index "
                "(PIP_INDEX_URL)"
            )
        os.replace(partial, archive)
    except OSError as error:
        raise HarnessError(f"{partial} cannot be written: {error}") from None
    finally:
        partial.unlink(missing_ok=True)


def _unpack(archive: Path, unpacked: Path) -> None:
    partial = unpacked.with_name(f".{unpacked.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with tarfile.open(archive) as content:
            # The first releases of Python 3.11 have no filters; the archive is a pinned one.
            content.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
            content.extractall(partial)
        os.replace(partial / unpacked.name, unpacked)
    except (tarfile.TarError, OSError) as error:
        raise HarnessError(f"{archive} cannot be unpacked: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _pip_settings() -> dict[str, str]:
    """Return pip's settings by name, those that hold for all commands."""
    run = subprocess.run(
        [sys.executable, "-I", "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise HarnessError(f"pip config: {run.stderr.strip()}: run `make env` and use .venv")
    settings: dict[str, str] = {}
    # The environment goes before the files, as it does for pip.
    for section in ("global.", ":env:."):
        for line in run.stdout.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(section):
                settings[name.removeprefix(section)] = ast.literal_eval(value)
    return settings


def _opener(settings: dict[str, str]) -> urllib.request.OpenerDirector:
    """Return what opens URLs with pip's certificates and pip's proxy, if it has its own."""
    try:
        context = ssl.create_default_context(cafile=settings.get("cert"))
    except OSError as error:
        raise HarnessError(f"pip's setting cert, {settings['cert']}: {error}") from None
    handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context)]
    if "proxy" in settings:
        proxy = settings["proxy"]
        handlers.append(urllib.request.ProxyHandler({"http": proxy, "https": proxy}))
    return urllib.request.build_opener(*handlers)


@contextmanager
def _open(
    opener: urllib.request.OpenerDirector, url: str, index: str
) -> Iterator[http.client.HTTPResponse]:
    """Open a URL; user name and password of the index go to the host of the index alone."""
    request = urllib.request.Request(_shown(url), headers={"Accept": _ACCEPT})
    login, _, host = urlsplit(index).netloc.rpartition("@")
    if login and urlsplit(request.full_url).netloc == host:
        encoded = base64.b64encode(unquote(login).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {encoded}")
    try:
        with opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
            yield response
    except _NETWORK_ERRORS as error:
        raise HarnessError(
            f"{_shown(url)} could not be read: {error}: check the network, and the index that "
            "`pip config list` shows (PyPI if none; PIP_INDEX_URL sets it)"
        ) from None


def _shown(url: str) -> str:
    """Return the URL without user name and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _copy(response: http.client.HTTPResponse, file: IO[bytes], name: str) -> None:
    """Copy with a line of progress on stderr, kept up to date on a terminal."""
    total = int(response.headers.get("Content-Length") or 0)
    line = f"downloading {name} from {urlsplit(response.url).hostname}"
    is_terminal = sys.stderr.isatty()
    print(f"{line} ...", end="" if is_terminal else "\n", file=sys.stderr, flush=True)
    done = 0
    while chunk := response.read(_CHUNK_BYTES):
        file.write(chunk)
        done += len(chunk)
        if is_terminal:
            print(f"\r{line}: {done / 1e6:.0f} MB", end="", file=sys.stderr, flush=True)
    if is_terminal:
        print(file=sys.stderr)
    if done < total:
        raise http.client.IncompleteRead(b"", total - done)


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


class _Links(HTMLParser):
    """Collects where the links of a page go."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the target of a link."""
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]
