"""Logs with ids of blocks in place of text.

``mooncake`` (Qin et al., FAST '25: its conversation, toolagent and synthetic traces) has times in
ms and, as it was published, ids of 512 tokens::

    {"timestamp": 27000, "input_length": 1030, "output_length": 52, "hash_ids": [0, 46, 47]}

aiperf, Dynamo and others write the same with other names, other sizes, or hashes as ids.
``bailian`` (Wang et al., USENIX ATC '25) has times in s, ids of 16 tokens, and says which chat a
request goes on with::

    {"chat_id": 159, "parent_chat_id": 55, "timestamp": 61.114, "input_length": 40,
     "output_length": 132, "type": "text", "turn": 2, "hash_ids": [1089, 1090, 6326]}

An id of the first names a block and all before it, an id of the second a block alone. Whatever it
names, a block is the same as another only if the ids before it are the same, too.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from workloads.formats.asked import (
    INPUT,
    MOST_TOKENS,
    Asked,
    BadRecord,
    BlockIds,
    Record,
    delay_ms,
    needed,
    number,
    output_tokens,
    session,
    shown,
    time_ms,
)

_IDS = ("hash_ids", "block_hashes", "block_ids")
_LARGEST = 2**64


def has_ids(record: Record) -> bool:
    """Whether the record has ids of blocks."""
    return any(name in record for name in _IDS)


def has_chats(record: Record) -> bool:
    """Whether the record has ids of blocks, and says which chat it goes on with."""
    return has_ids(record) and "chat_id" in record


def mooncake(record: Record) -> Iterator[Asked]:
    """Read a record in Mooncake's way.

    Raises:
        BadRecord: if it lacks something or has something impossible.

    """
    said = number(record, ["block_size"], 1)
    size = None if said is None else int(said)
    turn = number(record, ["turn"])
    yield Asked(
        prompt=BlockIds(_ids(record), needed(record, INPUT, 1, MOST_TOKENS), size),
        time=time_ms(record, 1),
        delay=delay_ms(record),
        output_tokens=output_tokens(record),
        session=session(record),
        turn=None if turn is None else int(turn),
    )


def bailian(record: Record) -> Iterator[Asked]:
    """Read a record in Qwen-Bailian's way.

    Raises:
        BadRecord: if it lacks something or has something impossible.

    """
    turn = number(record, ["turn"])
    yield Asked(
        prompt=BlockIds(_ids(record), needed(record, INPUT, 1, MOST_TOKENS)),
        time=time_ms(record, 1e3),
        output_tokens=output_tokens(record),
        session=needed(record, ["chat_id"]),
        goes_on=number(record, ["parent_chat_id"], -1),
        turn=None if turn is None else int(turn),
    )


def _ids(record: Record) -> npt.NDArray[np.uint64]:
    name = next((name for name in _IDS if name in record), _IDS[0])
    ids = record.get(name)
    if ids is None:
        raise BadRecord(f"{name}: missing")
    if not isinstance(ids, list):
        raise BadRecord(f"{name}: {shown(ids)} where a list of ids is due")
    if set(map(type, ids)) <= {int}:
        try:
            return np.array(ids, dtype=np.uint64)
        except OverflowError:  # negative, or longer
            pass
    return np.array([_id(name, i, block) for i, block in enumerate(ids)], dtype=np.uint64)


def _id(name: str, place: int, block: object) -> int:
    """Return one id as 64 bits; what is longer, and text such as hexadecimal digits, is hashed."""
    if isinstance(block, float) and block.is_integer():
        block = int(block)
    if isinstance(block, int) and not isinstance(block, bool):
        if -(_LARGEST // 2) <= block < _LARGEST:
            return block % _LARGEST
        block = str(block)
    if isinstance(block, str) and block:
        content = block.encode(errors="surrogatepass")
        return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())
    raise BadRecord(f"{name}.{place}: {shown(block)} is no id: ids are whole numbers or text")
