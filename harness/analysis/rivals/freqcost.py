"""Frequency times the cost of computing again, as proposed for vLLM (issue 23641 there).

The prefix that ends with a block is worth its uses since it came in, divided by the time since
then, times the square of its length: attention's share of what computing it again costs. What is
worth least goes first. It forgets what it evicts. The proposal's code (pull request 27539) takes
every block to cost the same, which leaves the frequency alone; this is what its text says.
"""

from typing_extensions import override

from harness.analysis.rivals.chains import Piece, PrefixCache


class FrequencyCost(PrefixCache):
    """What is used rarely and quickly computed again goes first."""

    @override
    def key(self, piece: Piece) -> float:
        return piece.uses / (self.now - piece.came) * piece.end**2
