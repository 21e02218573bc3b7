"""Hits per token, as proposed for SGLang's radix cache (pull request 30300 there).

A node of the radix tree is worth its hits since it came in, divided by its tokens; what is worth
least goes first, and as in SGLang a node goes whole. A node is here what the workload never splits:
in SGLang a prompt's new part is one until another branches off. Hits are requests that used it
after the first; of nodes without any, which is most, the least recently used goes first.
"""

from typing_extensions import override

from harness.analysis.rivals.chains import Piece, PrefixCache


class HitsPerToken(PrefixCache):
    """What has fewest hits for its size goes first."""

    whole = True

    @override
    def key(self, piece: Piece) -> float:
        return (piece.uses - 1) / piece.size
