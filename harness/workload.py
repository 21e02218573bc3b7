"""The workload file that a config asks for, at a tier's size and in a tier's form."""

import re
from functools import cache
from itertools import chain
from pathlib import Path

from harness import model as models
from harness.cell import Tier
from harness.config import Config, WorkloadParams
from workloads import blocks, corpus, datasets, docqa, quality, sharegpt, trace, vocabulary
from workloads.corpus import Entry, Tokenizer
from workloads.datasets import DatasetMissing
from workloads.docqa import DocQA
from workloads.file import BlockWorkload, Header, Workload
from workloads.sharegpt import ShareGPT
from workloads.trace import Trace


def build(config: Config, tier: Tier, name: str, seed: int, model: str) -> Workload:
    """Make the workload of one seed.

    The tier ``replay`` takes blocks, the others text where there is any. A workload whose data
    cannot be had comes without requests, and says why.

    Args:
        config: The run.
        tier: One of its tiers.
        name: One of its workloads.
        seed: Seed of all that is random in it.
        model: The model's folder or hub id, whose tokenizer counts.

    Raises:
        WorkloadError: if the data is there and bad.
        HarnessError: if the tokenizer cannot be loaded.

    """
    settings = config.tiers[tier]
    params = config.workloads[name]
    if settings.requests is not None:
        fewer = min(settings.requests, params.requests or settings.requests)
        params = params.model_copy(update={"requests": fewer})
    workload: Workload
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
            )
        entries = None if isinstance(params, ShareGPT) else _entries(params)
        tokenizer = _Remembering(models.load_tokenizer(model))
        if isinstance(params, ShareGPT):
            path = Path(params.path) if params.path else sharegpt.default_path()
            workload = sharegpt.build(name, params, seed, path, tokenizer)
        else:
            workload = docqa.build(
                name,
                params,
                seed,
                tokenizer,
                vocabulary.words(),
                entries,
                settings.scale,
            )
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
    name = params.source if isinstance(params, Trace) else getattr(params, "corpus", "")
    if name not in datasets.cards():
        return [Path(name)] if name and name != docqa.SYNTHETIC else []
    arrived = path.with_name(f"{path.name}.data-arrived")
    is_here = (datasets.data_folder() / datasets.cards()[name].files[0].path).is_file()
    if is_here and path.is_file():
        with path.open(encoding="utf-8") as lines:
            if Header.model_validate_json(next(lines)).missing:
                arrived.touch()
    return [arrived] if arrived.exists() else []


def _entries(params: DocQA) -> list[Entry] | None:
    if params.corpus == docqa.SYNTHETIC:
        return None
    if params.corpus == "quality":
        return quality.read(datasets.locate(params.corpus))
    if params.corpus in datasets.cards():
        return corpus.read(datasets.locate(params.corpus))
    return corpus.read(Path(params.corpus))
