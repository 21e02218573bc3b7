"""QuALITY v1.0.1: its zip read as documents with questions.

The zip has one file of JSON lines for each split. A line is one writer's questions about one
article, so an article is on two lines or more. The schema is in the README of
https://github.com/nyu-mll/quality.
"""

import zipfile
import zlib
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from workloads.corpus import Entry
from workloads.file import WorkloadError

SPLITS = ("train", "dev", "test")
_MEMBER = "QuALITY.v1.0.1.htmlstripped.{split}"


class _Question(BaseModel):
    question: str = Field(min_length=1)


class _Set(BaseModel):
    article_id: str = Field(min_length=1)
    article: str = Field(min_length=1)
    questions: tuple[_Question, ...]


def read(path: Path) -> list[Entry]:
    """Read the articles of all splits, in the order of the files, each with all its questions.

    Args:
        path: The zip as it is published.

    Returns:
        One entry an article, 381 of the published zip; its id is the article's.

    Raises:
        WorkloadError: if the zip is missing, damaged or lacks a split, a line of it is bad, or an
            article has no question.

    """
    articles: dict[str, str] = {}
    questions: dict[str, list[str]] = {}
    try:
        with zipfile.ZipFile(path) as content:
            for split in SPLITS:
                member = _MEMBER.format(split=split)
                # Not splitlines(), which also splits at separators that JSON allows in a string.
                lines = content.read(member).decode().removesuffix("\n").split("\n")
                for number, line in enumerate(lines, start=1):
                    writer = _parse(f"{path}, {member}, line {number}", line)
                    articles.setdefault(writer.article_id, writer.article)
                    questions.setdefault(writer.article_id, []).extend(
                        question.question for question in writer.questions
                    )
    except FileNotFoundError:
        raise WorkloadError(f"{path}: no such file") from None
    except KeyError as error:
        raise WorkloadError(f"{path}: not QuALITY v1.0.1: {error.args[0]}") from None
    except (
        OSError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        RuntimeError,
        UnicodeDecodeError,
    ) as error:
        # RuntimeError: encrypted, or packed in a way that Python cannot unpack.
        raise WorkloadError(f"{path}: cannot be read: {error}") from None
    for article, asked in questions.items():
        if not asked:
            raise WorkloadError(f"{path}: no question about article {article}")
    return [
        Entry(id=article, document=text, questions=tuple(questions[article]))
        for article, text in articles.items()
    ]


def _parse(where: str, line: str) -> _Set:
    try:
        return _Set.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise WorkloadError(f"{where}: {key + ': ' if key else ''}{first['msg']}") from None
