"""The workload file that a config asks for, at a tier's size and in a tier's form."""

import re
from collections.abc import Callable, Iterator
from functools import cache
from itertools import chain
from pathlib import Path

from harness import model as models
from harness.cell import Tier
from harness.config import Config, WorkloadParams
from workloads import (
    blocks,
    corpus,
    datasets,
    docqa,
    quality,
    sequence,
    sharegpt,
    trace,
    vocabulary,
)
from workloads.corpus import Entry, Tokenizer
from workloads.datasets import DatasetMissing
from workloads.docqa import DocQA
from workloads.file import BlockWorkload, Header, TextWorkload, Workload
from workloads.sequence import Sequence
from workloads.sharegpt import ShareGPT
from workloads.trace import Trace


def build(
    config: Config,
    tier: Tier,
    name: str,
    seed: int,
    model: str,
    report: Callable[[str], object] = lambda line: None,
) -> Workload:
    """Make the workload of one seed.

    The tier ``replay`` takes blocks, the others text where there is any. A workload whose data
    cannot be had comes without requests, and says why.

    Args:
        config: The run.
        tier: One of its tiers.
        name: One of its workloads.
        seed: Seed of all that is random in it.
        model: The model's folder or hub id, whose tokenizer counts.
        report: Is given a line of progress now and then, on a log that takes long to read.

    Raises:
        WorkloadError: if the data is there and bad.
        HarnessError: if the tokenizer cannot be loaded.

    """
    settings = config.tiers[tier]
    params = config.workloads[name]
    if settings.requests is not None:
        fewer = min(settings.requests, params.requests or settings.requests)
        params = params.model_copy(update={"requests": fewer})
    try:
        if isinstance(params, Trace):
            known = params.dataset in datasets.cards()
            path = datasets.locate(params.source) if known else Path(params.source)
            return trace.build(
                name,
                params,
                seed,
                path,
                settings.block_size,
                lambda: models.load_tokenizer(model),
                report,
            )
        tokenizer = _Remembering(models.load_tokenizer(model))
        scale = config.scale(tier, name)
        if isinstance(params, Sequence):
            parts = {
                part: _of_text(
                    part,
                    own.model_copy(update={"requests": params.taken(part)}),
                    seed,
                    tokenizer,
                    scale,
                )
                for part, own in params.parts.items()
            }
            workload = sequence.build(name, params, seed, parts)
        else:
            workload = _of_text(name, params, seed, tokenizer, scale)
    except DatasetMissing as error:
        header = Header(
            content="blocks",
            name=name,
            seed=seed,
            block_size=settings.block_size,
            requests=0,
            params=params.model_dump(),
            missing=str(error),
        )
        return BlockWorkload(header, ())
    if tier == "replay":
        return blocks.from_text(workload, tokenizer, settings.block_size)
    return workload


def _of_text(
    name: str, params: DocQA | ShareGPT, seed: int, tokenizer: Tokenizer, scale: float
) -> TextWorkload:
    if isinstance(params, ShareGPT):
        path = Path(params.path) if params.path else sharegpt.default_path()
        return sharegpt.build(name, params, seed, path, tokenizer)
    entries = _entries(params)
    return docqa.build(name, params, seed, tokenizer, vocabulary.words(), entries, scale)


class _Remembering:
    """A tokenizer that encodes a text once: a document is counted, and later cut into blocks.

    Long synthetic text it encodes word by word, and each word once. Almost every tokenizer splits
    text into words first, so that their tokens are those of the text; whether this one does is
    tried on the first such text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.encode = cache(self._encode)
        self.start = tokenizer.start
        self.decode = tokenizer.decode
        self._encode_whole = tokenizer.encode
        self._encode_word = cache(self._encode_whole)
        self._splits: bool | None = None

    def _encode(self, text: str) -> list[int]:
        if self._splits is False or len(text) < _LONG or not _SENTENCES.fullmatch(text):
            return self._encode_whole(text)
        tokens = list(chain.from_iterable(map(self._encode_word, _WORDS.findall(text))))
        if self._splits is None:
            whole = self._encode_whole(text)
            self._splits = tokens == whole
            return whole
        return tokens


# In characters: enough to tell whether a tokenizer splits text into words.
_LONG = 2000
# Text whose words any tokenizer tells apart that does so at all; and these words.
_SENTENCES = re.compile(r"(?: ?[A-Za-z]++(?:[.?](?= |\Z))?+)++")
_WORDS = re.compile(r" ?[A-Za-z]+|[.?]")


def sources(path: Path, params: WorkloadParams) -> list[Path]:
    """Return the files whose change means that a workload has to be made anew.

    They are the corpus or trace that a config names by its path and, if the workload's data set
    could not be had the last time and has come since, a note of that, which is made here. (The data
    set itself is not among them: a download by the workload's own job would be a change.)

    Args:
        path: The workload file, which need not exist.
        params: What it is made of.

    """
    given = list(_named(params))
    known = [name for name in given if name in datasets.cards()]
    files = [Path(name) for name in given if name not in (*known, docqa.SYNTHETIC)]
    if not known:
        return files
    arrived = path.with_name(f"{path.name}.data-arrived")
    folder = datasets.data_folder()
    are_here = all((folder / datasets.cards()[name].files[0].path).is_file() for name in known)
    if are_here and path.is_file():
        with path.open(encoding="utf-8") as lines:
            if Header.model_validate_json(next(lines)).missing:
                arrived.touch()
    return [*files, arrived] if arrived.exists() else files


def _named(params: WorkloadParams) -> Iterator[str]:
    """Yield the data sets and files that a workload is made of."""
    if isinstance(params, Sequence):
        for part in params.parts.values():
            yield from _named(part)
        return
    keys = {
        "docqa": ["corpus"],
        "trace": ["dataset", "path", "times"],
        "sharegpt": ["path"],
    }[params.kind]
    yield from (name for key in keys if (name := getattr(params, key)))


def _entries(params: DocQA) -> list[Entry] | None:
    if params.corpus == docqa.SYNTHETIC:
        return None
    if params.corpus == "quality":
        return quality.read(datasets.locate(params.corpus))
    if params.corpus in datasets.cards():
        return corpus.read(datasets.locate(params.corpus))
    return corpus.read(Path(params.corpus))
