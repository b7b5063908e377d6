"""The order in which several clients' requests run."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from andon.serving.batching import Work
from andon.serving.fairness import QUANTUM_ROWS, FairQueue


class Future:
    """As much of a future as a queue looks at."""

    def __init__(self) -> None:
        self.gone = False

    def done(self) -> bool:
        return self.gone


def work(client: str, n: int = 1, size_bytes: int = 0) -> Work:
    made = Work(n, None, None, "r", [], 0, "production", Future())  # type: ignore[arg-type]
    made.client, made.size_bytes = client, size_bytes
    return made


def drained(queue: FairQueue) -> list[Work]:
    found = []
    while queue:
        head = queue.head()
        assert queue.pop() is head
        found.append(head)
    assert (queue.rows, queue.size_bytes) == (0, 0)
    return found


def test_one_client_is_served_in_order() -> None:
    queue = FairQueue()
    given_work = [work("a", n) for n in (5, 1, 300, 2)]
    for one in given_work:
        queue.append(one)
    assert queue.rows == 308
    assert drained(queue) == given_work


def test_clients_take_turns_by_rows_not_by_requests() -> None:
    queue = FairQueue()
    for _ in range(200):
        queue.append(work("flood"))
    for _ in range(10):
        queue.append(work("wide", 16))
    queue.append(work("small"))
    order = drained(queue)
    first = order[: QUANTUM_ROWS * 2]
    assert Counter(one.client for one in first)["flood"] <= 2 * QUANTUM_ROWS
    assert "small" in {one.client for one in order[:40]}
    halfway = order[
        : next(at for at, one in enumerate(order) if one.client == "wide" and one is [w for w in order if w.client == "wide"][-1])
    ]
    rows = Counter[str]()
    for one in halfway:
        rows[one.client] += one.n
    assert abs(rows["flood"] - rows["wide"]) <= 3 * QUANTUM_ROWS  # equal rows, a quantum or so apart


def test_a_huge_request_gets_its_turn() -> None:
    queue = FairQueue()
    for _ in range(2_000):
        queue.append(work("many"))
    queue.append(work("huge", 100_000))
    order = [one.client for one in drained(queue)]
    assert order.index("huge") <= 65 * QUANTUM_ROWS


def test_room_is_made_by_who_has_most_waiting() -> None:
    queue = FairQueue()
    flood = [work("flood") for _ in range(10)]
    for one in flood:
        queue.append(one)
    assert queue.steal("flood", 1) is None
    assert queue.steal("polite", 1) is flood[-1]  # the newest
    queue.append(work("polite"))
    assert queue.steal("polite", 1) is flood[-2]
    assert queue.steal("flood", 1) is None
    assert queue.steal("other", 50) is None  # it would then have more than the flood
    assert queue.rows == 9


def test_how_much_is_ahead_depends_on_who_asks() -> None:
    queue = FairQueue()
    assert queue.rows_before("a", 1) == 0
    for _ in range(100):
        queue.append(work("flood"))
    assert queue.rows_before("flood", 1) == 100
    assert queue.rows_before("polite", 1) == 1
    queue.append(work("polite", 4))
    assert queue.rows_before("flood", 1) == 104
    assert queue.rows_before("polite", 1) == 10
    assert queue.rows_before("third", 2) == 6


def test_who_has_gone_is_forgotten() -> None:
    queue = FairQueue()
    waiting = [work(client, 2, 10) for client in "abab"]
    for one in waiting:
        queue.append(one)
    waiting[1].future.gone = True  # type: ignore[attr-defined]
    queue.purge()
    assert (queue.rows, queue.size_bytes) == (6, 30)
    assert set(drained(queue)) == {waiting[0], waiting[2], waiting[3]}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 40), st.booleans())))
def test_nothing_is_lost_and_each_client_is_in_order(steps: list[tuple[str, int, bool]]) -> None:
    queue = FairQueue()
    put: list[Work] = []
    got: list[Work] = []
    for client, n, take in steps:
        put.append(work(client, n, n * 3))
        queue.append(put[-1])
        if take:
            got.append(queue.pop())
        assert queue.rows == sum(one.n for one in queue)
    got += drained(queue)
    for client in "abc":
        assert [one for one in got if one.client == client] == [one for one in put if one.client == client]
