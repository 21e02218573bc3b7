"""The data sets: found in the data folder or downloaded, and checked by sha256.

What there is, and where it comes from, is in datasets.yaml, one card a data set.
"""

import functools
import hashlib
import http.client
import importlib.metadata
import os
import ssl
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Self
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter, model_validator

from workloads.file import WorkloadError

FOLDER_VARIABLE = "KV_DATA"
"""The environment variable that names the data folder, if it is not ``data`` in the project."""

_ROOT = Path(__file__).parents[1]
_TIMEOUT_SECONDS = 60
_PROGRESS_SECONDS = 5
_CHUNK_BYTES = 1 << 18
_NETWORK_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    ssl.SSLError,
    ConnectionError,
    TimeoutError,
)


class DatasetMissing(Exception):  # noqa: N818 - not an error: the run goes on without it
    """A data set cannot be had; the message says which, why and how to get it."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_min_length=1)


class File(_Model):
    """A file of a data set."""

    path: str = Field(pattern=r"^[\w-]+/[\w.-]+$", description="inside the data folder")
    url: str | None = Field(pattern=r"^https://", description="None: not on the network as it is")
    sha256: str | None = Field(pattern=r"^[0-9a-f]{64}$", description="None: not known")
    bytes: PositiveInt | None = None


class Card(_Model):
    """What a data set is and how to get it: it is files, the first of which is read, or a package.

    The meaning of each key is at the top of datasets.yaml.
    """

    title: str
    home: str = Field(pattern=r"^https://")
    files: tuple[File, ...] = ()
    package: str | None = Field(None, pattern=r"^[\w-]+==[\w.]+$")
    licence: str
    real: str
    made: str
    get: str
    cite: str

    @model_validator(mode="after")
    def _files_or_package(self) -> Self:
        if bool(self.files) == bool(self.package):
            raise ValueError("a data set is either files or a package")
        return self


@functools.cache
def cards() -> Mapping[str, Card]:
    """Return the card of each data set by its name."""
    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    return MappingProxyType(TypeAdapter(dict[str, Card]).validate_python(yaml.safe_load(text)))


def data_folder() -> Path:
    """Return the folder of the data sets' files, which need not exist."""
    return Path(os.environ.get(FOLDER_VARIABLE) or _ROOT / "data")


def find(name: str) -> Path | None:
    """Return the data set's file if it is in the data folder, else None; use no network.

    Raises:
        LookupError: if there is no such data set, or it is a package and not a file.
        WorkloadError: if the file is there and is not the right one, or cannot be read.

    """
    found = [_find(file) for file in _files(name)]
    return found[0] if all(found) else None


def locate(name: str) -> Path:
    """Return the data set's file; download it into the data folder if it is not there.

    A download has a line on stderr now and then. It leaves nothing behind if it fails or is
    interrupted, and several processes may download the same file at a time.

    Raises:
        LookupError: if there is no such data set, or it is a package and not a file.
        DatasetMissing: if it is not there and cannot be downloaded.
        WorkloadError: if the file that is there, or was downloaded, is not the right one.

    """
    paths = [_find(file) or _download(name, file) for file in _files(name)]
    return paths[0]


def table() -> str:
    """Return what there is, under which licence, and where it was found or how to get it."""
    lines = [f"Data folder: {data_folder()} ({FOLDER_VARIABLE} names another)"]
    for name, card in cards().items():
        lines += ["", f"{name}: {card.title}"]
        for line in (f"licence: {card.licence}", _status(name, card)):
            # An address or a path is of use only in one piece.
            lines += textwrap.wrap(
                line,
                width=100,
                initial_indent="    ",
                subsequent_indent="        ",
                break_long_words=False,
                break_on_hyphens=False,
            )
    return "\n".join(lines)


def _status(name: str, card: Card) -> str:
    where: Path | str | None
    if card.package:
        where = f"package {card.package}" if _installed(card.package) else None
    else:
        try:
            where = find(name)
        except WorkloadError as error:
            return f"not usable: {error}"
    return f"found: {where}" if where else f"not here: {card.get}"


def _installed(package: str) -> bool:
    project, _, version = package.partition("==")
    try:
        return importlib.metadata.version(project) == version
    except importlib.metadata.PackageNotFoundError:
        return False


def _files(name: str) -> tuple[File, ...]:
    card = cards()[name]
    if not card.files:
        raise LookupError(f"data set {name} is the package {card.package} and not a file")
    return card.files


def _find(file: File) -> Path | None:
    path = data_folder() / file.path
    try:
        if not path.is_file():
            return None
        with path.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise WorkloadError(f"{path}: cannot be read: {error}") from None
    if file.sha256 not in (None, sha256):
        raise WorkloadError(
            f"{path}: not the right file: its sha256 is {sha256} and not {file.sha256}; "
            "delete or replace it"
        )
    return path


def _download(name: str, file: File) -> Path:
    if file.url is None:
        raise _missing(name, "it has no address to download it from as it is")
    if file.sha256 is None:
        raise _missing(name, "no checksum is known, without which nothing is downloaded")
    try:
        return _fetch(file.url, file)
    except _NETWORK_ERRORS as error:
        raise _missing(name, f"{file.url} cannot be read ({error})") from None
    except OSError as error:
        raise _missing(
            name, f"nothing can be written there ({error}); {FOLDER_VARIABLE} names another folder"
        ) from None


def _fetch(url: str, file: File) -> Path:
    path = data_folder() / file.path
    # Another process may be at the same file, under a name with another number.
    partial = data_folder() / f".{path.name}.{os.getpid()}.partial"
    with _opener().open(url, timeout=_TIMEOUT_SECONDS) as response:
        data_folder().mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as content:
                sha256 = _copy(response, content, file)
            if sha256 != file.sha256:
                raise WorkloadError(
                    f"{file.path}: {url} gave a file whose sha256 is {sha256} and not "
                    f"{file.sha256}; it was deleted"
                )
            path.parent.mkdir(exist_ok=True)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return path


def _missing(name: str, why: str) -> DatasetMissing:
    folder = data_folder()
    # Results say it, and are passed on: they need not say where the project was.
    if folder.is_relative_to(_ROOT):
        folder = folder.relative_to(_ROOT)
    return DatasetMissing(f"data set {name} is not in {folder}, and {why}. {cards()[name].get}")


def _opener() -> urllib.request.OpenerDirector:
    """Return what opens https alone, also where a server redirects; urllib's own opens all."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _copy(response: http.client.HTTPResponse, content: IO[bytes], file: File) -> str:
    """Copy with a line of progress on stderr now and then; return the sha256."""
    total = response.length or 0
    size = total or file.bytes
    of = f" of {size / 1e6:.1f} MB" if size else " MB"
    digest = hashlib.sha256()
    done = 0
    due = time.monotonic()
    while chunk := response.read(_CHUNK_BYTES):
        content.write(chunk)
        digest.update(chunk)
        done += len(chunk)
        if time.monotonic() >= due:
            due = time.monotonic() + _PROGRESS_SECONDS
            print(
                f"downloading {file.path} from {urlsplit(response.url).hostname}: "
                f"{done / 1e6:.1f}{of}",
                file=sys.stderr,
                flush=True,
            )
    # Of a connection that ends early, read() returns what there was.
    if done < total:
        raise http.client.IncompleteRead(b"", total - done)
    return digest.hexdigest()
