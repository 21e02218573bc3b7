"""ARC written from figure 4 of Megiddo and Modha (FAST '03), for reading, not for speed."""

from collections import OrderedDict


class ReferenceARC:
    """Unit-size ARC; with ``fixed_p``, their FRC(p), which does not adapt."""

    def __init__(self, capacity: int, fixed_p: float | None = None) -> None:
        self.c = capacity
        self.fixed = fixed_p is not None
        self.p = fixed_p or 0.0
        # Least recently used first.
        self.t1: OrderedDict[int, None] = OrderedDict()
        self.t2: OrderedDict[int, None] = OrderedDict()
        self.b1: OrderedDict[int, None] = OrderedDict()
        self.b2: OrderedDict[int, None] = OrderedDict()

    def access(self, x: int) -> bool:
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

    def _replace(self, x: int) -> None:
        if self.t1 and (
            len(self.t1) > self.p
            or (x in self.b2 and len(self.t1) == self.p)
            or not self.t2  # Theirs cannot get here; a fixed p can.
        ):
            self.b1[self.t1.popitem(last=False)[0]] = None
        else:
            self.b2[self.t2.popitem(last=False)[0]] = None
