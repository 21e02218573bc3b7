"""ARC in SGLang's tree against a reference, after every step of requests that run side by side."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engines.sglang.cache import Cache, Req
from reference import Page, Reference, Request

Running = tuple[Req, Request]
Step = tuple[str, list[int], int]

NUM_PAGES = 16
MAX_RUNNING = 3
LONGEST = 7


def name_pages(tokens: Sequence[int], page_size: int) -> list[Page]:
    """Name the full pages of a text, each by all pages up to it."""
    starts = range(0, len(tokens) - page_size + 1, page_size)
    pages = [tuple(tokens[start : start + page_size]) for start in starts]
    return [tuple(pages[: number + 1]) for number in range(len(pages))]


def to_prompt(numbers: Sequence[int], page_size: int) -> list[int]:
    """Make a prompt of full pages and one token more, which is always computed."""
    return [number for number in numbers for _ in range(page_size)] + [99]


class Both:
    """SGLang's tree and the reference, side by side."""

    def __init__(self, page_size: int, num_pages: int = NUM_PAGES) -> None:
        self.page_size = page_size
        self.cache = Cache("arc", num_pages, page_size)
        self.reference = Reference(num_pages)
        self.running: list[Running] = []
        self.retracted: list[Running] = []

    def begin(self, prompt: list[int], again: Running | None = None) -> bool:
        """Begin a request, or one again that was retracted; return whether it has room."""
        page = self.page_size
        request, shadow = again or (None, Request(name_pages(prompt, page)))
        tokens = [*request.origin_input_ids, *request.output_ids] if request else prompt
        free = self.cache.pool.available_size()
        if free + self.cache.tree.evictable_size() < len(tokens) + page * 8:
            return False
        request = self.cache.begin(tokens, request)
        shadow.pages = name_pages(tokens, page)
        hit = self.reference.look_up(shadow, (len(tokens) - 1) // page)
        assert request.prefix_len == hit * page
        self.evict(free, -(-(request.extend_end - request.prefix_len) // page) * page)
        self.running.append((request, shadow))
        return True

    def decode(self, place: int, number: int) -> None:
        """Decode a page's worth of tokens, if there is room."""
        request, shadow = self.running[place]
        for _ in range(self.page_size):
            free = self.cache.pool.available_size()
            room = free + self.cache.tree.evictable_size()
            if room < self.page_size or len(request.full_untruncated_fill_ids) > 200:
                return
            is_full = request.kv.kv_committed_len % self.page_size == 0
            self.cache.decode(request, number)
            self.evict(free, self.page_size if is_full else 0)
            shadow.pages = name_pages(list(request.full_untruncated_fill_ids), self.page_size)

    def evict(self, free: int, wanted: int) -> None:
        """Have the reference evict what SGLang evicted for an allocation."""
        while free < wanted and (num_pages := self.reference.replace()):
            free += num_pages * self.page_size

    def publish(self, place: int) -> None:
        request, shadow = self.running[place]
        self.cache.publish(request)
        # What is decoded after a prefill is inserted at the end.
        self.reference.insert(shadow, shadow.pages[: request.extend_end // self.page_size])

    def end(self, place: int, how: str) -> None:
        request, shadow = self.running.pop(place)
        if how == "finish":
            self.cache.finish(request)
            self.reference.insert(shadow, shadow.pages)
        elif how == "abort":
            self.cache.abort(request)
        else:
            self.cache.retract(request)
            shadow.retracted = max(shadow.retracted, shadow.inserted)
            shadow.inserted = 0
            self.retracted.append((request, shadow))
        self.reference.release(shadow)

    def check(self) -> None:
        self.cache.check([request for request, _ in self.running])
        state, reference = self.cache.state, self.reference
        t1, t2 = reference.size(False), reference.size(True)
        b1, b2 = (len(reference.ghosts[in_t2]) for in_t2 in (False, True))
        assert (state.t1, state.t2, state.b1, state.b2) == (t1, t2, b1, b2)
        assert state.p == pytest.approx(float(reference.p))
        assert t1 + b1 <= reference.capacity
        assert t1 + t2 + b1 + b2 <= 2 * reference.capacity
        assert len(self.cache.core._node_arena) - 1 == len(reference.nodes)
        for queue in self.cache.core._ghosts.queues:
            runs = queue.runs.values()
            assert queue.num_pages == sum(run.stop - run.start for run in runs)


STEPS = ["begin", "begin", "publish", "decode", "finish", "finish", "abort", "retract", "again"]

requests = st.lists(st.integers(0, 1), min_size=1, max_size=LONGEST)
steps = st.lists(
    st.tuples(
        st.sampled_from(STEPS),
        requests,
        st.integers(0, 100),
    ),
    min_size=20,
    max_size=80,
)


def play(page_size: int, played: Sequence[Step]) -> Both:
    """Take steps, each of which may find nothing to do."""
    both = Both(page_size)
    for step, numbers, which in played:
        if step == "begin" and len(both.running) < MAX_RUNNING:
            both.begin(to_prompt(numbers, page_size))
        elif step == "again" and both.retracted and len(both.running) < MAX_RUNNING:
            again = both.retracted.pop(which % len(both.retracted))
            if not both.begin([], again):
                both.retracted.append(again)
        elif both.running and step == "publish":
            both.publish(which % len(both.running))
        elif both.running and step == "decode":
            both.decode(which % len(both.running), numbers[0])
        elif both.running and step in ("finish", "abort", "retract"):
            both.end(which % len(both.running), step)
        both.check()
    return both


@pytest.mark.parametrize("page_size", [1, 16])
@settings(max_examples=60, deadline=None)
@given(steps)
def test_follows_the_reference(page_size: int, played: list[Step]) -> None:
    play(page_size, played)
