"""ARC written from figure 4 of Megiddo and Modha (FAST '03), for reading, not for speed."""

from collections import OrderedDict
from typing import Any

Queue = OrderedDict[Any, None]


class ReferenceARC:
    """Unit-size ARC; with ``fixed_p``, their FRC(p), which does not adapt."""

    def __init__(self, capacity: int, fixed_p: float | None = None) -> None:
        self.c = capacity
        self.fixed = fixed_p is not None
        self.p = fixed_p or 0.0
        # Least recently used first.
        self.t1: Queue = OrderedDict()
        self.t2: Queue = OrderedDict()
        self.b1: Queue = OrderedDict()
        self.b2: Queue = OrderedDict()

    def access(self, x: Any) -> bool:
        """Return whether x hit, and make it resident."""
        if x in self.t1 or x in self.t2:  # Case I
            (self.t1 if x in self.t1 else self.t2).pop(x)
            self.t2[x] = None
            return True
        if x in self.b1:  # Case II
            if not self.fixed:
                self.p = min(self.c, self.p + max(1, len(self.b2) / len(self.b1)))
            self._replace(x)
            del self.b1[x]
            self.t2[x] = None
            return False
        if x in self.b2:  # Case III
            if not self.fixed:
                self.p = max(0, self.p - max(1, len(self.b1) / len(self.b2)))
            self._replace(x)
            del self.b2[x]
            self.t2[x] = None
            return False
        l1 = len(self.t1) + len(self.b1)  # Case IV
        total = l1 + len(self.t2) + len(self.b2)
        if l1 == self.c:
            if len(self.t1) < self.c:
                self.b1.popitem(last=False)
                self._replace(x)
            else:
                self.t1.popitem(last=False)
        elif total >= self.c:
            if total == 2 * self.c:
                self.b2.popitem(last=False)
            self._replace(x)
        self.t1[x] = None
        return False

    def get_stats(self) -> dict[str, float]:
        """Return what the policy's method of this name is to return."""
        lists = {"t1": self.t1, "t2": self.t2, "b1": self.b1, "b2": self.b2}
        return {name: len(queue) for name, queue in lists.items()} | {"p": self.p}

    def _replace(self, x: Any) -> None:
        t1, t2 = self._free(self.t1), self._free(self.t2)
        if t1 and (
            len(self.t1) > self.p
            or (x in self.b2 and len(self.t1) == self.p)
            or not t2  # Theirs cannot get here; a fixed p can.
        ):
            y, ghosts = self._choose(t1), self.b1
        else:
            y, ghosts = self._choose(t2), self.b2
        del (self.t1 if y in self.t1 else self.t2)[y]
        ghosts[y] = None

    def _free(self, queue: Queue) -> Queue:
        """Return what of a list may be evicted."""
        return queue

    def _choose(self, queue: Queue) -> Any:
        """Return what is evicted from a list."""
        return next(iter(queue))


class ReferenceARCLeaf(ReferenceARC):
    """ARC of which the end of a cached prefix is evicted where ARC evicts what comes before it.

    It becomes a ghost of the list that ARC chose.

    Contents are prefixes: tuples, of which each comes after the one that is shorter by one.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.num_below = 0
        self._in_use: set[tuple[int, ...]] = set()
        # So many were cached; and the number of each.
        self._num_cached = 0
        self._since: dict[tuple[int, ...], int] = {}

    def __contains__(self, prefix: tuple[int, ...]) -> bool:
        return prefix in self.t1 or prefix in self.t2

    def request(self, prefix: tuple[int, ...]) -> int:
        """Use a prefix, of which at most the last block is missing; return how many hit."""
        parts = [prefix[: i + 1] for i in range(len(prefix))]
        self._in_use = {part for part in parts if part in self}
        hits = sum(self.access(part) for part in parts)
        self._in_use = set()
        while len(self.t1) + len(self.b1) > self.c:
            self.b1.popitem(last=False)
        while sum(map(len, (self.t1, self.t2, self.b1, self.b2))) > 2 * self.c:
            self.b2.popitem(last=False)
        if hits < len(parts):
            self._num_cached += 1
            self._since[prefix] = self._num_cached
        # The end is the first to become free again.
        for part in reversed(parts):
            (self.t1 if part in self.t1 else self.t2).move_to_end(part)
        return hits

    def access(self, x: Any) -> bool:
        """Return whether x hit, and make it resident."""
        if x in self or x in self.b1 or x in self.b2:
            return super().access(x)
        # Case IV, with room made in the ghosts afterwards: what goes may be of either list.
        if len(self.t1) + len(self.t2) == self.c:
            self._replace(x)
        self.t1[x] = None
        return False

    def _free(self, queue: Queue) -> Queue:
        return OrderedDict.fromkeys(part for part in queue if part not in self._in_use)

    def _choose(self, queue: Queue) -> tuple[int, ...]:
        first = leaf = next(iter(self._free(queue)))
        while after := [p for p in [*self.t1, *self.t2] if p[:-1] == leaf]:
            leaf = min(after, key=self._since.__getitem__)
        self.num_below += leaf != first
        return leaf
