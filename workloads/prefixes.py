"""Numbers for blocks: one for each block together with all the blocks before it."""

from array import array

import numpy as np
import numpy.typing as npt

from workloads.file import Run

_ROOT = 0
_ID_BITS = 64


class Prefixes:
    """Prompts as a tree, in which what prompts have in front in common is one path.

    A block is named by an id of 64 bits, and numbered by that id and all those before it: 0, 1, ...
    as they first come. So whatever the ids are, large, hashed, or of a block alone, the numbers are
    as small as can be. It holds 8 bytes a number and some 200 a prompt.
    """

    def __init__(self) -> None:
        self._ids = array("Q")  # [number]: the id of the block
        # An edge is numbers in a row and ends in a node of its own name; the root has no edge.
        self._starts, self._lengths = array("Q", [0]), array("Q", [0])
        self._edges: dict[int, int] = {}  # by node and first id

    def __len__(self) -> int:
        """The numbers that are given out."""
        return len(self._ids)

    def add(self, ids: npt.NDArray[np.uint64]) -> list[Run]:
        """Return the numbers of a prompt's blocks, as runs; shape (blocks,)."""
        runs: list[Run] = []
        node, done = _ROOT, 0
        while done < len(ids):
            edge = self._edges.get(self._key(node, ids[done]))
            if edge is None:
                start = len(self._ids)
                self._ids.frombytes(ids[done:].tobytes())
                self._edge(node, start, len(ids) - done)
                _extend(runs, start, len(ids) - done)
                break
            start, length = self._starts[edge], self._lengths[edge]
            both = min(length, len(ids) - done)
            same = np.frombuffer(self._ids, np.uint64, both, start * 8) == ids[done : done + both]
            common = both if same.all() else int(same.argmin())
            _extend(runs, start, common)
            done += common
            if common < length and done < len(ids):
                edge = self._split(node, edge, common)
            node = edge
        return runs

    def _edge(self, node: int, start: int, length: int) -> int:
        self._starts.append(start)
        self._lengths.append(length)
        edge = len(self._starts) - 1
        self._edges[self._key(node, self._ids[start])] = edge
        return edge

    def _split(self, node: int, edge: int, length: int) -> int:
        """Cut an edge after so many numbers; return the part in front."""
        # The part behind keeps its name, by which its children know it.
        front = self._edge(node, self._starts[edge], length)
        self._starts[edge] += length
        self._lengths[edge] -= length
        self._edges[self._key(front, self._ids[self._starts[edge]])] = edge
        return front

    @staticmethod
    def _key(node: int, first: int | np.uint64) -> int:
        return node << _ID_BITS | int(first)


def _extend(runs: list[Run], start: int, count: int) -> None:
    if runs and sum(runs[-1]) == start:
        runs[-1] = (runs[-1][0], runs[-1][1] + count)
    else:
        runs.append((start, count))
