"""ARC over a tree that gives up leaves only, to read rather than to run.

Written from figure 4 of Megiddo and Modha (FAST '03) and from the rules in
patches/sglang/README.md. A page is named by all that it comes after: the tuple of pages up to it.
A node is a piece of a path, of one list; whoever needs a part of it cuts it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

Page = tuple[tuple[int, ...], ...]


@dataclass(eq=False)
class Node:
    """Consecutive pages; ``used`` is when they were used last, and how deep they are."""

    pages: list[Page]
    used: tuple[int, int]
    in_t2: bool = False
    holders: int = 0


@dataclass(eq=False)
class Request:
    """One that runs: what it holds, and how much of it it has inserted."""

    prompt: list[Page]
    pages: list[Page] = field(default_factory=list)
    held: list[Page] = field(default_factory=list)
    inserted: int = 0
    retracted: int = 0


class Reference:
    """A cache of ``capacity`` pages."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.nodes: list[Node] = []
        self.ghosts: dict[bool, list[Page]] = {False: [], True: []}  # B1 and B2, oldest first
        self.p = Fraction(0)
        self.clock = 0

    # What there is

    def size(self, in_t2: bool) -> int:
        return sum(len(node.pages) for node in self.nodes if node.in_t2 == in_t2)

    def node_of(self, page: Page) -> Node | None:
        return next((node for node in self.nodes if page in node.pages), None)

    def parent(self, node: Node) -> Node | None:
        return self.node_of(node.pages[0][:-1])

    def is_leaf(self, node: Node) -> bool:
        return all(self.parent(other) is not node for other in self.nodes)

    def path(self, pages: Sequence[Page]) -> list[Node]:
        """Return the nodes of those first pages that are there, cut where they end."""
        found: list[Node] = []
        for page in pages:
            node = self.node_of(page)
            if node is None:
                break
            if node not in found:
                found.append(node)
        if found:
            last = found[-1]
            shared = [page for page in last.pages if page in pages]
            if len(shared) < len(last.pages):
                found[-1] = self.cut(last, len(shared))
        return found

    def cut(self, node: Node, length: int) -> Node:
        """Cut a node in two; return the first part."""
        head = Node(node.pages[:length], node.used, node.in_t2, node.holders)
        node.pages = node.pages[length:]
        self.nodes.append(head)
        return head

    def touch(self, nodes: Sequence[Node]) -> None:
        self.clock += 1
        for depth, node in enumerate(nodes):
            node.used = (self.clock, depth)

    # What requests do

    def look_up(self, request: Request, limit: int) -> int:
        """Hold what a request hits of its first pages; return how many these are."""
        hit = self.path(request.pages[:limit])
        self.touch(hit)
        self.hold(request, hit)
        return sum(len(node.pages) for node in hit)

    def hold(self, request: Request, nodes: Sequence[Node]) -> None:
        self.release(request)
        request.held = [page for node in nodes for page in node.pages]
        for node in nodes:
            node.holders += 1

    def release(self, request: Request) -> None:
        for node in {id(n): n for n in map(self.node_of, request.held) if n}.values():
            node.holders -= 1
        request.held = []

    def insert(self, request: Request, pages: list[Page]) -> None:
        """Insert what a request computed."""
        there = self.path(pages)
        self.touch(there)
        end = 0
        for node in there:
            end += len(node.pages)
            if end > max(request.inserted, request.retracted):
                node.in_t2 = True
        for number, page in enumerate(pages[end:], end):
            self.insert_page(page, number, is_own=number < request.retracted)
        self.forget()
        request.inserted = max(request.inserted, len(pages))
        if len(request.prompt) < len(pages):
            # What was decoded is a node apart.
            self.touch(self.path(request.prompt))
        self.hold(request, self.path(pages))

    def insert_page(self, page: Page, depth: int, is_own: bool) -> None:
        b1, b2 = self.ghosts[False], self.ghosts[True]
        in_t2 = False
        if page in b1:
            if not is_own:
                self.p = min(self.p + max(1, Fraction(len(b2), len(b1))), self.capacity)
            b1.remove(page)
            in_t2 = not is_own
        elif page in b2:
            if not is_own:
                self.p = max(self.p - max(1, Fraction(len(b1), len(b2))), 0)
            b2.remove(page)
            in_t2 = True
        before = self.node_of(page[:-1])
        if before and before.used[0] == self.clock + 1 and before.in_t2 == in_t2:
            before.pages.append(page)
        else:
            self.nodes.append(Node([page], (self.clock + 1, depth), in_t2))

    def forget(self) -> None:
        self.clock += 1
        b1, b2 = self.ghosts[False], self.ghosts[True]
        while self.size(False) + len(b1) > self.capacity and b1:
            b1.pop(0)
        held = self.size(False) + self.size(True) + len(b1)
        while held + len(b2) > 2 * self.capacity and b2:
            b2.pop(0)

    # What goes

    def replace(self) -> int:
        """Evict one leaf; return its pages, 0 if there is none that nobody holds."""
        wants_t1 = self.capacity - self.size(True) > self.p
        victim = self.victim(in_t2=not wants_t1) or self.victim(in_t2=wants_t1)
        if victim is None:
            return 0
        self.nodes.remove(victim)
        # A chain's tail is forgotten before its head.
        self.ghosts[victim.in_t2] += reversed(victim.pages)
        return len(victim.pages)

    def victim(self, in_t2: bool) -> Node | None:
        """Return what a list gives up: a leaf of its own or, for T2, one of T1 in the way."""
        leaves = [node for node in self.nodes if self.is_leaf(node) and not node.holders]
        if not in_t2:
            own = [leaf for leaf in leaves if not leaf.in_t2]
            return min(own, key=lambda leaf: leaf.used, default=None)
        goals = [(self.goal(leaf), leaf) for leaf in leaves]
        reached = [
            (goal.used, leaf.used, leaf) for goal, leaf in goals if goal and not goal.holders
        ]
        return min(reached, key=lambda item: item[:2])[-1] if reached else None

    def goal(self, leaf: Node) -> Node | None:
        """Return the node of T2 that a leaf is, or is in the way of."""
        node: Node | None = leaf
        while node is not None and not node.in_t2:
            node = self.parent(node)
        return node
